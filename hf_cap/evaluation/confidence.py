"""Whether a classifier's probabilities can be used: proper scores, calibration, coverage, label sets."""

import logging
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
PerText = Float[np.ndarray, " texts"]

COVERAGES = (0.5, 0.8, 0.9)
"""Parts of the texts, the most certain first, whose accuracy is reported."""
BINS = 15
_logger = logging.getLogger(__name__)


def confidence_scores(probabilities: Probabilities, labels: Gold) -> dict[str, float]:
    """`nll`, `brier`, `ece` and `accuracy_at_50`, `_80`, `_90`: what `evaluate` reports."""
    at = accuracy_at_coverage(probabilities, labels)
    return {
        "nll": negative_log_likelihood(probabilities, labels),
        "brier": brier_score(probabilities, labels),
        "ece": calibration_error(probabilities, labels),
        **{f"accuracy_at_{round(100 * part)}": accuracy for part, accuracy in at.items()},
    }


def negative_log_likelihood(probabilities: Probabilities, labels: Gold) -> float:
    """Mean −log p(gold), in nats; at least 0, lower is better. A p of 0 counts as the smallest number."""
    gold = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(gold, np.finfo(float).tiny)).mean())


def brier_score(probabilities: Probabilities, labels: Gold) -> float:
    """Mean over the texts of Σ_c (p_c − [c is gold])², in [0, 2]; lower is better (Brier, 1950)."""
    gold = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - gold) ** 2).sum(1).mean())


def calibration_error(probabilities: Probabilities, labels: Gold, bins: int = BINS) -> float:
    """Expected calibration error over bins with equally many texts, in [0, 1]; lower is better.

    Mean of |accuracy − confidence| over `calibration_bins`, weighted by their texts.
    """
    return expected_error(calibration_bins(*_predicted(probabilities, labels), bins))


def calibration_bins(
    confidence: PerText, correct: Bool[np.ndarray, " texts"], bins: int = BINS
) -> Float[np.ndarray, "bins 3"]:
    """Mean confidence, accuracy and number of texts of each bin, the least certain first.

    Bins hold equally many texts; those of equal confidence share one (Nguyen and O'Connor, 2015).
    """
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))[1:-1]
    place = np.digitize(confidence, edges, right=True)
    texts = np.bincount(place)
    sums = [np.bincount(place, weights=values) for values in (confidence, correct)]
    return np.stack([*(total / np.maximum(texts, 1) for total in sums), texts], 1)[texts > 0]


def expected_error(bins: Float[np.ndarray, "bins 3"]) -> float:
    """Mean of |accuracy − confidence| over `calibration_bins`, weighted by their texts."""
    return float(np.average(np.abs(bins[:, 0] - bins[:, 1]), weights=bins[:, 2]))


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

    Above 1 the classifier was too sure (Guo et al., 2017). The texts must not be the training texts. Where
    all are predicted right no T is best, as smaller is always better; it is then 1, with a warning.
    """
    if (logits.argmax(1) == labels).all():
        _logger.warning(
            "All %d texts are predicted right, which sets no temperature: it stays 1. Use more texts.",
            len(labels),
        )
        return 1.0

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
    rank = conformal_rank(len(labels), coverage)
    gold = probabilities[np.arange(len(labels)), labels]
    return float(np.sort(gold)[::-1][rank - 1])


def conformal_rank(texts: int, coverage: float) -> int:
    """Which of the gold labels' probabilities is the threshold, from 1, the highest. Raises as that does."""
    if not 0 < coverage < 1:
        raise ConfigError(f"`coverage` must be more than 0 and less than 1, got {coverage!r}.")
    rank = math.ceil((texts + 1) * coverage - 1e-9)
    if rank > texts:
        needed = math.ceil(round(coverage / (1 - coverage), 6))
        raise DataError(
            f"Label sets with a coverage of {coverage} need at least {needed} texts, got {texts}; "
            "give more, or a lower coverage."
        )
    return rank


def label_sets(probabilities: Probabilities, threshold: float) -> list[list[int]]:
    """The labels of each text whose probability reaches the threshold, the likeliest first and always."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    counts = np.maximum((probabilities >= threshold).sum(1), 1)
    return [row[:count].tolist() for row, count in zip(order, counts, strict=True)]
