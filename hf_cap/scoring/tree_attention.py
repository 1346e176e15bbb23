"""Attention over `[prefix | path | run]` that skips what the tree hides.

A run of a trie attends to the prefix (dense, the same for every node) and to its own ancestors (a
handful). One masked product over all keys spends most of its time on hidden ones. Here the run is cut
into blocks of consecutive nodes: the keys of a block are its own nodes and the ancestors of its first
one, since any other ancestor of a later node comes after the first (see `trie`). The attention to the
prefix then enters their softmax as one more key, which is exact: its score is the log-sum-exp of the
prefix's scores, its value what the prefix gives. Query heads that share a key head are rows of one
product, so keys are never repeated.
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
        mask: `(blocks, size, width)` additive, float32, 0 where a node may look.
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
    run, width = query.shape[-2:]
    shared, groups = key.shape[1], query.shape[1] // key.shape[1]
    count, size, nearby = blocks.mask.shape
    scale = options.get("scaling") or width**-0.5
    if missing := count * size - run:
        query = torch.nn.functional.pad(query, (0, 0, 0, missing))
    rows = query.view(shared, groups, count, size, width).permute(2, 0, 1, 3, 4)
    keys, values = (
        side[0, :, blocks.prefix :]
        .index_select(1, blocks.keys.flatten())
        .view(shared, count, nearby, width)
        .transpose(0, 1)
        for side in (key, value)
    )
    products = rows.flatten(2, 3) @ keys.mT
    scores = torch.add(
        blocks.mask[:, None, None], products.unflatten(2, (groups, size)), alpha=scale
    )
    if blocks.prefix:
        far, mass = _to_prefix(query, key, value, blocks.prefix, scale)
        mass = mass.view(shared, groups, count, size, 1).permute(2, 0, 1, 3, 4)
        scores = torch.cat([scores, mass], dim=-1)
    shares = scores.softmax(-1).to(value.dtype)
    output = shares.flatten(2, 3)[..., :nearby] @ values
    output = _in_order(output.unflatten(2, (groups, size)))
    if blocks.prefix:
        output.addcmul_(_in_order(shares[..., nearby:]), far.transpose(1, 2))
    return output[:, :run], None


def _to_prefix(
    query: Tensor, key: Tensor, value: Tensor, prefix: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention to the prefix, shaped like `query`, and the log-sum-exp of its scores (in nats, float32)."""
    grouped = query.reshape(1, key.shape[1], -1, query.shape[-1])
    output, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        grouped, key[:, :, :prefix], value[:, :, :prefix], scale=scale
    )
    return output.reshape(query.shape), mass


def _in_order(blocks: Tensor) -> Tensor:
    """`(count, shared, groups, size, width)` as `(1, run, heads, width)`."""
    count, shared, groups, size, width = blocks.shape
    return blocks.permute(0, 3, 1, 2, 4).reshape(1, count * size, shared * groups, width)


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
