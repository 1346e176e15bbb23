"""Tables: what their columns mean, how they are read, and how rows become inputs of a model.

A numeric column is one feature; a categorical column has one feature per level, named `column=level`.
"""

import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from datasets import ClassLabel, Dataset, load_dataset
from numpy.typing import NDArray
from torch.utils.data import StackDataset

from hf_cap.data import read_csv, read_parquet
from hf_cap.errors import CAPError, ConfigError, DataError
from hf_cap.laat.settings import MISSING_VALUES, Scaling, TableOptions, TargetKind
from hf_cap.utils import Place, read_yaml

_logger = logging.getLogger(__name__)

Table: TypeAlias = pd.DataFrame | Dataset | Place
Cells: TypeAlias = "pd.Series[Any]"
Floats = NDArray[np.float32]
FILES = (".csv", ".csv.gz", ".parquet")
_INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__")
"""Names of a column that had none, usually the index of a pandas frame."""
_PLAIN = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
"""A number as programs write it: `007` is none."""
_WRITTEN = re.compile(r"[-+]?[$€£]?\s?(\d{1,3}([.,'\s]\d{3})+|\d+)([.,]\d+)?\s?[%$€£]?")
"""A number as people write it: `1,000`, `3,5`, `40%`."""


# --- What a table means.


class Feature(NamedTuple):
    """One input of the model; `level` is that of a categorical column, `None` for a number."""

    name: str
    column: str
    level: str | None
    description: str


