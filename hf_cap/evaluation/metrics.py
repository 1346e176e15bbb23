"""Metrics as pure functions: faithfulness, plausibility and agreement of word scores, robustness."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hf_cap.errors import DataError
from hf_cap.utils import generator
from hf_cap.words import NO_WORD, WORD_PATTERN, Span, keep_words, split_words, token_words

if TYPE_CHECKING:
    from hf_cap.evaluation.classifier import Classifier

FloatArray: TypeAlias = NDArray[np.float64]
Scores: TypeAlias = Sequence[float]
"""One score per word; positive = evidence for the explained class."""
Predict: TypeAlias = Callable[[Sequence[str]], FloatArray]
"""Texts to class probabilities, `(texts, labels)`; a row depends on its own text only."""
Agreement = Literal["cosine", "spearman"]
SoftDistance = Literal["probability", "hellinger"]

PERCENTAGES = (1, 5, 10, 20, 50)
SOFT_SAMPLES = 4
_LEAST_DISTANCE = 1e-9

# --- Agreement with a prior


def cosine(scores: Scores, reference: Scores) -> float:
    """Cosine of the angle between two score lists, in [-1, 1]; 0 where one is all zero.

    Raises:
        DataError: the lists differ in length.
    """
    _check_lengths(scores, reference)
    left, right = np.asarray(scores, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms > 0 else 0.0


def spearman(scores: Scores, reference: Scores) -> float:
    """Spearman's rank correlation, in [-1, 1], ties sharing a rank; 0 where one list is constant.

    Raises:
        DataError: the lists differ in length.
    """
    from scipy.stats import rankdata

    _check_lengths(scores, reference)
    left, right = rankdata(scores), rankdata(reference)
    return cosine(left - left.mean(), right - right.mean()) if len(left) else 0.0


AGREEMENTS: Mapping[Agreement, Callable[[Scores, Scores], float]] = {
    "cosine": cosine,
    "spearman": spearman,
}


def _check_lengths(scores: Scores, reference: Sequence[object]) -> None:
    if len(scores) != len(reference):
        raise DataError(
            f"{len(scores)} word scores but {len(reference)} of the reference; give both one value "
            "per word."
        )


# --- Plausibility


@dataclass(frozen=True, slots=True)
class Plausibility:
    """Agreement of word scores with a human rationale; each in [0, 1], higher is better."""

    token_f1: float
    """F1 of the chosen words against the marked ones."""
    auprc: float
    """Area under the precision-recall curve of the scores, by trapezoids."""
    iou: float
    """Words both chosen and marked, over words chosen or marked."""


def plausibility(
    scores: Scores, marked: Sequence[bool], size: int | None = None
) -> Plausibility | None:
    """Compare the word scores of one text with a human rationale.

    Args:
        scores: One score per word.
        marked: One flag per word, true for the words of the human rationale.
        size: Number of highest-scoring words to choose; by default as many as are marked.

    Returns:
        The agreement; `None` where no word is marked.

    Raises:
        DataError: the lists differ in length, or `size` is below 1.
    """
    from sklearn.metrics import auc, precision_recall_curve

    _check_lengths(scores, marked)
    if size is not None and size < 1:
        raise DataError(f"A rationale has at least 1 word, got `size={size!r}`.")
    truth = {word for word, flag in enumerate(marked) if flag}
    if not truth:
        return None
    chosen = _highest(scores, size or len(truth))
    both = len(chosen & truth)
    flags = np.asarray(marked, dtype=bool)
    precision, recall, _ = precision_recall_curve(flags, np.asarray(scores))
    return Plausibility(
        token_f1=2 * both / (len(chosen) + len(truth)),
        auprc=float(auc(recall, precision)),
        iou=both / len(chosen | truth),
    )


def _highest(scores: Scores, size: int) -> set[int]:
    """The words with the highest scores; ties go to the earlier word."""
    return set(sorted(range(len(scores)), key=lambda word: (-scores[word], word))[:size])


# --- Comprehensiveness and sufficiency (ERASER, arXiv 1911.03429)


def rationale(scores: Scores, percent: int) -> list[bool]:
    """Flags of the highest-scoring words, `percent` % of them, rounded up.

    Args:
        scores: One score per word; of equal ones the earlier word's counts as higher.
        percent: Whole number above 0, at most 100.
    """
    chosen = _highest(scores, -(-len(scores) * percent // 100))
    return [word in chosen for word in range(len(scores))]


def comprehensiveness(
    predict: Predict,
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Scores],
    *,
    percentages: Sequence[int] = PERCENTAGES,
    word_pattern: str = WORD_PATTERN,
) -> FloatArray:
    """Drop of the target's probability without the rationale: `p(y|x) - p(y|x without r)`.

    Args:
        predict: Gives class probabilities.
        texts: The texts.
        targets: Explained class of each text, usually the predicted one.
        attributions: Word scores of each text.
        percentages: Sizes of the rationale in percent of the words; the result is the mean.
        word_pattern: Regular expression of a word.

    Returns:
        One value per text in [-1, 1]; higher is better: the named words were needed.

    Raises:
        DataError: the lists differ in length, or a text's words and scores in number.
    """
    return _mean_drop(predict, texts, targets, attributions, percentages, word_pattern, keep=False)


def sufficiency(
    predict: Predict,
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Scores],
    *,
    percentages: Sequence[int] = PERCENTAGES,
    word_pattern: str = WORD_PATTERN,
) -> FloatArray:
    """Drop of the target's probability with the rationale alone: `p(y|x) - p(y|r)`.

    Arguments and errors as for `comprehensiveness`.

    Returns:
        One value per text in [-1, 1]; lower is better: the named words were enough.
    """
    return _mean_drop(predict, texts, targets, attributions, percentages, word_pattern, keep=True)


def _mean_drop(
    predict: Predict,
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Scores],
    percentages: Sequence[int],
    word_pattern: str,
    *,
    keep: bool,
) -> FloatArray:
    """Mean of `p(y|x) - p(y|x')` over the sizes, x' the rationale (`keep`) or the rest."""
    spans = _word_spans(texts, targets, attributions, word_pattern)
    erased = [
        keep_words(text, words, [flag is keep for flag in rationale(scores, percent)])
        for percent in percentages
        for text, words, scores in zip(texts, spans, attributions, strict=True)
    ]
    versions = len(percentages) + 1
    of_target = _of_target(predict([*texts, *erased]), list(targets) * versions)
    whole, *parts = of_target.reshape(versions, len(texts))
    return np.asarray(whole - np.mean(parts, axis=0))


