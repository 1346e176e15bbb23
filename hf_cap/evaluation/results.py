"""Mean and interval of repeated runs, and their paired comparison with a baseline.

Every function takes a tidy frame: one row per number, with the columns `run` (data set, regime or
folder), `method`, `seed`, `draw` (number of the few-shot sample, 0 where there is one), `test_set`,
`measure` and `value`.

The independent unit is a draw, by the mean of its seeds: runs on the same texts are no evidence of
their own about other texts. Where a group has one draw only, the unit is a seed, and the result
does not hold for other draws.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hf_cap.errors import ConfigError, DataError
from hf_cap.schema import CONTROL_PRIORS

FloatArray: TypeAlias = NDArray[np.float64]
COLUMNS = ("run", "method", "seed", "draw", "test_set", "measure", "value")
RESAMPLES = 10_000
_CHUNK = 1_000
_NO_SPREAD = 1e-18  # relative to the squared mean: rounding, not spread


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its confidence interval, in the unit of the values."""

    mean: float
    low: float | None
    """`None` for a single value, which has no spread; `high` likewise."""
    high: float | None
    n: int


def estimate(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of independent values with Student's t interval.

    Args:
        values: One number per run or unit.
        confidence: Probability that such an interval covers the true mean, in (0, 1).

    Raises:
        DataError: there is no value, or one is not finite.
    """
    data = _finite(values)
    mean, n = float(data.mean()), len(data)
    if n == 1:
        return Estimate(mean, None, None, 1)
    error = data.std(ddof=1) / np.sqrt(n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * error)
    return Estimate(mean, mean - half, mean + half, n)


def summarize(frame: pd.DataFrame, by: Sequence[str], confidence: float = 0.95) -> pd.DataFrame:
    """Mean and interval of each group of rows.

    Args:
        frame: A tidy frame.
        by: Columns that tell the groups apart, usually with `method` and `measure` among them.
        confidence: Of the intervals, in (0, 1).

    Returns:
        Columns `mean`, `low`, `high` (NaN for a single unit) and `n` (units), indexed by `by`, in
        order of appearance.

    Raises:
        DataError: a column is missing, or a value is not finite.
    """
    by = list(by)
    units = _units(_marked(frame, by), by, ["value"])
    rows = {
        group: estimate(rows["value"], confidence)
        for group, rows in units.groupby(by, sort=False, dropna=False)
    }
    return _indexed(
        [(e.mean, e.low, e.high, e.n) for e in rows.values()],
        list(rows),
        by,
        ["mean", "low", "high", "n"],
    )


def compare(
    frame: pd.DataFrame,
    baseline: str,
    by: Sequence[str],
    pair_on: Sequence[str] = ("seed", "draw"),
    *,
    test: Literal["t", "bootstrap"] = "t",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Paired difference of every method from a baseline, over the runs that both have.

    Pairing takes away the spread that runs on the same draw and seed share.

    Args:
        frame: A tidy frame.
        baseline: The method to compare with.
        by: Columns within whose groups methods are compared and p-values corrected; `method` need
            not be named.
        pair_on: Columns that make two runs a pair.
        test: Student's paired t test, or `paired_bootstrap`.
        confidence: Of the intervals, in (0, 1).

    Returns:
        Columns `difference` (positive where the method is higher), `low`, `high` (NaN for a single
        pair), `p` (two-sided), `p_holm` (corrected over the methods of the group) and `n` (paired
        units), indexed by `by` and `method`, in order of appearance. A method without a pair is
        left out.

    Raises:
        DataError: a column is missing, a value is not finite, or several rows fit one pair.
    """
    by = [name for name in by if name != "method"]
    units = _paired_units(frame, baseline, by, pair_on)
    p_value = {"t": _t_test, "bootstrap": paired_bootstrap}[test]
    groups, found = [], []
    for group, rows in units.groupby([*by, "method"], sort=False, dropna=False):
        differences = (rows["value"] - rows["value_baseline"]).to_numpy()
        e = estimate(differences, confidence)
        groups.append(group)
        found.append((e.mean, e.low, e.high, p_value(differences), e.n))
    table = _indexed(found, groups, [*by, "method"], ["difference", "low", "high", "p", "n"])
    family = table.groupby(by, dropna=False)["p"] if by else table["p"]
    table.insert(4, "p_holm", family.transform(holm) if by else holm(table["p"]))
    return table


def _paired_units(
    frame: pd.DataFrame, baseline: str, by: Sequence[str], pair_on: Sequence[str]
) -> pd.DataFrame:
    """One row per group, method and unit, over the runs that the baseline has too."""
    keys = [*by, *pair_on]
    marked = _marked(frame, [*by, "method"], pair_on)
    if marked.duplicated([*keys, "method"]).any():
        raise DataError(
            f"Several rows have the same {[*keys, 'method']!r}: name the columns that tell them "
            "apart in `by`, or select one measure and test set first."
        )
    of_baseline = marked["method"] == baseline
    pairs = marked[~of_baseline].merge(
        marked.loc[of_baseline, [*keys, "value"]], on=keys, suffixes=("", "_baseline")
    )
    return _units(pairs, [*by, "method"], ["value", "value_baseline"])


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down correction (Holm 1979), which keeps the family-wise error rate.

    Args:
        p_values: p-value of each comparison, in [0, 1]; NaN where none was possible, which counts
            as none.

    Returns:
        Adjusted p-values, in [p, 1] and in the order of the input; reject where they are at most
        the level.

    Raises:
        DataError: a p-value is outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64).reshape(-1)
    adjusted, order = np.full_like(p, np.nan), np.argsort(p, kind="stable")
    order = order[: np.isfinite(p).sum()]
    if (wrong := p[(p < 0) | (p > 1)]).size:
        raise DataError(f"A p-value lies in [0, 1], got {wrong.tolist()!r}.")
    steps = (len(order) - np.arange(len(order))) * p[order]
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, steps))
    return adjusted


