"""Hyper-parameters: one rule, the same budget, and texts that no cell trains or is tested on."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.study import selection
from benchmarks.study.bench import Bench
from benchmarks.study.choices import training_settings
from benchmarks.study.selection import choose, validation_texts
from benchmarks.study.settings import BenchmarkSettings
from benchmarks.study.texts import load_texts, training_texts
from hf_cap.cli import main
from hf_cap.errors import ConfigError
from hf_cap.evaluation.results import Cell
from tests.benchmark.rooms import flags

RATES = ({"learning_rate": 1.0}, {"learning_rate": 2.0}, {"learning_rate": 3.0})


def make_bench(room: Path, out: Path, **changes: Any) -> Bench:
    values: dict[str, Any] = {
        "dataset": (str(room / "data"),),
        "output_dir": str(out),
        "candidates": RATES,
        "baseline_candidates": RATES,
        "validation_shots": 2,
        "training": {"learning_rate": 9.0, "alignment_weight": 0.1},
        **changes,
    }
    return Bench(BenchmarkSettings(**values), make_source=None, load_student=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("accuracy", "macro_f1", "chosen"),
    [
        ((0.1, 0.3, 0.2), (0.9, 0.1, 0.9), 2.0),
        ((0.3, 0.3, 0.2), (0.1, 0.2, 0.9), 2.0),  # macro-F1 decides between equals
        ((0.2, 0.3, 0.3), (0.1, 0.2, 0.2), 2.0),  # then the earlier one
    ],
)
def test_the_best_on_validation_texts_is_chosen_once(
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accuracy: tuple[float, ...],
    macro_f1: tuple[float, ...],
    chosen: float,
) -> None:
    bench = make_bench(room, tmp_path)
    trained: list[dict[str, Any]] = []

    def train(bench: Bench, cell: Cell, data: Any, settings: dict[str, Any]) -> Any:
        trained.append({**settings, "draw": cell.draw, "seed": cell.seed})
        return SimpleNamespace(model=None, tokenizer=None, seconds=1.0)

    def measure(model: Any, tokenizer: Any, data: Any, settings: Any) -> Any:
        index = len(trained) - 1
        return SimpleNamespace(accuracy=accuracy[index], macro_f1=macro_f1[index])

    monkeypatch.setattr(selection, "train_student", train)
    monkeypatch.setattr(selection, "evaluate_classifier", measure)
    cell = Cell("data", "2_shot", 1, "none", 1)
    choose(bench, cell)
    choose(bench, Cell("data", "2_shot", 2, "none", 0))
    assert [one["learning_rate"] for one in trained] == [1.0, 2.0, 3.0]
    assert {(one["draw"], one["seed"], one["alignment_weight"]) for one in trained} == {(0, 0, 0.0)}
    assert training_settings(bench, cell)["learning_rate"] == chosen


def test_validation_texts_are_no_training_and_no_test_texts(room: Path, tmp_path: Path) -> None:
    bench = make_bench(room, tmp_path)
    cell = Cell("data", "2_shot", 0, "none", 0)
    held = set(validation_texts(bench.settings, cell)["text"])
    assert len(held) == 6
    assert not held & set(training_texts(bench.settings, cell)["text"])
    assert not held & set(load_texts(bench.settings, "data").test["text"])


def test_every_method_gets_the_same_number_of_trials(room: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="same number of trials"):
        make_bench(room, tmp_path, baseline_candidates=RATES[:2])


def test_without_candidates_the_recipe_holds(room: Path, tmp_path: Path) -> None:
    bench = make_bench(room, tmp_path, candidates=(), baseline_candidates=())
    choose(bench, Cell("data", "2_shot", 0, "cap", 0))
    assert training_settings(bench, Cell("data", "2_shot", 0, "cap", 0)) == {
        "learning_rate": 9.0,
        "alignment_weight": 0.1,
    }
    assert not (tmp_path / "selection").exists()


@pytest.mark.parametrize("regime", ["2_shot", "full"])
def test_cells_train_with_what_was_chosen(room: Path, tmp_path: Path, regime: str) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(
        "candidates:\n- {alignment_weight: 0.2, learning_rate: 1e-2}\n- {alignment_weight: 0.0}\n"
        "baseline_candidates:\n- {learning_rate: 1e-2}\n- {learning_rate: 2e-2}\nvalidation_shots: 1\n"
    )
    few = ["--config", str(more), "--methods", "none", "oracle", "--seeds", "0"]
    out = tmp_path / "out"
    assert main(flags(room, out, *few, "--regimes", regime, "--attacks", "keyword_addition")) == 0
    tried = json.loads((out / "selection.json").read_text())
    assert [len(one["tried"]) for one in tried] == [2, 2]
    for one in tried:
        best = max(trial["accuracy"] for trial in one["tried"])
        assert best == next(t["accuracy"] for t in one["tried"] if t["settings"] == one["chosen"])
        numbers = json.loads((out / "cells" / one["cell"] / "cell.json").read_text())
        used = numbers["settings"]["training"]
        assert {name: used[name] for name in one["chosen"]} == one["chosen"]
