"""A decoder-only transformers model: loaded, fingerprinted, scoring and generating on this machine."""

import hashlib
import importlib.util
import math
import time
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_cap.embedded import require_gguf, resolve_model
from hf_cap.errors import ConfigError, ExtractError, MissingExtra, ModelError
from hf_cap.lm import base
from hf_cap.lm.packed import Continuation, TokenScorer, packing_reach
from hf_cap.lm.tokens import PromptTokenizer, tokenizer_fingerprint
from hf_cap.loading import check_finite, check_missing, loading
from hf_cap.utils import generator, text_seed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZERS = {"4bit": "load_in_4bit", "8bit": "load_in_8bit"}
_SHORT_PREFIX = 64
"""Prefixes up to this many tokens are read with the trie: many short ones (a label each) then share runs."""
_CPU_BUDGET, _ACCELERATOR_BUDGET = 1536, 8192
"""Tokens per forward pass. On a CPU longer ones gained no more where it was measured."""
_BATCH = 16  # prompts replied to at a time; fixed, because a sampled reply depends on its batch
DRAWS = 4  # replies within a constraint of which one is drawn
_SAMPLE = 1024  # values of each weight that its fingerprint samples, about


class _Prompt(NamedTuple):
    """The tokens of a query: those of its cached prefix, and the rest with the answer."""

    prefix: tuple[int, ...]
    packed: bool
    rest: Continuation


