"""Tables in: csv, parquet, a folder, the Hub, `datasets.Dataset` or pandas, always as a pandas frame."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from hf_cap.errors import DataError
from hf_cap.laat.schema import Column, TableSchema, level_name
from hf_cap.laat.settings import MISSING_VALUES, Scaling

Table: TypeAlias = pd.DataFrame | Dataset | str | os.PathLike[str]

_READERS: dict[str, Callable[[Path, list[str]], pd.DataFrame]] = {
    ".csv": lambda path, missing: pd.read_csv(path, na_values=missing, skipinitialspace=True),
    ".parquet": lambda path, missing: pd.read_parquet(path),
}


def read_table(
    table: Table, *, split: str = "train", missing_values: Sequence[str] = MISSING_VALUES
) -> pd.DataFrame:
    """A table as a pandas frame with string column names.

    Args:
        table: A frame, a `Dataset`, a `.csv` (perhaps `.csv.gz`) or `.parquet` file (which is the split
            `train`), a folder with one such file a split, or the id of a data set on the Hub.
        split: The split to read.
        missing_values: Cells of a csv file that mean a missing value, beside empty ones.

    Raises:
        DataError: there is no such table or split, or it has no rows.
    """
    if isinstance(table, pd.DataFrame):
        frame = table
    elif isinstance(table, Dataset):
        frame = _to_pandas(table)
    else:
        frame = _read(Path(table).expanduser(), str(table), split, list(missing_values))
    if not len(frame):
        raise DataError("The table has no rows; there is nothing to work on.")
    return frame.rename(columns=str).reset_index(drop=True)


def _read(path: Path, name: str, split: str, missing: list[str]) -> pd.DataFrame:
    if path.is_dir():
        files = {file.name.split(".")[0]: file for file in sorted(path.iterdir()) if _kind(file)}
        if split not in files:
            raise DataError(
                f"The folder {name!r} has no table {split!r}, but {sorted(files)}. It needs one "
                ".csv, .csv.gz or .parquet file a split."
            )
        path = files[split]
    elif not path.is_file():
        return _from_hub(name, split)
    elif split != "train":
        raise DataError(
            f"{name!r} is one file, which is the split 'train'; there is no {split!r}. Give a folder with "
            "a file a split."
        )
    kind = _kind(path)
    if kind is None:
        raise DataError(f"{name!r} is no table that can be read; give a .csv or .parquet file.")
    return _READERS[kind](path, missing)


def _kind(path: Path) -> str | None:
    return next((kind for kind in _READERS if path.name.removesuffix(".gz").endswith(kind)), None)


def _from_hub(name: str, split: str) -> pd.DataFrame:
    try:
        return _to_pandas(load_dataset(name, split=split))
    except (DatasetNotFoundError, FileNotFoundError, ValueError) as error:
        raise DataError(
            f"There is no table {name!r} with a split {split!r}: no such file, folder or data set on the "
            f"Hub. {error}"
        ) from error


def _to_pandas(dataset: Dataset) -> pd.DataFrame:
    """The columns as they are; class labels by their names."""
    frame: pd.DataFrame = dataset.to_pandas()
    for name, feature in dataset.features.items():
        names: Any = getattr(feature, "names", None)
        if names is not None:
            frame[name] = [None if pd.isna(label) else names[int(label)] for label in frame[name]]
    return frame


# --- From the rows of a table to the inputs of a model, and back to JSON: no pickle travels with a model.


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


# --- Encoded tables: what the trainer reads.


FEATURES, LABELS = "features", "labels"


class EncodedTable(TorchDataset[dict[str, Tensor]]):
    """Rows as inputs and targets, in memory.

    Args:
        features: `(rows, features)`, scaled.
        labels: `(rows,)`: class indices, or standardised numbers.
    """

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    @classmethod
    def of(cls, frame: pd.DataFrame, preprocessor: Preprocessor) -> "EncodedTable":
        """The rows of a table with its target."""
        return cls(
            torch.from_numpy(preprocessor.features(frame)),
            torch.from_numpy(preprocessor.targets(frame)),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {FEATURES: self.features[row], LABELS: self.labels[row]}


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Rows as one batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
