"""What a cell is run with: the settings, and the ways to open models that the command line hands down."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from benchmarks.study.settings import BenchmarkSettings
from hf_cap.evaluation.results import Cell
from hf_cap.priors.base import Source

CELL_FILE, FAILURE_FILE = "cell.json", "failure.json"


@dataclass(frozen=True)
class Bench:
    """A benchmark in a folder.

    Attributes:
        settings: The matrix and how to run it.
        make_source: Name, training texts and reference classifier to a prior source.
        load_student: Training settings and texts to an untrained classifier for their labels, and its
            tokenizer.
    """

    settings: BenchmarkSettings
    make_source: Callable[[str, Dataset, str | None], Source]
    load_student: Callable[[Mapping[str, Any], Dataset], tuple[Any, Any]]

    def folder(self, cell: Cell) -> Path:
        """Where the results of a cell are."""
        return self.settings.room / "cells" / cell.folder
