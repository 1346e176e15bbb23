"""The two ways to score: packed (one trie of all prompts behind a prefix), and whole prompts in batches."""

import inspect
import logging
import math
import random
import statistics
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from hf_cap.errors import ExtractError
from hf_cap.lm.cpu import BLOCK, attending, multiplying, pack_blocks, takes_blocks
from hf_cap.utils import length_batches

Integers = NDArray[np.int64]
_logger = logging.getLogger(__name__)
_LOGIT_ROWS, _LOGIT_ROWS_ON_CPU = 256, 32
"""Rows that are turned to float32 at a time, which doubles their memory; on a CPU so few that it stays small
enough to be used again, not given back to the system and cleared, which costs twice the softmax."""
_SMALLEST_BUDGET = 16
_CPU_MESSAGES = ("can't allocate memory", "DefaultCPUAllocator")
_ARGUMENTS = {"position_ids", "past_key_values", "attention_mask", "logits_to_keep"}
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Kinds of layers that equal full attention for prompts no longer than the setting named here."""
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""Mean difference in nats that rounding explains; a wrong mask or position costs over 0.3."""


States = list[tuple[Tensor, Tensor]]  # keys and values of each layer, `(1, heads, tokens, width)`


# --- A trie of token sequences, laid out so that a model can read it as one sequence.
#
# Nodes are numbered in preorder, so node `j` is an ancestor of `i` (or `i` itself) exactly if
# `j <= i < end[j]`: that is the attention mask of any run of nodes. The nodes before a run that it still
# needs are the ancestors of its *first* node, as any other ancestor of a later node comes after that one. So
# a trie can be cut into runs of any length, and between two only one path of keys and values is kept.


class Continuation(NamedTuple):
    """A prompt with its answer behind it; the last `scored` tokens are the answer's."""

    ids: tuple[int, ...]
    scored: int


@dataclass(frozen=True, slots=True)
class Trie:
    """Distinct token prefixes of many continuations, and the steps whose probability is wanted.

    A step is a pair (node, next token). The last token of a continuation costs no node of its own.
    """

    tokens: Integers  # (nodes,) token of each node, in preorder
    depth: Integers  # (nodes,) tokens above each node, 0 for a root
    end: Integers  # (nodes,) first node after the subtree of each node
    step_nodes: Integers  # (steps,) node of each step, ascending
    step_tokens: Integers  # (steps,) next token of each step
    answers: list[Integers]  # per continuation the steps of its answer, in order

    def __len__(self) -> int:
        return len(self.tokens)

    def ancestors(self, node: int) -> Integers:
        """The nodes above `node`, from the root down."""
        return np.flatnonzero(self.end[:node] > node)

    def visible(self, above: Integers, start: int, stop: int) -> NDArray[np.bool_]:
        """Which of the nodes `above` and `start..stop-1` each node of the run may attend to.

        `above` are the ancestors of `start`. The result is `(stop - start, len(above) + stop - start)`, true
        for an ancestor or the node itself.
        """
        queries = np.arange(start, stop)[:, None]
        keys = np.concatenate([above, np.arange(start, stop)])
        return np.asarray((keys <= queries) & (queries < self.end[keys]))

    def block(self, held: Integers, start: int, stop: int) -> tuple[Integers, NDArray[np.bool_]]:
        """Places in `held` of what a block of nodes from `start` sees, and what each of them sees of it."""
        above, stop = self.ancestors(start), min(start + BLOCK, stop)
        places = np.searchsorted(held, np.concatenate([above, np.arange(start, stop)]))
        return places, self.visible(above, start, stop)


