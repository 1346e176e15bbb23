"""What a table means: its features with their descriptions, and its target.

Numeric columns are one feature; a categorical column has one feature a level, named `column=level`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from hf_cap.errors import ConfigError, DataError
from hf_cap.laat.settings import MISSING_VALUES, TargetKind

_logger = logging.getLogger(__name__)

ColumnKind = Literal["numeric", "categorical"]


@dataclass(frozen=True)
class Feature:
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
    kind: ColumnKind
    description: str
    """What it measures, in which unit; the name itself where nothing is known."""
    levels: tuple[str, ...] = ()

    @property
    def features(self) -> list[Feature]:
        """The features that this column becomes."""
        if self.kind == "numeric":
            return [Feature(self.name, self.name, None, self.description)]
        return [
            Feature(f"{self.name}={level}", self.name, level, self.description)
            for level in self.levels
        ]


@dataclass(frozen=True)
class TableSchema:
    """Columns and target of a table.

    Raises:
        DataError: there is no column, or a class occurs twice.
    """

    target: str
    kind: TargetKind
    columns: tuple[Column, ...]
    classes: tuple[str, ...] = ()
    """Names of the classes in order; empty for regression."""
    class_descriptions: tuple[str, ...] = ()
    """One a class: what it means, as the language model is told."""
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
        return [feature for column in self.columns for feature in column.features]

    @property
    def feature_names(self) -> list[str]:
        """Names of the features, in order."""
        return [feature.name for feature in self.features]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the features are scored for: the classes, or the target itself for regression."""
        return self.classes or (self.target,)

    @property
    def output_descriptions(self) -> tuple[str, ...]:
        """A description of each output."""
        return self.class_descriptions or self.outputs

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TableSchema":
        """The schema of `to_dict`; one that was stored without a later field has its default."""
        columns = [
            Column(**{**column, "levels": tuple(column["levels"])}) for column in values["columns"]
        ]
        names = ("classes", "class_descriptions", "missing_values")
        sequences = {name: tuple(values[name]) for name in names if name in values}
        return cls(**{**values, **sequences, "columns": tuple(columns)})


@dataclass(frozen=True)
class Description:
    """What a person says of a table; all of it may be left out."""

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


def infer_schema(
    frame: pd.DataFrame,
    description: Description | None = None,
    *,
    target: str | None = None,
    kind: TargetKind = "classification",
    ignore: Sequence[str] = (),
    max_levels: int = 50,
    missing_values: Sequence[str] = MISSING_VALUES,
) -> TableSchema:
    """The schema of a table: numbers and truth values are numeric, all else is categorical.

    Args:
        frame: The table; levels and classes are those that occur in it.
        description: What is known of the columns and classes.
        target: Column that is predicted; by default that of the description.
        kind: What the target is.
        ignore: Columns that are no features, beside those of the description.
        max_levels: Most levels of a categorical column.
        missing_values: What `read_table` was told; a student reads its tables in the same way.

    Raises:
        DataError: there is no such target, a described column does not exist, none of the described
            classes does, or a column has too many levels.
    """
    told = description or Description()
    target = target or told.target
    if target is None or target not in frame.columns:
        raise DataError(
            f"There is no target column {target!r}; the table has {list(frame.columns)}. Name it with "
            "`label_column`, or as `target` in the description."
        )
    _check_described(frame, told)
    skipped = {target, *told.ignore, *ignore}
    columns = [
        _column(frame[name], (told.columns or {}).get(name, name), max_levels)
        for name in frame.columns
        if name not in skipped
    ]
    classes = tuple(level_names(frame[target])) if kind == "classification" else ()
    if classes and told.classes and not set(told.classes) & set(classes):
        raise DataError(
            f"The description tells of the classes {sorted(told.classes)!r}, and the target {target!r} has "
            f"{list(classes)}. Give them the same names."
        )
    return TableSchema(
        target=target,
        kind=kind,
        columns=tuple(column for column in columns if column is not None),
        classes=classes,
        class_descriptions=tuple((told.classes or {}).get(name, name) for name in classes),
        question=told.question,
        missing_values=tuple(missing_values),
    )


def _check_described(frame: pd.DataFrame, told: Description) -> None:
    strange = {*(told.columns or {}), *told.ignore} - set(frame.columns)
    if strange:
        raise DataError(
            f"The description names the columns {sorted(strange)!r}, which the table has not; it has "
            f"{list(frame.columns)}."
        )


def _column(cells: "pd.Series[Any]", description: str, max_levels: int) -> Column | None:
    """The column, or `None` for one that is constant and so tells nothing."""
    name = str(cells.name)
    if cells.nunique() < 2:
        _logger.warning("Column %r is constant (%r) and left out.", name, list(cells.unique()[:2]))
        return None
    if pd.api.types.is_numeric_dtype(cells):
        return Column(name, "numeric", description)
    levels = level_names(cells)
    if len(levels) > max_levels:
        raise DataError(
            f"Column {name!r} has {len(levels)} different values such as {levels[:3]!r}, more than "
            f"`max_levels={max_levels}`. Leave it out with `ignore`, or raise `max_levels`."
        )
    return Column(name, "categorical", description, tuple(levels))


def level_names(cells: "pd.Series[Any]") -> list[str]:
    """Sorted names of the values that occur, missing ones left out."""
    return sorted({level_name(value) for value in cells.dropna().unique()})


def level_name(value: Any) -> str:
    """A cell as the name of a level or class; 1 and 1.0 are the same."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def read_words(path: str | Path) -> Any:
    """A YAML (or JSON) file with every name and value as a string: `no` is a class, not false."""
    return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
