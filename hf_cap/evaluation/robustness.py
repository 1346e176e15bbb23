"""Accuracy under attack, beside the accuracy on the texts as they were."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError


@dataclass(frozen=True, slots=True)
class Robustness:
    """How a classifier stands up to attacks; every number in [0, 1]."""

    clean_accuracy: float
    """Share of the original texts predicted right. Higher is better."""
    robust_accuracy: float
    """Share of texts of which every attacked version is predicted right. Higher is better."""
    mean_attacked_accuracy: float
    """Mean over texts of the share of attacked versions predicted right. Higher is better."""
    attack_success: float | None
    """Share of the rightly predicted texts that an attack turns. Lower is better; `None`: none right."""


def robustness(
    attacked: Sequence[Sequence[int]], clean: Sequence[int], references: Sequence[int]
) -> Robustness:
    """Compare predictions before and after attacks.

    Args:
        attacked: For each text, the predicted label of each of its attacked versions; at least one.
        clean: Predicted label of each original text.
        references: Gold label of each text.

    Raises:
        DataError: there is no text, a text has no attacked version, or the lists differ in length.
    """
    if not references or not len(attacked) == len(clean) == len(references):
        raise DataError(
            f"Robust accuracy needs one entry a text in each list, got {len(attacked)} attacked, "
            f"{len(clean)} clean predictions and {len(references)} labels."
        )
    if empty := [row for row, versions in enumerate(attacked) if not len(versions)]:
        raise DataError(
            f"{len(empty)} texts have no attacked version, the first is text {empty[0]}; leave them out."
        )
    right = np.array(
        [
            np.mean([label == gold for label in versions])
            for versions, gold in zip(attacked, references, strict=True)
        ]
    )
    clean_right = np.asarray(clean) == np.asarray(references)
    return Robustness(
        clean_accuracy=float(clean_right.mean()),
        robust_accuracy=float((right == 1).mean()),
        mean_attacked_accuracy=float(right.mean()),
        attack_success=float((right[clean_right] < 1).mean()) if clean_right.any() else None,
    )
