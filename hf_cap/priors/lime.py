"""The source `lime`: a linear model of the reference classifier around each text.

Source: Ribeiro, Singh & Guestrin, "Why Should I Trust You?" (arXiv 1602.04938), through the `lime` package.
The perturbed texts of many examples are predicted together, each distinct one once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from lime.lime_text import LimeTextExplainer
from numpy.typing import NDArray

from ..randomness import text_seed
from ..words import word_strings
from .classifier import ClassifierSource
from .rows import Row
from .source_settings import LimeSettings
from .word_source import Explanations

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
        LimeSettings.__post_init__(self)

    def explain(self, rows: Sequence[Row]) -> Explanations:
        """Score the words of some rows."""
        classifier = self.open()
        scores, fits = [], []
        for start in range(0, len(rows), _ROWS):
            chosen = rows[start : start + _ROWS]
            around = [self._neighbourhood(row) for row in chosen]
            texts = [text for one in around for text in one.texts]
            gold = [row.label for row in chosen for _ in range(self.samples)]
            log_probs = classifier.log_probs(texts)
            probs = log_probs[range(len(gold)), gold].double().exp().numpy()
            for one, part in zip(around, np.split(probs, len(chosen)), strict=True):
                weights, fit = one.fit(part)
                scores.append([weights[word] for word in range(len(weights))])
                fits.append(fit)
        return Explanations(scores, {"r2": fits}, {"identity": classifier.identity})

    def _neighbourhood(self, row: Row) -> "_Neighbourhood":
        """Let the library draw the perturbations of a text, but not yet fit."""
        explainer = LimeTextExplainer(
            bow=False,
            split_expression=lambda text: word_strings(text, self.word_pattern),
            mask_string=self.replacement,
            feature_selection="none",
            random_state=text_seed(self.seed, row.text),
        )
        neighbourhood = _Neighbourhood(explainer.base)
        explainer.base = neighbourhood
        explainer.explain_instance(
            row.text,
            neighbourhood.predict,
            labels=(0,),
            num_features=len(row.spans),
            num_samples=self.samples,
        )
        return neighbourhood


class _Neighbourhood:
    """Perturbed texts, the whole text first; stands for the library's linear model until it can be fitted."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.texts: list[str] = []
        self.asked: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def predict(self, texts: list[str]) -> NDArray[np.float64]:
        """Note the texts; what is predicted plays no part yet."""
        self.texts = texts
        return np.zeros((len(texts), 1))

    def explain_instance_with_data(self, *asked: Any, **options: Any) -> tuple[float, ...]:
        """Note what the library would fit."""
        self.asked, self.options = asked, options
        return (0.0,) * 4

    def fit(self, probs: NDArray[np.float64]) -> tuple[dict[int, float], float]:
        """Weight of each word, and R²."""
        data, _, *others = self.asked
        _, weights, r2, _ = self.model.explain_instance_with_data(
            data, probs[:, None], *others, **self.options
        )
        return {word: float(weight) for word, weight in weights}, float(r2)
