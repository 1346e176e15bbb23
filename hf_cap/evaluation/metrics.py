"""Metrics as pure functions: faithfulness, plausibility and agreement of word scores, robustness."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
SoftDistance = Literal["probability", "hellinger"]

PERCENTAGES = (1, 5, 10, 20, 50)
SOFT_SAMPLES = 4
_LEAST_DISTANCE = 1e-9


@dataclass(frozen=True)
class ScoredTexts:
    """Texts, the explained class of each (usually the predicted one), and its word scores.

    Raises:
        DataError: the lists differ in length, or a text's words and scores in number.
    """

    texts: Sequence[str]
    targets: Sequence[int]
    scores: Sequence[Scores]
    word_pattern: str = WORD_PATTERN

    def __post_init__(self) -> None:
        counts = len(self.texts), len(self.targets), len(self.scores)
        if len(set(counts)) > 1:
            raise DataError(
                "Give one target and one list of scores per text, got {} texts, {} targets and {} "
                "lists.".format(*counts)
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


def _check_lengths(scores: Scores, reference: Sequence[object]) -> None:
    if len(scores) != len(reference):
        raise DataError(
            f"{len(scores)} word scores but {len(reference)} of the reference; give both one per word."
        )


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
    """Compare the word scores of one text with a human rationale; `None` where no word is marked.

    Args:
        scores: One score per word.
        marked: One flag per word, true for the words of the human rationale.
        size: Number of highest-scoring words to choose; by default as many as are marked.

    Raises:
        DataError: the lists differ in length, or `size` is below 1.
    """
    from sklearn.metrics import auc, precision_recall_curve

    _check_lengths(scores, marked)
    if size is not None and size < 1:
        raise DataError(f"A rationale has at least 1 word, got `size={size!r}`.")
    truth = np.asarray(marked, dtype=bool)
    if not truth.any():
        return None
    chosen = _highest(scores, size or int(truth.sum()))
    both = int((chosen & truth).sum())
    precision, recall, _ = precision_recall_curve(truth, np.asarray(scores))
    return Plausibility(
        token_f1=2 * both / int(chosen.sum() + truth.sum()),
        auprc=float(auc(recall, precision)),
        iou=both / int((chosen | truth).sum()),
    )


def _highest(scores: Scores, size: int) -> NDArray[np.bool_]:
    """Flags of the words with the highest scores; ties go to the earlier word."""
    flags = np.zeros(len(scores), dtype=bool)
    flags[np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:size]] = True
    return flags


def comprehensiveness(
    predict: Predict, scored: ScoredTexts, percentages: Sequence[int] = PERCENTAGES
) -> FloatArray:
    """Drop of the class's probability without the highest-scoring words, `p(y|x) - p(y|x without r)`.

    r are the top `percentages` of the words, rounded up, and the value is the mean over these sizes
    (ERASER, arXiv 1911.03429). A model may react to the oddness of erased texts, and one trained on
    word scores can be good at this metric without being more faithful: read the soft metrics too.

    Args:
        predict: Gives class probabilities.
        scored: Texts with word scores.
        percentages: Sizes of the rationale in percent of the words.

    Returns:
        One value per text in [-1, 1]; higher is better.
    """
    return _mean_drop(predict, scored, percentages, keep=False)


def sufficiency(
    predict: Predict, scored: ScoredTexts, percentages: Sequence[int] = PERCENTAGES
) -> FloatArray:
    """Drop of the class's probability with the highest-scoring words alone, `p(y|x) - p(y|r)`.

    All else is as for comprehensiveness.

    Returns:
        One value per text in [-1, 1]; lower is better.
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
    classifier: "Classifier",
    scored: ScoredTexts,
    samples: int = SOFT_SAMPLES,
    distance: SoftDistance = "probability",
    seed: int = 0,
) -> FloatArray:
    """Change of the output when embedding elements of important words are erased at random.

    Relative to erasing all (arXiv 2305.10496). An element is kept with probability 1 - importance, the
    scores of a text scaled to [0, 1]; tokens outside every word always stay.

    Args:
        classifier: The model that is explained.
        scored: Texts with word scores.
        samples: Random masks per text; more make the estimate steadier.
        distance: `probability` of the class, counted where it falls (the paper), or `hellinger`
            distance of the whole output (arXiv 2402.00794).
        seed: Seed of the masks, which depend on it and the text alone.

    Returns:
        One value per text in [0, 1], clipped; higher is better. NaN where erasing all does nothing.

    Raises:
        ModelError: the tokenizer gives no character offsets.
    """
    kept = [1.0 - _importance(scores) for scores in scored.scores]
    return np.clip(_soft_distance(classifier, scored, kept, samples, distance, seed), 0.0, 1.0)


