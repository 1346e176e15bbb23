"""The source `integrated_gradients`: the gold logit of the reference classifier, spread over the words.

Source: Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks" (arXiv 1703.01365). The scores
are those of captum's `LayerIntegratedGradients` on the word embeddings, computed for many texts at a time.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..attribution import Explained, on_path, path_points, path_scores, pool_words
from ..classifiers import Encoded, batches, first_token_only
from ..types import TokenScores, TokenWords
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
        IntegratedGradientsSettings.__post_init__(self)

    def explain(self, rows: Sequence[Row]) -> Explanations:
        """Score the words of some rows."""
        classifier = self.open()
        texts = _Texts.encode(classifier, rows)
        scores: list[list[float]] = [[]] * len(rows)
        sums = torch.zeros(len(rows))
        lengths = [len(one["input_ids"]) * self.steps for one in texts.encoded]
        for batch in batches(lengths, classifier.tokens_per_pass):
            explained = texts.explained(batch)
            token_scores = self._integrate(explained, classifier.tokens_per_pass)
            sums[batch] = token_scores.sum(1).cpu()
            most = max(len(rows[index].spans) for index in batch)
            pooled = pool_words(token_scores, explained.words, most).tolist()
            for index, row_scores in zip(batch, pooled, strict=True):
                scores[index] = row_scores[: len(rows[index].spans)]
        gaps = (sums - texts.changes()).tolist()
        return Explanations(scores, {"gap": gaps}, {"identity": classifier.identity})

    def _integrate(self, explained: Explained, tokens: int) -> TokenScores:
        ids, mask = explained.inputs["input_ids"], explained.inputs["attention_mask"]
        points = path_points(
            "integrated_gradients", ids, mask, steps=self.steps, rule="gauss_legendre"
        )
        with torch.enable_grad(), first_token_only(explained.model):
            return path_scores(explained, points, rows=tokens // ids.shape[1])[0]


class _Texts(NamedTuple):
    """Encoded rows with the word of each token."""

    classifier: ReferenceClassifier
    encoded: list[Encoded]
    words: list[list[int]]
    outputs: list[int]

    @classmethod
    def encode(cls, classifier: ReferenceClassifier, rows: Sequence[Row]) -> "_Texts":
        encoded = classifier.encode([row.text for row in rows], return_offsets_mapping=True)
        offsets: list[Any] = [one.pop("offset_mapping") for one in encoded]
        words = [
            token_words(spans, row.spans, row.text)
            for spans, row in zip(offsets, rows, strict=True)
        ]
        return cls(classifier, encoded, words, [classifier.outputs[row.label] for row in rows])

    def explained(self, batch: Sequence[int]) -> Explained:
        """The classifier with some of the rows, padded, and their gold labels."""
        inputs = self.classifier.pad([self.encoded[index] for index in batch])
        gold = torch.tensor([self.outputs[index] for index in batch])
        device = self.classifier.model.device
        words = self._padded_words(batch, inputs)
        return Explained(self.classifier.model, inputs, gold.to(device), words)

    def changes(self) -> Float[Tensor, " rows"]:
        """By what the gold logit changes from baseline to text."""

        def at_baseline(
            batch: list[int], inputs: Mapping[str, Tensor]
        ) -> AbstractContextManager[object]:
            words = self._padded_words(batch, inputs)
            return on_path(self.classifier.model, words, torch.zeros(len(batch)).to(words.device))

        gold = (range(len(self.outputs)), self.outputs)
        text, baseline = (
            self.classifier.run(self.encoded),
            self.classifier.run(self.encoded, at_baseline),
        )
        return text[gold] - baseline[gold]

    def _padded_words(self, batch: Sequence[int], inputs: Mapping[str, Tensor]) -> TokenWords:
        ids = inputs["input_ids"]
        padded = torch.full(ids.shape, NO_WORD)
        for row, index in enumerate(batch):
            padded[row, : len(self.words[index])] = torch.tensor(self.words[index])
        return padded.to(ids.device)
