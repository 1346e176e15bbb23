"""A decoder-only transformers model: scores and generates on this machine."""

import logging
import math
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_cap.errors import ExtractError, ModelError
from hf_cap.lm.base import (
    LanguageModel,
    LMRuntime,
    LMSettings,
    LMStatistics,
    OnReply,
    OnScore,
    Query,
    Reply,
    Sampling,
    Scored,
)
from hf_cap.lm.loading import choose_device, load_language_model, model_fingerprint
from hf_cap.lm.packed import PackedModel
from hf_cap.lm.packing_check import packing_reach
from hf_cap.lm.plain import MemoryBudget, PlainModel
from hf_cap.lm.tokens import PromptTokenizer
from hf_cap.lm.trie import Continuation
from hf_cap.utils import text_seed

_logger = logging.getLogger(__name__)
_SHORT_PREFIX = 64
"""Prefixes up to this many tokens are read with the trie: many short ones (a label each) then share runs."""
_CPU_BUDGET, _ACCELERATOR_BUDGET = 384, 8192
"""Tokens per forward pass. On a CPU longer ones lose more to attention than they gain in products."""
_BATCH = 16
"""Prompts replied to at a time; fixed, because a sampled reply depends on its batch."""


class _Prompt(NamedTuple):
    """The tokens of a query: those of its cached prefix, and the rest with the answer."""

    prefix: tuple[int, ...]
    rest: Continuation
    packed: bool

    @property
    def length(self) -> int:
        """Tokens that the model would read for this query alone: all but the last."""
        return len(self.prefix) + len(self.rest.ids) - 1


class LocalLanguageModel(LanguageModel):
    """Scores and generates with a causal language model of `transformers`.

    Queries are packed where that is sound (`packing_check`), else scored as whole prompts; the result is
    the same within rounding, and does not depend on which queries come together.

    Args:
        model: The model, on its device.
        tokenizer: Its tokenizer.
        name: What the model is called in `fingerprint`; default its `name_or_path`.
        runtime: Token budget and memory.
        packed: False scores whole prompts only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        runtime: LMRuntime | None = None,
        packed: bool = True,
    ) -> None:
        runtime = runtime or LMRuntime()
        default = _CPU_BUDGET if model.device.type == "cpu" else _ACCELERATOR_BUDGET
        self.model = model.train(False)
        self.tokens = PromptTokenizer(tokenizer)
        self.name = name
        self.budget = MemoryBudget(runtime.token_budget or default)
        self._plain = PlainModel(model, self.budget)
        self._packed = PackedModel(model, self.budget, runtime.prefix_memory * 1e9)
        self._may_pack = packed
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._longest = longest if isinstance(longest, int) and longest > 0 else math.inf

    @cached_property
    def fingerprint(self) -> str:
        """Name, commit, weights, tokenizer and number format."""
        return model_fingerprint(self.model, self.tokens.tokenizer, self.name)

    @property
    def packs(self) -> bool:
        """Whether prompts (up to some length) are packed, or all are scored as a whole."""
        return self._reach > 0

    def log_probs(self, queries: Sequence[Query], on_result: OnScore | None = None) -> list[Scored]:
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
                if on_result:
                    on_result(query, results[query])
        self.statistics += LMStatistics(
            queries=len(queries),
            distinct=len(prompts),
            naive_tokens=sum(prompts[query].length for query in queries),
            tokens_computed=self._computed - before,
            seconds=time.perf_counter() - started,
        )
        return [results[query] for query in queries]

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        """Reply to each prompt as a user's turn, without special tokens.

        Raises:
            ModelError: the model has no chat template.
        """
        replies: list[Reply] = []
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            replies += self._replies(batch, sampling)
            if on_result:
                for prompt, reply in zip(batch, replies[start:], strict=True):
                    on_result(prompt, reply)
        return replies

    def chat_prompt(self, user: str) -> str | None:
        """The user's turn in the model's chat template, with the opening of the answer."""
        return self.tokens.chat_prompt(user)

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """The tokens of an answer."""
        return self.tokens.answer(answer).ids

    def end_of_turn(self) -> str | None:
        """What the chat template puts behind the model's answer."""
        return self.tokens.end_of_turn

    def excess(self, query: Query) -> int:
        """Tokens by which a query is longer than the model can read; 0 or less where it fits."""
        if self._longest == math.inf:
            return 0
        prompt = self.tokens.prefix(query.prefix).ids + self.tokens.body(query.prefix, query.body)
        return len(prompt + self.tokens.answer(query.answer).ids) - int(self._longest)

    @cached_property
    def _reach(self) -> float:
        """Longest prompt that is packed; 0 sends every query down the plain path."""
        return packing_reach(self.model) if self._may_pack else 0

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
        if length > self._longest:
            raise ExtractError(
                f"A prompt of {length} tokens is longer than the {self._longest} that the model can read. "
                f"Use fewer demonstrations or labels, or another model. The text: {query.body!r}"
            )
        packed = length <= self._reach
        if not packed or not body or len(prefix) <= _SHORT_PREFIX:
            prefix, body = (), prefix + body
        return _Prompt(prefix, Continuation(body + answer, len(answer)), packed)

    @property
    def _computed(self) -> int:
        return self._plain.tokens_computed + self._packed.tokens_computed

    @torch.no_grad()
    def _replies(self, prompts: Sequence[str], sampling: Sampling) -> list[Reply]:
        rows = [self.tokens.plain(self._turn(prompt)) for prompt in prompts]
        tokenizer: Any = self.tokens.tokenizer
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        width, device = max(map(len, rows)), self.model.device
        # padding on the left: the reply follows the prompt at once
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        model: Any = (
            self.model
        )  # the auto class does not promise `generate`; every causal model has it
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # seeded batch by batch, so that a run that goes on draws what it would have drawn
            torch.manual_seed(text_seed(sampling.seed, "\0".join(prompts)))
            generated = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                **_generation(sampling.temperature),
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=pad,
            )[:, width:]
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
        written = (generated != pad).sum(1).tolist()
        return [Reply(*one) for one in zip(texts, map(len, rows), written, strict=True)]

    def _turn(self, prompt: str) -> str:
        rendered = self.chat_prompt(prompt)
        if rendered is None:
            raise ModelError(
                f"{self.name or self.model.name_or_path!r} has no chat template, which generating needs. "
                "Choose an instruction-tuned model (its name often ends in -Instruct)."
            )
        return rendered


def _generation(temperature: float) -> dict[str, Any]:
    """Arguments of `generate`; a model's own sampling settings have no place in a greedy reply."""
    if temperature:
        return {"do_sample": True, "temperature": temperature}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def load_local(settings: LMSettings, runtime: LMRuntime) -> LocalLanguageModel:
    """The local model of `settings`.

    Raises:
        ModelError: there is no such model, or it is not a causal language model.
        MissingExtra: a package that the settings need is not installed.
    """
    model, tokenizer = load_language_model(settings, choose_device(runtime.device))
    name = "|".join(filter(None, [settings.model, settings.quantization.replace("none", "")]))
    return LocalLanguageModel(model, tokenizer, name=name, runtime=runtime)
