"""Whether a classifier's probabilities can be used: proper scores, calibration, coverage, label sets."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from hf_cap.errors import ConfigError, DataError

Probabilities = Float[np.ndarray, "texts labels"]
Logits = Float[np.ndarray, "texts labels"]
Gold = Int[np.ndarray, " texts"]

COVERAGES = (0.5, 0.8, 0.9)
"""Parts of the texts, the most certain first, for which the accuracy is told."""


def negative_log_likelihood(probabilities: Probabilities, labels: Gold) -> float:
    """Mean −log p(gold), in nats; at least 0, lower is better. A p of 0 counts as the smallest number."""
    gold = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(gold, np.finfo(float).tiny)).mean())


def brier_score(probabilities: Probabilities, labels: Gold) -> float:
    """Mean over the texts of Σ_c (p_c − [c is gold])², in [0, 2]; lower is better (Brier, 1950)."""
    gold = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - gold) ** 2).sum(1).mean())


def calibration_error(probabilities: Probabilities, labels: Gold, bins: int = 15) -> float:
    """Expected calibration error over bins with equally many texts, in [0, 1]; lower is better.

    Mean of |accuracy − confidence| over the bins, weighted by their texts; texts of equal confidence share a
    bin (Nguyen and O'Connor, 2015).
    """
    confidence, correct = _predicted(probabilities, labels)
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))[1:-1]
    place = np.digitize(confidence, edges, right=True)
    gaps = np.bincount(place, weights=correct - confidence)
    return float(np.abs(gaps).sum() / len(labels))


def accuracy_at_coverage(
    probabilities: Probabilities, labels: Gold, coverages: Sequence[float] = COVERAGES
) -> dict[float, float]:
    """Accuracy on the most certain part of the texts, for each part in (0, 1]; ties count by their mean."""
    confidence, correct = _predicted(probabilities, labels)
    found = {}
    for coverage in coverages:
        count = max(1, math.ceil(coverage * len(labels) - 1e-9))
        threshold = np.sort(confidence)[-count]
        above, tied = confidence > threshold, confidence == threshold
        rest = (count - above.sum()) * correct[tied].mean()
        found[coverage] = float((correct[above].sum() + rest) / count)
    return found


def _predicted(
    probabilities: Probabilities, labels: Gold
) -> tuple[Float[np.ndarray, " texts"], Bool[np.ndarray, " texts"]]:
    if not len(labels):
        raise DataError("There are no texts to measure the confidence on.")
    return probabilities.max(1), probabilities.argmax(1) == labels


def fit_temperature(logits: Logits, labels: Gold) -> float:
    """The T > 0 that minimises the negative log-likelihood of softmax(logits / T), in [0.01, 100].

    Above 1 the classifier was too sure (Guo et al., 2017). The texts must not be the training texts.
    """

    def loss(log_t: float) -> float:
        return float(-log_softmax(logits / math.exp(log_t), axis=1)[rows, labels].mean())

    rows = np.arange(len(labels))
    limit = math.log(100)
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def conformal_threshold(probabilities: Probabilities, labels: Gold, coverage: float) -> float:
    """The smallest p of a label in its text's set, such that sets hold the gold label with this probability.

    Split conformal prediction with the score 1 − p(gold) (Sadinle et al., 2019): on new texts of the same
    source, sets hold the gold label with a probability of at least `coverage`.

    Raises:
        ConfigError: the coverage is not in (0, 1).
        DataError: there are too few texts for it: it takes at least coverage / (1 − coverage).
    """
    if not 0 < coverage < 1:
        raise ConfigError(f"`coverage` must be more than 0 and less than 1, got {coverage!r}.")
    count = len(labels)
    rank = math.ceil((count + 1) * coverage - 1e-9)
    if rank > count:
        needed = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise DataError(
            f"Label sets with a coverage of {coverage} need at least {needed} texts, got {count}."
        )
    gold = probabilities[np.arange(count), labels]
    return float(np.sort(gold)[::-1][rank - 1])


def label_sets(probabilities: Probabilities, threshold: float) -> list[list[int]]:
    """The labels of each text whose probability reaches the threshold, the likeliest first; may be empty."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return [
        [int(label) for label in row if found[label] >= threshold]
        for row, found in zip(order, probabilities, strict=True)
    ]
