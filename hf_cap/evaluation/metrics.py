"""How well two lists of word scores agree: cosine and rank correlation."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import auc, precision_recall_curve
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_cap.attribution import check_offsets
from hf_cap.classifiers import Encoded, TextClassifier, load_model, load_tokenizer
from hf_cap.errors import DataError, ModelError
from hf_cap.utils import generator
from hf_cap.words import NO_WORD, WORD_PATTERN, Span, keep_words, split_words, token_words

Agreement = Literal["cosine", "spearman"]

SoftDistance = Literal["probability", "hellinger"]


def cosine(scores: Sequence[float], reference: Sequence[float]) -> float:
    """Cosine of the angle between two score lists, in [-1, 1]; 0 where one of them is all zero.

    Raises:
        DataError: the lists differ in length.
    """
    _check_lengths(scores, reference)
    left, right = np.asarray(scores, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms > 0 else 0.0


def spearman(scores: Sequence[float], reference: Sequence[float]) -> float:
    """Spearman's rank correlation, in [-1, 1], ties sharing their mean rank; 0 where one list is constant.

    Raises:
        DataError: the lists differ in length.
    """
    _check_lengths(scores, reference)
    left, right = rankdata(scores), rankdata(reference)
    return cosine(left - left.mean(), right - right.mean()) if len(left) else 0.0


def _check_lengths(scores: Sequence[float], reference: Sequence[float]) -> None:
    if len(scores) != len(reference):
        raise DataError(
            f"{len(scores)} word scores but {len(reference)} of the reference; give both one score a word."
        )


AGREEMENTS: Mapping[Agreement, Callable[[Sequence[float], Sequence[float]], float]] = {
    "cosine": cosine,
    "spearman": spearman,
}


# --- Plausibility: do the highest-scoring words agree with the words that a person marked?


@dataclass(frozen=True, slots=True)
class Plausibility:
    """Agreement of one text's word scores with its human rationale; each in [0, 1], higher is better."""

    token_f1: float
    """F1 of the chosen words against the marked ones."""
    auprc: float
    """Area under the precision-recall curve of the scores, by trapezoids."""
    iou: float
    """Words both chosen and marked, over words chosen or marked."""


def plausibility(
    scores: Sequence[float], marked: Sequence[bool], size: int | None = None
) -> Plausibility | None:
    """Compare word scores with a human rationale.

    Args:
        scores: One score a word, positive = evidence for the explained class.
        marked: One flag a word, true for the words of the human rationale.
        size: Number of highest-scoring words to choose, ties going to the earlier word; by default as many
            as are marked.

    Returns:
        The agreement; `None` where no word is marked, since nothing can be agreed with.

    Raises:
        DataError: the lists differ in length, or `size` is below 1.
    """
    if len(scores) != len(marked):
        raise DataError(
            f"{len(scores)} word scores but {len(marked)} rationale flags; give one of each a word."
        )
    if size is not None and size < 1:
        raise DataError(f"A rationale has at least 1 word, got `size={size!r}`.")
    truth = {word for word, flag in enumerate(marked) if flag}
    if not truth:
        return None
    order = sorted(range(len(scores)), key=lambda word: (-scores[word], word))
    chosen = set(order[: size or len(truth)])
    both = len(chosen & truth)
    precision, recall, _ = precision_recall_curve(
        np.asarray(marked, dtype=bool), np.asarray(scores)
    )
    return Plausibility(
        token_f1=2 * both / (len(chosen) + len(truth)),
        auprc=float(auc(recall, precision)),
        iou=both / len(chosen | truth),
    )


# --- Comprehensiveness and sufficiency: what erasing a rationale does to the predicted probability.


FloatArray: TypeAlias = NDArray[np.float64]
Predict: TypeAlias = Callable[[Sequence[str]], FloatArray]
"""Texts to class probabilities, `(texts, labels)`; the row of a text must not depend on the other texts."""

PERCENTAGES = (1, 5, 10, 20, 50)


