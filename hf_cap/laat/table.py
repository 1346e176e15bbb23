"""Tables: what their columns mean, how they are read, and how rows become inputs of a model.

A numeric column is one feature; a categorical column has one feature per level, named `column=level`.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
import yaml
from datasets import ClassLabel, Dataset, load_dataset
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from hf_cap.errors import ConfigError, DataError
from hf_cap.laat.settings import MISSING_VALUES, Scaling, TableOptions, TargetKind

_logger = logging.getLogger(__name__)

Table: TypeAlias = pd.DataFrame | Dataset | str | os.PathLike[str]
Floats = NDArray[np.float32]


# --- What a table means.


class Feature(NamedTuple):
    """One input of the model."""

    name: str
    column: str
    level: str | None
    """Level of a categorical column; `None` for a number."""
    description: str


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    name: str
    kind: Literal["numeric", "categorical"]
    description: str
    """What it measures, in which unit; the name itself where nothing is known."""
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableSchema:
    """Columns and target of a table.

    Raises:
        DataError: there is no column, or less than two classes.
    """

    target: str
    kind: TargetKind
    columns: tuple[Column, ...]
    classes: tuple[str, ...] = ()
    """Names of the classes in order; empty for regression."""
    class_descriptions: tuple[str, ...] = ()
    """One per class: what it means, for the language model."""
    question: str = ""
    """What is predicted, as a question or a sentence."""
    missing_values: tuple[str, ...] = MISSING_VALUES
    """Cells of its csv files that mean a missing value, beside empty ones."""

    def __post_init__(self) -> None:
        if not self.columns:
            raise DataError("The table has no column that could be a feature.")
        if self.kind == "classification" and len(set(self.classes)) < 2:
            raise DataError(
                f"Column {self.target!r} has the classes {list(self.classes)!r}; classification needs two. "
                "Name the right target, or `target_kind='regression'` for a number."
            )

    @property
    def features(self) -> list[Feature]:
        """All features in the order of the model's inputs."""
        found = []
        for name, _, description, levels in map(astuple, self.columns):
            if not levels:
                found.append(Feature(name, name, None, description))
            found += [Feature(f"{name}={one}", name, one, description) for one in levels]
        return found

    @property
    def feature_names(self) -> list[str]:
        """Names of the features, in order."""
        return [feature.name for feature in self.features]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the features are scored for: the classes, or the target itself for regression."""
        return self.classes or (self.target,)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TableSchema":
        """The schema of `asdict`, perhaps from JSON."""
        columns = (Column(**{**one, "levels": tuple(one["levels"])}) for one in values["columns"])
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists, "columns": tuple(columns)})


@dataclass(frozen=True)
class Description:
    """What a person says about a table; every field may be left out."""

    target: str | None = None
    question: str = ""
    classes: Mapping[str, str] | None = None
    columns: Mapping[str, str] | None = None
    ignore: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> "Description":
        """The description in a YAML file with the fields of this class.

        Raises:
            ConfigError: there is no such file, or it is not of that form.
        """
        try:
            content = read_words(path)
            return cls(**{**content, "ignore": tuple(content.get("ignore", ()))})
        except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"Cannot read the description {str(path)!r}: {error}. It holds `target`, `question`, "
                "`classes`, `columns` and `ignore`."
            ) from error


def read_schema(
    table: Table, options: TableOptions, *, target: str | None = None, split: str = "train"
) -> tuple[pd.DataFrame, TableSchema]:
    """A training table and what it means.

    Args:
        table: What `read_table` accepts.
        options: Description, kind of the target, and what to ignore.
        target: Column that is predicted, where the description does not name it.
        split: The split to read.

    Raises:
        DataError: the table or its target cannot be used.
        ConfigError: the description cannot be read.
    """
    frame = read_table(table, split=split, missing_values=options.missing_values)
    description = Description.read(options.table) if options.table else None
    return frame, infer_schema(frame, description, target=target, options=options)


def infer_schema(
    frame: pd.DataFrame,
    description: Description | None = None,
    *,
    target: str | None = None,
    options: TableOptions | None = None,
) -> TableSchema:
    """The schema of a table: numbers and truth values are numeric, all else is categorical.

    Args:
        frame: The table; levels and classes are those that occur in it.
        description: What is known of the columns and classes, in place of the file `options.table`.
        target: Column that is predicted; by default that of the description.
        options: Kind of the target, columns to ignore, most levels.

    Raises:
        DataError: the target, a described column or all described classes do not exist, or a column has
            too many levels.
    """
    known, options = description or Description(), options or TableOptions()
    target = target or known.target
    if target is None or target not in frame.columns:
        raise DataError(
            f"There is no target column {target!r}; the table has {list(frame.columns)}. Name it with "
            "`label_column`, or as `target` in the description."
        )
    if strange := sorted({*(known.columns or {}), *known.ignore} - set(frame.columns)):
        raise DataError(
            f"The description names the columns {strange!r}, which do not exist; the table has "
            f"{list(frame.columns)}."
        )
    classes = _level_names(frame[target]) if options.target_kind == "classification" else ()
    meanings = known.classes or {}
    if classes and meanings and not set(meanings) & set(classes):
        raise DataError(
            f"The description has the classes {sorted(meanings)!r}, and the target {target!r} has "
            f"{list(classes)}. Give them the same names."
        )
    used = [name for name in frame.columns if name not in {target, *known.ignore, *options.ignore}]
    names = {name: (known.columns or {}).get(name, name) for name in used}
    columns = [_column(frame[name], names[name], options.max_levels) for name in used]
    return TableSchema(
        target=target,
        kind=options.target_kind,
        columns=tuple(column for column in columns if column is not None),
        classes=classes,
        class_descriptions=tuple(meanings.get(name, name) for name in classes),
        question=known.question,
        missing_values=tuple(options.missing_values),
    )


def _column(cells: "pd.Series[Any]", description: str, max_levels: int) -> Column | None:
    """The column, or `None` for a constant one."""
    name = str(cells.name)
    if cells.nunique() < 2:
        _logger.warning("Column %r is constant (%r) and left out.", name, list(cells.unique()[:2]))
        return None
    if pd.api.types.is_numeric_dtype(cells):
        return Column(name, "numeric", description)
    levels = _level_names(cells)
    if len(levels) > max_levels:
        raise DataError(
            f"Column {name!r} has {len(levels)} different values such as {list(levels[:3])!r}, more than "
            f"`max_levels={max_levels}`. Leave it out with `ignore`, or raise `max_levels`."
        )
    return Column(name, "categorical", description, levels)


def _level_names(cells: "pd.Series[Any]") -> tuple[str, ...]:
    """Sorted names of the values that occur, without missing ones."""
    return tuple(sorted({_level_name(value) for value in cells.dropna().unique()}))


def _level_name(value: Any) -> str:
    """A cell as the name of a level or class; 1 and 1.0 are the same."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def read_words(path: str | Path) -> Any:
    """A YAML (or JSON) file with every name and value as a string: `no` is a class, not false."""
    return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


