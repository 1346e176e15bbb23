"""From the rows of a table to the inputs of a model, and back to JSON: no pickle travels with a model.

The numbers are fitted by a scikit-learn pipeline. What it learnt, a few numbers a column, is kept as plain
values, so that a saved model does not depend on a version of scikit-learn.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from ..errors import DataError
from .schema import Column, TableSchema, level_name
from .settings import Scaling

_logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Fitted:
    """What was learnt of a numeric column: a cell x becomes (x - centre) · scale."""

    fill: float
    """Median, in place of a missing value."""
    centre: float
    scale: float
    """At least 0; 0 for a column that is constant in the data it was fitted on."""


@dataclass(frozen=True)
class Preprocessor:
    """Fills, scales and one-hot encodes the columns of a schema."""

    schema: TableSchema
    scaling: Scaling
    fitted: Mapping[str, Fitted]
    """One a numeric column; the target among them for regression, standardised."""

    @classmethod
    def fit(
        cls, frame: pd.DataFrame, schema: TableSchema, scaling: Scaling = "min_max"
    ) -> "Preprocessor":
        """Learn from the rows of a table; their target is used for regression only.

        Raises:
            DataError: a column is missing, or a numeric one holds no number.
        """
        fitted = {
            column.name: _fit(_numbers(frame, column.name), column.name, scaling)
            for column in schema.columns
            if column.kind == "numeric"
        }
        if schema.kind == "regression":
            fitted[schema.target] = _fit(_numbers(frame, schema.target), schema.target, "standard")
        return cls(schema, scaling, fitted)

    def features(self, frame: pd.DataFrame) -> Floats:
        """The inputs of the rows, `(rows, features)`.

        A missing number is filled with the median; a missing or unknown category has all its features 0.

        Raises:
            DataError: a column is missing, or a numeric one holds something else.
        """
        return np.concatenate(
            [self._encode(frame, column) for column in self.schema.columns], axis=1
        )

    def targets(self, frame: pd.DataFrame) -> NDArray[np.int64] | Floats:
        """Class index, or for regression the standardised number, of each row, `(rows,)`.

        Raises:
            DataError: the target is missing in a row, or not one of the classes.
        """
        name = self.schema.target
        cells = _cells(frame, name)
        if cells.isna().any():
            raise DataError(f"Row {int(cells.isna().argmax())}: the target {name!r} is missing.")
        if self.schema.kind == "regression":
            return _scaled(_numbers(frame, name), self.fitted[name])
        index = {label: number for number, label in enumerate(self.schema.classes)}
        names = [level_name(cell) for cell in cells]
        for row, label in enumerate(names):
            if label not in index:
                raise DataError(
                    f"Row {row}: the target {label!r} is none of the classes {list(index)!r}."
                )
        return np.array([index[label] for label in names], dtype=np.int64)

    def numbers(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Outputs of a regression student in the unit of the target."""
        fitted = self.fitted[self.schema.target]
        return np.asarray(outputs, dtype=np.float64) / (fitted.scale or 1.0) + fitted.centre

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessor":
        """The preprocessor of `to_dict`."""
        fitted = {name: Fitted(**facts) for name, facts in values["fitted"].items()}
        return cls(TableSchema.from_dict(values["schema"]), values["scaling"], fitted)

    def _encode(self, frame: pd.DataFrame, column: Column) -> Floats:
        if column.kind == "numeric":
            return _scaled(_numbers(frame, column.name), self.fitted[column.name])[:, None]
        cells = _cells(frame, column.name)
        names = np.array(
            ["" if pd.isna(cell) else level_name(cell) for cell in cells], dtype=object
        )
        encoded: Floats = (names[:, None] == np.array(column.levels, dtype=object)).astype(
            np.float32
        )
        unknown = sorted({str(name) for name in names[~encoded.any(1)] if name})
        if unknown:
            _logger.warning(
                "Column %r has levels that were not there before, %r; all its features are 0 in these rows.",
                column.name, unknown[:5],
            )  # fmt: skip
        return encoded


SCALERS: dict[Scaling, Any] = {
    "min_max": MinMaxScaler,
    "standard": StandardScaler,
    "none": FunctionTransformer,
}


def _fit(numbers: NDArray[np.float64], name: str, scaling: Scaling) -> Fitted:
    if np.isnan(numbers).all():
        raise DataError(
            f"Column {name!r} holds no number in these rows; nothing can be learnt of it."
        )
    pipeline = make_pipeline(SimpleImputer(strategy="median"), SCALERS[scaling]()).fit(
        numbers[:, None]
    )
    fill = float(pipeline[0].statistics_[0])
    if np.nanmin(numbers) == np.nanmax(numbers):
        _logger.warning("Column %r is constant in these rows; its feature is always 0.", name)
        return Fitted(fill, fill, 0.0)
    # each scaler is an affine map, which two points determine
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    at_low, at_high = pipeline.transform(np.array([[low], [high]]))[:, 0]
    scale = float(at_high - at_low) / (high - low)
    return Fitted(fill, low - float(at_low) / scale, scale)


def _scaled(numbers: NDArray[np.float64], fitted: Fitted) -> Floats:
    filled = np.where(np.isnan(numbers), fitted.fill, numbers)
    scaled: Floats = ((filled - fitted.centre) * fitted.scale).astype(np.float32)
    return scaled


def _cells(frame: pd.DataFrame, name: str) -> "pd.Series[Any]":
    if name not in frame.columns:
        raise DataError(f"There is no column {name!r}; the table has {list(frame.columns)}.")
    return frame[name]


def _numbers(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A numeric column; missing cells are NaN."""
    cells = _cells(frame, name)
    try:
        numbers: NDArray[np.float64] = pd.to_numeric(cells).to_numpy(
            dtype=np.float64, na_value=np.nan
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"Column {name!r} should hold numbers: {error}.") from error
    return np.where(np.isinf(numbers), np.nan, numbers)
