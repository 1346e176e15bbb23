"""`hf-cap benchmark`: does a prior help, and more than its controls? The whole matrix, cell by cell.

`accelerate launch --num_processes 4 -m hf_cap benchmark ...` and `--jobs 4` both let several processes share
the cells.
"""

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.study.settings import BenchmarkSettings
from hf_cap.cli import extract, train
from hf_cap.cli.config import build, merge, settings_of
from hf_cap.errors import BenchmarkError, ConfigError
from hf_cap.lm.base import LMRuntime, using_runtime

if TYPE_CHECKING:
    from datasets import Dataset

    from benchmarks.study.bench import Bench
    from hf_cap.evaluation.results import Cell
    from hf_cap.priors.base import Source


SETTINGS = (BenchmarkSettings,)

_TAKEN = frozenset(
    """dataset output_dir splits train_split eval_split text_column label_column labels limit seed sign
    chunk_size progress classifier prior_column word_pattern faithfulness records save_strategy eval_strategy
    report_to disable_tqdm push_to_hub""".split()
)
"""Settings of the stages that a cell of the matrix decides."""


def run(values: dict[str, Any]) -> None:
    """Run what is not finished, then write the tables.

    Raises:
        BenchmarkError: cells failed, or nothing can be written; the message says which and why.
    """
    settings = build(BenchmarkSettings, values)
    be_alone()
    failed = {} if settings.report_only else run_cells(values, settings)
    wrong = [failure_text(failed)] if failed else []
    from benchmarks.study.report import write_report

    try:
        for file in write_report(settings.room):
            print(file)
    except OSError as error:
        wrong.append(
            f"The tables cannot be written to {str(settings.room)!r}: {error}. The cells are kept; make room "
            "and run the same command again with `--report_only true`."
        )
    if wrong:
        raise BenchmarkError("\n".join(wrong))


def run_cells(values: Mapping[str, Any], settings: BenchmarkSettings) -> "dict[Cell, str]":
    """Run the cells that have no results; returns those that failed, and why."""
    from benchmarks.study.running import failures, forget_failures, matrix, work

    bench = open_bench(settings)
    todo = matrix(bench)
    forget_failures(bench, todo)
    seen: dict[Cell, str] = {}
    with using_runtime(build(LMRuntime, bench.settings.extraction)):
        if settings.jobs == 1:
            seen = work(bench, todo)
        else:
            _share(values, settings.jobs)
    return failures(bench, todo, seen)


def failure_text(failed: "Mapping[Cell, str]") -> str:
    """The summary of the failures, one line a reason."""
    cells: dict[str, list[str]] = {}
    for cell, reason in failed.items():
        cells.setdefault(reason, []).append(cell.folder)
    lines = [
        f"  {len(of_reason)} x {reason} ({', '.join(of_reason[:3])}{', ...' if of_reason[3:] else ''})"
        for reason, of_reason in cells.items()
    ]
    return (
        f"{len(failed)} cells failed; the others have their results. Run the same command again to try "
        "them again.\n" + "\n".join(lines)
    )


def _share(values: Mapping[str, Any], jobs: int) -> None:
    """Run the cells in several processes, each with its part of the cores and one of the GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // jobs)))
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    processes = [context.Process(target=_help, args=(dict(values), job)) for job in range(jobs)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _help(values: Mapping[str, Any], job: int) -> None:
    """What each of the processes does, as long as the one that started it lives."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    take_device(job)
    logging.basicConfig(level=logging.INFO, format=f"[{job}] %(message)s", stream=sys.stderr)
    bench = open_bench(build(BenchmarkSettings, values))
    from benchmarks.study.running import matrix, work

    work(bench, matrix(bench))


def _follow_parent() -> None:
    """End this process when the one that started it has ended, however it did: `kill` reaches only that."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def open_bench(settings: BenchmarkSettings) -> "Bench":
    """The benchmark, with the settings of its stages converted and checked.

    Raises:
        ConfigError: a stage has no such setting, or not of that value, or there is no such method.
    """
    import datasets
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from benchmarks.study.bench import Bench
    from benchmarks.study.priors import check_methods
    from benchmarks.study.texts import of_words
    from hf_cap.evaluation.evaluate import EvaluationSettings
    from hf_cap.training.config import CAPConfig

    set_verbosity_error()  # a fresh classification head is no surprise here
    disable_progress_bar()
    datasets.disable_progress_bars()
    of_training = (CAPConfig, train.TrainPlaces)
    words = of_words(settings)
    checked = replace(
        settings,
        training=_checked("training", settings.training, *of_training) | words,
        candidates=tuple(_checked("candidates", one, *of_training) for one in settings.candidates),
        baseline_candidates=tuple(
            _checked("baseline_candidates", one, *of_training)
            for one in settings.baseline_candidates
        ),
        extraction=_checked("extraction", settings.extraction, *extract.SETTINGS[1:]) | words,
        evaluation=_checked("evaluation", settings.evaluation, EvaluationSettings) | words,
    )
    bench = Bench(checked, partial(_make_source, checked.extraction), _load_student)
    check_methods(bench)
    return bench


def be_alone() -> None:
    """Forget that several processes were launched together: they share cells, not a model. Each speaks."""
    rank = int(os.environ.get("LOCAL_RANK", "-1"))
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(variable, None)
    if rank >= 0:
        logging.getLogger().setLevel(logging.INFO)
        take_device(rank)


def take_device(number: int) -> None:
    """Let this process see one GPU only, the one whose turn it is."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]


def _checked(name: str, given: Mapping[str, Any], *classes: type) -> dict[str, Any]:
    """Settings of a stage, converted; those that the benchmark itself sets are refused."""
    if taken := sorted(_TAKEN & set(given)):
        raise ConfigError(
            f"`{name}` holds {taken[0]!r}, which the benchmark itself sets. Leave it out."
        )
    known = settings_of(*classes)
    return merge({key: setting for key, setting in known.items() if key not in _TAKEN}, given)


def _make_source(
    extraction: Mapping[str, Any], name: str, texts: "Dataset", classifier: str | None
) -> "Source":
    # all scores are kept: which of them count is decided when a method's prior is made
    options = {**extraction, "sign": "signed", "classifier": classifier}
    return extract.make_source(name, texts, options)


def _load_student(training: Mapping[str, Any], texts: "Dataset") -> tuple[Any, Any]:
    places = build(train.TrainPlaces, {"dataset": "", "output_dir": "", **training})
    return train.load_student(places, texts)
