"""A sequence classifier as a function from texts to class probabilities."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
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
from .faithfulness import FloatArray

_logger = logging.getLogger(__name__)


class Classifier:
    """Class probabilities of texts, batched by length; the result of a text depends on no other text.

    Each distinct text of a call is computed once.

    Attributes:
        model: The model, put into evaluation mode for each call and back afterwards.
        tokenizer: Its tokenizer.
        labels: Label names in the order of the columns.
        max_length: Longest input in tokens; longer ones are truncated.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        names: dict[int, str] = model.config.id2label  # type: ignore[assignment]  # None in no classifier
        self.labels = [names[index] for index in sorted(names)]
        self.batch_size = batch_size
        self.max_length = max_length or longest_input(model, tokenizer)

    @property
    def embedding_width(self) -> int:
        """Size of a token embedding, the last dimension of the masks of `masked`."""
        return int(cast(Tensor, self.model.get_input_embeddings().weight).shape[1])

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Class probabilities, `(texts, labels)`, rows summing to 1."""
        distinct = list(dict.fromkeys(texts))
        row = {text: index for index, text in enumerate(distinct)}
        return self._run(self._encode(distinct))[[row[text] for text in texts]]

    def masked(self, texts: Sequence[str], masks: Sequence[FloatArray]) -> FloatArray:
        """Class probabilities with the token embeddings multiplied by masks.

        Args:
            texts: The texts; the same one may come more than once with different masks.
            masks: For each text `(tokens, hidden)`, the tokens being those of `encode`.
        """
        return self._run(self._encode(texts), masks)

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Character span of each token of each text, (0, 0) for special tokens.

        Raises:
            ModelError: the tokenizer knows no character offsets.
        """
        if not self.tokenizer.is_fast:
            raise ModelError(
                f"{type(self.tokenizer).__name__} gives no character offsets, which word attributions need. "
                "Load the fast tokenizer of the model (`AutoTokenizer` with `use_fast=True`)."
            )
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_length, return_offsets_mapping=True
        )
        return [[(start, end) for start, end in row] for row in encoded["offset_mapping"]]

    def _encode(self, texts: Sequence[str]) -> list[dict[str, list[int]]]:
        if not texts:
            return []
        whole = self.tokenizer(list(texts), verbose=False)
        cut = sum(len(ids) > self.max_length for ids in whole["input_ids"])
        if cut:
            _logger.warning(
                "%d of %d texts are longer than %d tokens and are truncated",
                cut,
                len(texts),
                self.max_length,
            )
            whole = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)
        return [{name: whole[name][row] for name in whole} for row in range(len(texts))]

    @torch.no_grad()
    def _run(
        self, rows: Sequence[dict[str, list[int]]], masks: Sequence[FloatArray] | None = None
    ) -> FloatArray:
        results = np.empty((len(rows), len(self.labels)))
        by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
        with evaluation_mode(self.model):
            for start in range(0, len(rows), self.batch_size):
                chosen = by_length[start : start + self.batch_size]
                inputs = self.tokenizer.pad([rows[row] for row in chosen], return_tensors="pt")
                batch = {name: value.to(self.model.device) for name, value in inputs.items()}
                if masks is None:
                    logits = self.model(**batch).logits
                else:
                    mask = self._padded([masks[row] for row in chosen], batch["input_ids"])
                    with masked_embeddings(self.model, mask):
                        logits = self.model(**batch).logits
                results[chosen] = logits.double().softmax(-1).cpu().numpy()
        return results

    def _padded(self, masks: Sequence[FloatArray], input_ids: Tensor) -> Tensor:
        """Masks of a batch, `(batch, tokens, hidden)`; padding is left as it is."""
        padded = torch.ones(*input_ids.shape, masks[0].shape[1], device=input_ids.device)
        for row, mask in enumerate(masks):
            tokens = len(mask)
            left = self.tokenizer.padding_side == "left"
            place = slice(input_ids.shape[1] - tokens, None) if left else slice(tokens)
            padded[row, place] = torch.as_tensor(mask, dtype=padded.dtype)
        return padded


def load_classifier(
    model: PreTrainedModel | str, tokenizer: PreTrainedTokenizerBase | str | None, **options: Any
) -> Classifier:
    """A `Classifier` from loaded parts, folder names, Hub ids or `embedded/...` names.

    Args:
        model: The model, or where it is.
        tokenizer: Its tokenizer, or where it is; `None` takes the one beside the model.
        options: `batch_size` and `max_length` of `Classifier`.

    Raises:
        ModelError: a folder does not exist, or there is no tokenizer beside a loaded model.
    """
    if tokenizer is None:
        if not isinstance(model, str):
            raise ModelError(
                "A loaded model needs its tokenizer; got `tokenizer=None`. Pass it or its folder."
            )
        tokenizer = model
    if isinstance(tokenizer, str):
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(tokenizer))
    if isinstance(model, str):
        loaded = AutoModelForSequenceClassification.from_pretrained(resolve_model(model))
        return Classifier(loaded, tokenizer, **options)
    return Classifier(model, tokenizer, **options)


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Dropout off; afterwards the model is as it was."""
    training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def masked_embeddings(model: PreTrainedModel, mask: Tensor) -> Iterator[None]:
    """Multiply what the word embedding layer gives by `mask`, `(batch, tokens, hidden)`."""
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: output * mask.to(output.dtype)
    )
    try:
        yield
    finally:
        handle.remove()
