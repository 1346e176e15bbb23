"""Estimates over seeds, paired differences from the baseline, training curves, and what they say in words."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ...statistics import Interval, mean_interval
from .groups import RunGroup, baseline_of
from .values import Curve, EvaluationSet, Panel, Point, Row, Unit


class Measure(NamedTuple):
    """How a number of an evaluation is written."""

    title: str
    better: Literal["higher", "lower"]
    percent: bool


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure("Accuracy", "higher", True),
    "macro_f1": Measure("Macro F1", "higher", True),
    "roc_auc": Measure("ROC-AUC", "higher", False),
    "r2": Measure("R²", "higher", False),
    "rmse": Measure("Root mean squared error", "lower", False),
    "alignment": Measure("Agreement with the prior (cosine)", "higher", False),
    "comprehensiveness": Measure("Comprehensiveness", "higher", False),
    "sufficiency": Measure("Sufficiency", "lower", False),
    "soft_nc": Measure("Soft comprehensiveness (Soft-NC)", "higher", False),
    "soft_ns": Measure("Soft sufficiency (Soft-NS)", "higher", False),
}
"""Fields of an evaluation that the report shows, in its order."""

CURVES: Mapping[str, str] = {
    "loss_task": "Task loss",
    "loss_align": "Alignment loss (before its weight)",
    "align_cosine": "Cosine of attribution and prior",
    "eval_loss_task": "Task loss, held out",
    "eval_loss_align": "Alignment loss, held out",
}
"""Logged quantities that the report draws, in its order."""

# without alignment the loss has one part, and a plain `Trainer` logs it under its own name
_WITHOUT_ALIGNMENT = {"loss_task": "loss", "eval_loss_task": "eval_loss"}


def estimate(values: Sequence[float]) -> Interval | None:
    """Mean with its 95 % interval; `None` without values."""
    return mean_interval(values) if values else None


def evaluation_sets(
    groups: Sequence[RunGroup], first: str | None = None
) -> tuple[EvaluationSet, ...]:
    """Every evaluation set with its measures.

    Args:
        groups: The groups, in the order of the columns.
        first: Name of the set that comes first.
    """
    names = dict.fromkeys(
        name for group in groups for run in group.runs for name in run.evaluations
    )
    ordered = sorted(names, key=lambda name: name != first)
    return tuple(_evaluation_set(name, groups) for name in ordered)


def _evaluation_set(name: str, groups: Sequence[RunGroup]) -> EvaluationSet:
    sizes = [
        run.evaluations[name].get("texts", run.evaluations[name].get("rows"))
        for group in groups
        for run in group.runs
        if name in run.evaluations
    ]
    rows = (_row(name, measure, groups) for measure in MEASURES)
    return EvaluationSet(name, sizes[0], tuple(row for row in rows if any(row.values)))


def _row(name: str, measure: str, groups: Sequence[RunGroup]) -> Row:
    by_seed = [_by_seed(group, name, measure) for group in groups]
    differences = []
    for index, of_group in enumerate(by_seed):
        baseline = baseline_of(index, groups)
        of_baseline = {} if baseline is None else by_seed[baseline]
        differences.append(
            estimate(
                [of_group[seed] - of_baseline[seed] for seed in of_group if seed in of_baseline]
            )
        )
    return Row(
        measure=measure,
        **MEASURES[measure]._asdict(),
        values=tuple(estimate(list(of_group.values())) for of_group in by_seed),
        differences=tuple(differences),
    )


def _by_seed(group: RunGroup, name: str, measure: str) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for position, (run, seed) in enumerate(zip(group.runs, group.shown.seeds, strict=True)):
        value = run.evaluations.get(name, {}).get(measure)
        if value is not None:
            # a second run of one seed counts too, but has no partner in the baseline
            found[seed if seed not in found else (seed, position)] = float(value)
    return found


def panels(groups: Sequence[RunGroup]) -> tuple[Panel, ...]:
    """The training curves, one panel a logged quantity."""
    found = []
    for key, title in CURVES.items():
        by_group = [_points(group, key) for group in groups]
        curves = tuple(Curve(index, points) for index, points in enumerate(by_group) if points)
        if curves:
            found.append(Panel(title, curves))
    return tuple(found)


def _points(group: RunGroup, key: str) -> tuple[Point, ...]:
    """The logged values of `key` at each step, over the runs of the group."""
    at_step: dict[float, list[float]] = {}
    for run in group.runs:
        history = run.facts.get("history") or ()
        name = key if any(key in entry for entry in history) else _WITHOUT_ALIGNMENT.get(key, key)
        for entry in history:
            if entry.get(name) is not None and entry.get("step") is not None:
                at_step.setdefault(float(entry["step"]), []).append(float(entry[name]))
    return tuple(
        Point(step, float(np.mean(values)), min(values), max(values))
        for step, values in sorted(at_step.items())
    )


def findings(
    groups: Sequence[RunGroup], sets: Sequence[EvaluationSet], unit: Unit = "texts"
) -> tuple[str, ...]:
    """What alignment did to accuracy, one sentence a group and set; controls only on the first set."""
    found = []
    for number, evaluation in enumerate(sets):
        accuracy = [row for row in evaluation.rows if row.measure == "accuracy"]
        for row, index in itertools.product(accuracy, reversed(range(len(groups)))):
            baseline = baseline_of(index, groups)
            if baseline is not None and (number == 0 or groups[index].shown.role == "aligned"):
                value, before, change = (
                    row.values[index],
                    row.values[baseline],
                    row.differences[index],
                )
                if value and before and change:
                    start = (
                        f"On {evaluation.name}, the model “{groups[index].shown.name}” is right on "
                    )
                    found.append(start + _comparison(value, before, change, unit))
    return tuple(found)


def _comparison(value: Interval, before: Interval, change: Interval, unit: Unit) -> str:
    start = (
        f"{100 * value.mean:.1f} % of the {unit}, against {100 * before.mean:.1f} % without alignment: "
        f"{_signed(100 * change.mean)} points"
    )
    if change.low is None or change.high is None:
        return f"{start}. One seed says nothing about chance; train more."
    verdict = (
        "a change beyond the spread of the seeds"
        if change.low > 0 or change.high < 0
        else "no change that stands out from the spread of the seeds"
    )
    return (
        f"{start} (95 % interval {_signed(100 * change.low)} to {_signed(100 * change.high)}, "
        f"{change.count} seeds), {verdict}."
    )


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
