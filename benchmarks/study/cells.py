"""One cell: train, measure on every test set, and keep the numbers."""

import json
import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset

from benchmarks.study.bench import CELL_FILE, FAILURE_FILE, Bench
from benchmarks.study.choices import training_settings
from benchmarks.study.priors import explained_sources, oracle, prior_facts, with_prior
from benchmarks.study.students import Student, keep_model, reference_cell, train_student
from benchmarks.study.texts import facts_of, load_texts, short_hash, some, test_sets
from hf_cap.errors import ConfigError
from hf_cap.evaluation.attacks.attack import CHANGED
from hf_cap.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate_classifier
from hf_cap.evaluation.results import BASELINE, CEILING, Cell
from hf_cap.schema import PRIOR, prior_column
from hf_cap.utils import versions, write_json

_logger = logging.getLogger(__name__)

_ACCURACY = ("texts", "accuracy", "macro_f1")
_FAITHFULNESS = ("texts", "comprehensiveness", "sufficiency", "soft_nc", "soft_ns")


def facts(bench: Bench, cell: Cell) -> dict[str, Any]:
    """All that decides the numbers of a cell, as JSON values."""
    found = {
        "cell": asdict(cell),
        "data": facts_of(bench.settings, cell),
        "training": training_settings(bench, cell),
        "evaluation": dict(bench.settings.evaluation),
        "prior": prior_facts(bench, cell),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def finished(bench: Bench, cell: Cell) -> bool:
    """Whether a cell has results under the present settings.

    Raises:
        ConfigError: it has results under other settings, and may not be run again.
    """
    file = bench.folder(cell) / CELL_FILE
    if not file.exists():
        return False
    before, now = json.loads(file.read_text(encoding="utf-8"))["settings"], facts(bench, cell)
    if before == now:
        return True
    if bench.settings.redo_changed:
        return False
    changed = "; ".join(
        f"{name} was {old!r}, is {new!r}" for name, old, new in _changes(before, now)
    )
    raise ConfigError(
        f"The cell {cell.folder} is finished, but under other settings: {changed:.600}. Give another "
        "`output_dir`, the settings of before, or `--redo_changed true` to run such cells again."
    )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted names of what differs, with both values."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [(f"{name}.{inner}", a, b) for inner, a, b in _changes(old, new)]
        elif old != new:
            found.append((name, old, new))
    return found


def run_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Run a cell and write its results.

    Returns:
        What `cell.json` holds.

    Raises:
        Busy: another process is making something that the cell needs.
        CAPError, OSError: the cell cannot be run.
    """
    started = time.monotonic()
    settings = facts(bench, cell)
    data = with_prior(bench, cell)
    tests, missing = test_sets(bench.settings, cell)
    prepared = time.monotonic() - started
    student = train_student(bench, cell, data, training_settings(bench, cell))
    measured = time.monotonic()
    result = {
        "settings": settings,
        "hash": short_hash(settings),
        "test_sets": {name: _accuracy(bench, student, test) for name, test in tests.items()},
        "missing": missing,
        "explanations": _explanations(bench, cell, student, data),
        "without_prior": sum(prior is None for prior in data[PRIOR])
        if PRIOR in data.column_names
        else None,
        "history": student.history,
        "versions": versions(),
        "seconds": {
            "prepare": round(prepared, 1),
            "train": round(student.seconds, 1),
            "evaluate": round(time.monotonic() - measured, 1),
        },
    }
    # the numbers first: a model that cannot be saved must not cost them
    write_json(bench.folder(cell) / CELL_FILE, result)
    if bench.settings.keep_models or (
        cell == reference_cell(cell) and explained_sources(bench, bench.settings.methods)
    ):
        keep_model(bench, cell, student)
    return result


def _evaluate(bench: Bench, student: Student, data: Dataset, **changes: Any) -> Evaluation:
    settings = EvaluationSettings(**{**bench.settings.evaluation, **changes})
    return evaluate_classifier(student.model, student.tokenizer, data, settings=settings)


def _accuracy(bench: Bench, student: Student, test: Dataset) -> dict[str, Any]:
    """Accuracy on a test set; of an attack that leaves texts as they are also on those that it changed."""
    found = _evaluate(bench, student, test, faithfulness=False, soft=False)
    numbers = {name: getattr(found, name) for name in _ACCURACY}
    if CHANGED in test.column_names:
        rows = np.flatnonzero(test[CHANGED])
        numbers["changed"] = len(rows)
        if len(rows) < len(test):
            changed = _evaluate(bench, student, test.select(rows), faithfulness=False, soft=False)
            numbers["accuracy_changed"] = changed.accuracy
    return numbers


def _explanations(bench: Bench, cell: Cell, student: Student, data: Dataset) -> dict[str, Any]:
    """Faithfulness on test texts, and agreement with the oracle there and with the own prior in training."""
    count = bench.settings.faithfulness_texts
    if not count:
        return {}
    tested = _evaluate(
        bench,
        student,
        oracle(bench, cell, some(load_texts(bench.settings, cell.dataset).test, count)),
        prior_column=prior_column(CEILING),
    )
    found = {name: getattr(tested, name) for name in _FAITHFULNESS}
    found["oracle_alignment"] = tested.alignment
    if cell.method != BASELINE:
        trained = _evaluate(bench, student, some(data, count), faithfulness=False, soft=False)
        found["prior_alignment"] = trained.alignment
    return found


def note_failure(bench: Bench, cell: Cell, error: BaseException) -> None:
    """Write why a cell failed, where that is still possible."""
    try:
        write_json(
            bench.folder(cell) / FAILURE_FILE,
            {
                "cell": asdict(cell),
                "error": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exception(error),
            },
        )
    except OSError as problem:
        _logger.warning("The failure of %s cannot be written: %s", cell.folder, problem)
