"""A model behind an OpenAI-compatible server (extra `served`): scores and generates over HTTP.

Scoring needs log-probabilities of prompt tokens: `prompt_logprobs` (vLLM) or `echo` with `logprobs`.
"""

import asyncio
import json
import logging
import math
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

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

    from hf_cap.lm.tokens import PromptTokenizer

T = TypeVar("T")
Arrived = Callable[[int, dict[str, Any]], object]

_logger = logging.getLogger(__name__)
_NEW_TOKENS = 1
"""Generated beside the scores, because some servers refuse to generate none."""


class _Request(NamedTuple):
    """What is sent for a query, and how to find the answer in what comes back."""

    prompt: list[int] | str
    answer_ids: tuple[int, ...]
    starts: tuple[int, ...]
    answer_start: int
    """Character of the prompt at which the answer begins; used where there is no tokenizer."""


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
        _import_openai()
        self.settings = settings
        self.model = settings.model
        self.base_url = str(settings.base_url).rstrip("/")
        self.runtime = runtime or current_runtime()
        self._tokenizer = tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """Server, model, and what is sent: token ids of which tokenizer, or text.

        The server does not report its weights.
        """
        sent = "text"
        if self.tokens:
            from hf_cap.lm.loading import tokenizer_fingerprint

            sent = tokenizer_fingerprint(self.tokens.tokenizer)
        return "|".join([self.base_url, self.model, "served", sent])

    @cached_property
    def tokens(self) -> "PromptTokenizer | None":
        """Tokenises as the model does; `None` where its tokenizer cannot be loaded."""
        if self._tokenizer is None:
            return None
        from hf_cap.lm.loading import load_tokenizer
        from hf_cap.lm.tokens import PromptTokenizer

        if self._tokenizer != "auto":
            return PromptTokenizer(self._tokenizer)
        try:
            return PromptTokenizer(load_tokenizer(self.settings))
        except (OSError, ValueError) as error:
            _logger.warning("No tokenizer for %r here (%s); text is sent.", self.model, error)
            return None

    def log_probs(self, queries: Sequence[Query], on_result: OnScore | None = None) -> list[Scored]:
        """Score each query; equal ones once.

        Raises:
            ServerError: the server refuses, keeps failing, does not serve the model, or gives no
                log-probabilities of prompt tokens.
            ExtractError: a score is missing or not finite.
        """
        started = time.perf_counter()
        read, distinct = DIALECTS[self.dialect].read, list(dict.fromkeys(queries))
        requests = [self._request(query) for query in distinct]
        results: dict[Query, Scored] = {}

        def arrived(number: int, answer: dict[str, Any]) -> None:
            query = distinct[number]
            results[query] = read(answer, requests[number])
            if on_result:
                on_result(query, results[query])

        self._post("/completions", [self._body(r, self.dialect) for r in requests], arrived)
        self.statistics += LMStatistics(
            queries=len(queries), distinct=len(distinct), seconds=time.perf_counter() - started
        )
        return [results[query] for query in queries]

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        """Reply to each prompt through `/chat/completions`.

        Raises:
            ServerError: the server cannot be reached, keeps failing, or answers without a message.
        """
        bodies = [
            {
                "model": self.model,
                "messages": [{"role": "user", "content": prompt}],
                "temperature": sampling.temperature,
                "max_tokens": sampling.max_new_tokens,
                "seed": sampling.seed,
            }
            for prompt in prompts
        ]
        replies: dict[int, Reply] = {}

        def arrived(number: int, answer: dict[str, Any]) -> None:
            replies[number] = _read_reply(answer)
            if on_result:
                on_result(prompts[number], replies[number])

        self._post("/chat/completions", bodies, arrived)
        return [replies[number] for number in range(len(prompts))]

    def chat_prompt(self, user: str) -> str | None:
        """The user's turn in the model's chat template; `None` where no tokenizer could be loaded."""
        return self.tokens.chat_prompt(user) if self.tokens else None

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """The tokens of an answer; its characters where no tokenizer could be loaded."""
        return self.tokens.answer(answer).ids if self.tokens else super().answer_tokens(answer)

    def end_of_turn(self) -> str | None:
        """What the chat template puts behind the model's answer, where a tokenizer could be loaded."""
        return self.tokens.end_of_turn if self.tokens else None

    def excess(self, query: Query) -> int:
        """Tokens by which a query is longer than the server reads; 0 where that is not known."""
        if self._longest is None or self.tokens is None:
            return 0
        return len(self._request(query).prompt) + _NEW_TOKENS - self._longest

    @cached_property
    def dialect(self) -> str:
        """The first dialect in which the server gives usable log-probabilities of a prompt."""
        _ = self._longest  # checks that the model is served
        reasons = []
        request = self._request(Query("", "The sky is", " blue"))
        for name, dialect in DIALECTS.items():
            body = self._body(request, name)
            try:
                dialect.read(
                    _run(self._in_client(partial(self._send, path="/completions", body=body))),
                    request,
                )
            except (ServerError, ExtractError) as error:
                reasons.append(f"{name}: {error}")
            else:
                return name
        raise ServerError(
            f"{self.base_url} gives no log-probabilities of prompt tokens, which scoring needs. "
            f"Serve the model with vLLM, or load it locally. Tried " + "; ".join(reasons)
        )

    @cached_property
    def _longest(self) -> int | None:
        """Tokens that the server reads, the new one included; `None` where it does not report it."""
        listed = _run(self._in_client(partial(self._send, path="/models"))).get("data", [])
        served = {str(item.get("id")): item for item in listed}
        if served and self.model not in served:
            raise ServerError(
                f"{self.base_url} does not serve {self.model!r}; it serves {list(served)!r}. Name "
                "one of these as the model."
            )
        longest = served.get(self.model, {}).get("max_model_len")
        return longest if isinstance(longest, int) else None

    def _request(self, query: Query) -> _Request:
        text = query.prefix + query.body
        if self.tokens is None:
            return _Request(text + query.answer, (), (), len(text))
        answer = self.tokens.answer(query.answer)
        prompt = self.tokens.prefix(query.prefix).ids + self.tokens.body(query.prefix, query.body)
        return _Request([*prompt, *answer.ids], answer.ids, answer.starts, len(text))

    def _body(self, request: _Request, dialect: str) -> dict[str, Any]:
        options = {"prompt": request.prompt, "max_tokens": _NEW_TOKENS, "temperature": 0.0}
        return {"model": self.model, **options, **DIALECTS[dialect].options}

    def _post(self, path: str, bodies: Sequence[dict[str, Any]], arrived: Arrived) -> None:
        """Send each body, at most `max_concurrency` at a time, and report each answer as it arrives."""

        async def all_in(client: "AsyncOpenAI") -> None:
            gate = asyncio.Semaphore(self.runtime.max_concurrency)

            async def one(number: int, body: dict[str, Any]) -> None:
                async with gate:
                    answer = await self._send(client, path, body)
                arrived(number, answer)

            tasks = [asyncio.ensure_future(one(*pair)) for pair in enumerate(bodies)]
            try:
                await asyncio.gather(*tasks)
            finally:  # after a failure the others are cancelled before the client closes
                for task in tasks:
                    task.cancel()

        _run(self._in_client(all_in))

    async def _in_client(self, work: "Callable[[AsyncOpenAI], Coroutine[Any, Any, T]]") -> T:
        client = _import_openai().AsyncOpenAI(
            base_url=self.base_url,
            api_key=read_key(self.runtime.api_key_env) or "none",
            timeout=self.runtime.timeout,
            max_retries=self.runtime.max_retries,
        )
        async with client:
            return await work(client)

    async def _send(
        self, client: "AsyncOpenAI", path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One request, which the client repeats while the server is busy or unwell."""
        openai = _import_openai()
        try:
            if body is None:
                answer: Any = await client.get(path, cast_to=object)
            else:
                answer = await client.post(path, body=body, cast_to=object)
        except openai.APIStatusError as error:
            text = self._hidden(error.response.text)[:500]
            trouble = f"status {error.status_code}: {text}"
        except openai.OpenAIError as error:
            cause = error.__cause__ or error
            trouble = self._hidden(f"{type(cause).__name__}: {cause}")
        else:
            return self._json(path, answer)
        raise ServerError(f"{self.base_url}{path} failed with {trouble}")

    def _json(self, path: str, answer: Any) -> dict[str, Any]:
        with suppress(ValueError):
            answer = json.loads(answer) if isinstance(answer, str) else answer
        if not isinstance(answer, dict):
            raise ServerError(
                f"{self.base_url}{path} answered with something else than JSON: "
                f"{self._hidden(str(answer))[:200]!r}. Is base_url the root of an OpenAI-compatible API "
                "(it usually ends in /v1)?"
            )
        return answer

    def _hidden(self, text: str) -> str:
        """Words of the server or the network without the key, which some repeat."""
        key = read_key(self.runtime.api_key_env)
        return text.replace(key, "***") if key else text


def read_key(variable: str) -> str:
    """The key that an environment variable holds, without white space at its ends; empty for none.

    Raises:
        ConfigError: it cannot be sent. The message does not show it.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"The API key in the environment variable {variable!r} contains non-printable or non-ASCII "
            "characters. Copy it again, alone and on one line."
        )
    return key


