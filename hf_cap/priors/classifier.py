"""The reference classifier that `integrated_gradients`, `lime`, `shap` and `occlusion` explain."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from lime.lime_text import LimeTextExplainer
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_cap.attribution import (
    Explained,
    TokenScores,
    TokenWords,
    check_offsets,
    on_path,
    path_points,
    path_scores,
    pool_words,
)
from hf_cap.classifiers import (
    Encoded,
    TextClassifier,
    first_token_only,
    load_model,
    load_tokenizer,
)
from hf_cap.embedded import resolve_model
from hf_cap.errors import MissingExtra, ModelError
from hf_cap.lm.loading import model_fingerprint
from hf_cap.priors.base import (
    IntegratedGradientsSettings,
    LimeSettings,
    ReferenceSettings,
    Row,
    ShapSettings,
    Source,
    SourceResult,
)
from hf_cap.utils import folder_stamp, length_batches, text_seed
from hf_cap.words import NO_WORD, keep_words, token_words, word_strings


@dataclass(frozen=True, kw_only=True)
class ClassifierSource(Source, ReferenceSettings):
    """A source that explains a reference classifier.

    Attributes:
        stamp: State of the classifier's files when the source was made, so that a classifier trained anew
            in the same folder is explained anew and not read from the cache of `Dataset.map`.
    """

    stamp: str = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "stamp", folder_stamp(resolve_model(self.classifier)))

    def open(self) -> "ReferenceClassifier":
        """The classifier, opened once a process.

        Raises:
            ModelError: it cannot be loaded, or its labels are not those of the data.
        """
        return _open(
            self.classifier, self.revision, self.trust_remote_code, self.stamp, self.labels
        )


class ReferenceClassifier(TextClassifier):
    """A sequence classifier whose labels are those of the data, its weights frozen.

    Attributes:
        outputs: For each label of the data, in order, the model's output that stands for it.
        identity: Name, revision and fingerprints of weights and tokenizer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        outputs: tuple[int, ...],
        identity: str,
    ) -> None:
        super().__init__(model, tokenizer)
        self.outputs = outputs
        self.identity = identity

    def log_probs(self, texts: Sequence[str]) -> Float[Tensor, "texts labels"]:
        """Log-probability of each label of the data for each text, in nats, on the CPU."""
        return self.logits(texts).log_softmax(-1)[:, self.outputs]


