"""How many tokens go through the model at a time, and what to do when that was too many."""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hf_cap.errors import ExtractError
from hf_cap.lm.trie import Continuation, Integers, Trie, build_trie

_logger = logging.getLogger(__name__)
_SMALLEST = 16
_CPU_MESSAGES = ("can't allocate memory", "DefaultCPUAllocator")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the error says that memory ran out, on a CPU or an accelerator."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        message in str(error) for message in _CPU_MESSAGES
    )


class MemoryBudget:
    """A number of tokens that shrinks until the work fits.

    Args:
        tokens: Tokens of one forward pass to begin with.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def halve(self, error: RuntimeError) -> None:
        """Go on with half the tokens.

        Raises:
            ExtractError: the budget is as small as is sensible already.
        """
        if self.tokens <= _SMALLEST:
            raise ExtractError(
                f"Out of memory with only {self.tokens} tokens at a time. Use a smaller model, a shorter "
                "prompt, quantization='4bit', or another device."
            ) from error
        self.tokens = max(_SMALLEST, self.tokens // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _logger.warning("Out of memory; going on with a token budget of %d.", self.tokens)


# --- Keys and values of a prompt prefix, of the path above the present run of nodes, and of that run.


class TreeLayer(DynamicLayer):
    """One layer: `[prefix | path | run]`. Only `TreeCache.advance` changes what is kept.

    The model's forward pass adds the run's rows behind the others for its own attention and leaves the
    prefix as it is, so the same prefix serves any number of passes and is never copied per row.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prefix: tuple[Tensor, Tensor] | None = None
        self.path: tuple[Tensor, Tensor] | None = None
        self.run: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values that the run attends to, each `(1, heads, prefix + path + run, width)`."""
        self.run = (key_states, value_states)
        parts = [part for part in (self.prefix, self.path, self.run) if part is not None]
        keys, values = zip(*parts, strict=True)
        return torch.cat(keys, dim=-2), torch.cat(values, dim=-2)

    def get_seq_length(self) -> int:
        """Rows that are kept: prefix and path."""
        return sum(part[0].shape[-2] for part in (self.prefix, self.path) if part is not None)


class TreeCache(Cache):
    """Cache of one prefix, through which a trie is read run by run."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=TreeLayer)

    @property
    def _tree(self) -> list[TreeLayer]:
        return cast(list[TreeLayer], self.layers)

    @property
    def nbytes(self) -> int:
        """Memory of the prefix."""
        return sum(
            tensor.nbytes
            for layer in self._tree
            if layer.prefix is not None
            for tensor in layer.prefix
        )

    def settle(self) -> None:
        """Make the run that was just read the prefix."""
        for layer in self._tree:
            layer.prefix, layer.run = layer.run, None

    def advance(self, rows: Tensor) -> None:
        """Make `rows` of `[path | run]` the path of the next run, and forget the rest."""
        for layer in self._tree:
            parts = [part for part in (layer.path, layer.run) if part is not None]
            keys, values = (torch.cat(side, dim=-2) for side in zip(*parts, strict=True))
            layer.path = (keys.index_select(-2, rows), values.index_select(-2, rows))
            layer.run = None

    def rewind(self) -> None:
        """Forget path and run: ready for another trie."""
        for layer in self._tree:
            layer.path = layer.run = None

    def abandon(self) -> None:
        """Forget the run of a pass that failed."""
        for layer in self._tree:
            layer.run = None


# --- Attention over `[prefix | path | run]` that skips what the tree hides.


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


# --- The fast way to score: one trie of all continuations of a prefix, read in runs over its cached keys.


_LOGIT_ROWS = 256
"""Rows that are turned to float32 at a time: a whole run of a large vocabulary would double its memory."""