@dataclass(frozen=True)
class Column:
    """One column of the table; `description` is its name where nothing is known."""

    name: str
    kind: Literal["numeric", "categorical"]
    description: str
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableSchema:
    """Columns and target of a table: at least one column, and two classes or none."""

    target: str
    kind: TargetKind
    columns: tuple[Column, ...]
    classes: tuple[str, ...] = ()  # names of the classes in order; empty for regression
    class_descriptions: tuple[str, ...] = ()  # what each class means, for the language model
    question: str = ""  # what is predicted, as a question or a sentence
    missing_values: tuple[str, ...] = MISSING_VALUES
    """Cells of its csv files that mean a missing value, beside empty ones."""
    ordinal: bool = False  # whether the classes are ordered, from low to high

    def __post_init__(self) -> None:
        if not self.columns:
            raise DataError("The table has no column that could be a feature.")
        if self.kind == "classification" and len(self.classes) < 2:
            raise DataError(
                f"Column {self.target!r} has the classes {list(self.classes)!r}; classification needs two. "
                "Name the right target, or `target_kind='regression'` for a number."
            )

    @property
    def features(self) -> list[Feature]:
        """All features in the order of the model's inputs."""
        return [
            Feature(c.name if level is None else f"{c.name}={level}", c.name, level, c.description)
            for c in self.columns
            for level in c.levels or (None,)
        ]

    @property
    def feature_names(self) -> list[str]:
        """Names of the features, in order."""
        return [feature.name for feature in self.features]

    @property
    def texts(self) -> list[str]:
        """The columns whose cells are names: the target and the categorical ones."""
        return [self.target, *(c.name for c in self.columns if c.kind == "categorical")]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the features are scored for: the classes, or the target itself for regression."""
        return self.classes or (self.target,)


def read_schema(
    table: Table, options: TableOptions, *, target: str | None = None, split: str = "train"
) -> tuple[pd.DataFrame, TableSchema]:
    """Read a training table and infer its schema, with the description in the file `options.table`."""
    missing = options.missing_values
    try:
        described = dict(read_yaml(options.table)) if options.table else {}
        target = described.pop("target", None) if target is None else target
        frame = read_table(table, split=split, missing_values=missing, texts=[str(target)])
        return frame, infer_schema(frame, target, **described, options=options)
    except CAPError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"Cannot read the description {options.table!r}: {error}. It holds `target`, `question`, "
            "`classes`, `columns` and `ignore`."
        ) from error


def infer_schema(
    frame: pd.DataFrame,
    target: str | None,
    *,
    question: str = "",
    classes: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    options: TableOptions | None = None,
) -> TableSchema:
    """The schema of a table: numbers and truth values are numeric, all else is categorical.

    Args:
        frame, target: The table, and its column that is predicted; levels and classes are those in it.
        question, classes, columns: What is predicted, and name to meaning, for the language model.
        ignore: Columns that are not features, beside those of `options`.

    Raises:
        DataError: the target, a described column or all described classes do not exist, or a column has
            too many levels.
    """
    options, columns, classes = options or TableOptions(), columns or {}, classes or {}
    there = list(frame.columns)
    if target not in there:
        raise DataError(f"There is no target column {target!r} in {there}; give `label_column`.")
    if unknown := sorted({*columns, *ignore} - set(there)):
        raise DataError(f"The described columns {unknown!r} do not exist; the table has {there}.")
    found = _levels(frame[target]) if options.target_kind == "classification" else ()
    if found and classes and not set(classes) & set(found):
        raise DataError(
            f"The description has the classes {sorted(classes)!r}, and the target {target!r} has "
            f"{list(found)}; give them the same names."
        )
    if unknown := sorted({*found} - {*options.class_order}) if options.class_order else []:
        raise DataError(f"`class_order` lacks the classes {unknown!r} of the target {target!r}.")
    found = options.class_order or found
    if nameless := [name for name in there if _INDEX.fullmatch(name) and name not in columns]:
        _logger.warning("The columns %r have no name, as an index, and are left out.", nameless)
    kept = frame.drop(columns=[target, *ignore, *options.ignore, *nameless], errors="ignore")
    made = [_column(cells, columns.get(name), options.max_levels) for name, cells in kept.items()]
    return TableSchema(
        target=str(target),
        kind=options.target_kind,
        columns=tuple(filter(None, made)),
        classes=found,
        class_descriptions=tuple(classes.get(name, name) for name in found),
        question=question,
        missing_values=options.missing_values,
        ordinal=bool(options.class_order),
    )


def _column(cells: Cells, described: str | None, max_levels: int) -> Column | None:
    """The column, or `None` for a constant one."""
    name = str(cells.name)
    description = described or name
    if cells.nunique() < 2:
        _logger.warning("Column %r is constant (%r) and left out.", name, list(cells.unique()[:2]))
        return None
    if pd.api.types.is_numeric_dtype(cells):
        return Column(name, "numeric", description)
    levels = _levels(cells)
    _check_levels(name, levels)
    if described is None and len(levels) == cells.notna().sum() > 9:
        raise DataError(
            f"Column {name!r} has another value in each row, such as {list(levels[:3])!r}, like an id. Leave "
            "it out with `ignore`, or describe it in `columns`."
        )
    if len(levels) > max_levels:
        raise DataError(
            f"Column {name!r} has {len(levels)} different values such as {list(levels[:3])!r}, more than "
            f"`max_levels={max_levels}`. Leave it out with `ignore`, or raise `max_levels`."
        )
    return Column(name, "categorical", description, levels)


def _check_levels(name: str, levels: Sequence[str]) -> None:
    """Raise `DataError` for numbers that are no plain ones; warn where most levels are numbers."""
    plain = {level for level in levels if _PLAIN.fullmatch(level)}
    other = [level for level in levels if level not in plain]
    written = [level for level in other if _WRITTEN.fullmatch(level) and not level.isdecimal()]
    if written and all(map(_WRITTEN.fullmatch, other)):
        raise DataError(
            f"Column {name!r} holds numbers such as {written[0]!r}; write them as 1234.5, or leave the "
            "column out with `ignore`."
        )
    if other and 2 * len(plain) > len(levels):
        message = "Column %r holds numbers and texts such as %r, so that each value is a category. "
        message += "Add a text that means a missing value to `missing_values`."
        _logger.warning(message, name, other[0])


def _levels(cells: Cells) -> tuple[str, ...]:
    """Sorted names of the values that occur, without missing ones."""
    return tuple(sorted(set(_names(cells).dropna())))


def _names(cells: Cells) -> Cells:
    """Cells as names of levels or classes, missing ones as they are; 1 and 1.0 are the same."""

    def name(value: Any) -> str:
        whole = isinstance(value, float) and value.is_integer()
        return str(int(value) if whole else value).strip()

    return cells.astype(object).map(name, na_action="ignore")


# --- Reading.


def read_table(
    table: Table,
    *,
    split: str = "train",
    missing_values: Sequence[str] = MISSING_VALUES,
    texts: Collection[str] = (),
) -> pd.DataFrame:
    """A table as a pandas frame with string column names.

    It is a frame, a `Dataset`, a `.csv`, `.csv.gz` or `.parquet` file (which is the split `train`), a folder
    with one such file per split, or the id of a data set on the Hub. In a csv file some cells are
    `missing_values` beside empty ones, and a column of plain numbers or truth values, which is not among
    `texts`, is numeric. Raises `DataError` where there is no such table or split, or no row.
    """
    if isinstance(table, str | os.PathLike):
        path = Path(table).expanduser()
        try:
            table = (
                _read_file(path, split, {*missing_values}, texts)
                if path.exists()
                else load_dataset(str(table), split=split)
            )
        except DataError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"There is no table {str(table)!r}, split {split!r}: {error}") from error
    if isinstance(table, Dataset):
        labels = {k: f.names for k, f in table.features.items() if isinstance(f, ClassLabel)}
        table = table.to_pandas()
        table = table.assign(**{k: table[k].map(dict(enumerate(v))) for k, v in labels.items()})
    if not len(table):
        raise DataError("The table has no rows.")
    table = table.rename(columns=str).reset_index(drop=True)
    if twice := list(table.columns[table.columns.duplicated()]):
        raise DataError(f"The table has two columns {twice[0]!r}; rename one.")
    return table


def _read_file(
    path: Path, split: str, missing_values: Collection[str], texts: Collection[str]
) -> pd.DataFrame | Dataset:
    files = {"train": path}
    if path.is_dir():
        files = {}
        for file in sorted(path.iterdir()):
            if ending := next((end for end in FILES if file.name.endswith(end)), ""):
                name = file.name.removesuffix(ending)
                if name in files:
                    raise DataError(f"{str(path)!r} holds two tables of the split {name!r}; keep one.")
                files[name] = file
    if split not in files or not files[split].name.endswith(FILES):
        raise FileNotFoundError(
            f"it has {sorted(files)}. Give one {', '.join(FILES)} file, which is the split 'train', or a "
            "folder with one per split."
        )
    if files[split].suffix == ".parquet":
        return read_parquet(files[split])
    frame = pd.DataFrame(read_csv(files[split]), dtype="str")
    frame = frame.mask(frame.apply(lambda cells: cells.str.strip()).isin(missing_values))
    return frame.apply(lambda cells: cells if cells.name in texts else _numeric(cells))


def _numeric(cells: Cells) -> Cells:
    """Texts of a csv file as numbers (truth values as 0 and 1), if all of them are; else as they are."""
    levels = _levels(cells)
    if levels and {level.lower() for level in levels} <= {"true", "false"}:
        return cells.str.lower().map({"true": 1, "false": 0})
    return pd.to_numeric(cells) if levels and all(map(_PLAIN.fullmatch, levels)) else cells


# --- From rows to the inputs of a model, stored as plain numbers: no pickle travels with a model.


@dataclass(frozen=True)
class Fitted:
    """What was learned about a numeric column: a cell x becomes (x - centre) · scale.

    `fill`, the median, takes the place of a missing value; `scale` is 0 for a constant column.
    """

    fill: float
    centre: float
    scale: float


@dataclass(frozen=True)
class Preprocessor:
    """Fills, scales and one-hot encodes the columns of a schema."""

    schema: TableSchema
    scaling: Scaling
    fitted: Mapping[str, Fitted]
    """One per numeric column, and for regression the standardised target."""

    @classmethod
    def fit(cls, frame: pd.DataFrame, schema: TableSchema, scaling: Scaling = "min_max") -> "Preprocessor":
        """Learn from the rows of a table; their target is used for regression only."""
        wanted = {column.name: scaling for column in schema.columns if column.kind == "numeric"}
        if schema.kind == "regression":
            wanted[schema.target] = "standard"
        return cls(schema, scaling, {name: _fit(frame, name, wanted[name]) for name in wanted})

    def features(self, frame: pd.DataFrame) -> Floats:
        """The inputs of the rows, `(rows, features)`; a missing or unknown category has all features 0."""
        found = []
        for column in self.schema.columns:
            if column.kind == "numeric":
                found.append(self._scaled(frame, column.name))
                continue
            names = _names(_cells(frame, column.name))
            found += [(names == level).to_numpy(np.float32) for level in column.levels]
            if unknown := sorted(set(names.dropna()) - set(column.levels)):
                message = "Column %r has the new levels %r; all its features are 0 in these rows."
                _logger.warning(message, column.name, unknown[:5])
        return np.stack(found, axis=1)

    def _scaled(self, frame: pd.DataFrame, name: str) -> Floats:
        fitted, numbers = self.fitted[name], _numbers(frame, name)
        filled = np.where(np.isnan(numbers), fitted.fill, numbers)
        return ((filled - fitted.centre) * fitted.scale).astype(np.float32)

    def targets(self, frame: pd.DataFrame) -> NDArray[Any]:
        """Class index, or for regression the standardised number, of each row, `(rows,)`."""
        name, classes = self.schema.target, self.schema.classes
        cells = _cells(frame, name)
        if cells.isna().any():
            raise DataError(f"Row {int(cells.isna().argmax())}: the target {name!r} is missing.")
        if self.schema.kind == "regression":
            if (broken := np.isnan(_numbers(frame, name))).any():
                row = int(broken.argmax())
                raise DataError(f"Row {row}: the target {cells.iloc[row]!r} is no finite number.")
            return self._scaled(frame, name)
        labels = _names(cells)
        if (unknown := ~labels.isin(classes)).any():
            row = int(unknown.argmax())
            raise DataError(
                f"Row {row}: the target {labels.iloc[row]!r} is not one of the classes {list(classes)!r}."
            )
        return np.array([classes.index(label) for label in labels], dtype=np.int64)

    def numbers(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Outputs of a regression model in the unit of the target."""
        fitted = self.fitted[self.schema.target]
        return np.asarray(outputs, dtype=np.float64) / (fitted.scale or 1.0) + fitted.centre

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessor":
        """The preprocessor of `asdict`, perhaps from JSON, which has lists for tuples."""
        facts: dict[str, Any] = dict(values["schema"])
        facts |= {name: tuple(value) for name, value in facts.items() if isinstance(value, list)}
        columns = [Column(**{**one, "levels": tuple(one["levels"])}) for one in facts["columns"]]
        schema = TableSchema(**{**facts, "columns": tuple(columns)})
        fitted = {name: Fitted(**numbers) for name, numbers in values["fitted"].items()}
        return cls(schema, values["scaling"], fitted)


