"""Comprehensiveness and sufficiency: what erasing a rationale does to the predicted probability.

Pure functions of texts, word scores and a function that predicts; ERASER (DeYoung et al. 2020,
arXiv 1911.03429, section 4), averaged over rationale sizes (AOPC). The formula printed there has one more
bin, the empty rationale, whose term is 0, and so divides by one more than the number of sizes.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..words import WORD_PATTERN, Span, keep_words, split_words

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
