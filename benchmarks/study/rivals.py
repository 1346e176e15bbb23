"""What a practitioner would use instead: methods of the study that train no encoder of ours.

Each learns from the same few texts; `benchmarks.study.settings.RIVALS` says what it is told.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression

from benchmarks.study.samples import training_texts, unlabelled_texts
from benchmarks.study.settings import Run, StudySettings
from benchmarks.study.train import Predict
from hf_cap.data import label_names
from hf_cap.embedded import resolve_model
from hf_cap.labels import label_phrases
from hf_cap.refit import expectation_maximisation
from hf_cap.schema import LABEL, TEXT

SETFIT_STEPS = 300
"""Of 16 pairs; one epoch over all pairs, the default, is over a thousand with dozens of classes."""

Vectors = Float[np.ndarray, "texts hidden"]


@dataclass(frozen=True)
class Sample:
    """What a rival may learn from."""

    encoder: str
    texts: list[str]
    labels: list[int]
    phrases: list[str]
    unlabelled: list[str]
    language_model: str
    seed: int

    def with_names(self) -> "Sample":
        """The label names as one more text per label."""
        names = len(self.phrases)
        texts, labels = [*self.texts, *self.phrases], [*self.labels, *range(names)]
        return Sample(**{**vars(self), "texts": texts, "labels": labels})


@cache
def _encoder(name: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(resolve_model(name))


def _embed(encoder: str, texts: Sequence[str]) -> Vectors:
    return _embed_once(encoder, tuple(texts))


@cache
def _embed_once(encoder: str, texts: tuple[str, ...]) -> Vectors:
    """Every rival on frozen embeddings sees the same test texts."""
    vectors: Vectors = _encoder(encoder).encode(
        list(texts), normalize_embeddings=True, show_progress_bar=False
    )
    return vectors


def _nearest(encoder: str, rows: Vectors) -> Predict:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return lambda texts: (_embed(encoder, texts) @ rows.T).argmax(1)


def nearest_name(sample: Sample) -> Predict:
    """The label whose name has the closest embedding."""
    return _nearest(sample.encoder, _embed(sample.encoder, sample.phrases))


def nearest_centroid(sample: Sample) -> Predict:
    """The label whose training texts have the closest mean."""
    vectors, labels = _embed(sample.encoder, sample.texts), np.array(sample.labels)
    rows = [vectors[labels == label].mean(0) for label in range(len(sample.phrases))]
    return _nearest(sample.encoder, np.stack(rows))


def logistic(sample: Sample) -> Predict:
    """scikit-learn's logistic regression on frozen embeddings, with its default regularisation times ten."""
    model = LogisticRegression(C=10, max_iter=2000)
    model.fit(_embed(sample.encoder, sample.texts), sample.labels)
    return lambda texts: model.predict(_embed(sample.encoder, texts))


def setfit(sample: Sample) -> Predict:
    """SetFit: contrastive pairs, then logistic regression; its own defaults but for `SETFIT_STEPS`."""
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(resolve_model(sample.encoder))
    data = Dataset.from_dict({"text": sample.texts, "label": sample.labels})
    with TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch, seed=sample.seed, report_to="none", max_steps=SETFIT_STEPS
        )
        Trainer(model=model, args=arguments, train_dataset=data).train()
    return lambda texts: np.asarray(model.predict(list(texts)))


def prototypes(sample: Sample) -> Predict:
    """Expectation maximisation from the label names and texts over the unlabelled texts."""
    names, texts, free = (
        torch.from_numpy(_embed(sample.encoder, part))
        for part in (sample.phrases, sample.texts, sample.unlabelled)
    )
    known = names + torch.eye(len(names))[sample.labels].T @ texts
    return _nearest(sample.encoder, expectation_maximisation(known, free).numpy())


def language_model(sample: Sample) -> Predict:
    """The language model's own answer, less what it says on average: log p(label | text) − mean log p."""
    from hf_cap.priors.cap import CAPPrior

    source = CAPPrior(labels=tuple(sample.phrases), model=sample.language_model, chat=False, demonstrations=0)

    def predict(texts: Sequence[str]) -> np.ndarray:
        opened = source.open()
        prompt, labels = opened.prompts[0], opened.labels
        queries = [opened.query(prompt, text.strip(), label) for text in texts for label in labels]
        totals = [one.total for one in opened.model.log_probs(queries)]
        scores = np.reshape(totals, (len(texts), len(labels)))
        found: np.ndarray = (scores - scores.mean(0)).argmax(1)
        return found

    return predict


def _told_names(rival: Callable[[Sample], Predict], sample: Sample) -> Predict:
    return rival(sample.with_names())


RIVALS: dict[str, Callable[[Sample], Predict]] = {
    "nearest_centroid": nearest_centroid,
    "logistic": logistic,
    "setfit": setfit,
    "nearest_name": nearest_name,
    "logistic_names": partial(_told_names, logistic),
    "setfit_names": partial(_told_names, setfit),
    "language_model": language_model,
    "prototypes": prototypes,
}
"""Name of a method to what trains it."""


def train_rival(settings: StudySettings, run: Run) -> tuple[Predict, float]:
    """A rival trained on the training texts of a run, and how many seconds that took."""
    data = training_texts(settings, run)
    sample = Sample(
        encoder=settings.training_for(run.regime)["model"],
        texts=data[TEXT][:],
        labels=data[LABEL][:],
        phrases=label_phrases(label_names(data)),
        unlabelled=unlabelled_texts(settings, run),
        language_model=settings.extraction["model"],
        seed=run.seed,
    )
    started = time.monotonic()
    predict = RIVALS[run.method](sample)
    return predict, time.monotonic() - started
