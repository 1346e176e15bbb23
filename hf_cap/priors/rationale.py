"""The source `rationale`: what people marked as decisive, from a column of the data set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from ..errors import DataError, PriorError
from .rows import Row, read_rows
from .source_settings import RationaleSettings, RationaleUnit
from .word_source import Explanations, WordSource


@dataclass(frozen=True, kw_only=True)
class RationalePrior(WordSource, RationaleSettings):
    """Scores each word by how far people marked it: 1 for a whole word, 0 for one that is not marked.

    With character ranges a word that is marked in part gets the share of its characters. A null or empty
    rationale gives zeros, which fusion leaves out.
    """

    name: ClassVar[str] = "rationale"

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The batch with `words`, `prior_rationale` and `provenance`.

        Raises:
            DataError: a column is missing, a text has no words, or a label is outside the label space.
            PriorError: a rationale does not fit its text.
        """
        rows = read_rows(batch, self.labels, self)
        if self.rationale_column not in batch:
            raise DataError(
                f"There is no column {self.rationale_column!r}; found {sorted(batch)}. Name the right one "
                "with `rationale_column`."
            )
        marks = batch[self.rationale_column]
        scores = [self._scores(row, mark) for row, mark in zip(rows, marks, strict=True)]
        return self.columns(batch, rows, Explanations(scores))

    def _scores(self, row: Row, mark: Sequence[Any] | None) -> list[float]:
        if not mark:
            return [0.0] * len(row.spans)
        return UNITS[self.rationale_unit](row, mark)


def _from_characters(row: Row, ranges: Sequence[Sequence[int]]) -> list[float]:
    marked = _marked(row, ranges, len(row.text), "characters")
    return [sum(marked[start:end]) / (end - start) for start, end in row.spans]


def _from_words(row: Row, ranges: Sequence[Sequence[int]]) -> list[float]:
    return list(map(float, _marked(row, ranges, len(row.spans), "words")))


def _marked(row: Row, ranges: Sequence[Sequence[int]], size: int, unit: str) -> list[bool]:
    marked = [False] * size
    for start, end in ranges:
        if not 0 <= start < end <= size:
            raise PriorError(
                f"The rationale range [{start}, {end}) lies outside the {size} {unit} of the text "
                f"{row.text!r:.80}. Ranges are half-open and count {unit} from 0."
            )
        marked[start:end] = [True] * (end - start)
    return marked


def _from_flags(row: Row, flags: Sequence[float]) -> list[float]:
    if len(flags) != len(row.spans):
        raise PriorError(
            f"A rationale has {len(flags)} flags for the {len(row.spans)} words of {row.text!r:.80}. Give "
            "one a word, or `word_pattern` of the words that were marked."
        )
    return list(map(float, flags))


UNITS: Mapping[RationaleUnit, Callable[[Row, Sequence[Any]], list[float]]] = MappingProxyType(
    {"characters": _from_characters, "words": _from_words, "flags": _from_flags}
)
