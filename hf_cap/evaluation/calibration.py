"""Calibrate a classifier, and measure how far its probabilities can be used."""

import json
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_cap.cards import RUN_FILE
from hf_cap.classifiers import is_lora_run
from hf_cap.data import load_splits
from hf_cap.errors import ConfigError, DataError, ModelError
from hf_cap.evaluation.classifier import gold_labels, load_classifier
from hf_cap.schema import CALIBRATION, LABEL, TEXT
from hf_cap.utils import option, read_json, settings_class, write_text

Probabilities = Float[np.ndarray, "texts labels"]
Logits = Float[np.ndarray, "texts labels"]
Gold = Int[np.ndarray, " texts"]
PerText = Float[np.ndarray, " texts"]

COVERAGES = (0.5, 0.8, 0.9)
"""Parts of the texts, the most certain first, whose accuracy is reported."""
BINS = 15

_logger = logging.getLogger(__name__)


@settings_class
class Calibration:
    """How logits become probabilities, and these label sets; by default by a plain softmax, without sets.

    Attributes:
        temperature: Divides the logits; more than 0, above 1 where the classifier was too sure.
        coverage: Probability, in (0, 1), that the label set of a new text holds its gold label.
        threshold: Least probability of a label in a set, in [0, 1].
        texts: Number of texts that these were fit on.
    """

    temperature: float = option(1.0, above=0, below=math.inf)
    coverage: float | None = None
    threshold: float | None = option(None, at_least=0, at_most=1)
    texts: int = 0

    @classmethod
    def read(cls, config: Any) -> "Calibration":
        """What is stored in a model's configuration, the defaults where nothing is.

        Raises:
            ModelError: a stored value is out of its range.
        """
        stored = getattr(config, CALIBRATION, None)
        stored = stored if isinstance(stored, dict) else {}
        with suppress(ConfigError, TypeError):
            found = cls(**{f.name: stored[f.name] for f in fields(cls) if f.name in stored})
            if found.temperature and (found.threshold is None) == (found.coverage is None):
                return found
        raise ModelError(
            f"The entry {CALIBRATION!r} of the model's configuration is {stored!r}, which is no "
            "calibration; calibrate the model again, or remove the entry."
        )

    def probabilities(self, logits: Tensor) -> Probabilities:
        """Calibrated class probabilities, rows summing to 1."""
        found: Probabilities = softmax(logits.double().numpy() / self.temperature, axis=1)
        return found

    def label_sets(self, probabilities: Probabilities) -> list[list[int]] | None:
        """The labels of each text's set, the likeliest first and always; `None` without a threshold."""
        return None if self.threshold is None else label_sets(probabilities, self.threshold)


def calibrate(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | str | None,
    dataset: Dataset,
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
    found = Calibration(temperature=temperature, coverage=coverage, threshold=threshold, texts=len(labels))
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


# --- Whether probabilities can be used: proper scores, calibration, coverage, label sets.


def confidence_scores(probabilities: Probabilities, labels: Gold) -> dict[str, float]:
    """`nll`, `brier`, `ece` and `accuracy_at_50`, `_80`, `_90`: what `evaluate` reports."""
    at = accuracy_at_coverage(probabilities, labels)
    return {
        "nll": negative_log_likelihood(probabilities, labels),
        "brier": brier_score(probabilities, labels),
        "ece": calibration_error(probabilities, labels),
        **{f"accuracy_at_{round(100 * part)}": accuracy for part, accuracy in at.items()},
    }


def negative_log_likelihood(probabilities: Probabilities, labels: Gold) -> float:
    """Mean −log p(gold), in nats; at least 0, lower is better. A p of 0 counts as the smallest number."""
    gold = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(gold, np.finfo(float).tiny)).mean())


def brier_score(probabilities: Probabilities, labels: Gold) -> float:
    """Mean over the texts of Σ_c (p_c − [c is gold])², in [0, 2]; lower is better (Brier, 1950)."""
    gold = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - gold) ** 2).sum(1).mean())


def calibration_error(probabilities: Probabilities, labels: Gold, bins: int = BINS) -> float:
    """Expected calibration error over bins with equally many texts, in [0, 1]; lower is better.

    Mean of |accuracy − confidence| over `calibration_bins`, weighted by their texts.
    """
    return expected_error(calibration_bins(*_predicted(probabilities, labels), bins))