def rationale(scores: Sequence[float], percent: int) -> list[bool]:
    """The highest-scoring words: `percent` % of them, rounded up, so at least one.

    Args:
        scores: One signed score a word, positive = evidence for the explained class. Of equal scores
            the earlier word's counts as higher.
        percent: Whole number above 0, at most 100.

    Returns:
        One flag a word, true for the words of the rationale.
    """
    size = -(-len(scores) * percent // 100)
    chosen = set(sorted(range(len(scores)), key=lambda word: (-scores[word], word))[:size])
    return [word in chosen for word in range(len(scores))]


def comprehensiveness(
    predict: Predict,
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Sequence[float]],
    *,
    percentages: Sequence[int] = PERCENTAGES,
    word_pattern: str = WORD_PATTERN,
) -> FloatArray:
    """Drop of the target's probability when the rationale is taken out: `p(y|x) - p(y|x without r)`.

    Args:
        predict: Gives class probabilities.
        texts: The texts.
        targets: Explained class of each text, usually the predicted one.
        attributions: One list a text, one score a word; positive = evidence for the target.
        percentages: Sizes of the rationale, in percent of the words; the result is the mean over them.
        word_pattern: Regular expression of a word.

    Returns:
        One value a text in [-1, 1]. Higher is better: the words named were needed.

    Raises:
        DataError: the lists differ in length, or a text has another number of words than scores.
    """
    return _mean_drop(predict, texts, targets, attributions, percentages, word_pattern, keep=False)


def sufficiency(
    predict: Predict,
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Sequence[float]],
    *,
    percentages: Sequence[int] = PERCENTAGES,
    word_pattern: str = WORD_PATTERN,
) -> FloatArray:
    """Drop of the target's probability when only the rationale is left: `p(y|x) - p(y|r)`.

    Arguments and errors as for `comprehensiveness`.

    Returns:
        One value a text in [-1, 1]. Lower is better: the words named were enough.
    """
    return _mean_drop(predict, texts, targets, attributions, percentages, word_pattern, keep=True)


def word_spans(
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Sequence[float]],
    word_pattern: str,
) -> list[list[Span]]:
    """The words of each text, checked against its target and its scores.

    Raises:
        DataError: the lists differ in length, or a text has another number of words than scores.
    """
    if len(texts) != len(targets):
        raise DataError(f"{len(texts)} texts but {len(targets)} targets; give one class a text.")
    if len(texts) != len(attributions):
        raise DataError(
            f"{len(texts)} texts but {len(attributions)} lists of word scores; give one list a text."
        )
    spans = [split_words(text, word_pattern) for text in texts]
    for row, (words, scores) in enumerate(zip(spans, attributions, strict=True)):
        if len(words) != len(scores):
            raise DataError(
                f"Text {row} has {len(words)} words for word_pattern={word_pattern!r}, but {len(scores)} "
                f"scores: {texts[row][:80]!r}. Score every word, with the same pattern."
            )
    return spans


def target_probabilities(probabilities: FloatArray, targets: Sequence[int]) -> FloatArray:
    """Probability of each row's target, `(texts,)`."""
    return probabilities[np.arange(len(targets)), np.asarray(targets, dtype=np.intp)]


def _mean_drop(
    predict: Predict,
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Sequence[float]],
    percentages: Sequence[int],
    word_pattern: str,
    *,
    keep: bool,
) -> FloatArray:
    """Mean over the rationale sizes of `p(y|x) - p(y|x')`, x' being the rationale (`keep`) or the rest."""
    spans = word_spans(texts, targets, attributions, word_pattern)
    erased = [
        keep_words(text, words, [flag is keep for flag in rationale(scores, percent)])
        for percent in percentages
        for text, words, scores in zip(texts, spans, attributions, strict=True)
    ]
    probabilities = predict([*texts, *erased])
    of_target = target_probabilities(probabilities, list(targets) * (len(percentages) + 1))
    # one row a version of the text
    whole, *parts = of_target.reshape(len(percentages) + 1, len(texts))
    return np.asarray(whole - np.mean(parts, axis=0))


# --- A sequence classifier as a function from texts to class probabilities.


_logger = logging.getLogger(__name__)


