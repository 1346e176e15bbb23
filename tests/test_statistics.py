"""Statistics against textbook values, scipy and full enumeration."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hf_cap.errors import DataError
from hf_cap.evaluation.results import Estimate, compare, estimate, holm, paired_bootstrap, summarize

BY = ["test_set", "measure"]


def frame(**values: list[float]) -> pd.DataFrame:
    """One value per method and draw, all with seed 0."""
    return runs([(m, draw, 0, value) for m, row in values.items() for draw, value in enumerate(row)])


def runs(rows: list[tuple[str, int, int, float]], **columns: str) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["method", "draw", "seed", "value"])
    return table.assign(**{"run": "d", "test_set": "clean", "measure": "accuracy"} | columns)


def row(table: pd.DataFrame, method: str, columns: str) -> Any:
    rows = table[table.index.get_level_values("method") == method]
    return rows.iloc[0][columns.split()].tolist()


def test_interval_is_that_of_student() -> None:
    # 1, 2, 3: standard error 1/√3; the 97.5 % point of t with 2 degrees of freedom is 4.302653
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    data = np.random.default_rng(0).normal(size=9)
    expected, found = stats.ttest_1samp(data, 0).confidence_interval(0.9), estimate(data, 0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_interval_of_shares_cannot_leave_their_range() -> None:
    # logit(0.9) -+ 4.3027 * se / (0.9 * 0.1), with se = 0.1 / sqrt(3)
    found = estimate([0.8, 0.9, 1.0], within=(0.0, 1.0))
    half = 4.302653 * 0.1 / np.sqrt(3) / 0.09
    expected = [1 / (1 + np.exp(-(np.log(9) + sign * half))) for sign in (-1, 1)]
    assert [found.low, found.high] == pytest.approx(expected)
    # a share of texts and the same in percent, or moved, have the same interval
    other = estimate([60.0, 80.0, 100.0], within=(-100.0, 100.0))
    assert [other.low, other.high] == pytest.approx([200 * end - 100 for end in expected])
    table = summarize(frame(none=[0.8, 0.9, 1.0]), ["method"], within=(0.0, 1.0))
    assert row(table, "none", "low high") == pytest.approx(expected)
    same = estimate([1.0, 1.0, 1.0], within=(0.0, 1.0))
    assert (same.low, same.high) == (1.0, 1.0)
    # far from the ends it is Student's
    middle, plain = [estimate([0.5, 0.501, 0.499], within=w) for w in ((0.0, 1.0), None)]
    assert middle.low == pytest.approx(plain.low, abs=1e-5)


def test_one_value_has_no_spread() -> None:
    assert estimate([0.5]) == Estimate(0.5, None, None, 1)
    found = row(summarize(frame(none=[0.5]), ["method"]), "none", "mean low high n")
    np.testing.assert_equal(found, [0.5, np.nan, np.nan, 1])


def test_comparison_is_scipys_paired_test() -> None:
    found = compare(frame(cap=[0.75, 0.78, 0.82], none=[0.70, 0.72, 0.74]), "none", BY)
    expected = stats.ttest_rel([0.75, 0.78, 0.82], [0.70, 0.72, 0.74])
    interval = expected.confidence_interval()
    assert row(found, "cap", "difference low high p n") == pytest.approx(
        [0.19 / 3, interval.low, interval.high, expected.pvalue, 3]
    )


def test_equal_differences_have_no_spread() -> None:
    base = [0.1, 0.5, 0.9]
    found = compare(frame(none=base, up=[value + 0.05 for value in base], same=base), "none", BY)
    assert row(found, "up", "difference low high p") == pytest.approx([0.05, 0.05, 0.05, 0])
    assert row(found, "same", "difference p p_holm") == [0, 1, 1]


def test_correction_is_over_the_methods_of_a_group() -> None:
    table = frame(none=[0.1, 0.2, 0.1], cap=[0.3, 0.5, 0.4], lime=[0.1, 0.2, 0.3])
    other = table[table["method"] != "lime"].assign(measure="macro_f1")
    found = compare(pd.concat([table, other]), "none", BY)
    for measure, methods in (("accuracy", 2), ("macro_f1", 1)):
        p, corrected = found.loc[("clean", measure, "cap"), ["p", "p_holm"]]
        assert corrected == pytest.approx(methods * p)


def test_the_seeds_of_a_draw_are_no_evidence_of_their_own() -> None:
    rows = [("none", draw, seed, 0.5) for draw in range(2) for seed in range(3)]
    rows += [("cap", 0, seed, value) for seed, value in enumerate((0.55, 0.60, 0.65))]
    rows += [("cap", 1, seed, value) for seed, value in enumerate((0.52, 0.50, 0.54))]
    two = summarize(runs(rows), [*BY, "method"])
    expected = estimate([0.60, 0.52])
    assert row(two, "cap", "mean low high n") == pytest.approx(
        [expected.mean, expected.low, expected.high, 2]
    )
    assert row(compare(runs(rows), "none", BY), "cap", "difference n") == pytest.approx([0.06, 2])
    # three seeds of the only draw
    one = [run for run in rows if run[1] == 0]
    assert row(summarize(runs(one), [*BY, "method"]), "cap", "mean n") == pytest.approx([0.6, 3])
    # a method with one draw beside one with two: still one unit
    mixed = [run for run in rows if run[0] == "none" or run[1] == 0]
    assert row(summarize(runs(mixed), [*BY, "method"]), "cap", "mean n") == pytest.approx([0.6, 1])


def test_only_runs_that_both_have_are_compared() -> None:
    rows = [("none", 0, 0, 0.5), ("none", 0, 1, 0.9), ("none", 1, 0, 0.6)]
    rows += [("cap", 0, 0, 0.6), ("cap", 1, 0, 0.6), ("late", 2, 0, 0.9)]
    found = compare(runs(rows), "none", BY)
    assert row(found, "cap", "difference n") == pytest.approx([0.05, 2])
    assert "late" not in found.index.get_level_values("method")
    assert len(compare(runs(rows[3:]), "none", BY)) == 0
    # without draws
    table = frame(none=[0.1, 0.2, 0.3]).assign(seed=[0, 1, 2]).drop(columns="draw")
    table = pd.concat([table, table.assign(method="cap", value=table["value"] + [0.1, 0.2, 0.3])])
    found = compare(table, "none", [], ["seed"])
    assert row(found, "cap", "difference n") == pytest.approx([0.2, 3])


def test_bootstrap_agrees_with_full_enumeration() -> None:
    differences = np.array([0.3, -0.1, 0.4, 0.2, -0.25])
    observed = abs(differences.mean()) / differences.std()
    samples = np.array(list(product(differences - differences.mean(), repeat=5)))
    with np.errstate(divide="ignore"):
        t = np.abs(samples.mean(1)) / np.where(np.ptp(samples, axis=1) == 0, 0.0, samples.std(1))
    found = paired_bootstrap(differences, resamples=40_000)
    assert found == pytest.approx((t >= observed - 1e-12).mean(), abs=0.01)


def test_bootstrap_limits() -> None:
    assert paired_bootstrap([0.0, 0.0]) == paired_bootstrap([1.0]) == 1.0
    # three signs agree once in four
    assert paired_bootstrap(np.subtract([0.3, 0.4, 0.5], [0.2, 0.3, 0.4])) == 0.25
    assert paired_bootstrap([1.0] * 20, resamples=999) == 1 / 1000
    values = np.array([0.1, 0.2, -0.1, 0.3])
    assert paired_bootstrap(values) == pytest.approx(paired_bootstrap(-values), abs=0.015)
    table = frame(none=[0.0] * 4, cap=values.tolist())
    found = compare(table, "none", BY, test="bootstrap")
    assert row(found, "cap", "p") == [paired_bootstrap(values)]


@pytest.mark.parametrize("pairs", [3, 6, 40])
def test_bootstrap_keeps_its_level(pairs: int) -> None:
    rng = np.random.default_rng(2)
    found = [paired_bootstrap(rng.normal(size=pairs), resamples=400, seed=i) for i in range(400)]
    assert np.mean(np.array(found) <= 0.05) < 0.09


def test_holm_on_paper() -> None:
    # the example of Holm (1979) as in every textbook
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    np.testing.assert_allclose(holm([0.02, np.nan, 0.5]), [0.04, np.nan, 0.5])
    assert holm([]).tolist() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimate([]), "at least one value"),
        (lambda: estimate([1.0, float("nan")]), "finite"),
        (lambda: holm([1.5]), r"lies in \[0, 1\], got \[1.5\]"),
        (lambda: summarize(frame(none=[0.1]), ["part"]), r"no column \['part'\]"),
        (lambda: compare(frame(none=[0.1, 0.2]).assign(draw=0), "none", BY), "Several rows have"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()
