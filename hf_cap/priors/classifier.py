"""The reference classifier that `integrated_gradients`, `lime`, `shap` and `occlusion` explain."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..classifiers import longest_input
from ..embedded import resolve_model
from ..errors import ModelError
from ..scoring.identity import model_identity
from .prompts import digest
from .source_settings import ReferenceSettings
from .word_source import WordSource

_logger = logging.getLogger(__name__)

TOKENS_PER_PASS: Mapping[str, int] = {"cpu": 1024, "cuda": 65536}
"""Tokens of one forward pass: on a CPU as many as stay in the cache, on a GPU as many as keep it busy."""


@dataclass(frozen=True, kw_only=True)
class ClassifierSource(WordSource, ReferenceSettings):
    """A source that explains a reference classifier.

    Attributes:
        stamp: State of the classifier's files when the source was made, so that a classifier trained anew
            in the same folder is explained anew and not read from the cache of `Dataset.map`.
    """

    stamp: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamp", _folder_stamp(resolve_model(self.classifier)))

    def open(self) -> "ReferenceClassifier":
        """The classifier, opened once a process.

        Raises:
            ModelError: it cannot be loaded, or its labels are not those of the data.
        """
        return _open(self.classifier, self.revision, self.stamp, self.labels)


@dataclass(frozen=True)
class ReferenceClassifier:
    """A sequence classifier whose labels are those of the data.

    Attributes:
        model: In evaluation mode, its weights frozen.
        tokenizer: Its fast tokenizer.
        outputs: For each label of the data, in order, the model's output that stands for it.
        identity: Name, revision and fingerprints of weights and tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    outputs: tuple[int, ...]
    identity: str

    @property
    def max_length(self) -> int:
        """Longest input in tokens, special ones included."""
        return longest_input(self.model, self.tokenizer)

    @property
    def tokens_per_pass(self) -> int:
        """Tokens, padding included, that one forward pass takes at most."""
        return TOKENS_PER_PASS.get(self.model.device.type, TOKENS_PER_PASS["cpu"])

    def log_probs(self, texts: Sequence[str]) -> Float[Tensor, "texts labels"]:
        """Log-probability of each label of the data for each text, in nats, on the CPU.

        Each distinct text is computed once; a text's result does not depend on the other texts.
        """
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        if not distinct:
            return torch.empty(0, len(self.outputs))
        found = torch.empty(len(distinct), len(self.outputs))
        encoded = self.encode(list(distinct))
        with torch.inference_mode():
            for rows in batches([len(one["input_ids"]) for one in encoded], self.tokens_per_pass):
                logits = self.model(**self.pad([encoded[row] for row in rows])).logits.float()
                found[rows] = logits.log_softmax(-1)[:, self.outputs].cpu()
        return found[[distinct[text] for text in texts]]

    def encode(self, texts: Sequence[str], **options: bool) -> list[dict[str, list[int]]]:
        """Model inputs of each text, cut at the model's limit and not padded.

        Args:
            texts: The texts.
            options: More arguments of the tokenizer, such as `return_offsets_mapping`.
        """
        batch = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_length, verbose=False, **options
        )
        return [{name: batch[name][row] for name in batch} for row in range(len(texts))]

    def pad(self, encoded: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Inputs of several texts as tensors on the model's device, padded to the longest.

        On the right, whatever the tokenizer says: there neither encoders, whose first token is read, nor
        decoders, in which no token sees a later one, notice the padding.
        """
        batch = self.tokenizer.pad(encoded, padding_side="right", return_tensors="pt")
        return {name: value.to(self.model.device) for name, value in batch.items()}


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of about equal length, each of at most `budget` padded tokens (or one item)."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@lru_cache(maxsize=2)
def _open(
    name: str, revision: str | None, stamp: str, labels: tuple[str, ...]
) -> ReferenceClassifier:
    folder = resolve_model(name)
    if _folder_stamp(folder) != stamp:
        raise ModelError(
            f"The reference classifier {name!r} has changed since the source was made. Make the source anew."
        )
    try:
        model = AutoModelForSequenceClassification.from_pretrained(folder, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"The reference classifier {name!r} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"The tokenizer of {name!r}, {type(tokenizer).__name__}, gives no character offsets, by which "
            "words are found. Use a model with a fast tokenizer."
        )
    outputs = _match_labels(name, model.config.id2label, labels)
    model.requires_grad_(False).train(False)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return ReferenceClassifier(model, tokenizer, outputs, model_identity(model, tokenizer, name))


def _match_labels(name: str, names: Mapping[int, str], labels: Sequence[str]) -> tuple[int, ...]:
    output = {label: index for index, label in names.items()}
    if set(output) != set(labels):
        missing, extra = sorted(set(labels) - set(output)), sorted(set(output) - set(labels))
        raise ModelError(
            f"The reference classifier {name!r} has other labels than the data: it lacks "
            f"{missing[:5]!r} and has {extra[:5]!r} besides. Train one on this data (`hf-cap train`), or "
            "set its `config.id2label` to the label names of the data."
        )
    return tuple(output[label] for label in labels)


def _folder_stamp(folder: str) -> str:
    """Names, sizes and times of the files of a local folder; empty for a model on the Hub."""
    if not Path(folder).is_dir():
        return ""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    return digest(*(f"{e.name} {e.stat().st_size} {e.stat().st_mtime_ns}" for e in entries))
