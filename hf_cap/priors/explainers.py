"""The sources `lime` and `shap`, which explain a classifier by the packages of these names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_cap.errors import import_extra
from hf_cap.priors.base import Row, SourceResult
from hf_cap.priors.classifier import ClassifierSource, ReferenceClassifier
from hf_cap.utils import check_range, documented, option, text_seed
from hf_cap.words import keep_words, word_strings

if TYPE_CHECKING:
    from numpy.typing import NDArray


@documented
@dataclass(frozen=True, kw_only=True)
class LimePrior(ClassifierSource):
    """Scores each word by its weight in a linear model of the gold label's probability.

    Every word position is a feature of its own. The perturbations of a text depend on the seed and
    the text only. The diagnostic `lime_r2` is the weighted R² of the linear model.
    """

    name: ClassVar[str] = "lime"

    samples: int = option(500, "Perturbed texts per text, at least 2; more for long documents.")
    replacement: str = option("", "What replaces a word that is taken out; empty deletes it.")
    seed: int = option(0, "Determines, together with the text, which words are taken out.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "samples", at_least=2)

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; without the package this is a `MissingExtra`."""
        library = import_extra("lime", "The source 'lime' needs", "lime.lime_text")
        classifier = self.open()
        fits: list[tuple[list[float], float]] = []
        together = 32  # rows: enough to share predictions, few enough to hold in memory
        for start in range(0, len(rows), together):
            some = rows[start : start + together]
            models = [self._perturb(library, row) for row in some]
            texts = [text for model in models for text in model.texts]
            gold = [row.label for row in some for _ in range(self.samples)]
            log_probs = classifier.log_probs(texts)[range(len(gold)), gold]
            probs = log_probs.double().exp().split(self.samples)
            fits += [model.fit(part.numpy()) for model, part in zip(models, probs, strict=True)]
        scores, r2 = [scores for scores, _ in fits], [r2 for _, r2 in fits]
        return SourceResult(scores, {"r2": r2}, {"identity": classifier.identity})

    def _perturb(self, library: Any, row: Row) -> "_DeferredModel":
        """Let the library draw the perturbations of a text; the linear model is fitted later."""
        explainer = library.LimeTextExplainer(
            bow=False,
            split_expression=lambda text: word_strings(text, self.word_pattern),
            mask_string=self.replacement,
            feature_selection="none",
            random_state=text_seed(self.seed, row.text),
        )
        model = explainer.base = _DeferredModel(explainer.base)
        words, samples = len(row.spans), self.samples
        explainer.explain_instance(
            row.text, model.predict, labels=(0,), num_features=words, num_samples=samples
        )
        return model


class _DeferredModel:
    """Stands for the library's linear model until the texts of several rows are predicted."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict(self, texts: list[str]) -> "NDArray[np.float64]":
        self.texts = texts
        return np.zeros((len(texts), 1))

    def explain_instance_with_data(self, *data: Any, **options: Any) -> tuple[float, ...]:
        self.data, self.options = data, options
        return (0.0,) * 4

    def fit(self, probs: "NDArray[np.float64]") -> tuple[list[float], float]:
        """Weight of each word in order, and R²."""
        masks, _, *others = self.data
        _, weights, r2, _ = self.model.explain_instance_with_data(
            masks, probs[:, None], *others, **self.options
        )
        return [float(weight) for _, weight in sorted(weights)], float(r2)


@documented
@dataclass(frozen=True, kw_only=True)
class ShapPrior(ClassifierSource):
    """Scores each word by its Owen value for the gold label's log-probability, in nats.

    The scores of a text add up to its gold log-probability minus that of the text without any word.
    """

    name: ClassVar[str] = "shap"

    evaluations: int = option(500, "Most perturbed texts per text, at least 2 per word.")
    replacement: str = option("", "What replaces a word that is taken out; empty deletes it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "evaluations", at_least=2)

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; without the package this is a `MissingExtra`."""
        library, classifier = import_extra("shap", "The source 'shap' needs"), self.open()
        scores = [self._owen_values(library, classifier, row) for row in rows]
        return SourceResult(scores, facts={"identity": classifier.identity})

    def _owen_values(self, library: Any, classifier: ReferenceClassifier, row: Row) -> list[float]:
        def gold(texts: "NDArray[np.str_]") -> "NDArray[np.float64]":
            return classifier.log_probs(texts.tolist())[:, row.label].double().numpy()

        masker = _WordMasker(row, self.replacement or None)
        if len(row.spans) == 1:  # the library cannot build a tree of one word
            without, whole = (gold(*masker(np.array([kept]), "")) for kept in (False, True))
            return [float(whole[0] - without[0])]
        options = {"main_effects": False, "error_bounds": False, "outputs": None, "silent": True}
        explained = library.explainers.Partition(gold, masker).explain_row(
            row.text, max_evals=self.evaluations, batch_size=64, **options
        )
        values: list[float] = explained["values"].tolist()
        return values


class _WordMasker:
    """The masker that the library asks for: our words as features, and a tree over them."""

    def __init__(self, row: Row, replacement: str | None) -> None:
        self.row, self.replacement = row, replacement
        self.shape = (1, len(row.spans))
        self.clustering = np.array(_word_tree(len(row.spans))).reshape(-1, 4)

    def __call__(self, mask: "NDArray[np.bool_]", text: str) -> tuple["NDArray[np.str_]"]:
        kept = keep_words(self.row.text, self.row.spans, mask.tolist(), self.replacement)
        return (np.array([kept]),)

    def mask_shapes(self, text: str) -> list[tuple[int]]:
        return [(len(self.row.spans),)]


def _word_tree(words: int) -> list[tuple[float, float, float, float]]:
    """Binary tree over neighbouring words as scipy's linkage rows (left, right, height, size).

    Each part is cut into halves, the left one the longer.
    """
    links: list[tuple[float, float, float, float]] = []

    def join(start: int, end: int) -> int:
        if end - start == 1:
            return start
        middle = (start + end + 1) // 2
        left, right = join(start, middle), join(middle, end)
        links.append((left, right, (end - start) / words, end - start))
        return words + len(links) - 1

    join(0, words)
    return links