class Classifier(TextClassifier):
    """Class probabilities of texts; says how many texts were too long for it.

    Attributes:
        labels: Label names in the order of the columns.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> None:
        super().__init__(model, tokenizer, max_length=max_length, texts_per_pass=batch_size)
        names: dict[int, str] = model.config.id2label  # type: ignore[assignment]  # None in no classifier
        self.labels = [names[index] for index in sorted(names)]

    @property
    def embedding_width(self) -> int:
        """Size of a token embedding, the last dimension of the masks of `masked`."""
        return int(cast(Tensor, self.model.get_input_embeddings().weight).shape[1])

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Class probabilities, `(texts, labels)`, rows summing to 1."""
        return _probabilities(self.logits(texts))

    def masked(self, texts: Sequence[str], masks: Sequence[FloatArray]) -> FloatArray:
        """Class probabilities with the token embeddings multiplied by masks.

        Args:
            texts: The texts; the same one may come more than once with different masks.
            masks: For each text `(tokens, hidden)`, the tokens being those of `encode`.
        """

        @contextmanager
        def around(rows: list[int], inputs: Mapping[str, Tensor]) -> Iterator[None]:
            factors = torch.ones(*inputs["input_ids"].shape, masks[0].shape[1])
            for row, mask in zip(factors, (masks[index] for index in rows), strict=True):
                row[: len(mask)] = torch.as_tensor(mask)
            with masked_embeddings(self.model, factors.to(self.model.device)):
                yield

        return _probabilities(self.run(self.encode(texts), around))

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Character span of each token of each text, (0, 0) for special tokens.

        Raises:
            ModelError: the tokenizer knows no character offsets.
        """
        check_offsets(self.tokenizer)
        encoded: Any = super().encode(texts, return_offsets_mapping=True)
        return [[(start, end) for start, end in one["offset_mapping"]] for one in encoded]

    def encode(self, texts: Sequence[str], **options: bool) -> list[Encoded]:
        """As for every `TextClassifier`, with one warning that counts the texts that are cut."""
        encoded = super().encode(texts, **options)
        pairs = zip(texts, encoded, strict=True)
        full = [text for text, one in pairs if len(one["input_ids"]) == self.max_length]
        whole = self.tokenizer(full, verbose=False)["input_ids"] if full else []
        if cut := sum(len(ids) > self.max_length for ids in whole):
            _logger.warning(
                "%d of %d texts are longer than %d tokens and are truncated",
                cut, len(texts), self.max_length,
            )  # fmt: skip
        return encoded


def _probabilities(logits: Tensor) -> FloatArray:
    probabilities: FloatArray = logits.double().softmax(-1).numpy()
    return probabilities


def load_classifier(
    model: PreTrainedModel | str, tokenizer: PreTrainedTokenizerBase | str | None, **options: Any
) -> Classifier:
    """A `Classifier` from loaded parts, folder names, Hub ids or `embedded/...` names.

    Args:
        model: The model, or where it is.
        tokenizer: Its tokenizer, or where it is; `None` takes the one beside the model.
        options: `batch_size` and `max_length` of `Classifier`.

    Raises:
        ModelError: model or tokenizer cannot be loaded, or there is no tokenizer beside a loaded model.
    """
    if tokenizer is None:
        if not isinstance(model, str):
            raise ModelError(
                "A loaded model needs its tokenizer; got `tokenizer=None`. Pass it or its folder."
            )
        tokenizer = model
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    if isinstance(model, str):
        model = load_model(model)
    return Classifier(model, tokenizer, **options)


@contextmanager
def masked_embeddings(model: PreTrainedModel, mask: Tensor) -> Iterator[None]:
    """Multiply what the word embedding layer gives by `mask`, `(batch, tokens, hidden)`."""
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: output * mask.to(output.dtype)
    )
    try:
        yield
    finally:
        handle.remove()


# --- Soft-NC and Soft-NS: faithfulness with soft erasure.


SAMPLES = 4
_LEAST_DISTANCE = 1e-9


def soft_nc(
    classifier: Classifier,
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Sequence[float]],
    *,
    samples: int = SAMPLES,
    distance: SoftDistance = "probability",
    seed: int = 0,
    word_pattern: str = WORD_PATTERN,
) -> FloatArray:
    """Soft normalised comprehensiveness.

    Args:
        classifier: The model that is explained.
        texts: The texts.
        targets: Explained class of each text, usually the predicted one.
        attributions: One list a text, one score a word; positive = evidence for the target.
        samples: Random masks a text; the distance is their mean.
        distance: `probability`, the drop of the target's probability (0 where it rises), or `hellinger`,
            between the whole outputs.
        seed: Seed of the masks; with the text it determines them.
        word_pattern: Regular expression of a word.

    Returns:
        One value a text in [0, 1], clipped; NaN where even the zero input does not move the output.
        Higher is better.

    Raises:
        DataError: the lists differ in length, or a text has another number of words than scores.
        ModelError: the tokenizer knows no character offsets.
    """
    kept = [1.0 - importance(scores) for scores in attributions]
    moved, zero = _distances(
        classifier, texts, targets, kept, samples, distance, seed, word_pattern
    )
    return np.clip(moved / zero, 0.0, 1.0)


def soft_ns(
    classifier: Classifier,
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Sequence[float]],
    *,
    samples: int = SAMPLES,
    distance: SoftDistance = "probability",
    seed: int = 0,
    word_pattern: str = WORD_PATTERN,
) -> FloatArray:
    """Soft normalised sufficiency. Arguments and errors as for `soft_nc`.

    Returns:
        One value a text in [0, 1], clipped; NaN where even the zero input does not move the output. Higher is
        better (unlike plain `sufficiency`): the important words alone keep the output where it was.
    """
    kept = [importance(scores) for scores in attributions]
    moved, zero = _distances(
        classifier, texts, targets, kept, samples, distance, seed, word_pattern
    )
    return np.clip(1.0 - moved / zero, 0.0, 1.0)


def importance(scores: Sequence[float]) -> FloatArray:
    """Scores of one text scaled to [0, 1], the lowest to 0; one half each where all are equal."""
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0 or np.ptp(values) == 0:
        return np.full(values.shape, 0.5)
    return np.asarray((values - values.min()) / np.ptp(values))


def probability_drop(whole: FloatArray, other: FloatArray, targets: Sequence[int]) -> FloatArray:
    """How far the target's probability falls, `max(0, p - q)`, in [0, 1]."""
    drop = target_probabilities(whole, targets) - target_probabilities(other, targets)
    return np.maximum(drop, 0.0)