def _fit(frame: pd.DataFrame, name: str, scaling: Scaling) -> Fitted:
    numbers = _numbers(frame, name)
    if np.isnan(numbers).all():
        raise DataError(f"Column {name!r} holds no number in these rows.")
    fill, low, high = (float(of(numbers)) for of in (np.nanmedian, np.nanmin, np.nanmax))
    if low == high:
        _logger.warning("Column %r is constant in these rows; its feature is always 0.", name)
        return Fitted(fill, fill, 0.0)
    if scaling == "min_max":
        return Fitted(fill, low, 1 / (high - low))
    if scaling == "standard":
        filled = np.where(np.isnan(numbers), fill, numbers)
        return Fitted(fill, float(filled.mean()), 1 / float(filled.std()))
    return Fitted(fill, 0.0, 1.0)


def _cells(frame: pd.DataFrame, name: str) -> Cells:
    if name not in frame.columns:
        raise DataError(f"There is no column {name!r}; the table has {list(frame.columns)}.")
    return frame[name]


def _numbers(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A numeric column; missing and infinite cells are NaN."""
    cells = _cells(frame, name)
    try:
        numbers = pd.to_numeric(cells).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"Column {name!r} should hold numbers: {error}.") from error
    return np.where(np.isinf(numbers), np.nan, numbers)


class EncodedTable(StackDataset[Any]):
    """Rows of a table with its target, in memory: scaled `features`, `(rows, features)`, and `labels`."""

    def __init__(self, frame: pd.DataFrame, preprocessor: Preprocessor) -> None:
        self.features = torch.from_numpy(preprocessor.features(frame))
        self.labels = torch.from_numpy(preprocessor.targets(frame))
        super().__init__(features=self.features, labels=self.labels)  # type: ignore[arg-type]