def build_trie(rows: Sequence[Continuation]) -> Trie:
    """The trie of `rows`: one node for each distinct token prefix, one step for each distinct pair."""
    tokens: list[int] = []
    depth: list[int] = []
    end: list[int] = []
    steps: dict[tuple[int, int], int] = {}
    answers: list[list[int]] = [[] for _ in rows]
    path: list[int] = []
    # in lexicographic order each row shares its longest known prefix with the row before it
    for index in sorted(range(len(rows)), key=lambda i: rows[i].ids):
        ids, scored = rows[index]
        shared, limit = 0, min(len(path), len(ids) - 1)
        while shared < limit and tokens[path[shared]] == ids[shared]:
            shared += 1
        for node in path[shared:]:
            end[node] = len(tokens)
        del path[shared:]
        for position in range(shared, len(ids) - 1):
            path.append(len(tokens))
            tokens.append(ids[position])
            depth.append(position)
            end.append(0)
        answers[index] = [
            steps.setdefault((path[position - 1], ids[position]), len(steps))
            for position in range(len(ids) - scored, len(ids))
        ]
    for node in path:
        end[node] = len(tokens)
    pairs = np.array(list(steps), dtype=np.int64).reshape(-1, 2)
    order = np.argsort(pairs[:, 0], kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    nodes = np.array([tokens, depth, end], dtype=np.int64)
    steps_of = [place[answer] for answer in answers]
    return Trie(nodes[0], nodes[1], nodes[2], pairs[order, 0], pairs[order, 1], steps_of)


# --- Scoring.


class TokenScorer:
    """Scores continuations with a causal language model.

    `budget` are the tokens per forward pass, halved when memory runs out, `prefix_memory` the bytes for
    the states of prefixes; the one in use always stays.
    """

    def __init__(self, model: PreTrainedModel, budget: int, prefix_memory: float = math.inf) -> None:
        self.model, self.budget, self.prefix_memory = model, budget, prefix_memory
        self.tokens_computed = 0
        self._prefixes: OrderedDict[tuple[int, ...], States] = OrderedDict()
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def packed(self, prefix: tuple[int, ...], rows: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """Log-probability of each answer token of each row behind `prefix`, in nats.

        Fast; sound up to `packing_reach`. The rows are one trie, read in runs of `budget` nodes.
        """
        trie = build_trie(rows)
        while True:
            try:
                with multiplying(self.model):
                    steps = self._read(prefix, trie)
            except RuntimeError as error:
                self._halve(error)
            else:
                return [tuple(steps[answer].tolist()) for answer in trie.answers]

    def _read(self, prefix: tuple[int, ...], trie: Trie) -> NDArray[np.float64]:
        """The log-probability of each step of a trie."""
        cache = DynamicCache(self._prefix_states(prefix))
        steps = np.empty(len(trie.step_nodes))
        for start in range(0, len(trie), self.budget):
            stop = min(start + self.budget, len(trie))
            first, last = np.searchsorted(trie.step_nodes, (start, stop))
            steps[first:last] = self._run(cache, len(prefix), trie, start, stop)
            self.tokens_computed += stop - start
        return steps

    def _prefix_states(self, prefix: tuple[int, ...]) -> States:
        if not prefix:
            return []
        if prefix not in self._prefixes:
            cache = DynamicCache()
            ids = torch.tensor([prefix], device=self.model.device)
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self.tokens_computed += len(prefix)
            self._prefixes[prefix] = [(keys, values) for keys, values, *_ in cache]
            while len(self._prefixes) > 1 and self._held() > self.prefix_memory:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(prefix)
        return self._prefixes[prefix]

    def _held(self) -> int:
        states = chain.from_iterable(self._prefixes.values())
        return sum(keys.nbytes + values.nbytes for keys, values in states)

    def _run(
        self, cache: DynamicCache, prefix: int, trie: Trie, start: int, stop: int
    ) -> NDArray[np.float64]:
        """One forward pass over the nodes `start..stop-1`; the log-probabilities of their steps.

        `cache` holds the prefix and the path to the first node, and then to the next one.
        """
        device = self.model.device
        above = trie.ancestors(start)
        first, last = np.searchsorted(trie.step_nodes, (start, stop))
        nodes, step_rows = np.unique(trie.step_nodes[first:last], return_inverse=True)
        held = np.concatenate([above, np.arange(start, stop)])
        mask = self.mask(prefix, trie, above, start, stop)
        how: AbstractContextManager[None] = nullcontext()
        if takes_blocks(self.model):
            parts = [trie.block(held, first, stop) for first in range(start, stop, BLOCK)]
            how = attending(self.model, pack_blocks(prefix, parts, mask))
        with how:
            logits = self.model(
                input_ids=torch.from_numpy(trie.tokens[None, start:stop]).to(device),
                position_ids=torch.from_numpy(prefix + trie.depth[None, start:stop]).to(device),
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=torch.from_numpy(nodes - start).to(device),
            ).logits[0]
        path = torch.from_numpy(prefix + np.flatnonzero(trie.end[held] > stop)).to(device)
        for layer in cache.layers:
            for name in ("keys", "values"):  # the prefix, which may be long, is not copied
                states = getattr(layer, name)
                states[..., prefix : prefix + len(path), :] = states.index_select(-2, path)
                setattr(layer, name, states[..., : prefix + len(path), :])
        return gather_log_probs(logits, step_rows, trie.step_tokens[first:last])

    def mask(self, prefix: int, trie: Trie, above: Integers, start: int, stop: int) -> Tensor:
        """Additive mask of a run, `(1, 1, run, prefix + path + run)`: 0 where attention may go."""
        visible = torch.from_numpy(trie.visible(above, start, stop)).to(self.model.device)
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=self.model.device)
        mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)
        return torch.nn.functional.pad(mask, (prefix, 0))[None, None]

    def whole(self, rows: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """Log-probability of each answer token of each row, in nats, in padded batches.

        Padding is on the right: no token sees what comes after it, so neither positions nor masks can
        go wrong, whatever the model (sliding windows, recurrent state and relative positions included).
        """
        results: dict[int, tuple[float, ...]] = {}
        while missing := [index for index in range(len(rows)) if index not in results]:
            lengths = [len(rows[index].ids) for index in missing]
            for batch in length_batches(lengths, self.budget):
                group = [missing[place] for place in batch]
                try:
                    values = self._batch([rows[index] for index in group])
                except RuntimeError as error:
                    self._halve(error)
                    break
                results.update(zip(group, values, strict=True))
                self.tokens_computed += sum(len(rows[index].ids) - 1 for index in group)
        return [results[index] for index in range(len(rows))]

    @torch.inference_mode()
    def _batch(self, rows: Sequence[Continuation]) -> list[tuple[float, ...]]:
        inputs = [row.ids[:-1] for row in rows]
        width, device = max(map(len, inputs)), self.model.device
        ids = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in inputs])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in inputs])
        # the positions whose logits predict the answers' tokens
        wanted = [range(len(row.ids) - 1 - row.scored, len(row.ids) - 1) for row in rows]
        kept = sorted({place for places in wanted for place in places})
        options = {}
        if self._keeps_logits:
            options["logits_to_keep"] = torch.tensor(kept, device=device)
            wanted = [range(kept.index(p.start), kept.index(p.stop - 1) + 1) for p in wanted]
        logits = self.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **options
        ).logits
        results = []
        for row, answer_logits, places in zip(rows, logits, wanted, strict=True):
            chosen = answer_logits[places.start : places.stop].float().log_softmax(-1)
            answer = torch.tensor(row.ids[-row.scored :], device=device)
            results.append(tuple(chosen.gather(1, answer[:, None])[:, 0].tolist()))
        return results

    def _halve(self, error: RuntimeError) -> None:
        """Go on with half the tokens where the error says that memory ran out; any other is raised."""
        cpu = any(message in str(error) for message in _CPU_MESSAGES)
        if not cpu and not isinstance(error, torch.OutOfMemoryError):
            raise error
        if self.budget <= _SMALLEST_BUDGET:
            raise ExtractError(
                f"Out of memory with only {self.budget} tokens at a time. Use quantization='4bit', a "
                "smaller model, a shorter prompt or another device."
            ) from error
        self.budget = max(_SMALLEST_BUDGET, self.budget // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _logger.warning("Out of memory; going on with a token budget of %d.", self.budget)


def gather_log_probs(logits: Tensor, rows: Integers, tokens: Integers) -> NDArray[np.float64]:
    """Log-softmax in float32 of `logits` `(rows, vocabulary)` at the pairs (row, token); rows ascend."""
    parts = []
    size = _LOGIT_ROWS_ON_CPU if logits.device.type == "cpu" else _LOGIT_ROWS
    for begin in range(0, len(logits), size):
        # log_softmax reads its rows once; logsumexp would make three copies of them
        log_probs = logits[begin : begin + size].float().log_softmax(-1)
        first, last = np.searchsorted(rows, (begin, begin + size))
        row_index = torch.from_numpy(rows[first:last] - begin).to(logits.device)
        token_index = torch.from_numpy(tokens[first:last]).to(logits.device)
        parts.append(log_probs[row_index, token_index])
    return torch.cat(parts).cpu().double().numpy() if parts else np.empty(0)


# --- For which models, and up to what length, packing gives the same scores as whole prompts


def packing_reach(model: PreTrainedModel) -> float:
    """Longest prompt, in tokens, that is packed; 0 sends every prompt down the plain path."""
    reach, reason = declared_reach(model)
    name = type(model).__name__
    if reason:
        _logger.warning("%s: prompts over %s tokens are scored whole: %s.", name, reach, reason)
    if reach and (fault := _packing_fault(model)):
        _logger.warning("%s %s: all prompts are scored whole, which is slow.", name, fault)
        return 0
    return reach


def declared_reach(model: PreTrainedModel) -> tuple[float, str]:
    """Longest prompt that may be packed by what the model declares, and the reason for a limit."""
    config = model.config.get_text_config()
    missing = _ARGUMENTS - set(inspect.signature(model.forward).parameters)
    kinds = set(getattr(config, "layer_types", None) or ())
    if missing:
        return 0, f"its forward pass takes no {sorted(missing)}"
    if config._attn_implementation not in ("sdpa", "eager"):
        return 0, f"its attention {config._attn_implementation!r} takes no mask of our own"
    if getattr(config, "alibi", False) or getattr(model, "_is_stateful", False):
        return 0, "it has relative position biases or a recurrent state"
    if "local" in (getattr(config, "attention_layers", None) or ()):
        return 0, "it has local attention layers"
    if unknown := kinds - {"full_attention", *_WINDOWS}:
        return 0, f"it has layers of the kinds {sorted(unknown)}"
    if not kinds and getattr(config, "use_sliding_window", True):
        kinds = set(_WINDOWS)  # older configurations name only the window
    sizes = [getattr(config, name, None) for kind, name in _WINDOWS.items() if kind in kinds]
    if any(sizes):
        return min(filter(None, sizes)), "longer prompts do not fit its attention window"
    return math.inf, ""


def _packing_fault(model: PreTrainedModel) -> str:
    """What is wrong with the scores of a small trie, read in several runs; empty where nothing is."""
    draw = random.Random(0)
    vocabulary = min(model.config.get_text_config().vocab_size, 1000)
    prefix = tuple(draw.randrange(vocabulary) for _ in range(5))
    common = tuple(draw.randrange(vocabulary) for _ in range(3))
    rows = [
        Continuation((*common[: 1 + index % 3], *(draw.randrange(vocabulary) for _ in range(4))), 2)
        for index in range(6)
    ]
    whole = TokenScorer(model, 1000).whole([Continuation(prefix + r.ids, r.scored) for r in rows])
    try:
        packed = TokenScorer(model, 9).packed(prefix, rows)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # a cache or mask that the model's own code cannot take: whatever it raises means the same
        return f"cannot read a packed trie ({error})"
    pairs = zip(chain(*whole), chain(*packed), strict=True)
    difference = statistics.mean(abs(one - other) for one, other in pairs)
    if difference <= _TOLERANCE.get(model.dtype, 1e-3):
        return ""
    return f"scores a packed trie {difference:.2g} nats off"
