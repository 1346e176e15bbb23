"""Claims on what is to be made, and processes that become lone ones."""

import logging
import os
from pathlib import Path

import pytest

from benchmarks.study.__main__ import be_alone, failure_text
from benchmarks.study.bench import Bench
from benchmarks.study.claims import claim
from benchmarks.study.running import failures
from hf_cap.evaluation.results import Cell
from hf_cap.priors.extract import Busy


def test_a_claim_keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    target, other = tmp_path / "a" / "b", tmp_path / "a" / "c"
    with claim(tmp_path, target):
        with pytest.raises(Busy, match="Another process works on"):
            with claim(tmp_path, target):
                pass
        with claim(tmp_path, other):
            pass
    with claim(tmp_path, target):
        pass


def test_a_claim_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), claim(tmp_path, tmp_path / "a"):
        raise ValueError("broken")
    with claim(tmp_path, tmp_path / "a"):
        pass


def test_a_launched_process_forgets_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,8")
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    be_alone()
    assert logging.getLogger().level == logging.INFO
    assert not set(launched) & set(os.environ)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


def test_a_process_that_died_is_told(bench: Bench) -> None:
    dead = Cell("bank", "5_shot", 0, "cap", 0)
    assert "its process ended" in failures(bench, [dead], {})[dead]


def test_failures_are_told_by_reason() -> None:
    cells = [Cell("bank", "5_shot", 0, "cap", seed) for seed in range(4)]
    reasons = dict.fromkeys(cells, "OSError: disk full") | {cells[0]: "ValueError: odd"}
    text = failure_text(reasons)
    assert "4 cells failed" in text
    assert "1 x ValueError: odd (bank/5_shot/draw_0/cap/seed_0)" in text
    assert "3 x OSError: disk full" in text
