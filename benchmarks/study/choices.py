"""The training settings of a cell: the recipe's, and what was chosen for its method on validation texts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.bench import Bench
from benchmarks.study.texts import load_texts, short_hash
from hf_cap.evaluation.results import BASELINE, Cell


def candidates(bench: Bench, method: str) -> Sequence[Mapping[str, Any]]:
    """The training settings that are tried for a method; none where nothing is chosen."""
    settings = bench.settings
    if not settings.select:
        return ()
    return settings.baseline_candidates if method == BASELINE else settings.candidates


def choice_file(bench: Bench, cell: Cell) -> Path:
    """Where the choice for a cell's data set, regime and method is kept; elsewhere for other settings."""
    settings = bench.settings
    decisive: list[Any] = [
        load_texts(settings, cell.dataset).digest,
        candidates(bench, cell.method),
        settings.training,
        settings.validation_shots,
    ]
    if cell.method != BASELINE:
        decisive += [settings.extraction, settings.sign, settings.normalisation]
        decisive += [settings.hybrid, settings.control_of]
        decisive += [settings.baseline_candidates]  # of the classifier that a source explains
    folder = settings.room / "selection" / cell.dataset_folder / cell.regime
    return folder / f"{cell.method}-{short_hash(decisive)}.json"


def training_settings(
    bench: Bench, cell: Cell, candidate: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """How a cell is trained.

    Args:
        bench: The benchmark.
        cell: The cell.
        candidate: What is tried; by default what was chosen for the method, where a choice is made.
    """
    if candidate is None and candidates(bench, cell.method):
        kept = json.loads(choice_file(bench, cell).read_text(encoding="utf-8"))
        candidate = kept["chosen"]
    off = {"alignment_weight": 0.0} if cell.method == BASELINE else {}
    return {**bench.settings.training, **(candidate or {}), **off}
