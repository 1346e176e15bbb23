"""The source `keywords`: words given or counted in the training data. The rival without a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

from datasets import Dataset

from ..errors import ConfigError
from ..word_counts import WordCounts, count_words, fold, log_odds, phi, tfidf
from .rows import Row, read_rows
from .source_settings import KeywordSettings, Statistic
from .word_source import LEARNT, Explanations, WordSource

STATISTICS: Mapping[Statistic, Callable[[WordCounts, str], list[float]]] = MappingProxyType(
    {"chi_squared": phi, "tfidf": tfidf, "log_odds": log_odds}
)


@dataclass(frozen=True, kw_only=True)
class KeywordsPrior(WordSource, KeywordSettings):
    """Scores each word by how it goes together with the gold label in the training data.

    `chi_squared` is the signed root of that statistic over the number of texts (Yang & Pedersen 1997), see
    `word_counts`. With a `word_list` each listed word scores 1 and every other 0, whatever the label.

    Attributes:
        table: Score of each known word for each label; `from_dataset` counts it. Words in the form of
            `word_counts.fold`.
    """

    name: ClassVar[str] = "keywords"

    table: Mapping[str, Sequence[float]] = field(default_factory=dict, metadata=LEARNT)

    @classmethod
    def from_dataset(cls, dataset: Dataset, **options: Any) -> Self:
        """A source for the label space of a training split, with the words counted in it.

        Args:
            dataset: Training examples, with a `ClassLabel` column.
            options: The settings of the source. With a `word_list` nothing is counted.

        Raises:
            ConfigError: there is no such statistic.
            DataError: a column is missing, a text has no words, or a label is outside the label space.
        """
        source = super().from_dataset(dataset, **options)
        if source.word_list:
            return source
        rows = read_rows(dataset[:], source.labels, source)
        counts = count_words(
            [row.text for row in rows],
            [row.label for row in rows],
            len(source.labels),
            source.word_pattern,
        )
        statistic = STATISTICS[source.statistic]
        return replace(source, table={word: statistic(counts, word) for word in counts.words})

    def explain(self, rows: Sequence[Row]) -> Explanations:
        """Score the words of some rows; unknown words get 0."""
        if not (self.table or self.word_list):
            raise ConfigError(
                "KeywordsPrior knows no words. Make it with `KeywordsPrior.from_dataset(train)`, or give a "
                "`word_list`."
            )
        listed = frozenset(map(fold, self.word_list))
        return Explanations(
            [[self._score(fold(word), row.label, listed) for word in row.words] for row in rows]
        )

    def _score(self, word: str, label: int, listed: frozenset[str]) -> float:
        if listed:
            return float(word in listed)
        return self.table[word][label] if word in self.table else 0.0
