"""The prior `lexicon`: what a language model thinks of each word by itself, without any training text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from hf_cap.priors.base import LEARNED, Row, SourceResult
from hf_cap.priors.language_model import LanguageModelSource
from hf_cap.utils import documented
from hf_cap.words import fold

if TYPE_CHECKING:
    from datasets import Dataset


@documented
@dataclass(frozen=True, kw_only=True)
class LexiconPrior(LanguageModelSource):
    """Adds the prior `lexicon`: how far each word by itself speaks for the label.

    The language model is asked for the label of each word of the vocabulary alone. From log p(label | word)
    goes the label's mean over the vocabulary, which is how much the model favours it whatever the word; the
    softmax over the labels is p. The score is p(gold) − 1 / labels, in (−1, 1) before `sign`; positive = the
    word alone makes the gold label likelier than chance. No score is asked for with a training text or the
    label of one (they only choose `chat`), unless there are `demonstrations`, so a shortcut of theirs cannot
    leak into it. This is LAAT's idea (global scores from a language model) for text.

    Attributes:
        table: Folded word to p of each label; `from_dataset` asks for the words of the split.
    """

    name: ClassVar[str] = "lexicon"
    wording: ClassVar[str] = "cap"

    table: Mapping[str, Sequence[float]] = field(default_factory=dict, metadata=LEARNED)

    @classmethod
    def from_dataset(cls, dataset: "Dataset", **options: Any) -> Self:
        """The source for the words of a split."""
        source = super().from_dataset(dataset, **options)
        return source.asked(word for row in source.read_rows(dataset[:]) for word in row.words)

    def asked(self, words: Iterable[str]) -> Self:
        """This source with a table of these words, as `fold` gives them."""
        return replace(self, table=self.probabilities(sorted(set(map(fold, words)))))

    def probabilities(self, words: Sequence[str]) -> dict[str, list[float]]:
        """P of each label for some words or phrases; calibrated on exactly these."""
        if not words:
            return {}
        opened = self.open()
        prompt, labels = opened.prompts[0], opened.labels
        queries = [opened.query(prompt, word, label) for word in words for label in labels]
        totals = [one.total for one in opened.model.log_probs(queries)]
        scores = np.reshape(totals, (len(words), len(labels)))
        scores = scores - scores.mean(0)
        odds = np.exp(scores - scores.max(1, keepdims=True))
        return dict(zip(words, (odds / odds.sum(1, keepdims=True)).tolist(), strict=True))

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; words that are not in the table get 0."""
        chance = 1 / len(self.labels)
        unknown = [chance] * len(self.labels)
        scores = [
            self.signed(
                self.table.get(fold(word), unknown)[row.label] - chance for word in row.words
            )
            for row in rows
        ]
        return SourceResult(scores, facts=self.model_facts(self.open()))
