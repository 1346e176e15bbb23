"""Runs of a study: one run is one function call and one JSON file."""

import json
import logging
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.study.priors import (
    check_methods,
    explains_classifier,
    prior_facts,
    source_scores,
    sources_of,
    with_oracle,
    with_prior,
)
from benchmarks.study.rivals import train_rival
from benchmarks.study.samples import data_facts, short_hash, some, test_sets
from benchmarks.study.settings import (
    BASELINE,
    CEILING,
    CLEAN,
    DERIVED,
    RESULT_FILE,
    RIVALS,
    Run,
    StudySettings,
)
from benchmarks.study.train import Classifier, accuracy, choose, train_method, training_settings
from hf_cap.errors import CAPError, ConfigError
from hf_cap.schema import PRIOR, prior_column
from hf_cap.utils import versions, write_json

_logger = logging.getLogger(__name__)

FAILURE_FILE = "failure.json"
FAILURES = (CAPError, OSError, RuntimeError, ValueError, ArithmeticError, MemoryError)
"""What data, a model, a server or a machine can do to a run; a mistake of ours stops the study."""


def result_file(settings: StudySettings, run: Run) -> Path:
    """Where the result of a run is."""
    return Path(settings.output_dir) / "cells" / run.folder / RESULT_FILE


def run_study(settings: StudySettings) -> dict[Run, str]:
    """Make every run that has no result.

    The priors come first, one after the other, since all runs of a sample share them; then `jobs`
    processes share the runs. A failed run stops no other.

    Returns:
        The runs that failed, and why.
    """
    check_methods(settings)
    failed: dict[Run, str] = {}
    for run in settings.runs():
        first = replace(run, seed=settings.seeds[0])
        if run == first:
            failed |= _attempt(settings, run, _prepare)
    todo = [run for run in settings.runs() if run not in failed]
    if settings.jobs == 1:
        for run in todo:
            failed |= _attempt(settings, run, make_run)
        return failed
    context = get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(settings.jobs, context, initializer=quiet) as pool:
        for part in pool.map(_attempt_run, [(settings, run) for run in todo]):
            failed |= part
    return failed


def _attempt_run(task: tuple[StudySettings, Run]) -> dict[Run, str]:
    return _attempt(*task, make_run)


def _attempt(settings: StudySettings, run: Run, step: Any) -> dict[Run, str]:
    file = result_file(settings, run).with_name(FAILURE_FILE)
    try:
        step(settings, run)
        file.unlink(missing_ok=True)
        return {}
    except FAILURES as error:
        reason = f"{type(error).__name__}: {error}"
        _logger.warning("%s failed: %s", run.folder, reason)
        write_json(file, {"message": reason, "traceback": traceback.format_exception(error)})
        return {run: reason}


def _prepare(settings: StudySettings, run: Run) -> None:
    """Choose the settings of the run's method, and compute the scores of its sources."""
    explained = any(map(explains_classifier, sources_of(settings, run.method)))
    if explained or run.method in DERIVED:
        baseline = replace(run, method=BASELINE, draw=0, seed=0)
        choose(settings, baseline, with_prior(settings, baseline))
    for source in sources_of(settings, run.method):
        source_scores(settings, run, source)
    first = replace(run, draw=0, seed=0)
    choose(settings, first, with_prior(settings, first))


def make_run(settings: StudySettings, run: Run) -> None:
    """Train, measure on every test set, and write the result, unless it is there.

    Raises:
        ConfigError: there is a result under other settings, and `redo_changed` is off.
        CAPError, OSError: the run cannot be made.
    """
    facts = run_facts(settings, run)
    file = result_file(settings, run)
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))["settings"]
        if before == facts:
            return
        if not settings.redo_changed:
            raise ConfigError(_changed(run, before, facts))
    data = with_prior(settings, run)
    tests, missing = test_sets(settings, run)
    history, explanations = [], {}
    if run.method in RIVALS:
        predict, seconds = train_rival(settings, run)
    else:
        classifier = train_method(settings, run, data)
        predict, seconds = classifier.predictor(settings), classifier.seconds
        history = classifier.history
        explanations = _explanations(settings, run, classifier, data, tests[CLEAN])
    started = time.monotonic()
    result: dict[str, Any] = {
        "settings": facts,
        "hash": short_hash(facts),
        "test_sets": {name: accuracy(predict, test) for name, test in tests.items()},
        "missing": missing,
        "explanations": explanations,
        "history": history,
        "versions": versions(),
        "seconds": {"train": round(seconds, 1), "evaluate": round(time.monotonic() - started, 1)},
    }
    write_json(file, result)
    shown = ", ".join(f"{n} {100 * t['accuracy']:.1f} %" for n, t in result["test_sets"].items())
    _logger.info("%s: %s (%.0f s)", run.folder, shown, seconds)


def run_facts(settings: StudySettings, run: Run) -> dict[str, Any]:
    """All that decides the numbers of a run, as JSON values."""
    facts = {
        "cell": asdict(run),
        "data": data_facts(settings, run),
        "training": training_settings(settings, run),
        "evaluation": dict(settings.evaluation),
        "prior": prior_facts(settings, run),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


def _changed(run: Run, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return (
        f"The run {run.folder} is finished, but under other settings: {', '.join(names)} changed. Give "
        "another `output_dir`, the former settings, or `redo_changed: true` to repeat such runs."
    )


def _explanations(
    settings: StudySettings, run: Run, classifier: Classifier, data: Any, test: Any
) -> dict[str, Any]:
    """Faithfulness on test texts, and agreement with the oracle there and with the prior in training."""
    count = settings.faithfulness_texts
    if not count:
        return {}
    tested = classifier.evaluate(
        settings, with_oracle(settings, run, some(test, count)), prior_column=prior_column(CEILING)
    )
    names = ("texts", "comprehensiveness", "sufficiency", "soft_nc", "soft_ns")
    found = {name: getattr(tested, name) for name in names}
    found["oracle_alignment"] = tested.alignment
    if PRIOR in data.column_names:
        trained = classifier.evaluate(settings, some(data, count), faithfulness=False, soft=False)
        found["prior_alignment"] = trained.alignment
    return found


def quiet() -> None:
    """One line per run is enough."""
    import datasets
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    set_verbosity_error()  # a fresh classification head is no surprise here
    disable_progress_bar()
    datasets.disable_progress_bars()