class LocalLanguageModel(base.LanguageModel):
    """Scores and generates with a causal language model of `transformers`.

    Queries are packed where that is sound (`packing_reach`), else scored as whole prompts, with the same
    result within rounding.

    Args:
        name: What the model is called in `fingerprint`; default its `name_or_path`.
        runtime: Token budget and memory.
        packed: False scores whole prompts only.
    """

    tokens: PromptTokenizer

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        runtime: base.LMRuntime | None = None,
        packed: bool = True,
    ) -> None:
        runtime = runtime or base.LMRuntime()
        default = _CPU_BUDGET if model.device.type == "cpu" else _ACCELERATOR_BUDGET
        self.model = model.train(False)
        self.tokens = PromptTokenizer(tokenizer)
        self.name = name
        self.scorer = TokenScorer(model, runtime.token_budget or default, runtime.prefix_memory * 1e9)
        self._may_pack = packed
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._longest = longest if isinstance(longest, int) and longest > 0 else math.inf

    @cached_property
    def fingerprint(self) -> str:
        """Name, commit, weights, tokenizer and number format."""
        return model_fingerprint(self.model, self.tokens.tokenizer, self.name)

    @cached_property
    def reach(self) -> float:
        """Longest prompt that is packed; 0 sends every query down the plain path."""
        return packing_reach(self.model) if self._may_pack else 0

    def log_probs(
        self, queries: Sequence[base.Query], on_result: base.OnScore | None = None
    ) -> list[base.Scored]:
        """Score each query; equal ones once."""
        started = time.perf_counter()
        prompts = {query: self._prompt(query) for query in dict.fromkeys(queries)}
        groups: dict[tuple[tuple[int, ...], bool], list[base.Query]] = {}
        for query, prompt in prompts.items():
            groups.setdefault(prompt[:2], []).append(query)
        before, results = self.scorer.tokens_computed, dict[base.Query, base.Scored]()
        for (prefix, packed), members in groups.items():
            rows = [prompts[query].rest for query in members]
            values = self.scorer.packed(prefix, rows) if packed else self.scorer.whole(rows)
            for query, log_probs in zip(members, values, strict=True):
                results[query] = self._scored(query, log_probs)
                if on_result:
                    on_result(query, results[query])
        self.statistics += base.LMStatistics(
            queries=len(queries),
            distinct=len(prompts),
            naive_tokens=sum(len(prompts[q].prefix + prompts[q].rest.ids) - 1 for q in queries),
            tokens_computed=self.scorer.tokens_computed - before,
            seconds=time.perf_counter() - started,
        )
        return [results[query] for query in queries]

    def generate(
        self, prompts: Sequence[str], sampling: base.Sampling, on_result: base.OnReply | None = None
    ) -> list[base.Reply]:
        """Reply to each prompt as a user's turn, without special tokens."""
        replies: list[base.Reply] = []
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            replies += self._replies(batch, sampling)
            if on_result:
                for prompt, reply in zip(batch, replies[start:], strict=True):
                    on_result(prompt, reply)
        return replies

    def generate_within(
        self, prompts: Sequence[str], sampling: base.Sampling, constraints: Sequence[base.Constraint]
    ) -> list[base.Reply | None]:
        """Of `DRAWS` replies within the constraint, one drawn by their weights."""
        tokenizer: Any = self.tokens.tokenizer
        ends = self.model.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        barred = {*tokenizer.all_special_ids} - ends
        decode = partial(tokenizer.decode, skip_special_tokens=True)
        most, replies = sampling.max_new_tokens, list[base.Reply | None]()
        for prompt, allowed in zip(prompts, constraints, strict=True):
            (row,) = self._turns([prompt])
            rng = generator(sampling.seed, "constrained", prompt)
            after = cached_log_probs(self.model, row, sampling.temperature)
            draw = partial(draw_reply, after, decode, ends, barred, allowed, most, rng)
            drawn = [(ids, weight) for ids, weight in (draw() for _ in range(DRAWS)) if ids]
            weights = np.array([weight for _, weight in drawn])
            at = rng.choice(len(drawn), p=weights / weights.sum()) if drawn else None
            ids = [] if at is None else drawn[at][0]
            replies.append(base.Reply(decode(ids), len(row), len(ids)) if ids else None)
        return replies

    def excess(self, query: base.Query) -> int:
        """Tokens by which a query is longer than the model can read; 0 or less where it fits."""
        if self._longest == math.inf:
            return 0
        return sum(map(len, self._tokens(query))) - int(self._longest)

    def _scored(self, query: base.Query, log_probs: tuple[float, ...]) -> base.Scored:
        if not all(map(math.isfinite, log_probs)):
            raise ExtractError(
                f"The model gave {log_probs!r} for the answer {query.answer!r}. Where the number format "
                "overflows, dtype='float32' or 'bfloat16' helps."
            )
        return base.Scored(log_probs, self.tokens.answer(query.answer).starts)

    def _tokens(self, query: base.Query) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        prefix, body = self.tokens.prefix(query.prefix), self.tokens.body(query.prefix, query.body)
        return prefix.ids, body, self.tokens.answer(query.answer).ids

    def _prompt(self, query: base.Query) -> _Prompt:
        prefix, body, answer = self._tokens(query)
        if not prefix + body:
            raise ExtractError(f"The prompt of {query!r} has no tokens; give a prefix or a body.")
        length = len(prefix + body + answer)
        if length > self._longest:
            raise ExtractError(
                f"A prompt of {length} tokens is longer than the {self._longest} that the model can read. "
                f"Use fewer demonstrations or labels, or another model. The text: {query.body!r}"
            )
        packed = length <= self.reach
        if not packed or not body or len(prefix) <= _SHORT_PREFIX:
            prefix, body = (), prefix + body
        return _Prompt(prefix, packed, Continuation(body + answer, len(answer)))

    def _turns(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each prompt as a user's turn."""
        turns = [self.chat_prompt(self.as_data(prompt)) for prompt in prompts]
        if None in turns:
            raise ModelError(
                f"{self.name or self.model.name_or_path!r} has no chat template, which generating needs. "
                "Choose an instruction-tuned model (its name often ends in -Instruct)."
            )
        return [self.tokens.plain(turn) for turn in turns if turn is not None]

    @torch.no_grad()
    def _replies(self, prompts: Sequence[str], sampling: base.Sampling) -> list[base.Reply]:
        rows = self._turns(prompts)
        tokenizer: Any = self.tokens.tokenizer
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        width, device = max(map(len, rows)), self.model.device
        # padding on the left: the reply follows the prompt at once
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        options: dict[str, Any] = {"do_sample": True, "temperature": sampling.temperature}
        if not sampling.temperature:  # a model's own settings have no place in a greedy reply
            options = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        model: Any = self.model  # the auto class does not promise `generate`
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # seeded batch by batch, so that a run that goes on draws what it would have drawn
            torch.manual_seed(text_seed(sampling.seed, "\0".join(prompts)))
            generated = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=pad,
                **options,
            )[:, width:]
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
        written = (generated != pad).sum(1).tolist()
        return [base.Reply(*one) for one in zip(texts, map(len, rows), written, strict=True)]


