"""Sources that explain a reference classifier: integrated gradients, occlusion, LIME and SHAP."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_cap.embedded import resolve_model
from hf_cap.errors import ModelError, import_extra
from hf_cap.priors.base import Row, Source, SourceResult
from hf_cap.utils import check_settings, folder_stamp, option, required, settings_class, text_seed
from hf_cap.words import keep_words, without_words, word_strings

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray
    from torch import Tensor

    from hf_cap.classifiers import TextClassifier


@settings_class
class ClassifierSource(Source):
    """A source that explains a classifier, best one trained on the same split without alignment.

    Attributes:
        stamp: State of the classifier's files, for the cache of `Dataset.map`.
    """

    classifier: str = required("Classifier with the label space of the data: folder or Hub id.")
    revision: str | None = option(None, "Branch, tag or commit of a classifier on the Hub.")
    trust_remote_code: bool = option(False, "Run code that comes with the classifier.")
    stamp: str = field(init=False)

    def __post_init__(self) -> None:
        check_settings(self)
        object.__setattr__(self, "stamp", folder_stamp(resolve_model(self.classifier)))

    def open(self) -> "ReferenceClassifier":
        """The classifier, loaded once per process, or a `ModelError` where it does not serve."""
        return _open(self.classifier, self.revision, self.trust_remote_code, self.stamp, self.labels)


@dataclass(frozen=True, eq=False)
class ReferenceClassifier:
    """A sequence classifier whose labels are those of the data, its weights frozen.

    `outputs` are the model's outputs for the labels of the data, in their order; `identity` is its
    fingerprint.
    """

    text_classifier: "TextClassifier"
    outputs: tuple[int, ...]
    identity: str

    def log_probs(self, texts: Sequence[str]) -> "Float[Tensor, 'texts labels']":
        """Log-probability of each label of the data, in nats, on the CPU."""
        return self.text_classifier.logits(texts).log_softmax(-1)[:, self.outputs]


@lru_cache(maxsize=2)
def _open(
    name: str, revision: str | None, trust_remote_code: bool, stamp: str, labels: tuple[str, ...]
) -> ReferenceClassifier:
    import torch

    from hf_cap.attribution import check_offsets
    from hf_cap.classifiers import TextClassifier, load_model, load_tokenizer
    from hf_cap.lm.local import model_fingerprint

    if folder_stamp(resolve_model(name)) != stamp:
        raise ModelError(f"{name!r} changed on disk after the prior source was created; create it again.")
    model = load_model(name, revision, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(name, revision, trust_remote_code=trust_remote_code)
    check_offsets(tokenizer)
    classifier = TextClassifier(model, tokenizer)
    missing, extra = sorted({*labels} - {*classifier.labels}), sorted({*classifier.labels} - {*labels})
    if missing or extra:
        raise ModelError(
            f"The classifier {name!r} has other labels than the data: it lacks {missing[:5]!r} and "
            f"has {extra[:5]!r} besides. Train one on this data, or set its `config.id2label`."
        )
    module: torch.nn.Module = model.requires_grad_(False).train(False)
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    outputs = tuple(map(classifier.labels.index, labels))
    identity = model_fingerprint(model, tokenizer, name)
    return ReferenceClassifier(classifier, outputs, identity)


@settings_class
class IntegratedGradientsPrior(ClassifierSource):
    """Scores each word by its part of the gold logit, in logits.

    The path runs from the pad embedding at every token of a word to the text, by a Gauss-Legendre
    rule. The scores of a text add up to its gold logit minus that of the baseline, but for the
    diagnostic `integrated_gradients_gap`: where that is large compared with the scores, take more
    `steps`. Words beyond the classifier's limit get 0.
    """

    name: ClassVar[str] = "integrated_gradients"

    steps: int = option(50, "Points on the path from the baseline to the text, at least 1.", at_least=1)

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows."""
        import torch

        from hf_cap.attribution import TextBatch, attribute_words, score_points

        opened = self.open()
        classifier, texts = opened.text_classifier, [row.text for row in rows]
        risen: dict[int, float] = {}

        def measure(places: list[int], batch: TextBatch) -> None:
            """By how much the logits of some texts are higher than those of their baselines."""
            ends = torch.tensor([[0.0], [1.0]], device=batch.labels.device).expand(-1, len(places))
            with torch.no_grad():
                baseline, text = score_points(classifier.model, batch, ends)[0]
            risen.update(zip(places, (text - baseline).tolist(), strict=True))

        longest = max(len(one["input_ids"]) for one in classifier.encode(texts))
        scores = attribute_words(
            classifier.model,
            classifier.tokenizer,
            texts,
            [opened.outputs[row.label] for row in rows],
            steps=self.steps,
            batch_size=max(1, classifier.tokens_per_pass // longest),
            word_pattern=self.word_pattern,
            max_length=classifier.max_length,
            on_batch=measure,
        )
        gaps = [sum(of_text) - risen[place] for place, of_text in enumerate(scores)]
        return SourceResult(scores, {"gap": gaps}, {"identity": opened.identity})


@settings_class
class OcclusionPrior(ClassifierSource):
    """Scores each word by the gold label's log-probability with the word minus that without it, in nats.

    The logarithm distinguishes words where the classifier is so sure that the probability hardly
    moves. The diagnostic `occlusion_log_prob` is the gold label's log-probability on the whole text.
    """

    name: ClassVar[str] = "occlusion"

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows, with one prediction per word and one per text."""
        classifier = self.open()
        texts = [text for row in rows for text in (row.text, *self._without_each_word(row))]
        gold = [row.label for row in rows for _ in range(1 + len(row.spans))]
        log_probs = classifier.log_probs(texts)[range(len(gold)), gold]
        scores, whole = [], []
        for part in log_probs.split([1 + len(row.spans) for row in rows]):
            scores.append((part[0] - part[1:]).tolist())
            whole.append(part[0].item())
        return SourceResult(scores, {"log_prob": whole}, {"identity": classifier.identity})

    def _without_each_word(self, row: Row) -> list[str]:
        return [without_words(row.text, row.spans, [one]) for one in range(len(row.spans))]


# --- The sources `lime` and `shap`, which explain a classifier by the packages of these names.


@settings_class
class LimePrior(ClassifierSource):
    """Scores each word by its weight in a linear model of the gold label's probability.

    Every word position is a feature of its own. The perturbations of a text depend on the seed and
    the text only. The diagnostic `lime_r2` is the weighted R² of the linear model.
    """

    name: ClassVar[str] = "lime"

    samples: int = option(500, "Perturbed texts per text, at least 2; more for long documents.", at_least=2)
    replacement: str = option("", "What replaces a word that is taken out; empty deletes it.")
    seed: int = option(0, "Determines, together with the text, which words are taken out.")

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; without the package this is a `MissingExtra`."""
        library = import_extra("lime", "The source 'lime' needs", "lime.lime_text")
        classifier = self.open()
        fits = [self._fit(library, classifier, row) for row in rows]
        scores, r2 = [scores for scores, _ in fits], [r2 for _, r2 in fits]
        return SourceResult(scores, {"r2": r2}, {"identity": classifier.identity})

    def _fit(self, library: Any, classifier: ReferenceClassifier, row: Row) -> tuple[list[float], float]:
        """Weight of each word in order, and R²."""

        def gold(texts: list[str]) -> "NDArray[np.float64]":
            return classifier.log_probs(texts)[:, [row.label]].double().exp().numpy()

        explainer = library.LimeTextExplainer(
            bow=False,
            split_expression=lambda text: word_strings(text, self.word_pattern),
            mask_string=self.replacement,
            feature_selection="none",
            random_state=text_seed(self.seed, row.text),
        )
        size = {"num_features": len(row.spans), "num_samples": self.samples}
        found = explainer.explain_instance(row.text, gold, labels=(0,), **size)
        return [float(weight) for _, weight in sorted(found.local_exp[0])], float(found.score)


@settings_class
class ShapPrior(ClassifierSource):
    """Scores each word by its Owen value for the gold label's log-probability, in nats.

    The scores of a text add up to its gold log-probability minus that of the text without any word.
    """

    name: ClassVar[str] = "shap"

    evaluations: int = option(500, "Most perturbed texts per text, at least 2 per word.", at_least=2)
    replacement: str = option("", "What replaces a word that is taken out; empty deletes it.")

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
