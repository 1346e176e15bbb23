"""How well two lists of word scores agree: cosine and rank correlation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from ..errors import DataError

Agreement = Literal["cosine", "spearman"]


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
