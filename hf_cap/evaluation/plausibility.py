"""Plausibility: do the highest-scoring words agree with the words that a person marked?

ERASER (DeYoung et al. 2020, arXiv 1911.03429, section 4). Plausible is not faithful: a model may be right for
reasons that no person would mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import auc, precision_recall_curve

from ..errors import DataError


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
