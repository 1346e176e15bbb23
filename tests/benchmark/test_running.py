"""In which order processes that share the cells take them."""

import sqlite3
from pathlib import Path

import pytest
from datasets.exceptions import DatasetGenerationError
from safetensors import SafetensorError

from benchmarks.study import running
from benchmarks.study.bench import FAILURE_FILE, Bench
from benchmarks.study.settings import BenchmarkSettings
from hf_cap.errors import ConfigError
from hf_cap.evaluation.results import Cell
from hf_cap.priors.extract import Busy

CELLS = [Cell("bank", "5_shot", draw, method, 0) for draw in (0, 1) for method in ("none", "cap")]


def test_a_cell_that_was_passed_over_comes_before_later_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = CELLS[:2]
    ran: list[Cell] = []

    def run(_: Bench, cell: Cell) -> None:
        if cell in busy and not ran:  # as if another process were making what both need
            raise Busy
        ran.append(cell)

    monkeypatch.setattr(running, "_run", run)
    assert running.work(bench, CELLS) == {}
    assert ran == [CELLS[2], CELLS[0], CELLS[1], CELLS[3]]


@pytest.mark.parametrize(
    "error",
    [
        OSError("disk full"),
        sqlite3.OperationalError("database or disk is full"),
        DatasetGenerationError("An error occurred while generating the dataset"),
        SafetensorError("I/O error: No space left on device"),
    ],
)
def test_work_waits_where_all_that_is_left_is_busy_and_a_failure_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tries: dict[Cell, int] = dict.fromkeys(CELLS, 0)
    pauses: list[float] = []

    def run(_: Bench, cell: Cell) -> None:
        tries[cell] += 1
        if cell == CELLS[1] and not pauses:
            raise Busy
        if cell == CELLS[2]:
            raise error

    monkeypatch.setattr(running, "_run", run)
    monkeypatch.setattr("time.sleep", pauses.append)
    assert running.work(bench, CELLS) == {CELLS[2]: f"{type(error).__name__}: {error}"}
    assert len(pauses) == 1
    assert [tries[cell] for cell in (CELLS[0], CELLS[2], CELLS[3])] == [1, 1, 1]
    assert (bench.folder(CELLS[2]) / FAILURE_FILE).exists()


@pytest.mark.parametrize("place", [".", "..", "../bank/", "./bank"])
def test_a_data_set_is_called_by_its_folder(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("bank/bank", "bank/desk"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "bank" / "desk" if place == ".." else tmp_path / "bank")
    settings = BenchmarkSettings(dataset=(place,), output_dir="out")
    assert settings.names == {"bank": place}


def test_a_data_set_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="'/' has no name"):
        BenchmarkSettings(dataset=("/",), output_dir="out")
