"""What every source has in common: rows in, columns and provenance out.

A source says how it scores the words of some rows; reading and checking the rows, naming the columns and
writing down how they were made is done here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

from datasets import Dataset

from ..schema import (
    LABEL,
    PROVENANCE,
    WORDS,
    add_provenance,
    diagnostic_column,
    digest,
    prior_column,
)
from ..versions import versions
from .rows import Row, label_space, read_rows
from .source_settings import RowOptions


class Explanations(NamedTuple):
    """Word scores of some rows.

    Attributes:
        scores: One list a row, one score a word; positive = evidence for the gold label.
        diagnostics: Name of a diagnostic to its value for each row.
        facts: More facts for the provenance, such as the model that was explained.
    """

    scores: Sequence[Sequence[float]]
    diagnostics: Mapping[str, Sequence[Any]] = {}
    facts: Mapping[str, Any] = {}


LEARNT = MappingProxyType({"learnt": True})
"""Metadata of a field whose value comes from a data set; provenance keeps only a digest of it."""


@dataclass(frozen=True, kw_only=True)
class WordSource(RowOptions):
    """A prior source: a map function for `Dataset.map(batched=True)`.

    Subclasses are frozen dataclasses with a `name` and `explain`. Their fields are settings only, never a
    model, because `Dataset.map` hashes them into its cache key.

    Attributes:
        labels: The label space, in the order of the class indices.
    """

    name: ClassVar[str]

    labels: tuple[str, ...] = field(metadata=LEARNT)

    @classmethod
    def from_dataset(cls, dataset: Dataset, **options: Any) -> Self:
        """A source for the label space of a training split, whose label column is a `ClassLabel`.

        Args:
            dataset: Training examples.
            options: The settings of the source.

        Raises:
            DataError: the label column is missing or is no `ClassLabel`.
        """
        return cls(labels=label_space(dataset, options.get("label_column", LABEL)), **options)

    def explain(self, rows: Sequence[Row]) -> Explanations:
        """Score the words of some rows. The scores of a row depend on no other row."""
        raise NotImplementedError

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The batch with `words`, `prior_<name>`, the diagnostics `<name>_<what>` and `provenance`.

        Raises:
            DataError: a column is missing, a text has no words, or a label is outside the label space.
        """
        rows = read_rows(batch, self.labels, self)
        return self.columns(batch, rows, self.explain(rows))

    def columns(
        self, batch: Mapping[str, list[Any]], rows: Sequence[Row], made: Explanations
    ) -> dict[str, list[Any]]:
        """The batch with what was made of its rows."""
        cells = batch.get(PROVENANCE) or [None] * len(rows)
        facts = {**self.facts, **made.facts}
        with_facts = {cell: add_provenance(cell, self.name, facts) for cell in set(cells)}
        return {
            **batch,
            WORDS: [row.words for row in rows],
            prior_column(self.name): [list(map(float, scores)) for scores in made.scores],
            **{
                diagnostic_column(self.name, what): list(values)
                for what, values in made.diagnostics.items()
            },
            PROVENANCE: [with_facts[cell] for cell in cells],
        }

    @property
    def learnt(self) -> dict[str, Any]:
        """The fields whose values come from a data set."""
        return {
            item.name: getattr(self, item.name) for item in fields(self) if item.metadata == LEARNT
        }

    @property
    def facts(self) -> dict[str, Any]:
        """How the column is made, for provenance. No date: equal work gives equal columns."""
        learnt = self.learnt
        settings = {
            item.name: digest(repr(value)) if item.name in learnt else value
            for item in fields(self)
            if (value := getattr(self, item.name)) is not self.labels
        }
        return {
            **settings,
            "source": self.name,
            "label_space": digest(*self.labels),
            "versions": versions(),
        }
