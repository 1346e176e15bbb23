"""Normalisation of the scores of one text, so that priors of different sources can be compared.

Sources differ by orders of magnitude (nats for `cap`, probabilities for `lime`, characters for
`word_length`), and one source differs from text to text. Pure functions of one list of scores.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ..errors import ConfigError
from .source_settings import Normalisation


def normalise(scores: Sequence[float], how: Normalisation = "l2") -> list[float]:
    """Scores of one text on the scale that `how` names.

    Args:
        scores: One finite score a word, positive = evidence for the gold label.
        how: `l2` divides by the Euclidean norm and `max_abs` by the largest absolute score (both keep
            signs and ratios, and leave all zeros as they are). `min_max` maps the lowest score to 0 and
            the highest to 1; equal scores all become 1, or stay 0. `softmax` gives positive scores that
            add up to 1. `none` changes nothing. `min_max` and `softmax` lose the sign.

    Raises:
        ConfigError: `how` is none of these.
    """
    if how not in NORMALISATIONS:
        raise ConfigError(f"`normalisation` must be one of {sorted(NORMALISATIONS)}, got {how!r}.")
    return NORMALISATIONS[how](scores)


def _l2(scores: Sequence[float]) -> list[float]:
    norm = math.hypot(*scores)  # whose squares neither overflow nor vanish
    return [score / norm for score in scores] if norm else list(scores)


def _max_abs(scores: Sequence[float]) -> list[float]:
    largest = max(map(abs, scores), default=0.0)
    return [score / largest for score in scores] if largest else list(scores)


def _min_max(scores: Sequence[float]) -> list[float]:
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if low == high:
        return [float(score != 0) for score in scores]
    return [(score - low) / (high - low) for score in scores]


def _softmax(scores: Sequence[float]) -> list[float]:
    high = max(scores, default=0.0)
    exponentials = [math.exp(score - high) for score in scores]
    total = sum(exponentials)
    return [value / total for value in exponentials]


NORMALISATIONS: Mapping[Normalisation, Callable[[Sequence[float]], list[float]]] = MappingProxyType(
    {"l2": _l2, "max_abs": _max_abs, "min_max": _min_max, "softmax": _softmax, "none": list}
)
