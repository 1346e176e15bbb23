"""A decoder-only transformers model as scorer."""

import logging
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ExtractError
from .identity import model_identity
from .memory import MemoryBudget
from .packed import PackedModel
from .plain import PlainModel
from .protocol import Query, Scored
from .settings import ScorerRuntime
from .soundness import declared_reach, longest_prompt, packs_soundly
from .statistics import ScorerStatistics
from .tokens import PromptTokenizer
from .trie import Continuation

_logger = logging.getLogger(__name__)
_SHORT_PREFIX = 64
"""Prefixes up to this many tokens are read with the trie: many short ones (a label each) then share runs."""
_CPU_BUDGET, _ACCELERATOR_BUDGET = 1024, 8192
_BLOCK = 64
"""Nodes of a block of `tree_attention`: 32 and 128 were no faster."""


class _Prompt(NamedTuple):
    """The tokens of a query: those of its cached prefix, and the rest with the answer."""

    prefix: tuple[int, ...]
    rest: Continuation
    packed: bool

    @property
    def length(self) -> int:
        """Tokens that the model would read for this query alone: all but the last."""
        return len(self.prefix) + len(self.rest.ids) - 1


class LocalScorer:
    """Scores with a causal language model of `transformers`.

    Queries are packed where that is sound (`soundness`), else scored as whole prompts; the result is
    the same within rounding, and does not depend on which queries come together.

    Args:
        model: The model, on its device.
        tokenizer: Its tokenizer.
        name: What the model is called in `identity`; default its `name_or_path`.
        runtime: Token budget and memory.
        packed: False scores whole prompts only.

    Attributes:
        statistics: What was done so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        runtime: ScorerRuntime | None = None,
        packed: bool = True,
    ) -> None:
        runtime = runtime or ScorerRuntime()
        default = _CPU_BUDGET if model.device.type == "cpu" else _ACCELERATOR_BUDGET
        self.model = model.train(False)
        self.tokens = PromptTokenizer(tokenizer)
        self.budget = MemoryBudget(runtime.token_budget or default)
        self.statistics = ScorerStatistics()
        self._identity = model_identity(model, tokenizer, name)
        self._plain = PlainModel(model, self.budget)
        self._longest = longest_prompt(model)
        self._reach = _reach(model) if packed else 0
        block = _BLOCK if self._reach and _takes_blocks(model) else 0
        self._packed = PackedModel(model, self.budget, runtime.prefix_memory * 1e9, block)
        _logger.info(
            "%s: token budget %d, packing prompts %s.",
            name,
            self.budget.tokens,
            f"up to {self._reach} tokens" if math.isfinite(self._reach) else "of any length",
        )

    @property
    def identity(self) -> str:
        """Name, commit, weights, tokenizer and number format."""
        return self._identity

    @property
    def packs(self) -> bool:
        """Whether prompts (up to some length) are packed, or all are scored as a whole."""
        return self._reach > 0

    @property
    def attends_by_blocks(self) -> bool:
        """Whether packed runs skip the keys that the tree hides (`tree_attention`)."""
        return self._packed.block > 0

    def score(self, queries: Sequence[Query]) -> list[Scored]:
        """Score each query; equal ones once.

        Raises:
            ExtractError: a score is not finite, or a query is longer than the model can read.
        """
        started = time.perf_counter()
        prompts = {query: self._prompt(query) for query in dict.fromkeys(queries)}
        groups: dict[tuple[tuple[int, ...], bool], list[Query]] = {}
        for query, prompt in prompts.items():
            groups.setdefault((prompt.prefix, prompt.packed), []).append(query)
        before = self._computed
        results: dict[Query, Scored] = {}
        for (prefix, packed), members in groups.items():
            rows = [prompts[query].rest for query in members]
            values = self._packed.log_probs(prefix, rows) if packed else self._plain.log_probs(rows)
            for query, log_probs in zip(members, values, strict=True):
                results[query] = self._scored(query, log_probs)
        self._count(queries, prompts, before, time.perf_counter() - started)
        return [results[query] for query in queries]

    def render_chat(self, user: str) -> str | None:
        """The user's turn in the model's chat template, with the opening of the answer."""
        return self.tokens.render_chat(user)

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """The tokens of an answer."""
        return self.tokens.answer(answer).ids

    def end_of_turn(self) -> str | None:
        """What the chat template puts behind the model's answer."""
        return self.tokens.end_of_turn

    def excess(self, query: Query) -> int:
        """Tokens by which a query is longer than the model can read; 0 or less where it fits."""
        if self._longest is None:
            return 0
        prompt = self.tokens.prefix(query.prefix).ids + self.tokens.body(query.prefix, query.body)
        return len(prompt + self.tokens.answer(query.answer).ids) - self._longest

    def _scored(self, query: Query, log_probs: tuple[float, ...]) -> Scored:
        if not all(map(math.isfinite, log_probs)):
            raise ExtractError(
                f"The model gave {log_probs!r} for the answer {query.answer!r}. Where the number format "
                "overflows, dtype='float32' or 'bfloat16' helps."
            )
        return Scored(log_probs, self.tokens.answer(query.answer).starts)

    def _prompt(self, query: Query) -> _Prompt:
        prefix = self.tokens.prefix(query.prefix).ids
        body = self.tokens.body(query.prefix, query.body)
        answer = self.tokens.answer(query.answer).ids
        if not prefix + body:
            raise ExtractError(f"The prompt of {query!r} has no tokens; give a prefix or a body.")
        length = len(prefix + body + answer)
        if self._longest is not None and length > self._longest:
            raise ExtractError(
                f"A prompt of {length} tokens is longer than the {self._longest} that the model can read. "
                f"Use fewer demonstrations or labels, or another model. The text: {query.body!r}"
            )
        packed = length <= self._reach
        if not packed or not body or len(prefix) <= _SHORT_PREFIX:
            prefix, body = (), prefix + body
        return _Prompt(prefix, Continuation(body + answer, len(answer)), packed)

    @property
    def _computed(self) -> tuple[int, int]:
        """Tokens that went through the model so far: of texts and answers, of prefixes."""
        texts = self._plain.tokens_computed + self._packed.tokens_computed
        return texts, self._packed.prefix_tokens

    def _count(
        self,
        queries: Sequence[Query],
        prompts: dict[Query, _Prompt],
        before: tuple[int, int],
        seconds: float,
    ) -> None:
        """Add one call to the statistics; what each way saved is the difference to the step before."""
        texts, prefixes = (now - then for now, then in zip(self._computed, before, strict=True))
        naive = sum(prompts[query].length for query in queries)
        distinct = sum(prompt.length for prompt in prompts.values())
        rest = sum(len(prompt.rest.ids) - 1 for prompt in prompts.values())
        self.statistics += ScorerStatistics(
            queries=len(queries),
            distinct=len(prompts),
            naive_tokens=naive,
            distinct_saved=naive - distinct,
            prefix_saved=distinct - rest - prefixes,
            trie_saved=rest - texts,
            tokens_computed=texts + prefixes,
            seconds=seconds,
        )


def _reach(model: PreTrainedModel) -> float:
    """Longest prompt that is packed; 0 sends every query down the plain path."""
    reach, reason = declared_reach(model)
    name = type(model).__name__
    if reason:
        _logger.warning(
            "%s: prompts over %d tokens are scored one by one: %s.", name, reach, reason
        )
    if reach == 0:
        return 0
    if not packs_soundly(model):
        _logger.warning("%s: every prompt is scored as a whole, which takes far longer.", name)
        return 0
    return math.inf if reach is None else reach


def _takes_blocks(model: PreTrainedModel) -> bool:
    """Whether `tree_attention` can stand in for the model's own: on a CPU, for SDPA, with equal scores."""
    stands_in = model.device.type == "cpu" and model.config._attn_implementation == "sdpa"
    return stands_in and packs_soundly(model, block=2)
