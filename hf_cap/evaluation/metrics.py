"""Metrics as pure functions: faithfulness, plausibility and agreement of word scores, robustness."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import auc, precision_recall_curve

from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation.classifier import Classifier
from hf_cap.evaluation.settings import PERCENTAGES, SOFT_SAMPLES, SoftDistance
from hf_cap.utils import generator
from hf_cap.words import (
    NO_WORD,
    WORD_PATTERN,
    Span,
    keep_words,
    share_scores,
    split_words,
    token_hosts,
    token_words,
)

FloatArray: TypeAlias = NDArray[np.float64]
Scores: TypeAlias = Sequence[float]
"""One score per word; positive = evidence for the explained class."""
Predict: TypeAlias = Callable[[Sequence[str]], FloatArray]
"""Texts to class probabilities, `(texts, labels)`; a row depends on its own text only."""


@dataclass(frozen=True)
class ScoredTexts:
    """Texts, the explained class of each (usually the predicted one), and its word scores."""

    texts: Sequence[str]
    targets: Sequence[int]
    scores: Sequence[Scores]
    word_pattern: str = WORD_PATTERN

    def __post_init__(self) -> None:
        counts = len(self.texts), len(self.targets), len(self.scores)
        if len(set(counts)) > 1:
            raise DataError(
                "Got {} texts, {} targets and {} lists; give one of each per text.".format(*counts)
            )
        for row, (words, scores) in enumerate(zip(self.spans, self.scores, strict=True)):
            if len(words) != len(scores):
                raise DataError(
                    f"Text {row} has {len(words)} words but {len(scores)} scores: "
                    f"{self.texts[row][:80]!r}; use the `word_pattern` of the scores."
                )

    @cached_property
    def spans(self) -> list[list[Span]]:
        """The words of each text."""
        return [split_words(text, self.word_pattern) for text in self.texts]


def cosine(scores: Scores, reference: Scores) -> float:
    """Cosine of two score lists of the same length, in [-1, 1]; 0 where one is all zero."""
    _check_lengths(scores, reference)
    left, right = np.asarray(scores, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms > 0 else 0.0


def spearman(scores: Scores, reference: Scores) -> float:
    """Spearman's rank correlation, in [-1, 1], ties sharing a rank; 0 where one list is constant."""
    left, right = (rankdata(values) - (len(values) + 1) / 2 for values in (scores, reference))
    return cosine(left, right)


def _check_lengths(scores: Scores, reference: Sequence[object]) -> None:
    if len(scores) != len(reference):
        raise DataError(
            f"{len(scores)} word scores but {len(reference)} of the reference; give both one per word."
        )


def plausibility(scores: Scores, marked: Sequence[bool], size: int | None = None) -> dict[str, float] | None:
    """Compare the word scores of one text with a human rationale; `None` where no word is marked.

    `marked` has one flag per word, true for those of the rationale; `size` words of the highest scores are
    chosen, by default as many as are marked. Returns `token_f1` and `iou` (intersection over union) of chosen
    and marked words, and `auprc`, the area under the precision-recall curve by trapezoids; each in [0, 1].
    """
    _check_lengths(scores, marked)
    if size is not None and size < 1:
        raise DataError(f"`size` must be at least 1 word, got {size!r}.")
    truth = np.asarray(marked, dtype=bool)
    if not truth.any():
        return None
    chosen = _highest(scores, size or int(truth.sum()))
    both, total = int((chosen & truth).sum()), int(chosen.sum() + truth.sum())
    precision, recall, _ = precision_recall_curve(truth, np.asarray(scores))
    area = float(auc(recall, precision))
    return {"token_f1": 2 * both / total, "auprc": area, "iou": both / (total - both)}


def _highest(scores: Scores, size: int) -> NDArray[np.bool_]:
    """Flags of the words with the highest scores; ties go to the earlier word."""
    flags = np.zeros(len(scores), dtype=bool)
    flags[np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:size]] = True
    return flags


def comprehensiveness(
    predict: Predict, scored: ScoredTexts, percentages: Sequence[int] = PERCENTAGES
) -> FloatArray:
    """Drop of the target's probability without the rationale, `p(y|x) - p(y|x without r)`.

    The rationale r are the highest-scoring words, `percentages` % of them, rounded up; the value is the
    mean over these sizes (ERASER, arXiv 1911.03429).

    Returns:
        One value per text in [-1, 1]; higher is better: the named words were needed.
    """
    return _mean_drop(predict, scored, percentages, keep=False)


def sufficiency(
    predict: Predict, scored: ScoredTexts, percentages: Sequence[int] = PERCENTAGES
) -> FloatArray:
    """Drop of the target's probability with the rationale alone, `p(y|x) - p(y|r)`.

    Returns:
        One value per text in [-1, 1]; lower is better: the named words were enough.
    """
    return _mean_drop(predict, scored, percentages, keep=True)