def _word_spans(
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Scores],
    word_pattern: str,
) -> list[list[Span]]:
    """The words of each text, checked against its target and its scores."""
    if not len(texts) == len(targets) == len(attributions):
        raise DataError(
            f"{len(texts)} texts but {len(targets)} targets and {len(attributions)} lists of word "
            "scores; give one of each per text."
        )
    spans = [split_words(text, word_pattern) for text in texts]
    for row, (words, scores) in enumerate(zip(spans, attributions, strict=True)):
        if len(words) != len(scores):
            raise DataError(
                f"Text {row} has {len(words)} words for word_pattern={word_pattern!r}, but "
                f"{len(scores)} scores: {texts[row][:80]!r}. Score every word, with the same pattern."
            )
    return spans


def _of_target(probabilities: FloatArray, targets: Sequence[int]) -> FloatArray:
    """Probability of each row's target, `(texts,)`."""
    return probabilities[np.arange(len(targets)), np.asarray(targets, dtype=np.intp)]


# --- Soft-NC and Soft-NS (arXiv 2305.10496): embedding elements are erased at random


def soft_nc(
    classifier: "Classifier",
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Scores],
    *,
    samples: int = SOFT_SAMPLES,
    distance: SoftDistance = "probability",
    seed: int = 0,
    word_pattern: str = WORD_PATTERN,
) -> FloatArray:
    """Soft normalised comprehensiveness: important words are erased, relative to erasing all.

    Args:
        classifier: The model that is explained.
        texts: The texts.
        targets: Explained class of each text, usually the predicted one.
        attributions: Word scores of each text.
        samples: Random masks per text; the distance is their mean.
        distance: What erasure changes: the target's probability (0 where it rises), or the
            Hellinger distance of the whole output.
        seed: Seed of the masks, which depend on it and the text alone.
        word_pattern: Regular expression of a word.

    Returns:
        One value per text in [0, 1], clipped; higher is better. NaN where even erasing all words
        does not move the output.

    Raises:
        DataError: the lists differ in length, or a text's words and scores in number.
        ModelError: the tokenizer gives no character offsets.
    """
    kept = [1.0 - importance(scores) for scores in attributions]
    options = (samples, distance, seed, word_pattern)
    return np.clip(_soft_distance(classifier, texts, targets, kept, *options), 0.0, 1.0)


def soft_ns(
    classifier: "Classifier",
    texts: Sequence[str],
    targets: Sequence[int],
    attributions: Sequence[Scores],
    *,
    samples: int = SOFT_SAMPLES,
    distance: SoftDistance = "probability",
    seed: int = 0,
    word_pattern: str = WORD_PATTERN,
) -> FloatArray:
    """Soft normalised sufficiency: 1 minus the effect of erasing unimportant words.

    Arguments, errors and NaN as for `soft_nc`.

    Returns:
        One value per text in [0, 1], clipped; higher is better, unlike plain `sufficiency`.
    """
    kept = [importance(scores) for scores in attributions]
    options = (samples, distance, seed, word_pattern)
    return np.clip(1.0 - _soft_distance(classifier, texts, targets, kept, *options), 0.0, 1.0)


