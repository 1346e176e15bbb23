"""Train and measure a run; choose hyper-parameters on validation texts, with the same budget for all."""

import gc
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.metrics import f1_score
from transformers import PrinterCallback, set_seed

from benchmarks.study.samples import (
    load_texts,
    short_hash,
    training_texts,
    unlabelled_texts,
    validation_texts,
    without,
)
from benchmarks.study.settings import BASELINE, DERIVED, REFIT, RIVALS, SEQUENCE, Run, StudySettings
from hf_cap.classifiers import text_embeddings
from hf_cap.data import label_names
from hf_cap.evaluation import Evaluation, EvaluationSettings, evaluate_classifier, load_classifier
from hf_cap.evaluation.calibration import calibration_error, negative_log_likelihood
from hf_cap.labels import label_phrases
from hf_cap.refit import (
    KEPT_TO_REFINE,
    KEPT_TO_REFIT,
    average_encoder,
    encoder_weights,
    refine_head,
    refit_head,
)
from hf_cap.schema import CHANGED, LABEL, TEXT
from hf_cap.training.config import CAPConfig
from hf_cap.training.trainer import CAPTrainer
from hf_cap.utils import atomic_path, write_json

_logger = logging.getLogger(__name__)

Predict = Callable[[Sequence[str]], np.ndarray]
"""Texts to the index of each one's label, or to class probabilities `(texts, labels)`."""


@dataclass(frozen=True)
class Classifier:
    """A trained classifier, what training logged, and how many seconds it took."""

    model: Any
    tokenizer: Any
    history: list[dict[str, Any]]
    seconds: float
    start: Mapping[str, torch.Tensor]  # weights of the encoder before training

    def evaluate(self, settings: StudySettings, data: Dataset, **changes: Any) -> Evaluation:
        """Measure on `data` with the settings of the study, some of them changed."""
        # the study draws the texts whose explanations are measured
        options = EvaluationSettings(**{"explained_texts": None, **settings.evaluation, **changes})
        return evaluate_classifier(self.model, self.tokenizer, data, settings=options)

    def predictor(self, settings: StudySettings) -> Predict:
        """Its class probabilities, with the settings of the study."""
        options = EvaluationSettings(**settings.evaluation)
        batch, length = options.batch_size, options.max_length
        return load_classifier(self.model, self.tokenizer, batch_size=batch, max_length=length)