def _mean_drop(
    predict: Predict, scored: ScoredTexts, percentages: Sequence[int], *, keep: bool
) -> FloatArray:
    erased = [
        keep_words(text, words, _highest(scores, -(-len(scores) * percent // 100)) == keep)
        for percent in percentages
        for text, words, scores in zip(scored.texts, scored.spans, scored.scores, strict=True)
    ]
    versions = len(percentages) + 1
    of_target = _of_target(predict([*scored.texts, *erased]), list(scored.targets) * versions)
    whole, *parts = of_target.reshape(versions, len(scored.texts))
    return np.asarray(whole - np.mean(parts, axis=0))


def _of_target(probabilities: FloatArray, targets: Sequence[int]) -> FloatArray:
    """Probability of each row's target, `(texts,)`."""
    return probabilities[np.arange(len(targets)), np.asarray(targets, dtype=np.intp)]


def soft_nc(
    classifier: Classifier,
    scored: ScoredTexts,
    samples: int = SOFT_SAMPLES,
    distance: SoftDistance = "probability",
    seed: int = 0,
) -> FloatArray:
    """Soft normalised comprehensiveness (arXiv 2305.10496): important words are erased at random.

    Each embedding element is kept with probability 1 - importance, the scores of a text scaled to
    [0, 1]; tokens outside every word always stay. The effect is relative to erasing all.

    Args:
        samples: Random masks per text; the distance is their mean.
        distance: What erasure changes: the target's probability (0 where it rises), or the Hellinger
            distance of the whole output (arXiv 2402.00794).
        seed: Seed of the masks, which depend on it and the text alone.

    Returns:
        One value per text in [0, 1], clipped; higher is better. NaN where even erasing all words
        does not move the output. `ModelError` where the tokenizer gives no character offsets.
    """
    moved = _soft_distance(classifier, scored, samples, distance, seed, erase_important=True)
    return np.clip(moved, 0.0, 1.0)


def soft_ns(
    classifier: Classifier,
    scored: ScoredTexts,
    samples: int = SOFT_SAMPLES,
    distance: SoftDistance = "probability",
    seed: int = 0,
) -> FloatArray:
    """Soft normalised sufficiency: 1 minus the effect of erasing unimportant words; as `soft_nc`.

    Returns:
        One value per text in [0, 1], clipped; higher is better, unlike plain `sufficiency`.
    """
    moved = _soft_distance(classifier, scored, samples, distance, seed, erase_important=False)
    return np.clip(1.0 - moved, 0.0, 1.0)


def _importance(scores: Scores) -> FloatArray:
    """Scores of one text scaled to [0, 1], the lowest to 0; one half each where all are equal."""
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0 or np.ptp(values) == 0:
        return np.full(values.shape, 0.5)
    return np.asarray((values - values.min()) / np.ptp(values))


def _soft_distance(
    classifier: Classifier,
    scored: ScoredTexts,
    samples: int,
    distance: SoftDistance,
    seed: int,
    *,
    erase_important: bool,
) -> FloatArray:
    """Mean distance under random masks over that of the zero input; NaN where the latter is 0."""
    kept = [_importance(scores) for scores in scored.scores]
    kept = [1.0 - row for row in kept] if erase_important else kept
    texts, targets, width = scored.texts, scored.targets, classifier.embedding_width
    offsets = classifier.offsets(texts)
    owners = list(map(token_words, offsets, scored.spans, texts))
    hosts = map(token_hosts, offsets, owners, scored.spans)
    shares = map(share_scores, map(FloatArray.tolist, kept), hosts)
    words = [np.array(row, dtype=np.intp) for row in owners]
    # NO_WORD is -1 and so takes the appended 1: random numbers are below it
    token_kept = [np.append(p, 1.0)[row] for row, p in zip(words, shares, strict=True)]
    generators = [generator(seed, text) for text in texts]
    whole = classifier(texts)
    moved = np.zeros(len(texts))
    for _ in range(samples):
        masks = [
            (rng.random((len(row), width)) < row[:, None]).astype(np.float64)
            for rng, row in zip(generators, token_kept, strict=True)
        ]
        other = classifier.masked(texts, masks)
        moved += output_distance(distance, whole, other, targets) / samples
    nothing = [np.repeat((row == NO_WORD).astype(np.float64)[:, None], width, 1) for row in words]
    zero = output_distance(distance, whole, classifier.masked(texts, nothing), targets)
    return np.asarray(moved / np.where(zero > 1e-9, zero, np.nan))


def output_distance(
    distance: SoftDistance, whole: FloatArray, other: FloatArray, targets: Sequence[int]
) -> FloatArray:
    """Fall of the target's probability, `max(0, p - q)`, or Hellinger distance; each in [0, 1]."""
    if distance not in get_args(SoftDistance):
        raise ConfigError(f"`distance` must be one of {get_args(SoftDistance)}, got {distance!r}.")
    if distance == "hellinger":
        return np.asarray(np.linalg.norm(np.sqrt(whole) - np.sqrt(other), axis=1) / np.sqrt(2.0))
    return np.maximum(_of_target(whole, targets) - _of_target(other, targets), 0.0)


def robustness(
    attacked: Sequence[Sequence[int]], clean: Sequence[int], references: Sequence[int]
) -> dict[str, float | None]:
    """Compare predictions before and after attacks.

    Of each text there are the predicted labels of its `attacked` versions, at least one, of itself (`clean`),
    and its gold label (`references`). Returns shares in [0, 1]: `clean_accuracy`, `robust_accuracy` of texts
    of which every version is predicted right, `mean_attacked_accuracy` over texts and versions, and
    `attack_success` of rightly predicted texts that an attack turns (lower is better; `None` without any).
    """
    counts = len(attacked), len(clean), len(references), sum(not len(row) for row in attacked)
    if not counts[0] or len({*counts[:3]}) > 1 or counts[3]:
        raise DataError(
            "Robust accuracy needs attacked predictions, a clean one and a label for each text, got "
            "lists for {}, {} and {} texts, {} without a version.".format(*counts)
        )
    pairs = zip(attacked, references, strict=True)
    right = np.array([np.mean(np.asarray(versions) == gold) for versions, gold in pairs])
    clean_right = np.asarray(clean) == np.asarray(references)
    return {
        "clean_accuracy": float(clean_right.mean()),
        "robust_accuracy": float((right == 1).mean()),
        "mean_attacked_accuracy": float(right.mean()),
        "attack_success": float((right[clean_right] < 1).mean()) if clean_right.any() else None,
    }
