"""The source `lime`: a linear model of the reference classifier around each text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hf_cap.errors import MissingExtra
from hf_cap.priors.base import Row, SourceResult
from hf_cap.priors.classifier import ClassifierSource, ReferenceClassifier
from hf_cap.utils import check_range, documented, option, text_seed
from hf_cap.words import word_strings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
        explained = [self._explain(explainer, classifier, row) for row in rows]
        return SourceResult(
            [scores for scores, _ in explained],
            {"r2": [r2 for _, r2 in explained]},
            {"identity": classifier.identity},
        )

    def _explain(
        self, explainer: Any, classifier: ReferenceClassifier, row: Row
    ) -> tuple[list[float], float]:
        def predict(texts: list[str]) -> "NDArray[np.float64]":
            return classifier.log_probs(texts).double().exp().numpy()

        found = explainer(
            bow=False,
            split_expression=lambda text: word_strings(text, self.word_pattern),
            mask_string=self.replacement,
            feature_selection="none",
            random_state=text_seed(self.seed, row.text),
        ).explain_instance(
            row.text,
            predict,
            labels=(row.label,),
            num_features=len(row.spans),
            num_samples=self.samples,
        )
        weights = dict(found.as_map()[row.label])
        return [float(weights[word]) for word in range(len(row.spans))], float(found.score)


def _explainer_class() -> Any:
    try:
        from lime.lime_text import LimeTextExplainer
    except ImportError as error:
        raise MissingExtra(
            "The source 'lime' needs the package `lime`: pip install 'hf-cap[lime]'"
        ) from error
    return LimeTextExplainer