# --- Reading.


def read_table(
    table: Table, *, split: str = "train", missing_values: Sequence[str] = MISSING_VALUES
) -> pd.DataFrame:
    """A table as a pandas frame with string column names.

    Args:
        table: A frame, a `Dataset`, a `.csv` (perhaps `.csv.gz`) or `.parquet` file (which is the split
            `train`), a folder with one such file per split, or the id of a data set on the Hub.
        split: The split to read.
        missing_values: Cells of a csv file that mean a missing value, beside empty ones.

    Raises:
        DataError: there is no such table or split, or it has no rows.
    """
    if isinstance(table, pd.DataFrame):
        frame = table
    elif isinstance(table, Dataset):
        frame = _to_pandas(table)
    elif (path := Path(table).expanduser()).exists():
        frame = _read_file(_split_file(path, split), missing_values)
    else:
        frame = _read_hub(str(table), split)
    if not len(frame):
        raise DataError("The table has no rows.")
    return frame.rename(columns=str).reset_index(drop=True)


def _split_file(path: Path, split: str) -> Path:
    if not path.is_dir():
        if split != "train":
            raise DataError(
                f"{str(path)!r} is one file, which is the split 'train'; there is no {split!r}. Give a "
                "folder with one file per split."
            )
        return path
    files = {
        file.name.split(".")[0]: file
        for file in sorted(path.iterdir())
        if file.name.removesuffix(".gz").endswith((".csv", ".parquet"))
    }
    if split not in files:
        raise DataError(
            f"The folder {str(path)!r} has no table {split!r}, but {sorted(files)}. It needs one "
            ".csv, .csv.gz or .parquet file per split."
        )
    return files[split]


def _read_file(path: Path, missing_values: Sequence[str]) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if not path.name.removesuffix(".gz").endswith(".csv"):
        raise DataError(f"Cannot read the table {str(path)!r}; give a .csv or .parquet file.")
    return pd.read_csv(path, na_values=list(missing_values), skipinitialspace=True)


def _read_hub(name: str, split: str) -> pd.DataFrame:
    try:
        return _to_pandas(load_dataset(name, split=split))
    except (FileNotFoundError, ValueError) as error:  # a missing data set is the former
        raise DataError(
            f"There is no table {name!r} with a split {split!r}: no such file, folder or data set on the "
            f"Hub. {error}"
        ) from error


def _to_pandas(dataset: Dataset) -> pd.DataFrame:
    """The columns as they are; class labels by their names."""
    frame: pd.DataFrame = dataset.to_pandas()
    for name, feature in dataset.features.items():
        if isinstance(feature, ClassLabel):
            frame[name] = [None if pd.isna(one) else feature.names[int(one)] for one in frame[name]]
    return frame


# --- From rows to the inputs of a model, stored as plain numbers: no pickle travels with a model.


