"""Attention over `[prefix | path | run]` that skips what the tree hides.

A run of a trie attends to the prefix (dense, the same for every node) and to its own ancestors (a
handful). One masked product over all keys spends most of its time on hidden ones. Here the run is cut
into blocks of consecutive nodes: the keys of a block are its own nodes and the ancestors of its first
one, since any other ancestor of a later node comes after the first (see `trie`). The two parts are
joined by their log-sum-exps, which is exact. Query heads that share a key head are rows of one product,
so keys are never repeated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "hf_cap_tree"


@dataclass(frozen=True, slots=True)
class TreeBlocks:
    """Which keys the blocks of a run see.

    Attributes:
        prefix: Keys that every node sees, the first ones.
        keys: `(blocks, width)` place of each key of a block behind the prefix.
        mask: `(blocks, 1, size, width)` additive, 0 where a node may look.
    """

    prefix: int
    keys: Tensor
    mask: Tensor


_run: ContextVar[TreeBlocks | None] = ContextVar("tree_run", default=None)


@contextmanager
def reading(blocks: TreeBlocks) -> Iterator[None]:
    """Inside this block `tree_attention` reads a run with these blocks."""
    token = _run.set(blocks)
    try:
        yield
    finally:
        _run.reset(token)


@contextmanager
def tree_attention_in(model: PreTrainedModel) -> Iterator[None]:
    """Inside this block the layers of `model` attend by `tree_attention`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: SDPA, and by blocks inside `reading`.

    Args:
        module: The attention layer.
        query: `(1, heads, run, width)`.
        key: `(1, key heads, prefix + path + run, width)`; `heads` is a multiple of `key heads`.
        value: Like `key`.
        attention_mask: Of SDPA; unused inside `reading`.
        options: Of SDPA; `scaling` is the factor before the softmax.

    Returns:
        `(1, run, heads, width)`, and no attention weights.
    """
    blocks = _run.get()
    if blocks is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scale = options.get("scaling")
    _, heads, run, _ = query.shape
    shared = key.shape[1]
    grouped = query.reshape(1, shared, heads // shared * run, -1)
    nearby, nearby_mass = _within(query, key, value, blocks, scale)
    if blocks.prefix:
        front = slice(None, blocks.prefix)
        far, far_mass = _product(grouped, key[:, :, front], value[:, :, front], None, scale)
        far, far_mass = far.reshape(1, heads, run, -1), far_mass.reshape(1, heads, run, 1)
        nearby = nearby.lerp(far, torch.sigmoid(far_mass - nearby_mass).to(far.dtype))
    return nearby.transpose(1, 2).contiguous(), None


def _within(
    query: Tensor, key: Tensor, value: Tensor, blocks: TreeBlocks, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Attention to path and run: `(1, heads, run, width)`, and its log-sum-exp `(1, heads, run, 1)`."""
    _, heads, run, width = query.shape
    shared = key.shape[1]
    count, _, size, _ = blocks.mask.shape
    spare = count * size - run
    padded = torch.nn.functional.pad(query, (0, 0, 0, spare)) if spare else query
    rows = padded.view(shared, heads // shared, count, size, width).permute(2, 0, 1, 3, 4)
    rows = rows.reshape(count, shared, -1, width)
    keys, values = (
        side[0, :, blocks.prefix :]
        .index_select(1, blocks.keys.flatten())
        .view(shared, count, -1, width)
        .transpose(0, 1)
        for side in (key, value)
    )
    mask = blocks.mask.repeat(1, 1, heads // shared, 1)
    output, mass = _product(rows, keys, values, mask, scale)
    output = output.view(count, heads, size, width).transpose(0, 1)
    mass = mass.reshape(count, heads, size).transpose(0, 1)
    return (
        output.reshape(1, heads, count * size, width)[:, :, :run],
        mass.reshape(1, heads, count * size, 1)[:, :, :run],
    )


def _product(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores (natural logarithm, float32)."""
    result: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scale
    )
    return result


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