def hellinger(whole: FloatArray, other: FloatArray, targets: Sequence[int]) -> FloatArray:
    """Hellinger distance of two outputs, in [0, 1] (ReAGent, arXiv 2402.00794); `targets` play no part."""
    return np.asarray(np.linalg.norm(np.sqrt(whole) - np.sqrt(other), axis=1) / np.sqrt(2.0))


DISTANCES: Mapping[SoftDistance, Callable[[FloatArray, FloatArray, Sequence[int]], FloatArray]] = {
    "probability": probability_drop,
    "hellinger": hellinger,
}


def _distances(
    classifier: Classifier,
    texts: Sequence[str],
    targets: Sequence[int],
    kept: Sequence[FloatArray],
    samples: int,
    distance: SoftDistance,
    seed: int,
    word_pattern: str,
) -> tuple[FloatArray, FloatArray]:
    """Mean distance under random masks, and that of the zero input (NaN where it is 0), `(texts,)` each."""
    move = DISTANCES[distance]
    spans = word_spans(texts, targets, [list(row) for row in kept], word_pattern)
    width = classifier.embedding_width
    token_kept = [
        _of_tokens(token_words(offsets, words, text), row)
        for offsets, words, text, row in zip(
            classifier.offsets(texts), spans, texts, kept, strict=True
        )
    ]
    draws = [generator(seed, text) for text in texts]
    whole = classifier(texts)
    moved = np.zeros(len(texts))
    for _ in range(samples):
        masks = [
            (draw.random((len(row), width)) < row[:, None]).astype(np.float64)
            for draw, row in zip(draws, token_kept, strict=True)
        ]
        moved += move(whole, classifier.masked(texts, masks), targets) / samples
    # a kept-probability above 1 marks a token outside every word, which the zero input keeps too
    nothing = [
        np.repeat((row > 1).astype(np.float64)[:, None], width, axis=1) for row in token_kept
    ]
    zero = move(whole, classifier.masked(texts, nothing), targets)
    return moved, np.where(zero > _LEAST_DISTANCE, zero, np.nan)


def _of_tokens(words: Sequence[int], kept: FloatArray) -> FloatArray:
    """Chance of keeping an element of each token: its word's, or 2 (always) for tokens outside every word."""
    return np.array([2.0 if word == NO_WORD else kept[word] for word in words])
