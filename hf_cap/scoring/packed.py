"""The fast way to score: one trie of all continuations of a prefix, read in runs over its cached keys.

Nothing is padded and nothing is computed twice. A run is one forward pass over `budget` nodes of the
trie, whose attention mask shows each node the prefix and its own ancestors, at position ids equal to
its depth; logits are computed only where a step begins.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from .cache import TreeCache
from .memory import MemoryBudget, out_of_memory
from .tree_attention import TreeBlocks, reading, tree_attention_in
from .trie import Continuation, Integers, Trie, build_trie

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
