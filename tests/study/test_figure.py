"""The figure of the README shows the results that are kept, and its alternative text says the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figure import FIGURE, RESULTS, alternative_text, draw, percentages

ROOT = Path(__file__).parents[2]


def row(group: str, method: str, test_set: str, mean: float, n: int) -> dict[str, Any]:
    return {"group": group, "method": method, "test_set": test_set, "mean": mean, "n": n}


def test_the_group_with_the_most_draws_is_shown_with_the_methods_that_have_them_all() -> None:
    rows = [
        row(group, method, test_set, mean + (test_set == "shifted") / 10, n)
        for group, n, mean in (("data, 9", 2, 0.1), ("data, 5", 5, 0.2), ("data, 20", 5, 0.5))
        for method in ("none", "drop_found")
        for test_set in ("clean", "shifted", "same")
    ]
    rows += [
        row("data, 20", "logistic_names", "clean", 0.9, 4),
        row("none, 99", "none", "clean", 0.9, 9),
    ]
    expected = {"clean": pytest.approx(50), "shifted": pytest.approx(60)}
    assert percentages({"accuracy": rows}) == {"none": expected, "drop_found": expected}


def test_the_figure_and_its_words_are_those_of_the_results() -> None:
    summary = json.loads(RESULTS.read_text(encoding="utf-8"))
    remake = "run `python -m benchmarks.figure` and put its sentence into the pages"
    assert FIGURE.read_text(encoding="utf-8") == draw(summary), remake
    for page in ("README.md", "docs/index.md"):
        assert alternative_text(summary) in (ROOT / page).read_text(encoding="utf-8"), remake