# --- Loading


def load_local(settings: base.LMSettings, runtime: base.LMRuntime) -> LocalLanguageModel:
    """The local model of `settings`."""
    device = choose_device(runtime.device)
    here = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if here and here.type == device.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        raise ConfigError(f"There is no device {str(device)!r} here; give 'cpu', or 'auto' for the best.")
    where = _where(settings)
    options: dict[str, Any] = {"dtype": DTYPES[resolve_dtype(settings, runtime).dtype]}
    if settings.quantization != "none":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise MissingExtra(
                f"quantization={settings.quantization!r} needs the package `bitsandbytes`: "
                "pip install bitsandbytes"
            )
        quantizer = BitsAndBytesConfig(**{QUANTIZERS[settings.quantization]: True})
        options |= {"quantization_config": quantizer, "device_map": {"": device}}
    with loading(f"The language model {settings.model!r}"):
        tokenizer = AutoTokenizer.from_pretrained(**where)
        auto: Any = AutoModelForCausalLM
        model, found = auto.from_pretrained(**where, **options, output_loading_info=True)
    check_missing(settings.model, found["missing_keys"])
    check_finite(settings.model, model)
    name = settings.model
    if settings.quantization == "none":
        torch.nn.Module.to(model, device)
    else:
        name = f"{name}|{settings.quantization}"
    return LocalLanguageModel(model, tokenizer, name=name, runtime=runtime)


def load_tokenizer(settings: base.LMSettings, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of `settings`; `OSError` or `ValueError` where there is none."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**_where(settings), **options)
    return tokenizer


def _where(settings: base.LMSettings) -> dict[str, Any]:
    """What `from_pretrained` is given to find the files."""
    where = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    if not settings.model.endswith(".gguf"):
        return {"pretrained_model_name_or_path": resolve_model(settings.model), **where}
    file = Path(settings.model).expanduser()
    if not file.is_file():
        raise ModelError(f"There is no file {settings.model!r}.")
    require_gguf()
    return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, **where}


def choose_device(name: str) -> torch.device:
    """The device called `name`; for `auto` an accelerator where there is one."""
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name!r} is no device of torch: {error}") from error


def resolve_dtype(settings: base.LMSettings, runtime: base.LMRuntime) -> base.LMSettings:
    """The settings with the number format that `auto` stands for; a server chooses its own."""
    if settings.dtype != "auto" or settings.base_url is not None:
        return settings
    # by the kind of device alone: asking a GPU what it can do would bar forked workers from using it
    dtype: base.Dtype = "float32" if choose_device(runtime.device).type == "cpu" else "bfloat16"
    return replace(settings, dtype=dtype)


# --- Fingerprints


def model_fingerprint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | None = None
) -> str:
    """Name, commit (of a Hub model), number format, and fingerprints of weights and tokenizer."""
    name = name or model.name_or_path or type(model).__name__
    commit = getattr(model.config, "_commit_hash", None) or "local"
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{name}|{commit}|{dtype}|{weights_fingerprint(model)}|{tokenizer_fingerprint(tokenizer)}"


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Hash over every weight's name, shape, sum and a sample of its values.

    So any training step shows, far quicker than by hashing all bytes, and on any device.
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


