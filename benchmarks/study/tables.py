"""The tables of a benchmark: what they hold, and as Markdown."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from benchmarks.study.results import EXPLANATIONS, Result, outcomes
from hf_cap.evaluation.results import BASELINE, Interval, TableRow, over_datasets, table
from hf_cap.schema import CONTROL_PRIORS

NOTES = (
    "Accuracy in percent: mean ± half-width of the 95 % interval over the runs. A run is a draw of the "
    "training texts, the mean of its seeds, which share them; where there is one draw only, a seed. "
    "Differences are paired on the same draws and seeds, in points.",
    "A gain counts only over the best control: `shuffled` (the scores of a prior on the wrong words), "
    "`uniform`, `random` and `word_length` know nothing of the task. `oracle` is the log-odds of the whole "
    "training split, a ceiling.",
    "The interval tells how the result varies with the training texts that were drawn; the test texts, which "
    "all runs share, are taken as given.",
    "p: paired bootstrap of the difference from the best control; Holm's correction over the methods of a "
    "table. With n runs it is never below 2^(1 − n).",
    "Tables over several data sets (`a + b`) hold the methods that each of them has; a run is a draw of a "
    "data set.",
)
_ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Table:
    """A table as text: a title, names of columns, and one row a method."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(results: Sequence[Result]) -> list[Table]:
    """Accuracy a data set, regime and test set, and over data sets; explanations; settings and gaps."""
    found = [
        Table(f"{title}: {', '.join(place)}", _ACCURACY, tuple(map(_accuracy, group)))
        for measure, title in _MEASURES.items()
        for place, group in groupby(
            _compared(results, measure), key=lambda r: (r.dataset, r.regime, r.test_set)
        )
    ]
    parts = _each_control(results)
    parts += _explanations({measure: _compared(results, measure) for measure in EXPLANATIONS})
    for place in sorted({(result.cell.dataset, result.cell.regime) for result in results}):
        here = [r for r in results if (r.cell.dataset, r.cell.regime) == place]
        of_place = (_settings(here), _attacked(here), _missing(here))
        parts += [(", ".join(place), *part) for part in of_place]
    found += [
        Table(f"{title}: {place}", header, body) for place, title, header, body in parts if body
    ]
    return found


def _compared(
    results: Sequence[Result], measure: str, controls: Sequence[str] = CONTROL_PRIORS
) -> list[TableRow]:
    """The methods on each data set, then over data sets; of the controls only those given."""
    left_out = set(CONTROL_PRIORS) - set(controls)
    values = [one for one in outcomes(results, measure) if one.cell.method not in left_out]
    return [
        row for each in (values, over_datasets(values)) for row in table(each, controls=controls)
    ]


def markdown(results: Sequence[Result]) -> str:
    """All tables as one document."""
    parts = ["# Benchmark", "", *(f"- {note}" for note in NOTES), ""]
    for one in tables(results):
        lines = [
            "| " + " | ".join(map(_markdown_cell, row)) + " |" for row in (one.header, *one.rows)
        ]
        lines.insert(1, "|" + " --- |" * len(one.header))
        parts += [f"## {one.title}", "", *lines, ""]
    return "\n".join(parts)


def _markdown_cell(text: str) -> str:
    """Text that ends neither its cell nor its row."""
    return " ".join(text.split()).replace("|", "\\|")


_MEASURES = {
    "accuracy": "Accuracy",
    "accuracy_changed": "Accuracy on the texts that the attack changed",
}
_ACCURACY = (
    "method",
    "runs",
    "accuracy",
    f"− {BASELINE}",
    "− best control",
    "best control",
    "p",
    "p (Holm)",
)


def _accuracy(row: TableRow) -> tuple[str, ...]:
    return (
        row.method,
        str(row.value.count),
        shown(row.value, percent=True),
        shown(row.from_baseline, percent=True, signed=True),
        shown(row.from_control, percent=True, signed=True),
        row.best_control or "",
        _p(row.p),
        _p(row.p_holm),
    )


