"""The source `integrated_gradients`: the gold logit of the reference classifier, spread over the words.

Source: Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks" (arXiv 1703.01365). The scores
are those of captum's `LayerIntegratedGradients` on the word embeddings, computed for many texts at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..attribution import Explained, path_points, path_scores, pool_words
from ..classifiers import Encoded, batches
from ..errors import ConfigError
from ..types import PerExample, TokenScores
from ..words import NO_WORD, token_words
from .classifier import ClassifierSource, ReferenceClassifier
from .rows import Row
from .source_settings import IntegratedGradientsSettings
from .word_source import Explanations


@dataclass(frozen=True, kw_only=True)
class IntegratedGradientsPrior(ClassifierSource, IntegratedGradientsSettings):
    """Scores each word by its part of the gold logit, in logits.

    The path runs from the pad embedding at every token of a word to the text, by a Gauss-Legendre rule;
    special tokens and position embeddings stay as they are. Token scores are summed over the hidden
    dimension and over the tokens of a word, so that the scores of a text add up to the gold logit of the
    text minus that of the baseline. The diagnostic `integrated_gradients_gap` is by how much they fail to:
    far from 0, compared with the scores, it asks for more `steps`. Words that the classifier's limit cut
    off get 0.
    """

    name: ClassVar[str] = "integrated_gradients"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps!r}.")

    def explain(self, rows: Sequence[Row]) -> Explanations:
        """Score the words of some rows."""
        classifier = self.open()
        encoded = classifier.encode([row.text for row in rows], return_offsets_mapping=True)
        offsets: list[Any] = [one.pop("offset_mapping") for one in encoded]
        words = [
            token_words(spans, row.spans, row.text)
            for spans, row in zip(offsets, rows, strict=True)
        ]
        scores: list[list[float]] = [[]] * len(rows)
        gaps = [0.0] * len(rows)
        lengths = [len(one["input_ids"]) * self.steps for one in encoded]
        for batch in batches(lengths, classifier.tokens_per_pass):
            explained = _explained(classifier, rows, encoded, words, batch)
            token_scores, batch_gaps = self._integrate(explained)
            most = max(len(rows[index].spans) for index in batch)
            pooled = pool_words(token_scores, explained.words, most).tolist()
            for index, row_scores, gap in zip(batch, pooled, batch_gaps.tolist(), strict=True):
                scores[index] = row_scores[: len(rows[index].spans)]
                gaps[index] = gap
        return Explanations(scores, {"gap": gaps}, {"identity": classifier.identity})

    def _integrate(self, explained: Explained) -> tuple[TokenScores, PerExample]:
        """Token scores, and their sum minus what the logit changes by from baseline to text."""
        inputs = explained.inputs
        points = path_points(
            "integrated_gradients",
            inputs["input_ids"],
            inputs["attention_mask"],
            steps=self.steps,
            rule="gauss_legendre",
        )
        with torch.enable_grad():
            scores, _ = path_scores(explained, points)
        ends = torch.tensor([[0.0], [1.0]], device=scores.device).expand(-1, len(scores))
        with torch.no_grad():
            (baseline, text), _ = explained(ends)
        return scores, scores.sum(1) - (text - baseline)


def _explained(
    classifier: ReferenceClassifier,
    rows: Sequence[Row],
    encoded: Sequence[Encoded],
    words: Sequence[list[int]],
    batch: Sequence[int],
) -> Explained:
    """The classifier with the rows of one batch, padded, and their gold labels."""
    inputs = classifier.pad([encoded[index] for index in batch])
    width = inputs["input_ids"].shape[1]
    padded = [words[i] + [NO_WORD] * (width - len(words[i])) for i in batch]
    gold = [classifier.outputs[rows[index].label] for index in batch]
    device = classifier.model.device
    return Explained(
        classifier.model,
        inputs,
        torch.tensor(gold, device=device),
        torch.tensor(padded, device=device),
    )
