"""Rows of a batch, checked before a model is asked anything."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from ..data import label_names
from ..errors import ConfigError, DataError
from ..schema import LABEL
from ..words import Span, split_words
from .source_settings import RowOptions


@dataclass(frozen=True)
class Row:
    """One labelled text.

    Attributes:
        text: The text as it stands in the data set.
        spans: Its words, at least one.
        label: Index of the gold label in the label space.
    """

    text: str
    spans: tuple[Span, ...]
    label: int

    @property
    def words(self) -> list[str]:
        """The words as strings."""
        return [self.text[start:end] for start, end in self.spans]

    def first_words(self, count: int) -> "Row":
        """The row without what follows its first `count` words."""
        if count == len(self.spans):
            return self
        return Row(self.text[: self.spans[count - 1].end], self.spans[:count], self.label)


def read_rows(
    batch: Mapping[str, Sequence[Any]], labels: Sequence[str], settings: RowOptions
) -> list[Row]:
    """The rows of a batch of `Dataset.map`.

    Args:
        batch: Columns, among them those that the settings name.
        labels: The label space; a label cell is an index into it, or one of its names.
        settings: Column names and word pattern.

    Raises:
        ConfigError: the word pattern is not a regular expression.
        DataError: a column is missing, a text has no words, a label is outside the label space, or it is
            one row.
    """
    try:
        re.compile(settings.word_pattern)
    except re.error as error:
        raise ConfigError(
            f"word_pattern={settings.word_pattern!r} is not a regular expression: {error}."
        ) from error
    for column in (settings.text_column, settings.label_column):
        if column not in batch:
            raise DataError(
                f"There is no column {column!r}; found {sorted(batch)}. Name the right one with "
                "`text_column` or `label_column`."
            )
    if isinstance(batch[settings.text_column], str):
        raise DataError(
            "A source takes batches, and got one row: `dataset.map(source, batched=True)`."
        )
    index = {label: position for position, label in enumerate(labels)}
    cells = zip(batch[settings.text_column], batch[settings.label_column], strict=True)
    return [
        _row(number, text, label, index, settings.word_pattern)
        for number, (text, label) in enumerate(cells)
    ]


def _row(number: int, text: Any, label: Any, index: Mapping[str, int], pattern: str) -> Row:
    spans = tuple(split_words(text, pattern)) if isinstance(text, str) else ()
    if not spans:
        raise DataError(
            f"Row {number}: the text is {text!r}, in which word_pattern={pattern!r} finds "
            "no words. Remove the row, or give it a text."
        )
    position = index.get(label, -1) if isinstance(label, str) else label
    if not isinstance(position, int) or not 0 <= position < len(index):
        raise DataError(
            f"Row {number} ({text!r:.60}): the label {label!r} is not in the label space of "
            f"{len(index)} labels ({', '.join(list(index)[:5])}, ...). Correct the row, or give the whole "
            "label space as `labels`."
        )
    return Row(text, spans, position)


def label_space(dataset: Dataset, column: str) -> tuple[str, ...]:
    """Label names of a data set whose label column is a `ClassLabel`.

    Raises:
        DataError: there is no such column, or it holds plain values.
    """
    if column not in dataset.column_names:
        raise DataError(f"There is no column {column!r}; found {dataset.column_names}.")
    return tuple(label_names(dataset.select_columns(column).rename_columns({column: LABEL})))
