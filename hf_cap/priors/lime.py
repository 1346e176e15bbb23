"""The source `lime`: a linear model of the reference classifier around each text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hf_cap.errors import MissingExtra
from hf_cap.priors.base import Row, SourceResult
from hf_cap.priors.classifier import ClassifierSource
from hf_cap.utils import check_range, documented, option, text_seed
from hf_cap.words import word_strings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS = 32
"""Texts whose perturbations are predicted together: enough to share, few enough to hold in memory."""


@documented
@dataclass(frozen=True, kw_only=True)
class LimePrior(ClassifierSource):
    """Scores each word by its weight in a linear model of the gold label's probability.

    Every word position is a feature of its own. The perturbations of a text depend on the seed and
    the text only. The diagnostic `lime_r2` is the weighted R² of the linear model.
    """

    name: ClassVar[str] = "lime"

    samples: int = option(
        500,
        "Perturbed texts per text, at least 2. Enough for texts of up to about 20 words; the library's "
        "own default of 5,000 is for long documents.",
    )
    replacement: str = option("", "What replaces a word that is taken out; empty deletes it.")
    seed: int = option(0, "Determines, together with the text, which words are taken out.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "samples", at_least=2)

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows.

        Raises:
            MissingExtra: the `lime` package is not installed.
        """
        explainer, classifier = _explainer_class(), self.open()
        fits: list[tuple[list[float], float]] = []
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            models = [self._perturb(explainer, row) for row in some]
            texts = [text for model in models for text in model.texts]
            gold = [row.label for row in some for _ in range(self.samples)]
            log_probs = classifier.log_probs(texts)[range(len(gold)), gold]
            probs = log_probs.double().exp().split(self.samples)
            fits += [model.fit(part.numpy()) for model, part in zip(models, probs, strict=True)]
        return SourceResult(
            [scores for scores, _ in fits],
            {"r2": [r2 for _, r2 in fits]},
            {"identity": classifier.identity},
        )

    def _perturb(self, explainer_class: Any, row: Row) -> "_DeferredModel":
        """Let the library draw the perturbations of a text; the linear model is fitted later."""
        import numpy as np

        explainer = explainer_class(
            bow=False,
            split_expression=lambda text: word_strings(text, self.word_pattern),
            mask_string=self.replacement,
            feature_selection="none",
            random_state=text_seed(self.seed, row.text),
        )
        model = explainer.base = _DeferredModel(explainer.base)

        def predict(texts: list[str]) -> "NDArray[np.float64]":
            model.texts = texts
            return np.zeros((len(texts), 1))

        words, samples = len(row.spans), self.samples
        explainer.explain_instance(
            row.text, predict, labels=(0,), num_features=words, num_samples=samples
        )
        return model


class _DeferredModel:
    """Stands for the library's linear model until the texts of several rows are predicted together."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.texts: list[str] = []

    def explain_instance_with_data(self, *data: Any, **options: Any) -> tuple[float, ...]:
        """Keep what the library would fit."""
        self.data, self.options = data, options
        return (0.0,) * 4

    def fit(self, probs: "NDArray[np.float64]") -> tuple[list[float], float]:
        """Weight of each word in order, and R²."""
        masks, _, *others = self.data
        _, weights, r2, _ = self.model.explain_instance_with_data(
            masks, probs[:, None], *others, **self.options
        )
        return [float(weight) for _, weight in sorted(weights)], float(r2)


def _explainer_class() -> Any:
    try:
        from lime.lime_text import LimeTextExplainer
    except ImportError as error:
        raise MissingExtra(
            "The source 'lime' needs the package `lime`: pip install 'hf-cap[lime]'"
        ) from error
    return LimeTextExplainer
