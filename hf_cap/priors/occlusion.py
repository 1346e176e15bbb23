"""The source `occlusion`: what the reference classifier loses when one word is left out.

Source: Li, Monroe & Jurafsky, "Understanding Neural Networks through Representation Erasure"
(arXiv 1612.08220).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..words import keep_words
from .classifier import ClassifierSource
from .rows import Row
from .word_source import Explanations


@dataclass(frozen=True, kw_only=True)
class OcclusionPrior(ClassifierSource):
    """Scores each word by the gold label's log-probability with the word minus that without it, in nats.

    The logarithm keeps words apart where the classifier is so sure that the probability hardly moves.
    Positive: the classifier believes less in the gold label when the word is gone. The diagnostic
    `occlusion_log_prob` is the gold label's log-probability on the whole text.
    """

    name: ClassVar[str] = "occlusion"

    def explain(self, rows: Sequence[Row]) -> Explanations:
        """Score the words of some rows, with one prediction a word and one a text."""
        classifier = self.open()
        texts = [text for row in rows for text in (row.text, *_without_each_word(row))]
        gold = [row.label for row in rows for _ in range(1 + len(row.spans))]
        log_probs = classifier.log_probs(texts)[range(len(gold)), gold]
        scores, whole = [], []
        for part in log_probs.split([1 + len(row.spans) for row in rows]):
            scores.append((part[0] - part[1:]).tolist())
            whole.append(part[0].item())
        return Explanations(scores, {"log_prob": whole}, {"identity": classifier.identity})


def _without_each_word(row: Row) -> list[str]:
    words = range(len(row.spans))
    return [keep_words(row.text, row.spans, [other != word for other in words]) for word in words]
