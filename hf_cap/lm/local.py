"""What tells one language model from another: the part of a score's key that is not the question."""

import hashlib
import importlib.util
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_cap.embedded import resolve_model
from hf_cap.errors import ConfigError, ExtractError, MissingExtra, ModelError
from hf_cap.lm.base import Dtype, Query, Scored, ScorerRuntime, ScorerSettings, ScorerStatistics
from hf_cap.lm.packed import MemoryBudget, PackedModel
from hf_cap.lm.packing_check import PlainModel, declared_reach, longest_prompt, packs_soundly
from hf_cap.lm.tokens import PromptTokenizer
from hf_cap.lm.trie import Continuation

_SAMPLE = 1024


def model_identity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | None = None
) -> str:
    """Name, commit (of a Hub model), number format, and fingerprints of weights and tokenizer."""
    commit = getattr(model.config, "_commit_hash", None) or "local"
    dtype = str(model.dtype).removeprefix("torch.")
    return "|".join(
        [
            name or model.name_or_path or type(model).__name__,
            commit,
            dtype,
            weights_fingerprint(model),
            tokenizer_fingerprint(tokenizer),
        ]
    )


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Hash over every weight's name, shape, sum and a sample of its values.

    The sum sees all values and the sample many, so that any training step shows; reading the weights
    once is far quicker than hashing all their bytes, and works on any device.
    """
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    with torch.no_grad():
        for name, weight in sorted(model.state_dict().items()):
            flat = weight.detach().reshape(-1)
            if flat.device.type == "mps":  # Apple's GPUs have no double precision
                flat = flat.cpu()
            sample = flat[:: max(1, flat.numel() // _SAMPLE)].cpu().double().numpy()
            digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
            digest.update(sample.tobytes())
            digest.update(flat.sum(dtype=torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash over vocabulary and rules."""
    if tokenizer.is_fast:
        text = tokenizer.backend_tokenizer.to_str()
    else:
        text = repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- A decoder-only transformers model as scorer.


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


# --- Loads the transformers model that settings name, in the number format and on the device they ask for.


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZERS = {"4bit": "load_in_4bit", "8bit": "load_in_8bit"}


def load_scorer(settings: ScorerSettings, runtime: ScorerRuntime) -> LocalScorer:
    """The local model of `settings` as a scorer.

    Raises:
        ModelError: there is no such model, or it is not a causal language model.
        MissingExtra: `bitsandbytes` is needed and not installed.
    """
    model, tokenizer = load_language_model(settings, choose_device(runtime.device))
    name = "|".join(filter(None, [settings.model, settings.quantization.replace("none", "")]))
    return LocalScorer(model, tokenizer, name=name, runtime=runtime)


def load_language_model(
    settings: ScorerSettings, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of `settings` on `device`, and its tokenizer.

    Raises:
        ModelError: there is no such model, or it is not a causal language model.
        MissingExtra: `bitsandbytes` is needed and not installed.
    """
    folder = resolve_model(settings.model)
    common = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    options = {"dtype": choose_dtype(settings, device), **_quantized(settings, device), **common}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **common)
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The language model {settings.model!r} cannot be loaded as a decoder-only model: {error}"
        ) from error
    if settings.quantization == "none":
        torch.nn.Module.to(model, device)
    return model, tokenizer


def choose_device(name: str) -> torch.device:
    """The device called `name`; for `auto` an accelerator where there is one.

    Raises:
        ConfigError: torch knows no such device.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator if accelerator is not None else torch.device("cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name!r} is no device of torch: {error}") from error


def choose_dtype(settings: ScorerSettings, device: torch.device) -> torch.dtype:
    """Number format of the weights on `device`."""
    return DTYPES[_dtype_name(settings, device)]


def resolve_dtype(settings: ScorerSettings, runtime: ScorerRuntime) -> ScorerSettings:
    """The settings with the number format that `auto` stands for on the device of `runtime`.

    That of a served model is the server's business.
    """
    if settings.dtype != "auto" or settings.base_url is not None:
        return settings
    return replace(settings, dtype=_dtype_name(settings, choose_device(runtime.device)))


def _dtype_name(settings: ScorerSettings, device: torch.device) -> Dtype:
    # by the kind of device alone: asking a GPU what it can do would bar forked workers from using it
    if settings.dtype != "auto":
        return settings.dtype
    return "float32" if device.type == "cpu" else "bfloat16"


def _quantized(settings: ScorerSettings, device: torch.device) -> dict[str, Any]:
    if settings.quantization == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(
            f"quantization={settings.quantization!r} needs the package `bitsandbytes`: "
            "pip install bitsandbytes"
        )
    quantizer = BitsAndBytesConfig(**{QUANTIZERS[settings.quantization]: True})
    return {"quantization_config": quantizer, "device_map": {"": device}}
