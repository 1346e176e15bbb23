"""A model behind an OpenAI-compatible server (extra `served`): scores and generates over HTTP.

Scoring needs log-probabilities of prompt tokens: `prompt_logprobs` (vLLM) or `echo` with `logprobs`.
"""

import asyncio
import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hf_cap.errors import ConfigError, ExtractError, MissingExtra, ServerError
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
    current_runtime,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from transformers import PreTrainedTokenizerBase

    from hf_cap.lm.tokens import AnswerTokens, PromptTokenizer

Answer = dict[str, Any]

_logger = logging.getLogger(__name__)
_NEW_TOKENS = 1
"""Generated beside the scores, because some servers refuse to generate none."""
_DIALECTS: dict[str, dict[str, Any]] = {
    "prompt_logprobs": {"prompt_logprobs": 0},
    "echo": {"echo": True, "logprobs": 1},
}
"""Ways to ask a server for log-probabilities of prompt tokens, with what is added to a request."""


class ServedLanguageModel(LanguageModel):
    """Scores and generates through the server at `settings.base_url`.

    Args:
        settings: The server, and the name under which it serves the model.
        runtime: Concurrency, retries, time limit, and the name of the key's environment variable.
        tokenizer: That of the model; `auto` loads it where it can be had, without one text is sent.

    Raises:
        MissingExtra: `openai` is not installed.
    """

    def __init__(
        self,
        settings: LMSettings,
        runtime: LMRuntime | None = None,
        tokenizer: "PreTrainedTokenizerBase | Literal['auto'] | None" = "auto",
    ) -> None:
        try:
            import openai
            from anyio.from_thread import start_blocking_portal
        except ImportError as error:
            raise MissingExtra(
                "A served model needs the extra `served`: pip install 'hf-cap[served]'."
            ) from error
        self._openai, self._portal, self._tokenizer = openai, start_blocking_portal, tokenizer
        self.settings, self.runtime = settings, runtime or current_runtime()
        self.model, self.base_url = settings.model, str(settings.base_url).rstrip("/")

    @cached_property
    def fingerprint(self) -> str:
        """Server, model, and what is sent: token ids of which tokenizer, or text."""
        from hf_cap.lm.tokens import tokenizer_fingerprint

        sent = tokenizer_fingerprint(self.tokens.tokenizer) if self.tokens else "text"
        return f"{self.base_url}|{self.model}|served|{sent}"

    @cached_property
    def tokens(self) -> "PromptTokenizer | None":  # type: ignore[override]
        """Tokenises as the model does; `None` where its tokenizer cannot be loaded."""
        if self._tokenizer is None:
            return None
        from hf_cap.lm.local import load_tokenizer
        from hf_cap.lm.tokens import PromptTokenizer

        if self._tokenizer != "auto":
            return PromptTokenizer(self._tokenizer)
        try:
            return PromptTokenizer(load_tokenizer(self.settings))
        except (OSError, ValueError) as error:
            _logger.warning("No tokenizer for %r here (%s); text is sent.", self.model, error)
            return None

    def log_probs(self, queries: Sequence[Query], on_result: OnScore | None = None) -> list[Scored]:
        """Score each query; equal ones once."""
        started, distinct = time.perf_counter(), list(dict.fromkeys(queries))
        requests = [self._request(query) for query in distinct]
        results: dict[Query, Scored] = {}

        def arrived(number: int, answer: Answer) -> None:
            query = distinct[number]
            results[query] = requests[number].read(answer, self.dialect)
            if on_result:
                on_result(query, results[query])

        self._ask("/completions", [self._body(r, self.dialect) for r in requests], arrived)
        seconds = time.perf_counter() - started
        self.statistics += LMStatistics(len(queries), distinct=len(distinct), seconds=seconds)
        return [results[query] for query in queries]

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        """Reply to each prompt through `/chat/completions`."""
        options = {
            "model": self.model,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
            "seed": sampling.seed,
        }
        bodies = [{**options, "messages": [{"role": "user", "content": p}]} for p in prompts]
        replies: dict[int, Reply] = {}

        def arrived(number: int, answer: Answer) -> None:
            replies[number] = _read_reply(answer)
            if on_result:
                on_result(prompts[number], replies[number])

        self._ask("/chat/completions", bodies, arrived)
        return [replies[number] for number in range(len(prompts))]

    def excess(self, query: Query) -> int:
        """Tokens by which a query is longer than the server reads; 0 where that is not known."""
        if self.tokens is None or self._longest is None:
            return 0
        return len(self._request(query).prompt) + _NEW_TOKENS - self._longest

    @cached_property
    def dialect(self) -> str:
        """The first dialect in which the server gives usable log-probabilities of a prompt."""
        _ = self._longest  # checks that the model is served
        request, reasons = self._request(Query("", "The sky is", " blue")), []
        for name in _DIALECTS:
            try:
                (answer,) = self._ask("/completions", [self._body(request, name)])
                request.read(answer, name)
                return name
            except (ServerError, ExtractError) as error:
                reasons.append(f"{name}: {error}")
        raise ServerError(
            f"{self.base_url} gives no log-probabilities of prompt tokens, which scoring needs; use vLLM "
            f"or a local model. Tried {'; '.join(reasons)}"
        )

    @cached_property
    def _longest(self) -> int | None:
        """Tokens that the server reads, the new one included; `None` where it does not report it."""
        (listed,) = self._ask("/models", [None])
        served = {str(item.get("id")): item for item in listed.get("data", [])}
        if served and self.model not in served:
            raise ServerError(
                f"{self.base_url} does not serve {self.model!r}; it serves {list(served)!r}."
            )
        longest = served.get(self.model, {}).get("max_model_len")
        return longest if isinstance(longest, int) else None

    def _request(self, query: Query) -> "_Request":
        text = query.prefix + query.body
        if self.tokens is None:
            return _Request(text + query.answer, None, len(text))
        answer = self.tokens.answer(query.answer)
        prompt = self.tokens.prefix(query.prefix).ids + self.tokens.body(query.prefix, query.body)
        return _Request([*prompt, *answer.ids], answer, len(text))

    def _body(self, request: "_Request", dialect: str) -> dict[str, Any]:
        options = {"prompt": request.prompt, "max_tokens": _NEW_TOKENS, "temperature": 0.0}
        return {"model": self.model, **options, **_DIALECTS[dialect]}

    def _ask(
        self,
        path: str,
        bodies: Sequence[dict[str, Any] | None],
        arrived: Callable[[int, Answer], object] = lambda number, answer: None,
    ) -> list[Answer]:
        """The answer to each body (`None` is a GET), at most `max_concurrency` under way at a time.

        Requests run in a thread of their own, because a notebook already runs an event loop in this one;
        when the user interrupts, those that have not ended are cancelled.
        """

        async def all_answers() -> list[Answer]:
            gate = asyncio.Semaphore(self.runtime.max_concurrency)
            client = self._openai.AsyncOpenAI(
                base_url=self.base_url,
                api_key=self._key() or "none",
                timeout=self.runtime.timeout,
                max_retries=self.runtime.max_retries,
            )

            async def one(number: int, body: dict[str, Any] | None) -> Answer:
                async with gate:
                    answer = await self._send(client, path, body)
                arrived(number, answer)
                return answer

            async with client:
                tasks = [asyncio.ensure_future(one(*pair)) for pair in enumerate(bodies)]
                try:
                    return await asyncio.gather(*tasks)
                finally:  # after a failure the others are cancelled before the client closes
                    for task in tasks:
                        task.cancel()

        with self._portal() as portal:
            return portal.call(all_answers)

    async def _send(self, client: "AsyncOpenAI", path: str, body: dict[str, Any] | None) -> Answer:
        """One request, which the client repeats while the server is busy or unwell."""
        try:
            answer: Any = await (
                client.post(path, body=body, cast_to=object)
                if body is not None
                else client.get(path, cast_to=object)
            )
        except self._openai.APIStatusError as error:
            trouble = f"failed with status {error.status_code}: {error.response.text}"
        except self._openai.OpenAIError as error:
            cause = error.__cause__ or error
            trouble = f"failed with {type(cause).__name__}: {cause}"
        else:
            with suppress(ValueError):
                answer = json.loads(answer) if isinstance(answer, str) else answer
            if isinstance(answer, dict):
                return answer
            trouble = (
                f"answered with something else than JSON: {str(answer)[:200]!r}. Is it the root of an "
                "OpenAI-compatible API (usually .../v1)?"
            )
        if key := self._key():  # some servers repeat it
            trouble = trouble.replace(key, "***")
        raise ServerError(f"{self.base_url}{path} {trouble[:500]}")

    def _key(self) -> str:
        """The key in the environment, without white space at its ends; empty for none."""
        variable = self.runtime.api_key_env
        key = os.environ.get(variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(
                f"The API key in the environment variable {variable!r} contains non-printable or "
                "non-ASCII characters. Copy it again, alone and on one line."
            )
        return key


class _Request(NamedTuple):
    """What is sent for a query, and how to find the answer in what comes back."""

    prompt: list[int] | str
    answer: "AnswerTokens | None"  # the last tokens of the prompt; None where text is sent
    answer_start: int  # character of the prompt at which the answer begins

    def read(self, reply: Answer, dialect: str) -> Scored:
        """The score of the answer in the server's reply.

        `prompt_logprobs` has an entry per prompt token, `{token id: {"logprob": ...}}`, `null` for the first;
        `echo` the log-probabilities of prompt and completion in one list, with text offsets.
        """
        choice = (reply.get("choices") or [{}])[0]
        logprobs = choice.get("logprobs") or {}
        values = logprobs.get("token_logprobs") or []
        end = len(self.prompt)
        if dialect == "prompt_logprobs":
            entries = choice.get("prompt_logprobs") or []
            if self.answer is None or len(entries) != end:
                raise ExtractError(f"{len(entries)} prompt log-probabilities for {end} tokens.")
            pairs = zip(self.prompt, entries, strict=True)
            values = [(entry or {}).get(str(token), {}).get("logprob") for token, entry in pairs]
        if self.answer:
            return _scored(values[end - len(self.answer.ids) : end], self.answer.starts)
        offsets = logprobs.get("text_offset") or []
        found = [
            (value, max(0, start - self.answer_start))
            for value, start, stop in zip(values, offsets, [*offsets[1:], math.inf], strict=False)
            # a token that reaches over from the prompt counts as the answer's
            if stop > self.answer_start and start < end
        ]
        return _scored([value for value, _ in found], tuple(start for _, start in found))


def _scored(values: Sequence[Any], starts: tuple[int, ...]) -> Scored:
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    if not numbers or len(numbers) != len(values) or len(numbers) != len(starts):
        raise ExtractError(
            f"The server gave {list(values)!r} for an answer of {len(starts)} tokens."
        )
    return Scored(tuple(min(float(number), 0.0) for number in numbers), starts)


def _read_reply(answer: Answer) -> Reply:
    """The reply in the JSON of `/chat/completions`; a message without content is an empty text."""
    try:
        text = answer["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        raise ServerError(
            f"The server's answer holds no message: {str(answer)[:200]!r}. Has it /chat/completions?"
        ) from error
    usage = answer.get("usage") or {}
    return Reply(text, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