@dataclass(frozen=True)
class Fitted:
    """What was learned about a numeric column: a cell x becomes (x - centre) · scale."""

    fill: float
    """Median, in place of a missing value."""
    centre: float
    scale: float
    """At least 0; 0 for a column that is constant in the rows it was fitted on."""

    def scaled(self, numbers: NDArray[np.float64]) -> Floats:
        """The numbers scaled, missing ones filled."""
        filled = np.where(np.isnan(numbers), self.fill, numbers)
        return ((filled - self.centre) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class Preprocessor:
    """Fills, scales and one-hot encodes the columns of a schema."""

    schema: TableSchema
    scaling: Scaling
    fitted: Mapping[str, Fitted]
    """One per numeric column, and for regression the standardised target."""

    @classmethod
    def fit(
        cls, frame: pd.DataFrame, schema: TableSchema, scaling: Scaling = "min_max"
    ) -> "Preprocessor":
        """Learn from the rows of a table; their target is used for regression only.

        Raises:
            DataError: a column is missing, or a numeric one holds no number.
        """
        numeric = [column.name for column in schema.columns if column.kind == "numeric"]
        fitted = {name: _fit(_numbers(frame, name), name, scaling) for name in numeric}
        if schema.kind == "regression":
            fitted[schema.target] = _fit(_numbers(frame, schema.target), schema.target, "standard")
        return cls(schema, scaling, fitted)

    def features(self, frame: pd.DataFrame) -> Floats:
        """The inputs of the rows, `(rows, features)`.

        A missing number is filled with the median; a missing or unknown category has all its features 0.

        Raises:
            DataError: a column is missing, or a numeric one holds something else.
        """
        parts = [
            self.fitted[column.name].scaled(_numbers(frame, column.name))[:, None]
            if column.kind == "numeric"
            else _one_hot(frame, column)
            for column in self.schema.columns
        ]
        return np.concatenate(parts, axis=1)

    def targets(self, frame: pd.DataFrame) -> NDArray[np.int64] | Floats:
        """Class index, or for regression the standardised number, of each row, `(rows,)`.

        Raises:
            DataError: the target of a row is missing, or is not one of the classes.
        """
        name = self.schema.target
        cells = _cells(frame, name)
        if cells.isna().any():
            raise DataError(f"Row {int(cells.isna().argmax())}: the target {name!r} is missing.")
        if self.schema.kind == "regression":
            return self.fitted[name].scaled(_numbers(frame, name))
        index = {label: number for number, label in enumerate(self.schema.classes)}
        names = [_level_name(cell) for cell in cells]
        for row, label in enumerate(names):
            if label not in index:
                raise DataError(
                    f"Row {row}: the target {label!r} is not one of the classes {list(index)!r}."
                )
        return np.array([index[label] for label in names], dtype=np.int64)

    def numbers(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Outputs of a regression model in the unit of the target."""
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


def _fit(numbers: NDArray[np.float64], name: str, scaling: Scaling) -> Fitted:
    if np.isnan(numbers).all():
        raise DataError(f"Column {name!r} holds no number in these rows.")
    fill, low, high = map(float, (np.nanmedian(numbers), np.nanmin(numbers), np.nanmax(numbers)))
    if low == high:
        _logger.warning("Column %r is constant in these rows; its feature is always 0.", name)
        return Fitted(fill, fill, 0.0)
    filled = np.where(np.isnan(numbers), fill, numbers)
    if scaling == "min_max":
        return Fitted(fill, low, 1 / (high - low))
    if scaling == "standard":
        return Fitted(fill, float(filled.mean()), 1 / float(filled.std()))
    return Fitted(fill, 0.0, 1.0)


def _one_hot(frame: pd.DataFrame, column: Column) -> Floats:
    cells = _cells(frame, column.name)
    names = np.array(["" if pd.isna(cell) else _level_name(cell) for cell in cells], dtype=object)
    encoded: Floats = (names[:, None] == np.array(column.levels, dtype=object)).astype(np.float32)
    if unknown := sorted({str(name) for name in names[~encoded.any(1)] if name}):
        message = "Column %r has the new levels %r; all its features are 0 in these rows."
        _logger.warning(message, column.name, unknown[:5])
    return encoded


def _cells(frame: pd.DataFrame, name: str) -> "pd.Series[Any]":
    if name not in frame.columns:
        raise DataError(f"There is no column {name!r}; the table has {list(frame.columns)}.")
    return frame[name]


def _numbers(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A numeric column; missing and infinite cells are NaN."""
    try:
        cells = pd.to_numeric(_cells(frame, name))
        numbers: NDArray[np.float64] = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"Column {name!r} should hold numbers: {error}.") from error
    return np.where(np.isinf(numbers), np.nan, numbers)


# --- What the trainer reads.

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
        features, targets = preprocessor.features(frame), preprocessor.targets(frame)
        return cls(torch.from_numpy(features), torch.from_numpy(targets))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {FEATURES: self.features[row], LABELS: self.labels[row]}


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Rows as one batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
