"""Run all cells: claim one, run it, go on; a failed cell stops no other."""

import json
import logging
import sqlite3
import time
from collections.abc import Mapping, Sequence

from datasets.exceptions import DatasetsError
from safetensors import SafetensorError

from benchmarks.study.bench import FAILURE_FILE, Bench
from benchmarks.study.cells import finished, note_failure, run_cell
from benchmarks.study.claims import claim
from benchmarks.study.report import write_table
from benchmarks.study.selection import choose
from hf_cap.errors import CAPError
from hf_cap.evaluation.results import Cell, cells
from hf_cap.priors.extract import Busy

_logger = logging.getLogger(__name__)

_OF_LIBRARIES = (DatasetsError, SafetensorError, sqlite3.Error)
"""What libraries that read and write raise, of a full disk for instance."""
FAILURES = (
    CAPError,
    OSError,
    RuntimeError,
    ValueError,
    ArithmeticError,
    MemoryError,
    *_OF_LIBRARIES,
)
"""What a data set, a model, a server or a machine can do to a cell. A mistake of ours stops the run."""
_PAUSE = 2.0


def matrix(bench: Bench) -> list[Cell]:
    """The cells of the settings, those that complete a comparison soonest first."""
    settings = bench.settings
    return cells(
        list(settings.names),
        settings.regimes,
        settings.methods,
        draws=settings.draws,
        seeds=settings.seeds,
    )


def forget_failures(bench: Bench, todo: Sequence[Cell]) -> None:
    """Drop the failures of earlier runs, so that their cells are tried again."""
    for cell in todo:
        (bench.folder(cell) / FAILURE_FILE).unlink(missing_ok=True)


def work(bench: Bench, todo: Sequence[Cell]) -> dict[Cell, str]:
    """Run cells until each has results or a failure, whoever runs it.

    Any number of processes may work on the same cells. After each cell the first one that is left is tried
    again, so that all of them work on the comparison that can be complete soonest. A cell that another
    process has claimed, or that needs what another process is making, is passed over; one whose process died
    is taken over.

    Returns:
        The cells that failed here, and why.
    """
    remaining, failed = list(todo), {}
    while remaining:
        for cell in remaining:
            try:
                with claim(bench.settings.room, bench.folder(cell)):
                    _run(bench, cell)
            except Busy:
                continue
            except FAILURES as error:
                failed[cell] = f"{type(error).__name__}: {error}"
                _logger.warning("%s failed: %s", cell.folder, failed[cell])
                note_failure(bench, cell, error)
            remaining.remove(cell)
            break
        else:
            time.sleep(_PAUSE)
    return failed


def failures(bench: Bench, todo: Sequence[Cell], seen: Mapping[Cell, str]) -> dict[Cell, str]:
    """Why cells have no results, from what this process has seen and from what others wrote.

    Args:
        bench: The benchmark.
        todo: The cells.
        seen: What `work` returned here.
    """
    found = dict(seen)
    for cell in todo:
        file = bench.folder(cell) / FAILURE_FILE
        if cell not in found and file.exists():
            written = json.loads(file.read_text(encoding="utf-8"))
            found[cell] = f"{written['error']}: {written['message']}"
        elif cell not in found and not _has_results(bench, cell):
            found[cell] = "its process ended without a word, for instance for lack of memory"
    return found


def _has_results(bench: Bench, cell: Cell) -> bool:
    """Whether a cell has results under the present settings; those of before are none."""
    try:
        return finished(bench, cell)
    except FAILURES:
        return False


def _run(bench: Bench, cell: Cell) -> None:
    if (bench.folder(cell) / FAILURE_FILE).exists():
        return
    choose(bench, cell)
    if finished(bench, cell):
        return
    result = run_cell(bench, cell)
    accuracies = ", ".join(
        f"{name} {100 * found['accuracy']:.1f} %" for name, found in result["test_sets"].items()
    )
    _logger.info("%s: %s (%.0f s)", cell.folder, accuracies, sum(result["seconds"].values()))
    try:
        write_table(bench.settings.room)
    except OSError as error:  # the cell is safe all the same
        _logger.warning("The table so far cannot be written: %s", error)
