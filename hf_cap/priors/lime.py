"""The source `lime`: a linear model of the reference classifier around each text.

Source: Ribeiro, Singh & Guestrin, "Why Should I Trust You?" (arXiv 1602.04938), through the `lime` package.
The perturbed texts of many examples are predicted together, each distinct one once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from lime.lime_text import LimeTextExplainer
from numpy.typing import NDArray

from ..errors import ConfigError
from ..randomness import text_seed
from ..words import word_strings
from .classifier import ClassifierSource
from .rows import Row
from .source_settings import LimeSettings
from .word_source import Explanations

Predict = Callable[[list[str]], NDArray[np.float64]]

_ROWS = 32
"""Texts whose perturbations are predicted together: enough to share, few enough to hold in memory."""


@dataclass(frozen=True, kw_only=True)
class LimePrior(ClassifierSource, LimeSettings):
    """Scores each word by its weight in a linear model of the gold label's probability.

    Every word position is a feature of its own (`bow=False`). The perturbations of a text depend on the
    seed and the text only. The diagnostic `lime_r2` is the weighted R² of the linear model.
    """

    name: ClassVar[str] = "lime"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2:
            raise ConfigError(f"samples must be at least 2, got {self.samples!r}.")

    def explain(self, rows: Sequence[Row]) -> Explanations:
        """Score the words of some rows."""
        classifier = self.open()
        scores, fits = [], []
        for start in range(0, len(rows), _ROWS):
            chosen = rows[start : start + _ROWS]
            texts = [self._perturbed(row) for row in chosen]
            gold = [row.label for row, part in zip(chosen, texts, strict=True) for _ in part]
            log_probs = classifier.log_probs([text for part in texts for text in part])
            probs = log_probs[range(len(gold)), gold].double().exp().numpy()
            for row, part in zip(chosen, np.split(probs, len(chosen)), strict=True):
                weights, fit = self._fit(row, part)
                scores.append(weights)
                fits.append(fit)
        return Explanations(scores, {"r2": fits}, {"identity": classifier.identity})

    def _perturbed(self, row: Row) -> list[str]:
        """The texts that the library asks a prediction for, the whole text first."""
        asked: list[str] = []

        def record(texts: list[str]) -> NDArray[np.float64]:
            asked.extend(texts)
            return np.zeros((len(texts), 1))

        self._run(row, record, labels=())
        return asked

    def _fit(self, row: Row, probs: NDArray[np.float64]) -> tuple[list[float], float]:
        explanation = self._run(row, lambda texts: probs[:, None], labels=(0,))
        weights = dict(explanation.local_exp[0])
        return [float(weights[word]) for word in range(len(row.spans))], float(explanation.score)

    def _run(self, row: Row, predict: Predict, labels: tuple[int, ...]) -> Any:
        """Explain columns of what `predict` gives; the perturbations are always the same."""
        explainer = LimeTextExplainer(
            bow=False,
            split_expression=lambda text: word_strings(text, self.word_pattern),
            mask_string=self.replacement,
            feature_selection="none",
            random_state=text_seed(self.seed, row.text),
        )
        return explainer.explain_instance(
            row.text, predict, labels=labels, num_features=len(row.spans), num_samples=self.samples
        )
