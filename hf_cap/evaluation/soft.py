"""Soft-NC and Soft-NS: faithfulness with soft erasure.

Instead of whole words, single elements of the token embeddings are erased, each kept with a probability
given by the word's importance (Zhao and Aletras 2023, arXiv 2305.10496). With D the distance of an output
from that of the whole text, and D0 that distance for the text whose embeddings are all zero,

    Soft-NC = D(important words erased) / D0        Soft-NS = 1 - D(important words kept) / D0,

which is the paper's form with sufficiency written as 1 - D. Tokens outside every word (special tokens, and
whatever the word pattern leaves out) are never erased.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..randomness import generator
from ..words import NO_WORD, WORD_PATTERN, token_words
from .faithfulness import FloatArray, target_probabilities, word_spans
from .predict import Classifier
from .settings import SoftDistance

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
