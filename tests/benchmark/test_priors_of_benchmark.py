"""Priors that processes of a benchmark extract together."""

from pathlib import Path

import pytest
from datasets import Dataset

from benchmarks.study.bench import Bench
from benchmarks.study.claims import claim
from benchmarks.study.priors import scored
from benchmarks.study.settings import BenchmarkSettings
from hf_cap.evaluation.results import Cell
from hf_cap.priors.extract import Busy
from tests.watched import Watched

CELL = Cell("data", "2_shot", 0, "word_length", 0)


def test_a_process_helps_with_an_extraction_that_another_writes(room: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    locks: list[Path] = []

    def look(text: str) -> None:
        locks.extend(tmp_path.rglob("000000000.lock"))

    def make_source(name: str, texts: Dataset, reference: str | None) -> Watched:
        return Watched(texts.features["label"].names, asked, look)

    settings = BenchmarkSettings(dataset=(str(room / "data"),), output_dir=str(tmp_path))
    bench = Bench(settings, make_source, load_student=None)  # type: ignore[arg-type]
    once = scored(bench, CELL, "word_length")
    assert scored(bench, CELL, "word_length").to_dict() == once.to_dict()
    assert len(locks) == 1, "others may help from the start"
    (target,) = (tmp_path / "data" / CELL.draw_folder / "priors").iterdir()
    whole = len(once)
    assert len(asked) == whole == 6
    target.rename(tmp_path / "away")
    (tmp_path / "scores").rename(tmp_path / "scores_away")
    for _ in range(2):  # the second time nothing is left to help with
        with claim(tmp_path, target), pytest.raises(Busy):
            scored(bench, CELL, "word_length")
        assert len(asked) == 2 * whole
    assert not target.exists(), "the process that began it writes it"
    again = scored(bench, CELL, "word_length")
    assert len(asked) == 2 * whole, "what a helper scored is scored once"
    assert again["prior_word_length"][:] == once["prior_word_length"][:]