# --- Replies that obey a boolean constraint while they are written, by adaptive weighted rejection sampling:
# Lipkin et al. 2025 (https://arxiv.org/abs/2504.05410), in the recursive form of their package genlm-control.
# Tokens are drawn without replacement until the constraint accepts one, so few of the vocabulary are checked.
# The weight of a draw estimates, without bias, the probability of all accepted tokens; the product over a
# reply corrects that choosing token by token favours beginnings which the constraint hardly lets end.


FloatArray: TypeAlias = NDArray[np.float64]
TRIES = 256  # most tokens that are checked at a place; a draw that finds none of them allowed has weight 0


def accept_first(
    order: Sequence[int], probs: FloatArray, allowed: Callable[[int], bool]
) -> tuple[int | None, float]:
    """The first allowed token of an order, and its weight in [0, 1]; `None` and 0 where there is none.

    Over orders drawn without replacement by `probs`, `(vocabulary,)`, the mean of weight times f(token) is
    the sum of probs times f over all allowed tokens. That holds for an order that is cut off too.
    """
    weight, left = 1.0, 1.0
    for place, token in enumerate(order):
        share = min(1.0, float(probs[token]) / left) if left > 0 else 1.0
        if allowed(token):
            # the other tokens' part is estimated by whether the next of the order is allowed
            others = place + 1 < len(order) and allowed(order[place + 1])
            whole = others or place + 1 == len(order)
            return token, weight * (1.0 if whole else share)
        weight, left = weight * (1 - share), left - float(probs[token])
    return None, 0.0


def draw_token(
    log_probs: FloatArray, allowed: Callable[[int], bool], rng: np.random.Generator
) -> tuple[int | None, float]:
    """An allowed token and its weight, as by `accept_first`; `log_probs`, `(vocabulary,)`, in nats."""
    keys = log_probs + rng.gumbel(size=log_probs.shape)
    size = min(TRIES, int(np.isfinite(keys).sum()))
    top = np.argpartition(-keys, size - 1)[:size]
    return accept_first(top[np.argsort(-keys[top])].tolist(), np.exp(log_probs), allowed)


def draw_reply(
    next_log_probs: Callable[[list[int]], FloatArray],
    decode: Callable[[list[int]], str],
    ends: Collection[int],
    barred: Collection[int],
    allowed: base.Constraint,
    most: int,
    rng: np.random.Generator,
) -> tuple[list[int] | None, float]:
    """The tokens of a reply that is allowed to end, and its weight; `None` and 0 where it came to none.

    Args:
        next_log_probs: Given the tokens so far, the log-probabilities of the next, `(vocabulary,)`.
        decode: Tokens to text.
        ends: Tokens that end a reply; they are not a part of it.
        barred: Tokens that have no place in a reply.
        allowed: The constraint.
        most: Most tokens, without the end.
        rng: Draws the tokens.
    """
    written: list[int] = []
    weight = 1.0

    def check(token: int) -> bool:
        if token in ends:
            return allowed(decode(written), True)
        full = len(written) == most or token in barred
        return not full and allowed(decode([*written, token]), False)

    while True:
        token, share = draw_token(next_log_probs(written), check, rng)
        weight *= share
        if token is None or not weight:
            return None, 0.0
        if token in ends:
            return written, weight
        written.append(token)


def cached_log_probs(
    model: Any, prompt: Sequence[int], temperature: float
) -> Callable[[list[int]], FloatArray]:
    """The next token's log-probabilities behind a prompt, for replies written one after the other.

    What is returned is called with no token for a new reply, then each time with one more.
    """

    def read(ids: Sequence[int], cache: Any) -> tuple[FloatArray, Any]:
        rows = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            found = model(input_ids=rows, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = found.logits[0, -1].double() / temperature
        return logits.log_softmax(-1).cpu().numpy(), found.past_key_values

    first, of_prompt = read(prompt, None)
    cache: Any = None

    def after(written: list[int]) -> FloatArray:
        nonlocal cache
        if not written:
            cache = deepcopy(of_prompt)
            return first
        log_probs, cache = read(written[-1:], cache)
        return log_probs

    return after