def soft_ns(
    classifier: "Classifier",
    scored: ScoredTexts,
    samples: int = SOFT_SAMPLES,
    distance: SoftDistance = "probability",
    seed: int = 0,
) -> FloatArray:
    """Share of the output that stays when elements of unimportant words are erased at random.

    An element is kept with probability importance; all else is as for Soft-NC.

    Returns:
        One value per text in [0, 1], clipped; higher is better, unlike plain sufficiency.
    """
    kept = [_importance(scores) for scores in scored.scores]
    moved = _soft_distance(classifier, scored, kept, samples, distance, seed)
    return np.clip(1.0 - moved, 0.0, 1.0)


def _importance(scores: Scores) -> FloatArray:
    """Scores of one text scaled to [0, 1], the lowest to 0; one half each where all are equal."""
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0 or np.ptp(values) == 0:
        return np.full(values.shape, 0.5)
    return np.asarray((values - values.min()) / np.ptp(values))


def probability_drop(whole: FloatArray, other: FloatArray, targets: Sequence[int]) -> FloatArray:
    """How far the target's probability falls, `max(0, p - q)`, in [0, 1]."""
    return np.maximum(_of_target(whole, targets) - _of_target(other, targets), 0.0)


def hellinger(whole: FloatArray, other: FloatArray, targets: Sequence[int]) -> FloatArray:
    """Hellinger distance of two outputs, in [0, 1]; `targets` are not used."""
    return np.asarray(np.linalg.norm(np.sqrt(whole) - np.sqrt(other), axis=1) / np.sqrt(2.0))


DISTANCES: Mapping[SoftDistance, Callable[[FloatArray, FloatArray, Sequence[int]], FloatArray]] = {
    "probability": probability_drop,
    "hellinger": hellinger,
}


def _soft_distance(
    classifier: "Classifier",
    scored: ScoredTexts,
    kept: Sequence[FloatArray],
    samples: int,
    distance: SoftDistance,
    seed: int,
) -> FloatArray:
    """Mean distance under random masks over that of the zero input; NaN where the latter is 0."""
    texts, move, width = scored.texts, DISTANCES[distance], classifier.embedding_width
    words = [
        np.array(token_words(offsets, row, text), dtype=np.intp)
        for offsets, row, text in zip(classifier.offsets(texts), scored.spans, texts, strict=True)
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
        moved += move(whole, classifier.masked(texts, masks), scored.targets) / samples
    nothing = [np.repeat((row == NO_WORD).astype(np.float64)[:, None], width, 1) for row in words]
    zero = move(whole, classifier.masked(texts, nothing), scored.targets)
    return np.asarray(moved / np.where(zero > _LEAST_DISTANCE, zero, np.nan))


@dataclass(frozen=True, slots=True)
class Robustness:
    """Accuracy before and under attacks, each in [0, 1]."""

    clean_accuracy: float
    """Share of the original texts predicted right."""
    robust_accuracy: float
    """Share of texts of which every attacked version is predicted right."""
    mean_attacked_accuracy: float
    """Mean over texts of the share of versions predicted right."""
    attack_success: float | None
    """Share of the rightly predicted texts that an attack turns, lower is better; `None` if none."""


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
    counts = len(attacked), len(clean), len(references)
    if not counts[0] or len(set(counts)) > 1 or not all(map(len, attacked)):
        raise DataError(
            "Robust accuracy needs attacked predictions, a clean one and a label for each text, got "
            "lists for {}, {} and {} texts, {} without a version.".format(
                *counts, sum(not len(versions) for versions in attacked)
            )
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
