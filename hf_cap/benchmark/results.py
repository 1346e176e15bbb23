"""What the finished cells say together."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.matrix import Cell, Outcome
from .bench import CELL_FILE


@dataclass(frozen=True)
class Result:
    """A finished cell and what its `cell.json` holds."""

    cell: Cell
    numbers: Mapping[str, Any]


def read_results(room: Path) -> list[Result]:
    """All finished cells of a benchmark's folder, sorted."""
    found = []
    for file in (room / "cells").glob(f"*/*/draw_*/*/seed_*/{CELL_FILE}"):
        numbers = json.loads(file.read_text(encoding="utf-8"))
        found.append(Result(Cell(**numbers["settings"]["cell"]), numbers))
    return sorted(found, key=lambda result: result.cell)


def outcomes(results: Iterable[Result], measure: str = "accuracy") -> list[Outcome]:
    """One number a cell and test set."""
    return [
        Outcome(result.cell, test_set, found[measure])
        for result in results
        for test_set, found in result.numbers["test_sets"].items()
    ]


def explanation_outcomes(results: Iterable[Result], measure: str) -> list[Outcome]:
    """One number a cell that measured its explanations so."""
    return [
        Outcome(result.cell, measure, value)
        for result in results
        if (value := result.numbers["explanations"].get(measure)) is not None
    ]
