"""Training in this process: the student of a cell, and the reference classifier that sources explain."""

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, set_seed

from benchmarks.study.bench import Bench
from benchmarks.study.choices import training_settings
from benchmarks.study.claims import claim
from benchmarks.study.texts import load_texts, short_hash, training_texts
from hf_cap.evaluation.results import BASELINE, Cell
from hf_cap.training.config import CAPConfig
from hf_cap.training.trainer import CAPTrainer
from hf_cap.utils import atomic_path

_FIXED: dict[str, Any] = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
"""A cell leaves numbers, not checkpoints."""


@dataclass(frozen=True)
class Student:
    """A trained classifier.

    Attributes:
        model: The classifier.
        tokenizer: Its tokenizer.
        history: What training logged.
        seconds: Time that training took.
    """

    model: Any
    tokenizer: Any
    history: list[dict[str, float]]
    seconds: float

    def save(self, folder: Path) -> None:
        """Write model and tokenizer, atomically."""
        with atomic_path(folder) as path:
            self.model.save_pretrained(path)
            self.tokenizer.save_pretrained(path)


def train_student(bench: Bench, cell: Cell, data: Dataset, settings: Mapping[str, Any]) -> Student:
    """Train the classifier of a cell.

    Args:
        bench: The benchmark.
        cell: Its seed is the seed of training.
        data: The training texts, with the prior of the method.
        settings: Training settings, those of the model's loading among them.

    Raises:
        CAPError: settings, data or model cannot work.
    """
    started = time.monotonic()
    known = {item.name for item in fields(CAPConfig)}
    own = {name: value for name, value in settings.items() if name in known}
    with TemporaryDirectory() as scratch:
        config = CAPConfig(
            **{"dataloader_pin_memory": torch.cuda.is_available(), **own, **_FIXED},
            output_dir=scratch,
            seed=cell.seed,
        )
        set_seed(cell.seed)
        model, tokenizer = bench.load_student(settings, data)
        trainer = CAPTrainer(
            model=model, args=config, train_dataset=data, processing_class=tokenizer
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    history = trainer.history
    del trainer  # it and its optimizer hold one another
    gc.collect()
    return Student(model, tokenizer, history, time.monotonic() - started)


def model_folder(bench: Bench, cell: Cell) -> Path:
    """Where the model of a cell is, if it is kept; another folder for other settings."""
    digest = load_texts(bench.settings, cell.dataset).digest
    stamp = short_hash([digest, training_settings(bench, cell)])
    return bench.settings.room / "models" / f"{cell.folder}-{stamp}"


def keep_model(bench: Bench, cell: Cell, student: Student) -> None:
    """Save the model of a cell, unless it is there: sources may be reading it."""
    folder = model_folder(bench, cell)
    with claim(bench.settings.room, folder, wait=True):
        if not folder.exists():
            student.save(folder)


def reference_cell(cell: Cell) -> Cell:
    """The cell whose model the sources explain: no alignment, the same draw, seed 0.

    Whichever seeds a run is asked for, the prior stays the same.
    """
    return replace(cell, method=BASELINE, seed=0)


def reference_model(bench: Bench, cell: Cell) -> str:
    """Folder of the reference classifier of a cell's draw; trained where no cell has left it.

    Raises:
        Busy: another process is training it.
    """
    wanted = reference_cell(cell)
    folder = model_folder(bench, wanted)
    if not folder.exists():
        with claim(bench.settings.room, folder):
            if not folder.exists():
                data = training_texts(bench.settings, wanted)
                settings = training_settings(bench, wanted)
                train_student(bench, wanted, data, settings).save(folder)
    return str(folder)
