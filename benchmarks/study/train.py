"""Train and measure a run; choose hyper-parameters on validation texts, with the same budget for all."""

import gc
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback, set_seed

from benchmarks.study.samples import (
    load_texts,
    short_hash,
    training_texts,
    validation_texts,
    without,
)
from benchmarks.study.settings import BASELINE, RIVALS, SEQUENCE, Run, StudySettings
from hf_cap.evaluation import Evaluation, EvaluationSettings, evaluate_classifier
from hf_cap.evaluation.attacks import CHANGED
from hf_cap.training.config import CAPConfig
from hf_cap.training.trainer import CAPTrainer
from hf_cap.utils import atomic_path, write_json

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier, what training logged, and how many seconds it took."""

    model: Any
    tokenizer: Any
    history: list[dict[str, Any]]
    seconds: float

    def evaluate(self, settings: StudySettings, data: Dataset, **changes: Any) -> Evaluation:
        """Measure on `data` with the settings of the study, some of them changed."""
        options = EvaluationSettings(**{**settings.evaluation, **changes})
        return evaluate_classifier(self.model, self.tokenizer, data, settings=options)

    def accuracy(self, settings: StudySettings, test: Dataset) -> dict[str, Any]:
        """Accuracy, macro-F1, NLL and ECE; where an attack leaves texts as they are, also on the others."""
        found = self.evaluate(settings, test, faithfulness=False, soft=False)
        numbers = {
            name: getattr(found, name) for name in ("texts", "accuracy", "macro_f1", "nll", "ece")
        }
        if CHANGED in test.column_names:
            rows = np.flatnonzero(test[CHANGED])
            numbers["changed"] = len(rows)
            if len(rows) < len(test):
                part = self.evaluate(settings, test.select(rows), faithfulness=False, soft=False)
                numbers["accuracy_changed"] = part.accuracy
        return numbers


def train_classifier(data: Dataset, training: Mapping[str, Any], seed: int) -> Classifier:
    """Train a classifier.

    Args:
        data: Training texts, with the prior of the method.
        training: Settings of `CAPConfig`, and `model`.
        seed: Training seed, of the classification head too.
    """
    started = time.monotonic()
    options = dict(training)
    model = options.pop("model")
    with TemporaryDirectory() as scratch:
        config = CAPConfig(
            **{"dataloader_pin_memory": torch.cuda.is_available(), **options},
            output_dir=scratch,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        set_seed(seed)
        trainer = CAPTrainer(model=model, args=config, train_dataset=data)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    found = trainer.model, trainer.processing_class, trainer.history
    del trainer  # it and its optimizer reference each other
    gc.collect()
    return Classifier(*found, time.monotonic() - started)


def training_settings(
    settings: StudySettings, run: Run, method: str | None = None
) -> dict[str, Any]:
    """How a run is trained: the recipe's settings, and what was chosen for its method."""
    method = method or run.method
    chosen: Mapping[str, Any] = {}
    if _candidates(settings, method):
        file = _choice_file(settings, replace(run, method=method))
        chosen = json.loads(file.read_text(encoding="utf-8"))["chosen"]
    off = {"alignment_weight": 0.0} if method in (BASELINE, SEQUENCE) else {}
    head = {"head": "sequence"} if method == SEQUENCE else {}
    return {**settings.training, **chosen, **off, **head}


def choose(settings: StudySettings, run: Run, data: Dataset) -> None:
    """Choose the training settings of a method on sample 0 with seed 0, unless that is done.

    The highest validation accuracy wins, then macro-F1, then the earlier candidate. No test text is used.
    """
    candidates = _candidates(settings, run.method)
    if not candidates or (file := _choice_file(settings, run)).exists():
        return
    validation = validation_texts(settings, run)
    tried = []
    for candidate in candidates:
        off = {"alignment_weight": 0.0} if run.method == BASELINE else {}
        training = {**settings.training, **candidate, **off}
        classifier = train_classifier(without(data, validation), training, seed=0)
        found = classifier.accuracy(settings, validation)
        tried.append({"settings": dict(candidate), **found})
        _logger.info("%s, %s: validation %.1f %%", run.folder, candidate, 100 * found["accuracy"])
    best = max(tried, key=lambda one: (one["accuracy"], one["macro_f1"]))
    write_json(file, {"run": asdict(run), "chosen": best["settings"], "tried": tried})


def _candidates(settings: StudySettings, method: str) -> tuple[Mapping[str, Any], ...]:
    if not settings.select or method in (SEQUENCE, *RIVALS):
        return ()
    return settings.baseline_candidates if method == BASELINE else settings.candidates


def _choice_file(settings: StudySettings, run: Run) -> Path:
    decisive = [
        load_texts(settings, run.dataset).digest,
        _candidates(settings, run.method),
        settings.training,
        settings.validation_shots,
        *((settings.extraction, settings.sign) if run.method != BASELINE else ()),
    ]
    folder = Path(settings.output_dir) / "selection" / run.dataset / run.regime
    return folder / f"{run.method}-{short_hash(decisive)}.json"


def reference_model(settings: StudySettings, run: Run) -> str:
    """Folder of the classifier that sources explain: no alignment, the same sample, seed 0."""
    training = training_settings(settings, run, BASELINE)
    stamp = short_hash([load_texts(settings, run.dataset).digest, training])
    folder = Path(settings.output_dir) / "models" / f"{run.sample_folder}-{stamp}"
    if not folder.exists():
        classifier = train_classifier(training_texts(settings, run), training, seed=0)
        with atomic_path(folder) as path:
            classifier.model.save_pretrained(path)
            classifier.tokenizer.save_pretrained(path)
    return str(folder)
