"""The tables of a benchmark as Markdown."""

from collections.abc import Sequence
from itertools import groupby

from ..evaluation.matrix import TableRow, table
from ..statistics import Interval
from .results import Result, outcomes

HEADER = ("method", "runs", "accuracy", "− none", "− best control", "best control", "p", "p (Holm)")


def markdown(results: Sequence[Result]) -> str:
    """One table a data set, regime and test set."""
    parts = ["# Benchmark", ""]
    rows = table(outcomes(results))
    for place, group in groupby(rows, key=lambda row: (row.dataset, row.regime, row.test_set)):
        parts += [f"## {', '.join(place)}", "", *_lines([HEADER, *map(_cells, group)]), ""]
    return "\n".join(parts)


def _cells(row: TableRow) -> tuple[str, ...]:
    return (
        row.method,
        str(row.value.count),
        percent(row.value),
        percent(row.from_baseline, signed=True),
        percent(row.from_control, signed=True),
        row.best_control or "",
        "" if row.p is None else f"{row.p:.3f}",
        "" if row.p_holm is None else f"{row.p_holm:.3f}",
    )


def percent(value: Interval | None, *, signed: bool = False) -> str:
    """A mean with the half-width of its interval, in percent or, for a difference, points."""
    if value is None:
        return ""
    mean = f"{100 * value.mean:{'+' if signed else ''}.1f}"
    return mean if value.half_width is None else f"{mean} ± {100 * value.half_width:.1f}"


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|" + " --- |" * len(rows[0]), *body]
