"""What makes packed scoring faster on a CPU: attention without what a mask would throw away, and products.

All tokens of a run see the prefix, so that part needs no mask. Of the run itself, a block of tokens sees its
own tokens and the path to the first of them; under one mask each token would pay for the whole run. The two
parts are joined by the sums of their softmax, which is exact. The products of weights are oneDNN's where
PyTorch would take MKL's, which are slower on the processors of another maker.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BLOCK = 32  # tokens of a block
_FEW = 16  # rows below which a product is too small to be laid out for it
_NAME = "hf_cap_packed"
_PLAIN = {"dropout", "is_causal", "position_ids", "use_cache"}  # arguments that change no score


class Blocks(NamedTuple):
    """What the tokens of a run see, block by block."""

    prefix: int  # keys that all of them see, in front
    keys: Tensor  # (blocks, most) places of the other keys behind the prefix, filled up with any
    mask: Tensor  # (blocks, 1, BLOCK, most) additive
    whole: Tensor  # the mask of the run that says the same


_blocks: ContextVar[Blocks | None] = ContextVar("blocks", default=None)


def pack_blocks(
    prefix: int, parts: list[tuple[NDArray[np.int64], NDArray[np.bool_]]], whole: Tensor
) -> Blocks:
    """The blocks of a run from the places of each one's keys, and which of them each token sees."""
    most = max(len(places) for places, _ in parts)
    keys = np.zeros((len(parts), most), dtype=np.int64)
    visible = np.zeros((len(parts), 1, BLOCK, most), dtype=bool)
    for index, (places, seen) in enumerate(parts):
        keys[index, : len(places)] = places
        visible[index, 0, : len(seen), : len(places)] = seen
    hidden = torch.from_numpy(~visible)
    mask = torch.zeros(hidden.shape, dtype=whole.dtype)
    mask.masked_fill_(hidden, torch.finfo(whole.dtype).min)
    return Blocks(prefix, torch.from_numpy(keys), mask, whole)


def takes_blocks(model: PreTrainedModel) -> bool:
    """Whether `attending` makes a model faster: one with SDPA on a CPU."""
    return model.device.type == "cpu" and model.config.get_text_config()._attn_implementation == "sdpa"


@contextmanager
def attending(model: PreTrainedModel, blocks: Blocks) -> Iterator[None]:
    """Inside this block, layers of the model that are given the mask of a run attend by its blocks."""
    config = model.config.get_text_config()
    before, token = config._attn_implementation, _blocks.set(blocks)
    ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _blocks.reset(token)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as `transformers` calls it; by the mask where a layer has its own, or more than a mask."""
    blocks, special = _blocks.get(), options.keys() - _PLAIN
    if (
        blocks is None
        or attention_mask is not blocks.whole
        or key.shape[-1] != value.shape[-1]
        or any(options[name] is not None for name in special)
    ):
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return plain
    (_, heads, rows, width), groups = query.shape, key.shape[1]
    (count, most), shared = blocks.keys.shape, heads // groups
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    # heads that share keys stand below each other, so that no key is repeated
    queries = pad(query[0], (0, 0, 0, count * BLOCK - rows))
    queries = queries.reshape(groups, shared, count, BLOCK, width).permute(2, 0, 1, 3, 4)
    near = [
        states[0, :, blocks.prefix :].index_select(1, blocks.keys.flatten())
        .view(groups, count, most, width).transpose(0, 1)
        for states in (key, value)
    ]  # fmt: skip
    mask = blocks.mask.repeat(1, 1, shared, 1)
    own: Tensor
    own, own_size = flash(
        queries.reshape(count, groups, shared * BLOCK, width), *near, attn_mask=mask, scale=scaling
    )
    own = own.reshape(count, groups, shared, BLOCK, width).permute(1, 2, 0, 3, 4)
    own = own.reshape(1, heads, -1, width)[:, :, :rows]
    if blocks.prefix:
        far = [states[:, :, : blocks.prefix] for states in (key, value)]
        out, size = flash(query.reshape(1, groups, shared * rows, width), *far, scale=scaling)
        own_size = own_size.reshape(count, groups, shared, BLOCK).permute(1, 2, 0, 3)
        own_size = own_size.reshape(1, heads, -1)[:, :, :rows]
        share = (own_size - size.reshape(1, heads, rows)).sigmoid()[..., None]
        own = out.reshape(1, heads, rows, width).lerp(own, share.to(own.dtype))
    return own.transpose(1, 2).contiguous(), None


@cache
def mkl_is_slow() -> bool:
    """Whether oneDNN multiplies float32 faster than MKL: on AMD's processors, by 8 to 30 % where measured."""
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    tell: Callable[[], Mapping[str, str]] = getattr(torch.cpu, "get_capabilities", dict)  # new in PyTorch
    return known and "AMD" in tell().get("cpu_name", "")


@contextmanager
def multiplying(model: nn.Module) -> Iterator[None]:
    """Inside this block, in which nothing is differentiated, float32 linear layers multiply by oneDNN."""
    layers = [layer for layer in model.modules() if _is_plain(layer)] if mkl_is_slow() else []
    for layer in layers:
        vars(layer)["forward"] = partial(_multiply, layer)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is a linear layer as PyTorch has it, on a CPU."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    return layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32


def _multiply(layer: nn.Linear, inputs: Tensor) -> Tensor:
    if inputs.shape[:-1].numel() < _FEW:
        return linear(inputs, layer.weight, layer.bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, layer.weight, layer.bias, "none", [], "")
    return product