def calibration_bins(
    confidence: PerText, correct: Bool[np.ndarray, " texts"], bins: int = BINS
) -> Float[np.ndarray, "bins 3"]:
    """Mean confidence, accuracy and number of texts of each bin, the least certain first.

    Bins hold equally many texts; those of equal confidence share one (Nguyen and O'Connor, 2015).
    """
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))[1:-1]
    place = np.digitize(confidence, edges, right=True)
    texts = np.bincount(place)
    sums = [np.bincount(place, weights=values) for values in (confidence, correct)]
    return np.stack([*(total / np.maximum(texts, 1) for total in sums), texts], 1)[texts > 0]


def expected_error(bins: Float[np.ndarray, "bins 3"]) -> float:
    """Mean of |accuracy − confidence| over `calibration_bins`, weighted by their texts."""
    return float(np.average(np.abs(bins[:, 0] - bins[:, 1]), weights=bins[:, 2]))


def accuracy_at_coverage(
    probabilities: Probabilities, labels: Gold, coverages: Sequence[float] = COVERAGES
) -> dict[float, float]:
    """Accuracy on the most certain part of the texts, for each part in (0, 1]; ties count by their mean."""
    confidence, correct = _predicted(probabilities, labels)
    found = {}
    for coverage in coverages:
        count = max(1, math.ceil(coverage * len(labels) - 1e-9))
        threshold = np.sort(confidence)[-count]
        above, tied = confidence > threshold, confidence == threshold
        rest = (count - above.sum()) * correct[tied].mean()
        found[coverage] = float((correct[above].sum() + rest) / count)
    return found


def _predicted(
    probabilities: Probabilities, labels: Gold
) -> tuple[Float[np.ndarray, " texts"], Bool[np.ndarray, " texts"]]:
    if not len(labels):
        raise DataError("There are no texts to measure the confidence on.")
    return probabilities.max(1), probabilities.argmax(1) == labels


def fit_temperature(logits: Logits, labels: Gold) -> float:
    """The T > 0 that minimises the negative log-likelihood of softmax(logits / T), in [0.01, 100].

    Above 1 the classifier was too sure (Guo et al., 2017). The texts must not be the training texts. Where
    all are predicted right no T is best, as smaller is always better; it is then 1, with a warning.
    """
    if (logits.argmax(1) == labels).all():
        _logger.warning(
            "All %d texts are predicted right, which sets no temperature: it stays 1. Use more texts.",
            len(labels),
        )
        return 1.0

    def loss(log_t: float) -> float:
        return float(-log_softmax(logits / math.exp(log_t), axis=1)[rows, labels].mean())

    rows = np.arange(len(labels))
    limit = math.log(100)
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def conformal_threshold(probabilities: Probabilities, labels: Gold, coverage: float) -> float:
    """The smallest p of a label in its text's set, such that sets hold the gold label with this probability.

    Split conformal prediction with the score 1 − p(gold) (Sadinle et al., 2019): on new texts of the same
    source, sets hold the gold label with a probability of at least `coverage`.
    """
    rank = conformal_rank(len(labels), coverage)
    gold = probabilities[np.arange(len(labels)), labels]
    return float(np.sort(gold)[::-1][rank - 1])


def conformal_rank(texts: int, coverage: float) -> int:
    """Which of the gold labels' probabilities is the threshold, from 1, the highest. Raises as that does."""
    if not 0 < coverage < 1:
        raise ConfigError(f"`coverage` must be more than 0 and less than 1, got {coverage!r}.")
    rank = math.ceil((texts + 1) * coverage - 1e-9)
    if rank > texts:
        needed = math.ceil(round(coverage / (1 - coverage), 6))
        raise DataError(
            f"Label sets with a coverage of {coverage} need at least {needed} texts, got {texts}; "
            "give more, or a lower coverage."
        )
    return rank


def label_sets(probabilities: Probabilities, threshold: float) -> list[list[int]]:
    """The labels of each text whose probability reaches the threshold, the likeliest first and always."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    counts = np.maximum((probabilities >= threshold).sum(1), 1)
    return [row[:count].tolist() for row, count in zip(order, counts, strict=True)]