def _import_openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise MissingExtra(
            "A served model needs the extra `served`: pip install 'hf-cap[served]'."
        ) from error
    return openai


def _run(requests: Coroutine[Any, Any, T]) -> T:
    """The result of some requests, from code that is not asynchronous.

    They run in a thread of their own, because a notebook already runs an event loop in this one. When
    the user interrupts, those that have not ended are cancelled.
    """
    begun: Future[Callable[[], object]] = Future()

    async def work() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        begun.set_result(lambda: loop.call_soon_threadsafe(task.cancel) if task else None)
        return await requests

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, work())
        try:
            return running.result()
        except KeyboardInterrupt:
            with suppress(RuntimeError):  # they have ended meanwhile
                begun.result()()
            raise


# --- What to send, and how to read what comes back


class Dialect(NamedTuple):
    """A way to ask a server for log-probabilities of prompt tokens."""

    options: dict[str, Any]
    read: Callable[[dict[str, Any], _Request], Scored]


def _read_prompt_logprobs(reply: dict[str, Any], request: _Request) -> Scored:
    """`prompt_logprobs`: an entry per prompt token, `{token id: {"logprob": ...}}`, `null` for the first."""
    if not request.answer_ids:
        raise ExtractError(
            "prompt_logprobs needs the model's tokenizer, which could not be loaded."
        )
    entries = _choice(reply).get("prompt_logprobs") or []
    if len(entries) != len(request.prompt):
        raise ExtractError(
            f"{len(entries)} prompt log-probabilities for {len(request.prompt)} tokens."
        )
    tail = entries[-len(request.answer_ids) :]
    values = [
        (entry or {}).get(str(token), {}).get("logprob")
        for token, entry in zip(request.answer_ids, tail, strict=True)
    ]
    return _scored(values, request.starts)


