"""A sequence classifier as a function from texts to class probabilities."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..attribution import check_offsets
from ..classifiers import Encoded, TextClassifier, load_model, load_tokenizer
from ..errors import ModelError
from .faithfulness import FloatArray

_logger = logging.getLogger(__name__)


class Classifier(TextClassifier):
    """Class probabilities of texts; says how many texts were too long for it.

    Attributes:
        labels: Label names in the order of the columns.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> None:
        super().__init__(model, tokenizer, max_length=max_length, texts_per_pass=batch_size)
        names: dict[int, str] = model.config.id2label  # type: ignore[assignment]  # None in no classifier
        self.labels = [names[index] for index in sorted(names)]

    @property
    def embedding_width(self) -> int:
        """Size of a token embedding, the last dimension of the masks of `masked`."""
        return int(cast(Tensor, self.model.get_input_embeddings().weight).shape[1])

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Class probabilities, `(texts, labels)`, rows summing to 1."""
        return _probabilities(self.logits(texts))

    def masked(self, texts: Sequence[str], masks: Sequence[FloatArray]) -> FloatArray:
        """Class probabilities with the token embeddings multiplied by masks.

        Args:
            texts: The texts; the same one may come more than once with different masks.
            masks: For each text `(tokens, hidden)`, the tokens being those of `encode`.
        """

        @contextmanager
        def around(rows: list[int], inputs: Mapping[str, Tensor]) -> Iterator[None]:
            factors = torch.ones(*inputs["input_ids"].shape, masks[0].shape[1])
            for row, mask in zip(factors, (masks[index] for index in rows), strict=True):
                row[: len(mask)] = torch.as_tensor(mask)
            with masked_embeddings(self.model, factors.to(self.model.device)):
                yield

        return _probabilities(self.run(self.encode(texts), around))

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Character span of each token of each text, (0, 0) for special tokens.

        Raises:
            ModelError: the tokenizer knows no character offsets.
        """
        check_offsets(self.tokenizer)
        encoded: Any = super().encode(texts, return_offsets_mapping=True)
        return [[(start, end) for start, end in one["offset_mapping"]] for one in encoded]

    def encode(self, texts: Sequence[str], **options: bool) -> list[Encoded]:
        """As for every `TextClassifier`, with one warning that counts the texts that are cut."""
        encoded = super().encode(texts, **options)
        pairs = zip(texts, encoded, strict=True)
        full = [text for text, one in pairs if len(one["input_ids"]) == self.max_length]
        whole = self.tokenizer(full, verbose=False)["input_ids"] if full else []
        if cut := sum(len(ids) > self.max_length for ids in whole):
            _logger.warning(
                "%d of %d texts are longer than %d tokens and are truncated",
                cut, len(texts), self.max_length,
            )  # fmt: skip
        return encoded


def _probabilities(logits: Tensor) -> FloatArray:
    probabilities: FloatArray = logits.double().softmax(-1).numpy()
    return probabilities


def load_classifier(
    model: PreTrainedModel | str, tokenizer: PreTrainedTokenizerBase | str | None, **options: Any
) -> Classifier:
    """A `Classifier` from loaded parts, folder names, Hub ids or `embedded/...` names.

    Args:
        model: The model, or where it is.
        tokenizer: Its tokenizer, or where it is; `None` takes the one beside the model.
        options: `batch_size` and `max_length` of `Classifier`.

    Raises:
        ModelError: model or tokenizer cannot be loaded, or there is no tokenizer beside a loaded model.
    """
    if tokenizer is None:
        if not isinstance(model, str):
            raise ModelError(
                "A loaded model needs its tokenizer; got `tokenizer=None`. Pass it or its folder."
            )
        tokenizer = model
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    if isinstance(model, str):
        model = load_model(model)
    return Classifier(model, tokenizer, **options)


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