_Part = tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]


def _each_control(results: Sequence[Result]) -> list[tuple[str, *_Part]]:
    """Differences from each control by itself, where there are several: they know different things."""
    controls = sorted({result.cell.method for result in results} & set(CONTROL_PRIORS))
    columns: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for control in controls if len(controls) > 1 else ():
        for row in _compared(results, "accuracy", [control]):
            if row.method in (BASELINE, control):
                continue
            here = columns[f"{row.dataset}, {row.regime}, {row.test_set}"]
            here[f"− {control}"][row.method] = shown(row.from_control, percent=True, signed=True)
            here[f"p (Holm), {control}"][row.method] = _p(row.p_holm)
    return [_by_method(place, "Accuracy against each control", columns[place]) for place in columns]


def _explanations(measures: Mapping[str, Sequence[TableRow]]) -> list[tuple[str, *_Part]]:
    """Faithfulness and agreement of the explanations: each measure taken, and its difference from `none`."""
    columns: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for measure, rows in measures.items():
        for row in rows:
            here = columns[f"{row.dataset}, {row.regime}"]
            here[f"{measure} {_ARROWS[EXPLANATIONS[measure]]}"][row.method] = shown(row.value)
            if row.from_baseline:
                change = shown(row.from_baseline, signed=True)
                here[f"{measure} − {BASELINE}"][row.method] = change
    return [_by_method(place, "Explanations", columns[place]) for place in columns]


def _by_method(
    place: str, title: str, columns: Mapping[str, Mapping[str, str]]
) -> tuple[str, *_Part]:
    """A table of columns that each have a cell for some methods."""
    methods = sorted({method for column in columns.values() for method in column})
    body = tuple(
        (method, *(column.get(method, "") for column in columns.values())) for method in methods
    )
    return place, title, ("method", *columns), body


def _settings(results: Sequence[Result]) -> _Part:
    """Training settings in which the methods differ, whether chosen on validation texts or not."""
    of_method: dict[str, Mapping[str, Any]] = {
        result.cell.method: result.numbers["settings"]["training"] for result in results
    }
    names = sorted({name for training in of_method.values() for name in training})
    differing = [
        name
        for name in names
        if len({repr(training.get(name)) for training in of_method.values()}) > 1
    ]
    if set(differing) <= {"alignment_weight"}:
        aligned = {repr(t.get("alignment_weight")) for m, t in of_method.items() if m != BASELINE}
        differing = differing if len(aligned) > 1 else []
    body = tuple(
        (method, *(str(training.get(name, "")) for name in differing))
        for method, training in sorted(of_method.items())
        if differing
    )
    return "Training settings that differ", ("method", *differing), body


def _attacked(results: Sequence[Result]) -> _Part:
    """How many texts each attack changed, where the cells tell it; each draw has an attack of its own."""
    counts: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for result in results:
        for name, found in result.numbers["test_sets"].items():
            if "changed" in found:
                counts[name].add((found["changed"], found["texts"]))
    body = tuple(
        (name, ", ".join(f"{changed} of {texts}" for changed, texts in sorted(found)))
        for name, found in sorted(counts.items())
    )
    return "Texts that attacks changed", ("attack", "changed"), body


def _missing(results: Sequence[Result]) -> _Part:
    reasons = {
        (name, reason) for result in results for name, reason in result.numbers["missing"].items()
    }
    return "Attacks that could not be made", ("attack", "reason"), tuple(sorted(reasons))


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def shown(value: Interval | None, *, percent: bool = False, signed: bool = False) -> str:
    """A mean with the half-width of its interval; in percent with one decimal, else with three."""
    if value is None:
        return ""
    scale, places = (100, 1) if percent else (1, 3)
    mean = f"{scale * value.mean:{'+' if signed else ''}.{places}f}"
    return mean if value.half_width is None else f"{mean} ± {scale * value.half_width:.{places}f}"