def importance(scores: Scores) -> FloatArray:
    """Scores of one text scaled to [0, 1], the lowest to 0; one half each where all are equal."""
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0 or np.ptp(values) == 0:
        return np.full(values.shape, 0.5)
    return np.asarray((values - values.min()) / np.ptp(values))


def probability_drop(whole: FloatArray, other: FloatArray, targets: Sequence[int]) -> FloatArray:
    """How far the target's probability falls, `max(0, p - q)`, in [0, 1]."""
    return np.maximum(_of_target(whole, targets) - _of_target(other, targets), 0.0)


def hellinger(whole: FloatArray, other: FloatArray, targets: Sequence[int]) -> FloatArray:
    """Hellinger distance of two outputs, in [0, 1] (arXiv 2402.00794); `targets` are not used."""
    return np.asarray(np.linalg.norm(np.sqrt(whole) - np.sqrt(other), axis=1) / np.sqrt(2.0))


DISTANCES: Mapping[SoftDistance, Callable[[FloatArray, FloatArray, Sequence[int]], FloatArray]] = {
    "probability": probability_drop,
    "hellinger": hellinger,
}


def _soft_distance(
    classifier: "Classifier",
    texts: Sequence[str],
    targets: Sequence[int],
    kept: Sequence[FloatArray],
    samples: int,
    distance: SoftDistance,
    seed: int,
    word_pattern: str,
) -> FloatArray:
    """Mean distance under random masks over that of the zero input, `(texts,)`; NaN where it is 0.

    Elements of a word are kept with probability `kept`; tokens outside every word always stay.
    """
    move = DISTANCES[distance]
    spans = _word_spans(texts, targets, [row.tolist() for row in kept], word_pattern)
    width = classifier.embedding_width
    words = [
        np.array(token_words(offsets, row, text), dtype=np.intp)
        for offsets, row, text in zip(classifier.offsets(texts), spans, texts, strict=True)
    ]
    # NO_WORD is -1 and so takes the appended 1: random numbers are below it
    token_kept = [np.append(p, 1.0)[row] for row, p in zip(words, kept, strict=True)]
    generators = [generator(seed, text) for text in texts]
    whole = classifier(texts)
    moved = np.zeros(len(texts))
    for _ in range(samples):
        masks = [
            (rng.random((len(row), width)) < row[:, None]).astype(np.float64)
            for rng, row in zip(generators, token_kept, strict=True)
        ]
        moved += move(whole, classifier.masked(texts, masks), targets) / samples
    nothing = [np.repeat((row == NO_WORD).astype(np.float64)[:, None], width, 1) for row in words]
    zero = move(whole, classifier.masked(texts, nothing), targets)
    return np.asarray(moved / np.where(zero > _LEAST_DISTANCE, zero, np.nan))


# --- Accuracy under attack


@dataclass(frozen=True, slots=True)
class Robustness:
    """Accuracy before and under attacks; every number in [0, 1]."""

    clean_accuracy: float
    """Share of the original texts predicted right. Higher is better."""
    robust_accuracy: float
    """Share of texts of which every attacked version is predicted right. Higher is better."""
    mean_attacked_accuracy: float
    """Mean over texts of the share of attacked versions predicted right. Higher is better."""
    attack_success: float | None
    """Share of the rightly predicted texts that an attack turns. Lower is better; `None` if none."""


def robustness(
    attacked: Sequence[Sequence[int]], clean: Sequence[int], references: Sequence[int]
) -> Robustness:
    """Compare predictions before and after attacks.

    Args:
        attacked: For each text, the predicted label of each attacked version; at least one.
        clean: Predicted label of each original text.
        references: Gold label of each text.

    Raises:
        DataError: there is no text, a text has no attacked version, or the lists differ in length.
    """
    if not len(references) or not len(attacked) == len(clean) == len(references):
        raise DataError(
            f"Robust accuracy needs one entry per text in each list, got {len(attacked)} attacked, "
            f"{len(clean)} clean predictions and {len(references)} labels."
        )
    if empty := [row for row, versions in enumerate(attacked) if not len(versions)]:
        raise DataError(
            f"{len(empty)} texts have no attacked version, the first is text {empty[0]}; remove them."
        )
    pairs = zip(attacked, references, strict=True)
    right = np.array([np.mean(np.asarray(versions) == gold) for versions, gold in pairs])
    clean_right = np.asarray(clean) == np.asarray(references)
    return Robustness(
        clean_accuracy=float(clean_right.mean()),
        robust_accuracy=float((right == 1).mean()),
        mean_attacked_accuracy=float(right.mean()),
        attack_success=float((right[clean_right] < 1).mean()) if clean_right.any() else None,
    )
