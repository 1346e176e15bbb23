"""Calibrate a classifier: a temperature and a threshold of label sets, which travel with the model."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax
from torch import Tensor

from hf_cap.cards import RUN_FILE
from hf_cap.classifiers import is_lora_run
from hf_cap.data import load_splits
from hf_cap.errors import ConfigError, DataError, ModelError
from hf_cap.evaluation.classifier import gold_labels, load_classifier
from hf_cap.evaluation.confidence import (
    Probabilities,
    conformal_rank,
    conformal_threshold,
    fit_temperature,
    label_sets,
)
from hf_cap.schema import CALIBRATION, LABEL, TEXT
from hf_cap.utils import read_json, write_text

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How logits become probabilities, and these label sets; by default by a plain softmax, without sets.

    Attributes:
        temperature: Divides the logits; more than 0, above 1 where the classifier was too sure.
        coverage: Probability, in (0, 1), that the label set of a new text holds its gold label.
        threshold: Least probability of a label in a set, in [0, 1].
        texts: Number of texts that these were fit on.
    """

    temperature: float = 1.0
    coverage: float | None = None
    threshold: float | None = None
    texts: int = 0

    @classmethod
    def read(cls, config: Any) -> "Calibration":
        """What is stored in a model's configuration, the defaults where nothing is.

        Raises:
            ModelError: a stored value is out of its range.
        """
        stored = getattr(config, CALIBRATION, None)
        stored = stored if isinstance(stored, dict) else {}
        found = cls(**{f.name: stored[f.name] for f in fields(cls) if f.name in stored})
        try:
            fits = 0 < found.temperature < math.inf and 0 <= (found.threshold or 0.0) <= 1
        except TypeError:
            fits = False
        if not fits or (found.threshold is None) != (found.coverage is None):
            raise ModelError(
                f"The entry {CALIBRATION!r} of the model's configuration is {stored!r}, which is no "
                "calibration; calibrate the model again, or remove the entry."
            )
        return found

    def probabilities(self, logits: Tensor) -> Probabilities:
        """Calibrated class probabilities, rows summing to 1."""
        found: Probabilities = softmax(logits.double().numpy() / self.temperature, axis=1)
        return found

    def label_sets(self, probabilities: Probabilities) -> list[list[int]] | None:
        """The labels of each text's set, the likeliest first and always; `None` without a threshold."""
        return None if self.threshold is None else label_sets(probabilities, self.threshold)


def calibrate(
    model: "PreTrainedModel | str | Path",
    tokenizer: "PreTrainedTokenizerBase | str | None",
    dataset: "Dataset",
    coverage: float = 0.9,
) -> Calibration:
    """Fit the temperature and the label sets of a classifier on labelled texts it was not trained on.

    They are stored in the model's configuration: of a folder in its `config.json` (of a LoRA run in its
    `run.json`), of a loaded model in `model.config`, from where `save_pretrained` writes them.

    Args:
        model: A folder, or a loaded model.
        tokenizer: Its tokenizer or where that is; `None` for the one beside the model.
        dataset: Columns `text` and `label` (a `ClassLabel`, or label names).
        coverage: Probability, in (0, 1), with which a label set holds the gold label of a new text.

    Raises:
        ConfigError: the coverage is not in (0, 1), or the model is no local folder.
        DataError: there are fewer than coverage / (1 − coverage) texts, or a label is not the model's.
    """
    conformal_rank(len(dataset), coverage)
    folder = Path(model) if isinstance(model, str | Path) else None
    if folder is not None:
        check_model_folder(folder)
        _warn_of_training_texts(folder, dataset[TEXT][:])
    classifier = load_classifier(str(model) if isinstance(model, Path) else model, tokenizer)
    labels = gold_labels(dataset, classifier.labels)
    logits = classifier.logits(dataset[TEXT][:])
    temperature = fit_temperature(logits.double().numpy(), labels)
    probabilities = Calibration(temperature=temperature).probabilities(logits)
    threshold = conformal_threshold(probabilities, labels, coverage)
    found = Calibration(
        temperature=temperature, coverage=coverage, threshold=threshold, texts=len(labels)
    )
    classifier.model.config.update({CALIBRATION: asdict(found)})
    if folder is not None:
        file = folder / (RUN_FILE if is_lora_run(folder) else "config.json")
        stored = json.loads(file.read_text(encoding="utf-8"))
        text = json.dumps({**stored, CALIBRATION: asdict(found)}, indent=2, ensure_ascii=False)
        write_text(file, text + "\n")
        _logger.info("Wrote the calibration to %s; evaluate the model again.", file)
    return found


def check_model_folder(folder: Path) -> None:
    """Raise `ConfigError` unless a folder holds a model whose configuration can be written."""
    if not (folder / "config.json").is_file() and not is_lora_run(folder):
        raise ConfigError(
            f"{str(folder)!r} is not a local folder of a model; save the model to one, and calibrate that."
        )


def _warn_of_training_texts(folder: Path, texts: Sequence[str]) -> None:
    """Warn where the model of a run was trained on some of the texts, if its data are still there."""
    file = folder / RUN_FILE
    run = read_json(file, {"data?": dict, "settings?": dict}) if file.is_file() else {}
    data, settings = run.get("data") or {}, run.get("settings") or {}
    names = {"text_column": TEXT, "label_column": LABEL}
    columns = {name: settings.get(name) or default for name, default in names.items()}
    try:
        trained = load_splits(data["dataset"], splits=[data["train_split"]], **columns)
    except (KeyError, TypeError, DataError):
        return
    known = set(trained[data["train_split"]][TEXT])
    if count := int(np.sum([text in known for text in texts])):
        _logger.warning(
            "%s was trained on %d of these %d texts: its probabilities and label sets will be too sure. "
            "Calibrate on texts that it was not trained on.",
            folder, count, len(texts),
        )  # fmt: skip
