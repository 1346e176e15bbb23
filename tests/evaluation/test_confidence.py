"""Confidence against answers on paper and simulations."""

import numpy as np
import pytest
from scipy.special import softmax

from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation.calibration import (
    accuracy_at_coverage,
    brier_score,
    calibration_error,
    conformal_threshold,
    fit_temperature,
    label_sets,
    negative_log_likelihood,
)

TWO = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]])
GOLD = np.array([0, 1, 0, 1])


def simulated(count: int, seed: int, labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that are drawn from their softmax: perfectly calibrated."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, labels))
    noise = rng.gumbel(size=logits.shape)
    return logits, (logits + noise).argmax(1)


def test_the_scores_on_paper() -> None:
    expected = -(np.log(0.9) + np.log(0.8) + np.log(0.4) + np.log(0.5)) / 4
    assert negative_log_likelihood(TWO, GOLD) == pytest.approx(expected)
    assert brier_score(TWO, GOLD) == pytest.approx((0.02 + 0.08 + 0.72 + 0.5) / 4)
    assert negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) > 700


@pytest.mark.parametrize("order", [1, -1])
def test_nine_tenths_sure_and_half_right_is_four_tenths_off(order: int) -> None:
    probabilities = np.tile([0.9, 0.1], (40, 1))
    labels = np.repeat([0, 1], 20)[::order]  # equal confidences are not sorted by who was right
    assert calibration_error(probabilities, labels) == pytest.approx(0.4)
    assert accuracy_at_coverage(probabilities, labels, [0.25]) == {0.25: pytest.approx(0.5)}


def test_bins_hold_equally_many_texts() -> None:
    confidence = np.r_[np.full(90, 0.99), np.full(10, 0.6)]
    labels = np.r_[np.zeros(90, int), np.ones(10, int)]
    probabilities = np.c_[confidence, 1 - confidence]
    assert calibration_error(probabilities, labels, bins=10) == pytest.approx(
        0.9 * 0.01 + 0.1 * 0.6
    )


def test_a_calibrated_classifier_is_found_calibrated() -> None:
    logits, labels = simulated(40_000, seed=0)
    assert calibration_error(softmax(logits, axis=1), labels) < 0.01
    assert calibration_error(softmax(3 * logits, axis=1), labels) > 0.1


def test_the_most_certain_come_first() -> None:
    found = accuracy_at_coverage(TWO, GOLD, [0.5, 0.75, 1.0])
    assert found == {0.5: 1.0, 0.75: pytest.approx(2 / 3), 1.0: pytest.approx(0.5)}


@pytest.mark.parametrize("factor", [1.0, 3.0, 0.5])
def test_the_temperature_undoes_a_factor(factor: float) -> None:
    logits, labels = simulated(40_000, seed=1)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.02)


def test_label_sets_hold_the_gold_label_as_often_as_promised() -> None:
    logits, labels = simulated(300_000, seed=2)
    probabilities = softmax(logits, axis=1)
    few = 199  # the promise holds for every number of texts, on average over them
    covered = []
    for start in range(0, 200_000, few):
        part = slice(start, start + few)
        threshold = conformal_threshold(probabilities[part], labels[part], 0.9)
        gold = probabilities[200_000:, :][np.arange(100_000), labels[200_000:]]
        covered.append((gold >= threshold).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.003)  # exactly 180 / 200


def test_label_sets_on_paper() -> None:
    gold = np.array([0.9, 0.7, 0.5, 0.3])
    probabilities = np.c_[gold, 1 - gold]
    labels = np.zeros(4, int)
    assert conformal_threshold(probabilities, labels, 0.6) == pytest.approx(0.5)  # 3rd of 4
    assert label_sets(np.array([[0.3, 0.7], [0.55, 0.45], [0.95, 0.05]]), 0.4) == [[1], [0, 1], [0]]
    with pytest.raises(DataError, match="at least 9 texts, got 4"):
        conformal_threshold(probabilities, labels, 0.9)
    with pytest.raises(ConfigError, match="coverage"):
        conformal_threshold(probabilities, labels, 1.0)
    with pytest.raises(DataError, match="no texts"):
        calibration_error(probabilities[:0], labels[:0])
