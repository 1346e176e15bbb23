"""How good predictions are."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from ..errors import DataError


def classification_metrics(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> Mapping[str, float]:
    """ROC-AUC (one class against the rest, averaged), macro F1 and accuracy, each in [0, 1].

    Args:
        probabilities: `(rows, classes)`.
        labels: `(rows,)`, class indices.

    Raises:
        DataError: only one class occurs among the labels.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(
            f"All {len(labels)} rows have the class {present.tolist()}; ROC-AUC needs two."
        )
    areas = [roc_auc_score(labels == one, probabilities[:, one]) for one in present]
    chosen = probabilities.argmax(1)
    return {
        "roc_auc": float(np.mean(areas)),
        "macro_f1": float(f1_score(labels, chosen, average="macro", zero_division=0.0)),
        "accuracy": float(accuracy_score(labels, chosen)),
    }


def regression_metrics(
    predicted: NDArray[np.float64], targets: NDArray[np.float64]
) -> Mapping[str, float]:
    """R² (at most 1) and root mean squared error (in the unit of the target)."""
    return {
        "r2": float(r2_score(targets, predicted)),
        "rmse": float(root_mean_squared_error(targets, predicted)),
    }
