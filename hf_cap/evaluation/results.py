"""Mean and interval of repeated runs, and their paired comparison with a baseline.

A tidy frame has one row per number, with the columns `run` (data set, regime or folder), `method`,
`seed`, `draw` (number of the few-shot sample, 0 where there is one), `test_set`, `measure`, `value`.

The independent unit is a draw, by the mean of its seeds: runs on the same texts are no evidence of
their own about other texts. Where a group has one draw only, the unit is a seed, and the result
does not hold for other draws.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from hf_cap.errors import DataError

FloatArray: TypeAlias = NDArray[np.float64]
COLUMNS = ("run", "method", "seed", "draw", "test_set", "measure", "value")
_NO_SPREAD = 1e-18  # relative to the squared mean: rounding, not spread


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its confidence interval (`None` for a single value) of `n` values, in their unit."""

    mean: float
    low: float | None
    high: float | None
    n: int


def estimate(
    values: ArrayLike, confidence: float = 0.95, within: tuple[float, float] | None = None
) -> Estimate:
    """Mean of independent, finite values with Student's t interval.

    `confidence` is in (0, 1). With `within`, the lowest and highest possible value, the interval is made on
    the scale of the logit, with the standard error of the mean carried over (delta method; `svyciprop` of
    Lumley's R package survey, method "logit"), so that it cannot leave them.
    """
    data = _finite(values)
    mean, n = float(data.mean()), len(data)
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * data.std(ddof=1) / np.sqrt(n))
    if not within:
        return Estimate(mean, mean - half, mean + half, n)
    low, width = within[0], within[1] - within[0]
    share = (mean - low) / width
    if not 0 < share < 1:  # all values are the same end
        return Estimate(mean, mean, mean, n)
    slope = half / width / (share * (1 - share))
    first, last = low + width * special.expit(special.logit(share) + np.array([-slope, slope]))
    return Estimate(mean, float(first), float(last), n)


def summarize(
    frame: pd.DataFrame, by: Sequence[str], within: tuple[float, float] | None = None
) -> pd.DataFrame:
    """Mean and 95 % interval of each group of rows of a tidy frame.

    Args:
        by: Columns that tell the groups apart, usually with `method` and `measure` among them.
        within: The lowest and highest possible value, which intervals do not leave; see `estimate`.

    Returns:
        Columns `mean`, `low`, `high` (NaN for a single unit) and `n` (units), indexed by `by`, in
        order of appearance.
    """
    units = _units(_marked(frame, by), by, ["value"])
    rows = [
        (*group, *astuple(estimate(rows["value"], within=within)))
        for group, rows in units.groupby(list(by), sort=False, dropna=False)
    ]
    return _table(rows, by, ["mean", "low", "high", "n"])


