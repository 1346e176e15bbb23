"""Figures of a benchmark, as PNG and SVG files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.results import Result, outcomes, size_of
from benchmarks.study.texts import CLEAN
from hf_cap.evaluation.results import BASELINE, CEILING, TableRow, table
from hf_cap.report.figures import GREY, PALETTE, new_figure, save_figures
from hf_cap.schema import CONTROL_PRIORS

_OUTSIDE = {BASELINE: "black", CEILING: "#F0E442"}
_MARKERS = "osD^vP*X"


def draw_figures(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw every figure that the results have the numbers for.

    Args:
        results: Finished cells.
        folder: Where the files go; it must exist.

    Returns:
        The files written.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    return save_figures(FIGURES, results, folder)


def draw_shots(results: Sequence[Result]) -> Any:
    """Lines: accuracy by the texts a class; nothing where there is only one regime."""
    rows = [row for row in table(outcomes(results)) if row.test_set == CLEAN]
    regimes = sorted({row.regime for row in rows}, key=size_of)
    if len(regimes) < 2:
        return None
    return _by_place(rows, "regime", regimes, "Accuracy by size of the training set", line="-")


def draw_attacks(results: Sequence[Result]) -> Any:
    """Points: accuracy on the clean and on each attacked test set, in each data set's smallest regime."""
    rows, regime = _smallest(table(outcomes(results)))
    tests = sorted({row.test_set for row in rows}, key=lambda name: (name != CLEAN, name))
    if len(tests) < 2:
        return None
    return _by_place(rows, "test_set", tests, f"Accuracy under attack, {regime}", line="")


def draw_faithfulness(results: Sequence[Result]) -> Any:
    """Points: comprehensiveness against accuracy, one a method, in each data set's smallest regime."""
    rows, regime = _smallest(table(outcomes(results, "comprehensiveness")))
    if not rows:
        return None
    accuracy = {
        (row.dataset, row.regime, row.method): row.value
        for row in table(outcomes(results))
        if row.test_set == CLEAN
    }
    figure, panels = _figure([row.dataset for row in rows])
    for row in rows:
        axes, right = panels[row.dataset], accuracy[row.dataset, row.regime, row.method]
        axes.errorbar(
            100 * right.mean,
            row.value.mean,
            xerr=100 * (right.half_width or 0),
            yerr=row.value.half_width or 0,
            **_look(row.method, rows),
        )
        axes.set(title=row.dataset, xlabel="accuracy (%)", ylabel="comprehensiveness")
    return _finished(figure, panels, f"Faithfulness against accuracy, {regime}")


FIGURES: Mapping[str, Callable[[Sequence[Result]], Any]] = {
    "accuracy_by_shots": draw_shots,
    "robustness_by_attack": draw_attacks,
    "faithfulness_against_accuracy": draw_faithfulness,
}


def _smallest(rows: Sequence[TableRow]) -> tuple[list[TableRow], str]:
    """The rows of each data set's smallest regime, and the names of these regimes."""
    regimes: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: size_of(row.regime)):
        regimes.setdefault(row.dataset, row.regime)
    names = ", ".join(sorted(set(regimes.values()), key=size_of))
    return [row for row in rows if row.regime == regimes[row.dataset]], names


def _by_place(
    rows: Sequence[TableRow], axis: str, places: Sequence[str], title: str, line: str
) -> Any:
    """One panel a data set: accuracy over the places of an axis, the methods side by side."""
    figure, panels = _figure([row.dataset for row in rows])
    methods = _methods(rows)
    for dataset, axes in panels.items():
        for index, method in enumerate(methods):
            found = {
                getattr(row, axis): row.value
                for row in rows
                if (row.dataset, row.method) == (dataset, method)
            }
            shown = [place for place in places if place in found]
            shift = 0.6 * ((index + 0.5) / len(methods) - 0.5)
            axes.errorbar(
                [places.index(place) + shift for place in shown],
                [100 * found[place].mean for place in shown],
                yerr=[100 * (found[place].half_width or 0) for place in shown],
                **{**_look(method, rows), "linestyle": line},
            )
        axes.set_xticks(range(len(places)), [place.replace("_", "\n") for place in places])
        axes.set(title=dataset, ylabel="accuracy (%)")
    return _finished(figure, panels, title)


def _methods(rows: Sequence[TableRow]) -> list[str]:
    """Baseline, competing methods, controls, ceiling."""
    order = (*CONTROL_PRIORS, CEILING)
    return sorted(
        {row.method for row in rows},
        key=lambda m: (m != BASELINE, order.index(m) + 1 if m in order else 0, m),
    )


def _look(method: str, rows: Sequence[TableRow]) -> dict[str, Any]:
    """Colour, marker and label of a method; the colour says its role, the marker tells it apart."""
    methods = _methods(rows)
    competing = [name for name in methods if name not in (*CONTROL_PRIORS, *_OUTSIDE)]
    colour = GREY if method in CONTROL_PRIORS else _OUTSIDE.get(method, "")
    return {
        "color": colour or PALETTE[competing.index(method) % len(PALETTE)],
        "marker": _MARKERS[methods.index(method) % len(_MARKERS)],
        "markeredgecolor": "black",
        "markeredgewidth": 0.4,
        "linestyle": "",
        "linewidth": 1,
        "capsize": 2,
        "label": method,
    }


def _figure(datasets: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """A figure with a panel a data set."""
    names = sorted(set(datasets))
    figure = new_figure(2.4 + 3.6 * len(names), 4.2)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, dict(zip(names, panels, strict=True))


def _finished(figure: Any, panels: Mapping[str, Any], title: str) -> Any:
    shown = {  # a data set may lack a method
        label: handle
        for axes in panels.values()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside right center", frameon=False)
    figure.suptitle(f"{title} (95 % intervals)", x=0.01, ha="left")
    return figure
