"""A model behind an OpenAI-compatible server (extra `served`): scores and generates over HTTP.

Scoring needs log-probabilities of prompt tokens: `prompt_logprobs` (vLLM) or `echo` with `logprobs`.
"""

import asyncio
import logging
import os
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from hf_cap.errors import ConfigError, ExtractError, MissingExtra, ServerError
from hf_cap.lm.base import (
    MARK,
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
    split_tokens,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from transformers import PreTrainedTokenizerBase

    from hf_cap.lm.completions import Answer, Completion, Dialect, ScoreRequest
    from hf_cap.lm.tokens import PromptTokenizer

_logger = logging.getLogger(__name__)
_LIKELY_TOKENS = re.compile(
    r"(?=<[|｜][^<>]{1,60}[|｜]>|</?s>|<</?SYS>>|</?(?:think|tool_call|tool_response)>"
    r"|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]).",
    re.DOTALL,
)
"""First character of what chat templates of common models write, for text that the server tokenises."""
_BASIC = "Basic "
"""Begins a key that is a user's name and password, joined by a colon, perhaps in base64."""
_PROBE_RETRIES, _PROBE_SECONDS = 2, 30.0
"""For the first request, which tells whether there is such a server."""


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
        from hf_cap.lm import completions

        self._openai, self._api = openai, completions
        self._portal, self._tokenizer = start_blocking_portal, tokenizer
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
        for on_the_hub in (False, True):
            if on_the_hub:
                _ = self._longest  # that the server is there is known sooner
            try:
                found = load_tokenizer(self.settings, local_files_only=not on_the_hub)
                return PromptTokenizer(found)
            except (OSError, ValueError) as error:
                reason = error
        _logger.warning("No tokenizer for %r here (%s); text is sent.", self.model, reason)
        return None

    def log_probs(self, queries: Sequence[Query], on_result: OnScore | None = None) -> list[Scored]:
        """Score each query; equal ones once."""
        started, distinct = time.perf_counter(), list(dict.fromkeys(queries))
        requests = [self._request(query) for query in distinct]
        results: dict[Query, Scored] = {}

        def arrived(number: int, answer: "Completion") -> None:
            query = distinct[number]
            results[query] = requests[number].read(answer, self.dialect)
            if on_result:
                on_result(query, results[query])

        bodies = [self._body(request, self.dialect) for request in requests]
        self._ask("/completions", self._api.Completion, bodies, arrived)
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
        turns = [split_tokens(prompt, _LIKELY_TOKENS).replace(MARK, " ") for prompt in prompts]
        bodies = [{**options, "messages": [{"role": "user", "content": turn}]} for turn in turns]
        replies: dict[int, Reply] = {}

        def arrived(number: int, answer: "Completion") -> None:
            replies[number] = answer.reply()
            if on_result:
                on_result(prompts[number], replies[number])

        self._ask("/chat/completions", self._api.Completion, bodies, arrived)
        return [replies[number] for number in range(len(prompts))]

    def as_data(self, text: str) -> str:
        """`text` with marks; where the server tokenises, a space is sent for each."""
        return super().as_data(text) if self.tokens else split_tokens(text, _LIKELY_TOKENS)

    def excess(self, query: Query) -> int:
        """Tokens by which a query is longer than the server reads; 0 where that is not known."""
        if self.tokens is None or self._longest is None:
            return 0
        return len(self._request(query).prompt) + self._api.NEW_TOKENS - self._longest

    @cached_property
    def dialect(self) -> "Dialect":
        """The first dialect in which the server gives usable log-probabilities of a prompt."""
        _ = self._longest  # checks that the model is served
        request, reasons = self._request(Query("", "The sky is", " blue")), []
        for name in self._api.DIALECTS:
            try:
                body = self._body(request, name)
                (answer,) = self._ask("/completions", self._api.Completion, [body])
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
        try:
            (listed,) = self._ask("/models", self._api.Models, [None])
        except ServerError as error:
            if "status 404" in str(error):  # a server that lists no models
                return None
            raise
        served = {item.id: item.max_model_len for item in listed.data}
        if served and self.model not in served:
            raise ServerError(
                f"{self.base_url} does not serve {self.model!r}; it serves {list(served)[:20]!r}."
            )
        return served.get(self.model)

    def _request(self, query: Query) -> "ScoreRequest":
        text = query.prefix + query.body
        if self.tokens is None:
            shown = (text + query.answer).replace(MARK, " ")
            return self._api.ScoreRequest(shown, query.answer, None)
        answer = self.tokens.answer(query.answer)
        prompt = self.tokens.prefix(query.prefix).ids + self.tokens.body(query.prefix, query.body)
        return self._api.ScoreRequest([*prompt, *answer.ids], query.answer, answer)

    def _body(self, request: "ScoreRequest", dialect: "Dialect") -> dict[str, Any]:
        options = {"prompt": request.prompt, "max_tokens": self._api.NEW_TOKENS, "temperature": 0.0}
        return {"model": self.model, **options, **self._api.DIALECTS[dialect]}

    def _ask(
        self,
        path: str,
        kind: "type[Answer]",
        bodies: Sequence[dict[str, Any] | None],
        arrived: "Callable[[int, Answer], object]" = lambda number, answer: None,
    ) -> "list[Answer]":
        """The answer to each body (`None` is a GET), at most `max_concurrency` under way at a time.

        Requests run in a thread of their own, because a notebook already runs an event loop in this one;
        when the user interrupts, those that have not ended are cancelled.
        """

        async def all_answers() -> "list[Answer]":
            gate = asyncio.Semaphore(self.runtime.max_concurrency)

            async def one(number: int, body: dict[str, Any] | None) -> "Answer":
                async with gate:
                    answer = await self._send(client, path, kind, body)
                arrived(number, answer)
                return answer

            async with self._client(probe=None in bodies) as client:
                tasks = [asyncio.ensure_future(one(*pair)) for pair in enumerate(bodies)]
                try:
                    return await asyncio.gather(*tasks)
                finally:  # after a failure the others are cancelled before the client closes
                    for task in tasks:
                        task.cancel()

        with self._portal() as portal:
            return portal.call(all_answers)

    def _client(self, *, probe: bool) -> "AsyncOpenAI":
        seconds, retries = self.runtime.timeout, self.runtime.max_retries
        if probe:
            seconds, retries = min(seconds, _PROBE_SECONDS), min(retries, _PROBE_RETRIES)
        bounded = self._api.BoundedClient(follow_redirects=True)
        bounded.seconds = seconds
        key = self._key()
        return self._openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=key or "none",
            default_headers={"Authorization": _basic(key)} if key.startswith(_BASIC) else None,
            timeout=seconds,
            max_retries=retries,
            http_client=bounded,
        )

    async def _send(
        self, client: "AsyncOpenAI", path: str, kind: "type[Answer]", body: dict[str, Any] | None
    ) -> "Answer":
        """One request, which the client repeats while the server is busy or unwell."""
        raw = self._api.RawResponse
        try:
            if body is None:
                return self._api.parse(kind, (await client.get(path, cast_to=raw)).content)
            return self._api.parse(kind, (await client.post(path, body=body, cast_to=raw)).content)
        except self._openai.APIStatusError as error:
            trouble = f"failed with status {error.status_code}: {error.response.text}"
        except self._openai.OpenAIError as error:
            cause = error.__cause__ or error
            trouble = (
                f"failed with {type(cause).__name__}: {str(cause)[:300]}. Check that it runs, "
            )
            trouble += "its address and `timeout`."
        except ServerError as error:
            trouble = str(error)
        for secret in _parts(self._key()):  # some servers repeat it
            trouble = trouble.replace(secret, "***")
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


def _basic(key: str) -> str:
    """The header for a user's name and password."""
    pair = key.removeprefix(_BASIC)
    return _BASIC + (b64encode(pair.encode()).decode() if ":" in pair else pair)


def _parts(key: str) -> list[str]:
    """What must not be shown, the longest first: a key, or a password in all its forms."""
    if not key.startswith(_BASIC):
        return [key] if key else []
    coded = _basic(key).removeprefix(_BASIC)
    with suppress(ValueError):
        key = b64decode(coded).decode()
    pair = key.removeprefix(_BASIC)
    return sorted({coded, pair, pair.partition(":")[2]} - {""}, key=len, reverse=True)