def compare(
    frame: pd.DataFrame,
    baseline: str,
    by: Sequence[str],
    pair_on: Sequence[str] = ("seed", "draw"),
    *,
    test: Literal["t", "bootstrap"] = "t",
) -> pd.DataFrame:
    """Paired difference of every method from a baseline, over the runs that both have.

    Args:
        by: Columns within whose groups methods are compared and p-values corrected.
        pair_on: Columns that make two runs a pair.
        test: Student's paired t test, or `paired_bootstrap`.

    Returns:
        Columns `difference` (positive where the method is higher), `low`, `high` (at 95 %; NaN for a single
        pair), `p` (two-sided), `p_holm` (corrected over the methods of the group) and `n` (paired
        units), indexed by `by` and `method`. A method without a pair is left out.

    Raises:
        DataError: a column is missing, a value is not finite, or several rows fit one pair.
    """
    by = [name for name in by if name != "method"]
    keys, groups = [*by, *pair_on], [*by, "method"]
    marked = _marked(frame, groups, pair_on)
    if marked.duplicated([*keys, "method"]).any():
        raise DataError(
            f"Several rows have the same {[*keys, 'method']!r}: name the columns that tell them "
            "apart in `by`, or select one measure and test set first."
        )
    of_baseline = marked["method"] == baseline
    pairs = marked[~of_baseline].merge(
        marked.loc[of_baseline, [*keys, "value"]], on=keys, suffixes=("", "_baseline")
    )
    units = _units(pairs, groups, ["value", "value_baseline"])
    p_value = {"t": _t_test, "bootstrap": paired_bootstrap}[test]
    found = []
    for group, rows in units.groupby(groups, sort=False, dropna=False):
        differences = (rows["value"] - rows["value_baseline"]).to_numpy()
        e = estimate(differences)
        found.append((*group, e.mean, e.low, e.high, p_value(differences), e.n))
    table = _table(found, groups, ["difference", "low", "high", "p", "n"])
    family = table.groupby(by, dropna=False)["p"] if by else table["p"]
    table.insert(4, "p_holm", family.transform(holm) if by else holm(table["p"]))
    return table


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down correction (Holm 1979), which keeps the family-wise error rate.

    Adjusts p-values in [0, 1], in their order; NaN, where no comparison was possible, counts as none.
    """
    p = np.asarray(p_values, dtype=np.float64).reshape(-1)
    adjusted, order = np.full_like(p, np.nan), np.argsort(p, kind="stable")
    order = order[: np.isfinite(p).sum()]
    if (wrong := p[(p < 0) | (p > 1)]).size:
        raise DataError(f"A p-value lies in [0, 1], got {wrong.tolist()!r}.")
    steps = (len(order) - np.arange(len(order))) * p[order]
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, steps))
    return adjusted


def paired_bootstrap(differences: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the bootstrap-t for a mean of zero, of one difference per pair.

    The differences are centred, so that the hypothesis holds, and resampled; Student's t of the
    resamples is compared (Efron and Tibshirani 1993, sections 12.5 and 16.4). The mean alone would
    reject far too often: at the 5 % level in 29 % of comparisons of 3 pairs without a difference.

    It is (1 + resamples whose |t| is at least the observed one) / (1 + resamples), and never below
    2^(1 − pairs), the chance that so few differences all have one sign. 1 where their mean is 0.
    """
    data = _finite(differences)
    mean, variance, extreme = data.mean(), data.var(), 0
    if mean == 0:
        return 1.0
    if variance > _NO_SPREAD * mean**2:
        # equal differences are interchangeable, so only how often each is drawn matters
        distinct, counts = np.unique(data - mean, return_counts=True)
        rng, n = np.random.default_rng(seed), len(data)
        for start in range(0, resamples, 1_000):
            shares = rng.multinomial(n, counts / n, size=min(1_000, resamples - start)) / n
            means = shares @ distinct
            variances = np.maximum(shares @ distinct**2 - means**2, 0.0)
            # |t| without dividing by a spread of zero; rounding must not decide between equal values
            extreme += int((means**2 * variance >= mean**2 * variances * (1 - 1e-9)).sum())
    return float(max(0.5 ** (len(data) - 1), (1 + extreme) / (1 + resamples)))


def _t_test(differences: FloatArray) -> float:
    """Two-sided p of the one-sample t test for a mean of zero; NaN for a single value."""
    mean = differences.mean()
    if len(differences) == 1:
        return float("nan")
    if differences.var() <= _NO_SPREAD * mean**2:  # scipy divides by zero
        return float(mean == 0)
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _finite(values: ArrayLike) -> FloatArray:
    data = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(data) or not np.isfinite(data).all():
        raise DataError(f"Statistics need at least one value, and finite ones; got {data[:10].tolist()!r}.")
    return data


def _marked(frame: pd.DataFrame, by: Sequence[str], pair_on: Sequence[str] = ()) -> pd.DataFrame:
    """The frame with a column `unit`: the draw, or the row where draws are one."""
    if missing := [name for name in (*by, *pair_on, "value") if name not in frame]:
        raise DataError(f"The results have no column {missing!r}; there are {list(frame)!r}.")
    frame = frame.reset_index(drop=True)
    draw = frame.get("draw", pd.Series(0, frame.index))
    # whether there are several draws is the same for all methods of a comparison
    rivals = [frame[name] for name in by if name != "method"] or [pd.Series(0, frame.index)]
    several = draw.groupby(rivals, dropna=False).transform("nunique") > 1
    frame["unit"] = draw.where(several, frame.index.to_series())
    return frame


def _units(frame: pd.DataFrame, by: Sequence[str], values: list[str]) -> pd.DataFrame:
    """One row per group and unit: the means of the values."""
    groups = frame.groupby([*by, "unit"], sort=False, dropna=False)
    return groups[values].agg(fmean).reset_index()


def _table(rows: Iterable[Any], by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """A frame of numbers whose index are the groups."""
    table = pd.DataFrame(rows, columns=[*by, *columns]).set_index(list(by))
    return table.astype({name: int if name == "n" else float for name in columns})
