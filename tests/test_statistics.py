"""Statistics against textbook values and scipy."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from hf_cap.errors import DataError
from hf_cap.evaluation.results import (
    Interval,
    holm,
    mean_interval,
    paired_bootstrap,
    paired_difference,
)


def test_interval_on_paper() -> None:
    # 1, 2, 3: standard error 1/√3; the 97.5 % point of t with 2 degrees of freedom is 4.302653
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(4.302653 / np.sqrt(3), abs=1e-5)
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-4)
    assert found.high == pytest.approx(2 + 2.484138, abs=1e-4)


def test_interval_is_scipys() -> None:
    data = np.random.default_rng(0).normal(size=9).tolist()
    expected = stats.ttest_1samp(data, 0).confidence_interval(0.9)
    found = mean_interval(data, 0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_value_has_no_spread() -> None:
    assert mean_interval([0.5]) == Interval(0.5, None, 1)
    assert mean_interval([0.5]).low is None
    assert mean_interval([0.5]).high is None


def test_pairing_takes_away_the_shared_spread() -> None:
    base = [0.1, 0.5, 0.9]
    found = paired_difference([value + 0.05 for value in base], base)
    assert found.mean == pytest.approx(0.05)
    assert found.half_width == pytest.approx(0.0, abs=1e-9)


def test_bootstrap_agrees_with_full_enumeration() -> None:
    differences = np.array([0.3, -0.1, 0.4, 0.2, -0.25])
    observed = abs(differences.mean()) / differences.std()
    samples = np.array(list(product(differences - differences.mean(), repeat=5)))
    with np.errstate(divide="ignore"):
        t = np.abs(samples.mean(1)) / np.where(np.ptp(samples, axis=1) == 0, 0.0, samples.std(1))
    found = paired_bootstrap(differences.tolist(), [0.0] * 5, resamples=40_000)
    assert found == pytest.approx((t >= observed - 1e-12).mean(), abs=0.01)


def test_bootstrap_of_many_texts_is_near_the_z_test() -> None:
    rng = np.random.default_rng(1)
    values, baseline = (
        (rng.random(2_000) < 0.80).astype(float),
        (rng.random(2_000) < 0.78).astype(float),
    )
    difference = values - baseline
    z = difference.mean() / (difference.std() / np.sqrt(2_000))
    assert paired_bootstrap(values.tolist(), baseline.tolist()) == pytest.approx(
        2 * stats.norm.sf(abs(z)), abs=0.02
    )


def test_bootstrap_limits() -> None:
    assert paired_bootstrap([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert paired_bootstrap([1.0], [0.0]) == 1.0
    assert (
        paired_bootstrap([0.3, 0.4, 0.5], [0.2, 0.3, 0.4]) == 0.25
    )  # three signs agree once in four
    assert paired_bootstrap([1.0] * 20, [0.0] * 20, resamples=999) == 1 / 1000
    values, baseline = [0.2, 0.4, 0.1, 0.5], [0.1, 0.2, 0.2, 0.2]
    forth, back = paired_bootstrap(values, baseline), paired_bootstrap(baseline, values)
    assert forth == pytest.approx(back, abs=0.015)
    assert paired_bootstrap(values, baseline) == paired_bootstrap(values, baseline)


@pytest.mark.parametrize("pairs", [3, 6, 40])
def test_bootstrap_keeps_its_level(pairs: int) -> None:
    rng = np.random.default_rng(2)
    nothing = [0.0] * pairs
    found = [
        paired_bootstrap(rng.normal(size=pairs).tolist(), nothing, resamples=400, seed=i)
        for i in range(400)
    ]
    assert np.mean(np.array(found) <= 0.05) < 0.09


def test_holm_on_paper() -> None:
    # the example of Holm (1979) as in every textbook: 0.01, 0.04, 0.03, 0.005
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({}) == {}


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="at least one value"):
        mean_interval([])
    with pytest.raises(DataError, match="finite"):
        mean_interval([1.0, float("nan")])
    with pytest.raises(DataError, match="2 values, but 1 of the baseline"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match=r"lies in \[0, 1\]; got \{'a': 1.5\}"):
        holm({"a": 1.5})
