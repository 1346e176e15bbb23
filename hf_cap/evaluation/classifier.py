"""A sequence classifier as a function from texts to class probabilities."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_cap.attribution import check_offsets
from hf_cap.classifiers import Encoded, TextClassifier, load_model, load_tokenizer
from hf_cap.data import label_ids
from hf_cap.errors import DataError, ModelError
from hf_cap.schema import LABEL, TEXT

FloatArray: TypeAlias = NDArray[np.float64]
_logger = logging.getLogger(__name__)


class Classifier(TextClassifier):
    """Class probabilities of texts, with or without parts of the embeddings masked."""

    @property
    def embedding_width(self) -> int:
        """Size of a token embedding."""
        return int(cast(Tensor, self.model.get_input_embeddings().weight).shape[1])

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Class probabilities, `(texts, labels)`, rows summing to 1."""
        return _probabilities(self.logits(texts))

    def masked(self, texts: Sequence[str], masks: Sequence[FloatArray]) -> FloatArray:
        """Class probabilities with token embeddings multiplied by a mask `(tokens, width)` per text."""

        @contextmanager
        def around(rows: list[int], inputs: Mapping[str, Tensor]) -> Iterator[None]:
            factors = torch.ones(*inputs["input_ids"].shape, self.embedding_width)
            for place, row in enumerate(rows):
                factors[place, : len(masks[row])] = torch.as_tensor(masks[row])
            factors = factors.to(self.model.device)
            handle = self.model.get_input_embeddings().register_forward_hook(
                lambda module, args, output: output * factors.to(output.dtype)
            )
            try:
                yield
            finally:
                handle.remove()

        return _probabilities(self.run(self.encode(texts), around))

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Character span of each token of each text, (0, 0) for special tokens."""
        check_offsets(self.tokenizer)
        encoded: Any = super().encode(texts, return_offsets_mapping=True)
        return [[(start, end) for start, end in one["offset_mapping"]] for one in encoded]

    def encode(self, texts: Sequence[str], **options: bool) -> list[Encoded]:
        """Model inputs of each text; one warning counts the texts that are truncated."""
        encoded = super().encode(texts, **options)
        pairs = zip(texts, encoded, strict=True)
        full = [text for text, one in pairs if len(one["input_ids"]) == self.max_length]
        whole = self.tokenizer(full, verbose=False)["input_ids"] if full else []
        if cut := sum(len(ids) > self.max_length for ids in whole):
            message = f"{cut} of {len(texts)} texts are longer than {self.max_length} tokens"
            _logger.warning("%s and are truncated", message)
        return encoded


def _probabilities(logits: Tensor) -> FloatArray:
    probabilities: FloatArray = logits.double().softmax(-1).numpy()
    return probabilities


def load_classifier(
    model: PreTrainedModel | str, tokenizer: PreTrainedTokenizerBase | str | None, **options: Any
) -> Classifier:
    """A `Classifier` from loaded parts, folders, Hub ids or `embedded/...` names.

    Args:
        model: The model, or where it is.
        tokenizer: Its tokenizer, or where it is; `None` takes the one beside the model.
        options: `batch_size`, `max_length` and `word_pattern` of `Classifier`.

    Raises:
        ModelError: one cannot be loaded, or a loaded model comes without a tokenizer.
    """
    if tokenizer is None and not isinstance(model, str):
        raise ModelError("A loaded model needs its tokenizer, got `tokenizer=None`; pass it.")
    tokenizer = cast(str, model) if tokenizer is None else tokenizer
    return Classifier(
        load_model(model) if isinstance(model, str) else model,
        load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer,
        **options,
    )


def gold_labels(dataset: Dataset, labels: Sequence[str]) -> NDArray[np.intp]:
    """Gold label of each row as an index into the model's `labels`; see `label_ids`."""
    if missing := {TEXT, LABEL} - set(dataset.column_names):
        raise DataError(
            f"Evaluation needs the columns {sorted(missing)}; the data set has {dataset.column_names}."
        )
    if len(dataset) == 0:
        raise DataError("The data set to evaluate on has no rows.")
    cells = dataset[LABEL][:]
    ids = label_ids(dataset, {name: index for index, name in enumerate(labels)})
    if unknown := [cell for cell in dict.fromkeys(cells) if cell not in ids]:
        raise DataError(
            f"The model does not have {len(unknown)} of the data set's labels: {unknown[:5]!r}; its own are "
            f"{list(labels)[:5]!r}... Set `id2label` of the model's config, or evaluate on data with its "
            "labels."
        )
    return np.array([ids[cell] for cell in cells], dtype=np.intp)