class PackedModel:
    """Reads tries with `model`.

    Args:
        model: A causal language model for which packing is sound.
        budget: Nodes of one forward pass.
        prefix_memory: Bytes for the caches of prefixes; the one in use always stays.
        block: Nodes of a block of `tree_attention`; 0 attends by one product with a mask.
    """

    def __init__(
        self, model: PreTrainedModel, budget: MemoryBudget, prefix_memory: float, block: int = 0
    ) -> None:
        self.model = model
        self.block = block
        self.budget = budget
        self.prefix_memory = prefix_memory
        self.tokens_computed = 0
        self.prefix_tokens = 0
        self._prefixes: OrderedDict[tuple[int, ...], TreeCache] = OrderedDict()

    def log_probs(
        self, prefix: tuple[int, ...], rows: Sequence[Continuation]
    ) -> list[tuple[float, ...]]:
        """Log-probability of each answer token of each row, behind `prefix`.

        Raises:
            ExtractError: not even a short run fits the memory.
        """
        trie = build_trie(rows)
        steps = self.steps(prefix, trie)
        return [tuple(steps[answer].tolist()) for answer in trie.answers]

    @torch.inference_mode()
    def steps(self, prefix: tuple[int, ...], trie: Trie) -> NDArray[np.float64]:
        """Log-probability of each step of `trie` behind `prefix`, `(steps,)`, in nats.

        Raises:
            ExtractError: not even a short run fits the memory.
        """
        cache = self._prefix_cache(prefix)
        try:
            with tree_attention_in(self.model) if self.block else nullcontext():
                return self._read(cache, len(prefix), trie)
        finally:
            cache.rewind()

    def _read(self, cache: TreeCache, prefix: int, trie: Trie) -> NDArray[np.float64]:
        """All runs of `trie`, as long as the memory allows."""
        values = np.empty(len(trie.step_nodes))
        start = 0
        while start < len(trie):
            stop = min(start + self.budget.tokens, len(trie))
            first, last = np.searchsorted(trie.step_nodes, (start, stop))
            try:
                values[first:last] = self._run(cache, prefix, trie, start, stop)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                cache.abandon()
                self.budget.halve(error)
                continue
            self.tokens_computed += stop - start
            start = stop
        return values

    def _prefix_cache(self, prefix: tuple[int, ...]) -> TreeCache:
        if not prefix:
            return TreeCache()
        if prefix not in self._prefixes:
            cache = TreeCache()
            ids = torch.tensor([prefix], device=self.model.device)
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.settle()
            self.prefix_tokens += len(prefix)
            self._prefixes[prefix] = cache
            while len(self._prefixes) > 1 and self._held() > self.prefix_memory:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(prefix)
        return self._prefixes[prefix]

    def _held(self) -> int:
        return sum(cache.nbytes for cache in self._prefixes.values())

    def _run(
        self, cache: TreeCache, prefix: int, trie: Trie, start: int, stop: int
    ) -> NDArray[np.float64]:
        """One forward pass over the nodes `start..stop-1`; the log-probabilities of their steps."""
        device = self.model.device
        above = trie.ancestors(start)
        first, last = np.searchsorted(trie.step_nodes, (start, stop))
        nodes, step_rows = np.unique(trie.step_nodes[first:last], return_inverse=True)
        with self._attention(prefix, trie, above, start, stop) as mask:
            logits = self.model(
                input_ids=torch.from_numpy(trie.tokens[None, start:stop]).to(device),
                position_ids=torch.from_numpy(prefix + trie.depth[None, start:stop]).to(device),
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=torch.from_numpy(nodes - start).to(device),
            ).logits[0]
        values = _gather(logits, step_rows, trie.step_tokens[first:last])
        if stop < len(trie):
            held = np.concatenate([above, np.arange(start, stop)])
            cache.advance(torch.from_numpy(np.flatnonzero(trie.end[held] > stop)).to(device))
        return values

    @contextmanager
    def _attention(
        self, prefix: int, trie: Trie, above: Integers, start: int, stop: int
    ) -> Iterator[Tensor]:
        """Inside this block the layers see the run as the trie tells; gives the mask to hand in."""
        if not self.block:
            mask = self._mask(trie.visible(above, start, stop), self.model.dtype)
            yield torch.nn.functional.pad(mask, (prefix, 0))[None, None]
            return
        count = -(-(stop - start) // self.block)
        keys, visible = trie.blocks(above, start, stop, -(-(stop - start) // count))
        mask = self._mask(visible, torch.float32)
        with reading(TreeBlocks(prefix, torch.from_numpy(keys).to(self.model.device), mask)):
            yield mask[None]  # of four dimensions, so the model leaves it as it is

    def _mask(self, visible: NDArray[np.bool_], dtype: torch.dtype) -> Tensor:
        """Additive mask of the same shape: 0 where attention may go."""
        device = self.model.device
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)
        return mask.masked_fill_(~torch.from_numpy(visible).to(device), torch.finfo(dtype).min)


def _gather(
    logits: Tensor, rows: NDArray[np.int64], tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Log-softmax in float32 of `logits` `(rows, vocabulary)` at the pairs (row, token)."""
    parts = []
    for begin in range(0, len(logits), _LOGIT_ROWS):
        # log_softmax reads its rows once; logsumexp would make three copies of them
        log_probs = logits[begin : begin + _LOGIT_ROWS].float().log_softmax(-1)
        first, last = np.searchsorted(rows, (begin, begin + _LOGIT_ROWS))
        row_index = torch.from_numpy(rows[first:last] - begin).to(logits.device)
        token_index = torch.from_numpy(tokens[first:last]).to(logits.device)
        parts.append(log_probs[row_index, token_index])
    return torch.cat(parts).cpu().double().numpy() if parts else np.empty(0)