def paired_bootstrap(differences: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value of the bootstrap-t for a mean difference of zero.

    The differences are centred, so that the hypothesis holds, and resampled; Student's t of the
    resamples is compared (Efron and Tibshirani 1993, sections 12.5 and 16.4). The mean alone would
    reject far too often: at the 5 % level in 29 % of comparisons of 3 pairs without a difference.

    Args:
        differences: One per pair: of the runs, or of the texts (1 where only the first is right, −1
            for the other).
        resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        (1 + resamples whose |t| is at least the observed one) / (1 + resamples), and never below
        2^(1 − pairs), the chance that so few differences all have one sign. 1 where the mean
        difference is 0.

    Raises:
        DataError: there is no difference, or one is not finite.
    """
    data = _finite(differences)
    mean, variance = data.mean(), data.var()
    if mean == 0:
        return 1.0
    least = max(0.5 ** (len(data) - 1), 1 / (1 + resamples))
    if variance <= _NO_SPREAD * mean**2:
        return float(least)
    # equal differences are interchangeable, so only how often each is drawn matters
    distinct, counts = np.unique(data - mean, return_counts=True)
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        shares = rng.multinomial(len(data), counts / len(data), size=size) / len(data)
        means = shares @ distinct
        variances = np.maximum(shares @ distinct**2 - means**2, 0.0)
        # |t| compared without dividing by a spread of zero; rounding must not decide between equal values
        extreme += int((means**2 * variance >= mean**2 * variances * (1 - 1e-9)).sum())
    return float(max(0.5 ** (len(data) - 1), (1 + extreme) / (1 + resamples)))


def _t_test(differences: FloatArray) -> float:
    """Two-sided p of the one-sample t test for a mean of zero; NaN for a single value."""
    data = _finite(differences)
    mean, n = data.mean(), len(data)
    if n == 1:
        return float("nan")
    if data.var() <= _NO_SPREAD * mean**2:  # scipy divides by zero
        return 1.0 if mean == 0 else 0.0
    return float(stats.ttest_1samp(data, 0.0).pvalue)


def _finite(values: ArrayLike) -> FloatArray:
    data = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(data) or not np.isfinite(data).all():
        raise DataError(
            f"Statistics need at least one value, and finite ones; got {data[:10].tolist()!r}."
        )
    return data


def _marked(frame: pd.DataFrame, by: Sequence[str], pair_on: Sequence[str] = ()) -> pd.DataFrame:
    """The frame with a column `unit`: the draw, or the row where draws are one."""
    needed = dict.fromkeys([*by, *pair_on, "value"])
    if missing := [name for name in needed if name not in frame]:
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


def _indexed(
    rows: Sequence[tuple[object, ...]],
    groups: Sequence[object],
    by: Sequence[str],
    columns: Sequence[str],
) -> pd.DataFrame:
    """A frame of numbers whose index are the groups."""
    parts = [group if isinstance(group, tuple) else (group,) for group in groups]
    levels = [[part[level] for part in parts] for level in range(len(by))]
    index = pd.Index(levels[0], name=by[0])
    if len(by) > 1:
        index = pd.MultiIndex.from_arrays(levels, names=by)
    table = pd.DataFrame(rows, index=index, columns=columns)
    return table.astype({name: int if name == "n" else float for name in columns})


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the half-width of its confidence interval, in the unit of the values."""

    mean: float
    half_width: float | None
    """`None` for a single value, which says nothing of its spread."""
    count: int

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half_width is None else self.mean + self.half_width


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent runs with Student's t interval.

    Args:
        values: One number a run (a seed, a draw).
        confidence: Probability that such an interval covers the true mean, in (0, 1).

    Raises:
        DataError: there is no value, or one is not finite.
    """
    data = _finite(values)
    if len(data) == 1:
        return Interval(float(data[0]), None, 1)
    error = data.std(ddof=1) / np.sqrt(len(data))
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(data) - 1))
    return Interval(float(data.mean()), float(quantile * error), len(data))


def paired_difference(
    values: Sequence[float], baseline: Sequence[float], confidence: float = 0.95
) -> Interval:
    """Interval of `values - baseline`, run by run; positive where `values` are higher.

    Pairing runs on the same draws and seeds takes away the spread that both share.

    Raises:
        DataError: the lists differ in length, are empty or hold a number that is not finite.
    """
    return mean_interval(_differences(values, baseline).tolist(), confidence)


def _differences(
    values: Sequence[float], baseline: Sequence[float]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if len(values) != len(baseline):
        raise DataError(
            f"Pairs are needed: {len(values)} values, but {len(baseline)} of the baseline."
        )
    difference: np.ndarray[tuple[int], np.dtype[np.float64]] = _finite(values) - _finite(baseline)
    return difference


# --- The matrix of a comparison: its cells, and the table made of their results.


BASELINE = "none"
CEILING = "oracle"


@dataclass(frozen=True, order=True, slots=True)
class Cell:
    """One run of the matrix."""

    dataset: str
    regime: str
    """`full`, or `<k>_shot`."""
    draw: int
    """Number of the few-shot draw, from 0."""
    method: str
    """`none`, a prior source, a hybrid, a control or `oracle`."""
    seed: int

    @property
    def shots(self) -> int | None:
        """Texts a class; `None` for the full training set."""
        return None if self.regime == "full" else int(self.regime.removesuffix("_shot"))

    @property
    def dataset_folder(self) -> str:
        """Relative folder of a data set: its name, a Hub id without the slash."""
        return self.dataset.replace("/", "--")

    @property
    def draw_folder(self) -> str:
        """Relative folder of what all methods of a draw share: `<data set>/<regime>/draw_<n>`."""
        return f"{self.dataset_folder}/{self.regime}/draw_{self.draw}"

    @property
    def folder(self) -> str:
        """Relative folder of the cell: `<data set>/<regime>/draw_<n>/<method>/seed_<n>`."""
        return f"{self.draw_folder}/{self.method}/seed_{self.seed}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A number that a finished cell found on one test set."""

    cell: Cell
    test_set: str
    """`clean`, or the name of an attack."""
    value: float


@dataclass(frozen=True, slots=True)
class TableRow:
    """One method on one data set, regime and test set, against the baseline and the best control."""

    dataset: str
    regime: str
    test_set: str
    method: str
    value: Interval
    """Mean over the draws; `count` is theirs (of the seeds where there is one draw)."""
    from_baseline: Interval | None
    """Paired difference from `none` over the runs that both have; `None` without any."""
    best_control: str | None
    """The control with the highest mean over the runs that all have, this method left out."""
    from_control: Interval | None
    """Paired difference from the best control."""
    p: float | None
    """Paired bootstrap p of the difference from the best control; `None` without one, and for controls."""
    p_holm: float | None
    """`p` after Holm's correction over the methods of this data set, regime and test set."""


def cells(
    datasets: Sequence[str],
    regimes: Sequence[str],
    methods: Sequence[str],
    *,
    draws: int = 1,
    seeds: Sequence[int] = (0,),
) -> list[Cell]:
    """Every cell of the matrix, those that complete a comparison soonest first.

    The full training set has only one draw.

    Raises:
        ConfigError: a regime is neither `full` nor `<k>_shot`, or a name occurs twice.
    """
    for names in (datasets, regimes, methods, seeds):
        if len(set(names)) != len(names):
            raise ConfigError(f"A matrix has each row once, got {list(names)!r}.")
    for regime in regimes:
        shots = regime.removesuffix("_shot")
        if regime != "full" and (shots == regime or not shots.isdigit() or int(shots) < 1):
            raise ConfigError(f"A regime is 'full' or '<k>_shot' such as '5_shot', got {regime!r}.")
    every = product(range(draws), seeds, datasets, regimes, methods)
    return [
        Cell(dataset, regime, draw, method, seed)
        for draw, seed, dataset, regime, method in every
        if draw == 0 or regime != "full"
    ]


def table(
    outcomes: Iterable[Outcome],
    *,
    baseline: str = BASELINE,
    controls: Sequence[str] = CONTROL_PRIORS,
    ceiling: str = CEILING,
) -> list[TableRow]:
    """Compare the methods of whatever cells are finished.

    The unit of the statistics is a draw, by the mean of its seeds: they share its texts, so they
    are no evidence of their own about other texts. Where there is one draw only, the unit is a
    seed, and nothing is said about other draws. A comparison uses the runs (draw and seed) that
    both sides have.

    Args:
        outcomes: Numbers of the finished cells, higher = better.
        baseline: The method without alignment.
        controls: Methods that know nothing of the task; a gain counts only over the best of them.
        ceiling: A method that knows too much to be corrected for as one of the family.

    Returns:
        One row a data set, regime, test set and method, sorted; methods by mean, the highest first.
    """
    groups: dict[tuple[str, str, str], dict[str, Runs]] = defaultdict(lambda: defaultdict(dict))
    for outcome in outcomes:
        cell = outcome.cell
        group = groups[cell.dataset, cell.regime, outcome.test_set]
        group[cell.method][cell.draw, cell.seed] = outcome.value
    return [
        row
        for place in sorted(groups)
        for row in _rows(place, groups[place], baseline, controls, ceiling)
    ]


def over_datasets(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes of several data sets as those of one, for `table` to compare.

    Args:
        outcomes: Numbers of the finished cells.

    Returns:
        The outcomes of each regime and test set that more than one data set has, the data set being
        called `a + b` and its draws numbered through. A method that one of them lacks is left out:
        its mean would be that of other texts.
    """
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.cell.regime, outcome.test_set].append(outcome)
    found = []
    for group in groups.values():
        places = sorted({(one.cell.dataset, one.cell.draw) for one in group})
        names = sorted({dataset for dataset, _ in places})
        if len(names) > 1:
            number = {place: index for index, place in enumerate(places)}
            everywhere = _methods_of_all(group)
            found += [
                _moved(one, " + ".join(names), number)
                for one in group
                if one.cell.method in everywhere
            ]
    return found


def _methods_of_all(outcomes: Iterable[Outcome]) -> set[str]:
    """The methods that every data set has."""
    methods: dict[str, set[str]] = defaultdict(set)
    for outcome in outcomes:
        methods[outcome.cell.dataset].add(outcome.cell.method)
    return set.intersection(*methods.values())


def _moved(outcome: Outcome, dataset: str, number: Mapping[tuple[str, int], int]) -> Outcome:
    cell = outcome.cell
    there = replace(cell, dataset=dataset, draw=number[cell.dataset, cell.draw])
    return replace(outcome, cell=there)


Runs = dict[tuple[int, int], float]
"""Draw and seed to value."""


def _rows(
    place: tuple[str, str, str],
    methods: Mapping[str, Runs],
    baseline: str,
    controls: Sequence[str],
    ceiling: str,
) -> list[TableRow]:
    by_draw = len({draw for runs in methods.values() for draw, _ in runs}) > 1
    means = {method: mean_interval(_old_units(runs, by_draw)) for method, runs in methods.items()}
    ranked = sorted(means, key=lambda method: (-means[method].mean, method))
    rivals = _ranked_controls(methods, controls, by_draw)
    p_values = {
        method: paired_bootstrap(_differences(*pairs))
        for method in ranked
        if method not in (baseline, ceiling, *controls) and rivals
        if (pairs := _pairs(methods[method], methods[rivals[0]], by_draw))
    }
    corrected = dict(zip(p_values, holm(list(p_values.values())).tolist(), strict=True))
    rows = []
    for method in ranked:
        best = next((rival for rival in rivals if rival != method), None)
        rows.append(
            TableRow(
                *place,
                method=method,
                value=means[method],
                from_baseline=None
                if method == baseline
                else _difference(methods, method, baseline, by_draw),
                best_control=best,
                from_control=_difference(methods, method, best, by_draw),
                p=p_values.get(method),
                p_holm=corrected.get(method),
            )
        )
    return rows


def _ranked_controls(
    methods: Mapping[str, Runs], controls: Sequence[str], by_draw: bool
) -> list[str]:
    """The controls, the best first, on the runs that all of them have where there are any.

    A control that has only some of the runs would else be ranked by how easy those are.
    """
    present = {method: methods[method] for method in methods if method in controls}
    if not present:
        return []
    shared = set.intersection(*map(set, present.values()))
    means = {
        method: fmean(
            _old_units({run: runs[run] for run in shared} if shared else runs, by_draw=by_draw)
        )
        for method, runs in present.items()
    }
    return sorted(means, key=lambda method: (-means[method], method))


def _difference(
    methods: Mapping[str, Runs], method: str, other: str | None, by_draw: bool
) -> Interval | None:
    pairs = _pairs(methods[method], methods.get(other, {}), by_draw) if other is not None else None
    return paired_difference(*pairs) if pairs else None


def _pairs(left: Runs, right: Runs, by_draw: bool) -> tuple[list[float], list[float]] | None:
    """The units of the runs that both have, in the same order; `None` where there is none."""
    shared = left.keys() & right.keys()
    if not shared:
        return None
    first, second = ({run: runs[run] for run in shared} for runs in (left, right))
    return _old_units(first, by_draw), _old_units(second, by_draw)


def _old_units(runs: Runs, by_draw: bool) -> list[float]:
    """The independent values: the mean of each draw's seeds, or every run."""
    units: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for (draw, seed), value in sorted(runs.items()):
        units[(draw,) if by_draw else (draw, seed)].append(value)
    return [fmean(values) for values in units.values()]
