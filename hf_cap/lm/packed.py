"""The fast way to score: one trie of all continuations of a prefix, read in runs over its cached keys."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from hf_cap.lm.plain import MemoryBudget
from hf_cap.lm.trie import Continuation, Trie, build_trie

_LOGIT_ROWS = 256
"""Rows that are turned to float32 at a time: a whole run of a large vocabulary would double its memory."""


class TreeLayer(DynamicLayer):
    """Keys and values of one layer, `[prefix | path | run]`: the path leads to the run's first node.

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
        return _joined(self.prefix, self.path, self.run)

    def get_seq_length(self) -> int:
        """Rows that are kept: prefix and path."""
        return sum(part[0].shape[-2] for part in (self.prefix, self.path) if part is not None)


def _joined(*parts: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    keys, values = zip(*(part for part in parts if part is not None), strict=True)
    return torch.cat(keys, dim=-2), torch.cat(values, dim=-2)


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
        return sum(tensor.nbytes for layer in self._tree for tensor in layer.prefix or ())

    def settle(self) -> None:
        """Make the run that was just read the prefix."""
        for layer in self._tree:
            layer.prefix, layer.run = layer.run, None

    def advance(self, rows: Tensor) -> None:
        """Make `rows` of `[path | run]` the path of the next run, and forget the rest."""
        for layer in self._tree:
            keys, values = _joined(layer.path, layer.run)
            layer.path = (keys.index_select(-2, rows), values.index_select(-2, rows))
            layer.run = None

    def abandon(self) -> None:
        """Forget the run of a pass that failed."""
        for layer in self._tree:
            layer.run = None

    def rewind(self) -> None:
        """Forget path and run: ready for another trie."""
        for layer in self._tree:
            layer.path = layer.run = None


class PackedModel:
    """Scores continuations with a causal language model for which packing is sound.

    Args:
        model: The model.
        budget: Nodes of one forward pass.
        prefix_memory: Bytes for the caches of prefixes; the one in use always stays.
    """

    def __init__(self, model: PreTrainedModel, budget: MemoryBudget, prefix_memory: float) -> None:
        self.model = model
        self.budget = budget
        self.prefix_memory = prefix_memory
        self.tokens_computed = 0
        self._prefixes: OrderedDict[tuple[int, ...], TreeCache] = OrderedDict()

    @torch.inference_mode()
    def log_probs(
        self, prefix: tuple[int, ...], rows: Sequence[Continuation]
    ) -> list[tuple[float, ...]]:
        """Log-probability of each answer token of each row behind `prefix`, in nats.

        Raises:
            ExtractError: not even a short run fits the memory.
        """
        trie, cache = build_trie(rows), self._prefix_cache(prefix)
        steps = np.empty(len(trie.step_nodes))
        start = 0
        try:
            while start < len(trie):
                stop = min(start + self.budget.tokens, len(trie))
                first, last = np.searchsorted(trie.step_nodes, (start, stop))
                try:
                    steps[first:last] = self._run(cache, len(prefix), trie, start, stop)
                except RuntimeError as error:
                    cache.abandon()
                    self.budget.halve(error)
                    continue
                self.tokens_computed += stop - start
                start = stop
        finally:
            cache.rewind()
        return [tuple(steps[answer].tolist()) for answer in trie.answers]

    def _prefix_cache(self, prefix: tuple[int, ...]) -> TreeCache:
        if not prefix:
            return TreeCache()
        if prefix not in self._prefixes:
            cache = TreeCache()
            ids = torch.tensor([prefix], device=self.model.device)
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.settle()
            self.tokens_computed += len(prefix)
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
        logits = self.model(
            input_ids=torch.from_numpy(trie.tokens[None, start:stop]).to(device),
            position_ids=torch.from_numpy(prefix + trie.depth[None, start:stop]).to(device),
            attention_mask=self._mask(prefix, trie.visible(above, start, stop)),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.from_numpy(nodes - start).to(device),
        ).logits[0]
        values = gather_log_probs(logits, step_rows, trie.step_tokens[first:last])
        if stop < len(trie):
            held = np.concatenate([above, np.arange(start, stop)])
            cache.advance(torch.from_numpy(np.flatnonzero(trie.end[held] > stop)).to(device))
        return values

    def _mask(self, prefix: int, visible: NDArray[np.bool_]) -> Tensor:
        """Additive mask `(1, 1, run, prefix + path + run)`: 0 where attention may go."""
        dtype, device = self.model.dtype, self.model.device
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)
        mask.masked_fill_(~torch.from_numpy(visible).to(device), torch.finfo(dtype).min)
        return torch.nn.functional.pad(mask, (prefix, 0))[None, None]


def gather_log_probs(
    logits: Tensor, rows: NDArray[np.int64], tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Log-softmax in float32 of `logits` `(rows, vocabulary)` at the pairs (row, token); rows ascend."""
    parts = []
    for begin in range(0, len(logits), _LOGIT_ROWS):
        # log_softmax reads its rows once; logsumexp would make three copies of them
        log_probs = logits[begin : begin + _LOGIT_ROWS].float().log_softmax(-1)
        first, last = np.searchsorted(rows, (begin, begin + _LOGIT_ROWS))
        row_index = torch.from_numpy(rows[first:last] - begin).to(logits.device)
        token_index = torch.from_numpy(tokens[first:last]).to(logits.device)
        parts.append(log_probs[row_index, token_index])
    return torch.cat(parts).cpu().double().numpy() if parts else np.empty(0)