def _read_echo(reply: dict[str, Any], request: _Request) -> Scored:
    """`echo`: the log-probabilities of prompt and completion in one list, with text offsets."""
    log_probs = _choice(reply).get("logprobs") or {}
    values = log_probs.get("token_logprobs") or []
    if request.answer_ids:
        first = len(request.prompt) - len(request.answer_ids)
        return _scored(values[first : len(request.prompt)], request.starts)
    offsets = log_probs.get("text_offset") or []
    end = len(request.prompt)
    answer = [
        (value, max(0, start - request.answer_start))
        for value, start, stop in zip(values, offsets, [*offsets[1:], math.inf], strict=False)
        # a token that reaches over from the prompt counts as the answer's
        if stop > request.answer_start and start < end
    ]
    return _scored([value for value, _ in answer], tuple(start for _, start in answer))


DIALECTS = {
    "prompt_logprobs": Dialect({"prompt_logprobs": 0}, _read_prompt_logprobs),
    "echo": Dialect({"echo": True, "logprobs": 1}, _read_echo),
}


def _choice(reply: dict[str, Any]) -> dict[str, Any]:
    choices = reply.get("choices") or [{}]
    return dict(choices[0])


def _scored(values: Sequence[Any], starts: tuple[int, ...]) -> Scored:
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    if not numbers or len(numbers) != len(values) or len(numbers) != len(starts):
        raise ExtractError(
            f"The server gave {list(values)!r} for an answer of {len(starts)} tokens."
        )
    return Scored(tuple(min(float(number), 0.0) for number in numbers), starts)


def _read_reply(answer: dict[str, Any]) -> Reply:
    """The reply in the JSON of `/chat/completions`; a message without content is an empty text."""
    try:
        text = answer["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        raise ServerError(
            f"The server's answer holds no message: {str(answer)[:200]!r}. Is base_url the root of an "
            "OpenAI-compatible API with /chat/completions?"
        ) from error
    usage = answer.get("usage") or {}
    return Reply(text, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