def accuracy(predict: Predict, test: Dataset) -> dict[str, Any]:
    """Accuracy and macro-F1, NLL and ECE of probabilities.

    Of an attack that leaves texts as they are also the accuracy on the changed ones.
    """
    gold, found = np.array(test[LABEL]), predict(test[TEXT][:])
    labels = found if found.ndim == 1 else found.argmax(1)
    numbers = {
        "texts": len(test),
        "accuracy": float(np.mean(labels == gold)),
        "macro_f1": float(f1_score(gold, labels, average="macro", zero_division=0)),
    }
    if found.ndim == 2:
        numbers["nll"] = negative_log_likelihood(found, gold)
        numbers["ece"] = calibration_error(found, gold)
    if CHANGED in test.column_names:
        changed = np.array(test[CHANGED], dtype=bool)
        numbers["changed"] = int(changed.sum())
        if 0 < changed.sum() < len(test):
            numbers["accuracy_changed"] = float(np.mean((labels == gold)[changed]))
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
        recorded = {"adam_beta2": 0.999}  # the default when most cells were made
        config = CAPConfig(
            **{"dataloader_pin_memory": torch.cuda.is_available(), **recorded, **options},
            output_dir=scratch,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        set_seed(seed)
        trainer = CAPTrainer(model=model, args=config, train_dataset=data)
        trainer.remove_callback(PrinterCallback)
        start = encoder_weights(trainer.model)
        trainer.train()
    found = trainer.model, trainer.processing_class, trainer.history
    del trainer  # it and its optimizer reference each other
    gc.collect()
    return Classifier(*found, time.monotonic() - started, start)


_baseline: dict[str, Classifier] = {}
"""The classifier of `none` that was trained last, by what decides it."""


def train_method(settings: StudySettings, run: Run, data: Dataset) -> Classifier:
    """Train the classifier of a run on `data`, its sample with the prior of its method.

    Those of `DERIVED` change a copy of that of `none`, which is not trained again where it was the last.
    """
    training = training_settings(settings, run)
    if run.method not in (BASELINE, *DERIVED):
        return train_classifier(data, training, run.seed)
    key = short_hash([data[TEXT][:], data[LABEL][:], training, run.seed])
    if key not in _baseline:
        _baseline.clear()
        _baseline[key] = train_classifier(data, training, run.seed)
    trained = _baseline[key]
    if run.method == BASELINE:
        return trained
    started, model = time.monotonic(), deepcopy(trained.model)
    refits = run.method == REFIT
    average_encoder(model, trained.start, KEPT_TO_REFIT if refits else KEPT_TO_REFINE)
    if refits:
        phrases = label_phrases(label_names(data))
        known = text_embeddings(model, trained.tokenizer, [*data[TEXT], *phrases])
        refit_head(model, known, torch.tensor([*data[LABEL], *range(len(phrases))]))
    else:
        refine_head(model, trained.tokenizer, unlabelled_texts(settings, run))
    return replace(trained, model=model, seconds=trained.seconds + time.monotonic() - started)


def training_settings(settings: StudySettings, run: Run) -> dict[str, Any]:
    """How a run is trained: the recipe's settings, and what was chosen for its method."""
    method = BASELINE if run.method in DERIVED else run.method
    chosen: Mapping[str, Any] = {}
    if _candidates(settings, method):
        file = _choice_file(settings, replace(run, method=method))
        chosen = json.loads(file.read_text(encoding="utf-8"))["chosen"]
    off = {"alignment_weight": 0.0} if method in (BASELINE, SEQUENCE) else {}
    head = {"head": "sequence"} if method == SEQUENCE else {}
    return {**settings.training_for(run.regime), **chosen, **off, **head}


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
        training = {**settings.training_for(run.regime), **candidate, **off}
        classifier = train_classifier(without(data, validation), training, seed=0)
        found = accuracy(classifier.predictor(settings), validation)
        tried.append({"settings": dict(candidate), **found})
        _logger.info("%s, %s: validation %.1f %%", run.folder, candidate, 100 * found["accuracy"])
    best = max(tried, key=lambda one: (one["accuracy"], one["macro_f1"]))
    write_json(file, {"run": asdict(run), "chosen": best["settings"], "tried": tried})


def _candidates(settings: StudySettings, method: str) -> tuple[Mapping[str, Any], ...]:
    if not settings.select or method in (SEQUENCE, *DERIVED, *RIVALS):
        return ()
    return settings.baseline_candidates if method == BASELINE else settings.candidates


def _choice_file(settings: StudySettings, run: Run) -> Path:
    decisive = [
        load_texts(settings, run.dataset).digest,
        _candidates(settings, run.method),
        settings.training_for(run.regime),
        settings.validation_shots,
        *((settings.extraction, settings.sign) if run.method != BASELINE else ()),
    ]
    folder = Path(settings.output_dir) / "selection" / run.dataset / run.regime
    return folder / f"{run.method}-{short_hash(decisive)}.json"


def reference_model(settings: StudySettings, run: Run) -> str:
    """Folder of the classifier that sources explain: no alignment, the same sample, seed 0."""
    plain = replace(run, method=BASELINE, seed=0)
    training = training_settings(settings, plain)
    stamp = short_hash([load_texts(settings, run.dataset).digest, training])
    folder = Path(settings.output_dir) / "models" / f"{run.sample_folder}-{stamp}"
    if not folder.exists():
        classifier = train_method(settings, plain, training_texts(settings, run))
        with atomic_path(folder) as path:
            classifier.model.save_pretrained(path)
            classifier.tokenizer.save_pretrained(path)
    return str(folder)
