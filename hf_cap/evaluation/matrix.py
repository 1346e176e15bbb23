"""The matrix of a comparison: its cells, and the table made of their results.

    data set × regime × draw × method × seed

A cell is one training run and its evaluation, with a folder of its own, so that it can be resumed, repeated
or run by another process. The table is a pure function of whatever cells are finished.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from operator import itemgetter
from statistics import fmean

from ..errors import ConfigError
from ..schema import CONTROL_PRIORS
from ..statistics import Interval, holm, mean_interval, paired_bootstrap, paired_difference

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
    def folder(self) -> str:
        """Relative folder of the cell: `<data set>/<regime>/draw_<n>/<method>/seed_<n>`."""
        place = (
            self.dataset.replace("/", "--"),
            self.regime,
            f"draw_{self.draw}",
            self.method,
            f"seed_{self.seed}",
        )
        return "/".join(place)


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
    """Mean over the draws and seeds."""
    from_baseline: Interval | None
    """Paired difference from `none` over the draws and seeds that both have; `None` without any."""
    best_control: str | None
    """The control with the highest mean, this method left out."""
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

    The unit of the statistics is a run (draw and seed), and a comparison uses the runs that both sides have.

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

    The unit is a draw of a data set: seeds of a draw share its texts, so they are no evidence of their own
    and count by their mean, over the seeds that all methods of the draw have.

    Args:
        outcomes: Numbers of the finished cells.

    Returns:
        For each regime and test set that more than one data set has, one outcome a draw and method. The data
        set is called `a + b`, its draws are numbered through, and the seed is 0.
    """
    draws: dict[tuple[str, str, str, int], dict[str, dict[int, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for outcome in outcomes:
        cell = outcome.cell
        of_draw = draws[cell.regime, outcome.test_set, cell.dataset, cell.draw]
        of_draw[cell.method][cell.seed] = outcome.value
    found = []
    for (regime, test_set), group in groupby(sorted(draws), key=itemgetter(0, 1)):
        places = list(group)
        names = sorted({dataset for _, _, dataset, _ in places})
        if len(names) < 2:
            continue
        for number, place in enumerate(places):
            seeds = set.intersection(*map(set, draws[place].values()))
            found += [
                Outcome(
                    Cell(" + ".join(names), regime, number, method, 0),
                    test_set,
                    fmean(values[seed] for seed in seeds),
                )
                for method, values in draws[place].items()
                if seeds
            ]
    return found


Runs = dict[tuple[int, int], float]
"""Draw and seed to value."""


def _rows(
    place: tuple[str, str, str],
    methods: Mapping[str, Runs],
    baseline: str,
    controls: Sequence[str],
    ceiling: str,
) -> list[TableRow]:
    means = {method: mean_interval(list(runs.values())) for method, runs in methods.items()}
    ranked = sorted(means, key=lambda method: (-means[method].mean, method))
    rivals = [method for method in ranked if method in controls]
    p_values = {
        method: paired_bootstrap(*pairs)
        for method in ranked
        if method not in (baseline, ceiling, *controls) and rivals
        if (pairs := _pairs(methods[method], methods[rivals[0]]))
    }
    corrected = holm(p_values)
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
                else _difference(methods, method, baseline),
                best_control=best,
                from_control=_difference(methods, method, best),
                p=p_values.get(method),
                p_holm=corrected.get(method),
            )
        )
    return rows


def _difference(methods: Mapping[str, Runs], method: str, other: str | None) -> Interval | None:
    pairs = _pairs(methods[method], methods.get(other, {})) if other is not None else None
    return paired_difference(*pairs) if pairs else None


def _pairs(left: Runs, right: Runs) -> tuple[list[float], list[float]] | None:
    """Values of the runs that both have, in the same order; `None` where there is none."""
    shared = sorted(left.keys() & right.keys())
    return ([left[run] for run in shared], [right[run] for run in shared]) if shared else None