@lru_cache(maxsize=2)
def _open(
    name: str, revision: str | None, trust_remote_code: bool, stamp: str, labels: tuple[str, ...]
) -> ReferenceClassifier:
    if folder_stamp(resolve_model(name)) != stamp:
        raise ModelError(
            f"The reference classifier {name!r} has changed since the source was made. Make the source anew."
        )
    model = load_model(name, revision, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(name, revision, trust_remote_code=trust_remote_code)
    check_offsets(tokenizer)
    names: dict[int, str] = model.config.id2label  # type: ignore[assignment]  # None in no classifier
    outputs = _match_labels(name, names, labels)
    model.requires_grad_(False).train(False)
    module: nn.Module = model  # whose `to` is typed
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    return ReferenceClassifier(model, tokenizer, outputs, model_fingerprint(model, tokenizer, name))


def _match_labels(name: str, names: Mapping[int, str], labels: Sequence[str]) -> tuple[int, ...]:
    output = {label: index for index, label in names.items()}
    if set(output) != set(labels):
        missing, extra = sorted(set(labels) - set(output)), sorted(set(output) - set(labels))
        raise ModelError(
            f"The reference classifier {name!r} has other labels than the data: it lacks "
            f"{missing[:5]!r} and has {extra[:5]!r} besides. Train one on this data (`hf-cap train`), or "
            "set its `config.id2label` to the label names of the data."
        )
    return tuple(output[label] for label in labels)


# --- The source `integrated_gradients`: the gold logit of the reference classifier, spread over the words.


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

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows."""
        classifier = self.open()
        texts = _Texts.encode(classifier, rows)
        scores: list[list[float]] = [[]] * len(rows)
        sums = torch.zeros(len(rows))
        lengths = [len(one["input_ids"]) * self.steps for one in texts.encoded]
        for batch in length_batches(lengths, classifier.tokens_per_pass):
            explained = texts.explained(batch)
            token_scores = self._integrate(explained, classifier.tokens_per_pass)
            sums[batch] = token_scores.sum(1).cpu()
            most = max(len(rows[index].spans) for index in batch)
            pooled = pool_words(token_scores, explained.words, most).tolist()
            for index, row_scores in zip(batch, pooled, strict=True):
                scores[index] = row_scores[: len(rows[index].spans)]
        gaps = (sums - texts.changes()).tolist()
        return SourceResult(scores, {"gap": gaps}, {"identity": classifier.identity})

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


# --- The source `lime`: a linear model of the reference classifier around each text.


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

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
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
        return SourceResult(scores, {"r2": fits}, {"identity": classifier.identity})

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


# --- The source `occlusion`: what the reference classifier loses when one word is left out.


@dataclass(frozen=True, kw_only=True)
class OcclusionPrior(ClassifierSource):
    """Scores each word by the gold label's log-probability with the word minus that without it, in nats.

    The logarithm keeps words apart where the classifier is so sure that the probability hardly moves.
    Positive: the classifier believes less in the gold label when the word is gone. The diagnostic
    `occlusion_log_prob` is the gold label's log-probability on the whole text.
    """

    name: ClassVar[str] = "occlusion"

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows, with one prediction a word and one a text."""
        classifier = self.open()
        texts = [text for row in rows for text in (row.text, *_without_each_word(row))]
        gold = [row.label for row in rows for _ in range(1 + len(row.spans))]
        log_probs = classifier.log_probs(texts)[range(len(gold)), gold]
        scores, whole = [], []
        for part in log_probs.split([1 + len(row.spans) for row in rows]):
            scores.append((part[0] - part[1:]).tolist())
            whole.append(part[0].item())
        return SourceResult(scores, {"log_prob": whole}, {"identity": classifier.identity})


def _without_each_word(row: Row) -> list[str]:
    words = range(len(row.spans))
    return [keep_words(row.text, row.spans, [other != word for other in words]) for word in words]


# --- The source `shap`: Owen values of the words, by the partition explainer of the `shap` package.


_MASKS_PER_CALL = 64


@dataclass(frozen=True, kw_only=True)
class ShapPrior(ClassifierSource, ShapSettings):
    """Scores each word by its Owen value for the gold label's log-probability, in nats.

    The scores of a text add up to its gold log-probability minus that of the text without any word.
    """

    name: ClassVar[str] = "shap"

    def __post_init__(self) -> None:
        super().__post_init__()
        ShapSettings.__post_init__(self)

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows.

        Raises:
            MissingExtra: the `shap` package is not installed.
        """
        library, classifier = _library(), self.open()
        scores = [self._owen_values(library, classifier, row) for row in rows]
        return SourceResult(scores, facts={"identity": classifier.identity})

    def _owen_values(
        self, library: ModuleType, classifier: ReferenceClassifier, row: Row
    ) -> list[float]:
        def gold(texts: NDArray[np.str_]) -> NDArray[np.float64]:
            return classifier.log_probs(texts.tolist())[:, row.label].double().numpy()

        masker = _WordMasker(row, self.replacement or None)
        if len(row.spans) == 1:  # the library cannot make a tree of one word
            without, whole = gold(
                np.concatenate([masker(np.array([k]), "")[0] for k in (False, True)])
            )
            return [float(whole - without)]
        explainer = library.explainers.Partition(gold, masker)
        explained = explainer.explain_row(
            row.text,
            max_evals=self.evaluations,
            main_effects=False,
            error_bounds=False,
            outputs=None,
            silent=True,
            batch_size=_MASKS_PER_CALL,
        )
        values: list[float] = explained["values"].tolist()
        return values


class _WordMasker:
    """What the library asks of a masker: our words as features, and a tree over them."""

    def __init__(self, row: Row, replacement: str | None) -> None:
        self.row = row
        self.replacement = replacement
        self.shape = (1, len(row.spans))
        self.clustering = word_tree(len(row.spans))

    def __call__(self, mask: NDArray[np.bool_], text: str) -> tuple[NDArray[np.str_]]:
        """The text with only the words of the mask."""
        kept = keep_words(self.row.text, self.row.spans, mask.tolist(), self.replacement)
        return (np.array([kept]),)

    def mask_shapes(self, text: str) -> list[tuple[int]]:
        """Shape of a mask."""
        return [(len(self.row.spans),)]


def word_tree(words: int) -> NDArray[np.float64]:
    """Binary tree over neighbouring words, in the linkage format of scipy: (left, right, height, size).

    Each part is cut into halves, the left one the longer. `(words - 1, 4)`.
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
    return np.array(links).reshape(-1, 4)


def _library() -> Any:
    try:
        import shap
    except ImportError as error:
        raise MissingExtra(
            "The source 'shap' needs the package `shap`: pip install 'hf-cap[shap]'"
        ) from error
    return shap
