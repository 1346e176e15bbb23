"""A forward pass at a point of the path instead of at the text, by a hook on the word embeddings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..types import Embeddings, PerExample, TokenWords

Shift = Callable[["Path"], Embeddings]
"""What to add to a point of the path, as a constant."""


class Path(NamedTuple):
    """What one forward pass at a point of the path left behind."""

    point: Embeddings
    """Embeddings that the model went on with: b + α (e − b). The gradient is taken with respect to these."""
    difference: Embeddings
    """e − b, zero at tokens of no word."""


def pad_token(model: nn.Module) -> int:
    """Id of the token whose embedding is the baseline.

    Raises:
        ModelError: the model's configuration names no pad token.
    """
    pad = getattr(getattr(model, "config", None), "pad_token_id", None)
    if pad is None:
        raise ModelError(
            "The attribution's baseline is the pad embedding, but the model's `config.pad_token_id` is None. "
            "Set it, for instance `model.config.pad_token_id = tokenizer.pad_token_id`."
        )
    return int(pad)


@contextmanager
def on_path(
    model: nn.Module, words: TokenWords, alpha: PerExample | None = None, shift: Shift | None = None
) -> Iterator[list[Path]]:
    """While open, the model's next forward pass runs at a point of the path instead of at its input.

    A hook on the word-embedding layer does it. So the forward pass stays the model's own: position ids, masks
    and pooling follow the real tokens, on the left and on the right of padding, and sharded weights are whole
    when they are read.

    Args:
        model: The classifier itself, not a distributed wrapper around it.
        words: Word of each token.
        alpha: Position of each row on the path; `None` leaves the input as it is (α = 1).
        shift: Moves the point, for finite differences.

    Yields:
        A list to which the pass adds its record.
    """
    seen: list[Path] = []
    pad = pad_token(model)

    def add_pad(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if seen:  # an encoder-decoder embeds a second time, for its decoder
            return None
        # The baseline rides along as one more token: a second look-up would cost a second gradient of the
        # size of the table, and find the weights of a sharded layer already freed.
        ids = args[0]
        return torch.cat([ids, ids.new_full((len(ids), 1), pad)], dim=1), *args[1:]

    def move(module: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
        if seen:
            return embedded
        embeddings, baseline = embedded[:, :-1], embedded[:, -1:]
        difference = (embeddings - baseline) * (words >= 0)[..., None]
        point = embeddings
        if alpha is not None:
            point = embeddings + (alpha.to(embeddings.dtype) - 1)[:, None, None] * difference
        if not point.requires_grad:  # frozen embeddings, as under LoRA
            point = point.detach().requires_grad_()
        path = Path(point, difference)
        seen.append(path)
        return point if shift is None else point + shift(path).detach().to(point.dtype)

    handles = [
        handle
        for layer in _embedding_layers(model)
        for handle in (
            layer.register_forward_pre_hook(add_pad),
            layer.register_forward_hook(move),
        )
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _embedding_layers(model: nn.Module) -> list[nn.Module]:
    """The word-embedding layer and its twins: T5's encoder reads the shared table by one of its own."""
    layer: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    twins = [m for m in model.modules() if type(m) is type(layer) and m.weight is layer.weight]
    return twins or [layer]


def only_path(seen: list[Path], model: nn.Module) -> Path:
    """The record of the pass that ran under `on_path`.

    Raises:
        ModelError: the pass did not go through the word-embedding layer.
    """
    if not seen:
        raise ModelError(
            f"{type(model).__name__} did not use its `get_input_embeddings()` layer in the forward "
            "pass, so its words cannot be attributed. Give a model that embeds `input_ids` itself."
        )
    return seen[0]
