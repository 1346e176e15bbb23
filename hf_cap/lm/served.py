"""A model behind an OpenAI-compatible server (extra `served`): scores and generates over HTTP.

Scoring needs log-probabilities of prompt tokens: `prompt_logprobs` (vLLM) or `echo` with `logprobs`.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

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
from hf_cap.lm.dialects import DIALECTS, ScoreRequest, read_reply

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from transformers import PreTrainedTokenizerBase

    from hf_cap.lm.tokens import PromptTokenizer

T = TypeVar("T")
Arrived = Callable[[int, dict[str, Any]], object]

_logger = logging.getLogger(__name__)
_NEW_TOKENS = 1
"""Generated beside the scores, because some servers refuse to generate none."""


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
        except ImportError as error:
            raise MissingExtra(
                "A served model needs the extra `served`: pip install 'hf-cap[served]'."
            ) from error
        self._openai = openai
        self.settings = settings
        self.model, self.base_url = settings.model, str(settings.base_url).rstrip("/")
        self.runtime = runtime or current_runtime()
        self._tokenizer = tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """Server, model, and what is sent: token ids of which tokenizer, or text."""
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
        started, distinct = time.perf_counter(), list(dict.fromkeys(queries))
        requests = [self._request(query) for query in distinct]
        results: dict[Query, Scored] = {}

        def arrived(number: int, answer: dict[str, Any]) -> None:
            query = distinct[number]
            results[query] = DIALECTS[self.dialect].read(answer, requests[number])
            if on_result:
                on_result(query, results[query])

        self._ask("/completions", [self._body(r, self.dialect) for r in requests], arrived)
        seconds = time.perf_counter() - started
        self.statistics += LMStatistics(len(queries), distinct=len(distinct), seconds=seconds)
        return [results[query] for query in queries]

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        """Reply to each prompt through `/chat/completions`.

        Raises:
            ServerError: the server cannot be reached, keeps failing, or answers without a message.
        """
        options = {
            "model": self.model,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
            "seed": sampling.seed,
        }
        bodies = [{**options, "messages": [{"role": "user", "content": p}]} for p in prompts]
        replies: dict[int, Reply] = {}

        def arrived(number: int, answer: dict[str, Any]) -> None:
            replies[number] = read_reply(answer)
            if on_result:
                on_result(prompts[number], replies[number])

        self._ask("/chat/completions", bodies, arrived)
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
        if self.tokens is None or self._longest is None:
            return 0
        return len(self._request(query).prompt) + _NEW_TOKENS - self._longest

    @cached_property
    def dialect(self) -> str:
        """The first dialect in which the server gives usable log-probabilities of a prompt."""
        _ = self._longest  # checks that the model is served
        request, reasons = self._request(Query("", "The sky is", " blue")), []
        for name, dialect in DIALECTS.items():
            try:
                (answer,) = self._ask("/completions", [self._body(request, name)])
                dialect.read(answer, request)
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
        (listed,) = self._ask("/models", [None])
        served = {str(item.get("id")): item for item in listed.get("data", [])}
        if served and self.model not in served:
            raise ServerError(
                f"{self.base_url} does not serve {self.model!r}; it serves {list(served)!r}. Name "
                "one of these as the model."
            )
        longest = served.get(self.model, {}).get("max_model_len")
        return longest if isinstance(longest, int) else None

    def _request(self, query: Query) -> ScoreRequest:
        text = query.prefix + query.body
        if self.tokens is None:
            return ScoreRequest(text + query.answer, (), (), len(text))
        answer = self.tokens.answer(query.answer)
        prompt = self.tokens.prefix(query.prefix).ids + self.tokens.body(query.prefix, query.body)
        return ScoreRequest([*prompt, *answer.ids], answer.ids, answer.starts, len(text))

    def _body(self, request: ScoreRequest, dialect: str) -> dict[str, Any]:
        options = {"prompt": request.prompt, "max_tokens": _NEW_TOKENS, "temperature": 0.0}
        return {"model": self.model, **options, **DIALECTS[dialect].options}

    def _ask(
        self, path: str, bodies: Sequence[dict[str, Any] | None], arrived: Arrived | None = None
    ) -> list[dict[str, Any]]:
        """The answer to each body (`None` is a GET), at most `max_concurrency` under way at a time."""

        async def all_answers() -> list[dict[str, Any]]:
            gate = asyncio.Semaphore(self.runtime.max_concurrency)
            client = self._openai.AsyncOpenAI(
                base_url=self.base_url,
                api_key=read_key(self.runtime.api_key_env) or "none",
                timeout=self.runtime.timeout,
                max_retries=self.runtime.max_retries,
            )

            async def one(number: int, body: dict[str, Any] | None) -> dict[str, Any]:
                async with gate:
                    answer = await self._send(client, path, body)
                if arrived:
                    arrived(number, answer)
                return answer

            async with client:
                tasks = [asyncio.ensure_future(one(*pair)) for pair in enumerate(bodies)]
                try:
                    return await asyncio.gather(*tasks)
                finally:  # after a failure the others are cancelled before the client closes
                    for task in tasks:
                        task.cancel()

        return _run(all_answers())

    async def _send(
        self, client: "AsyncOpenAI", path: str, body: dict[str, Any] | None
    ) -> dict[str, Any]:
        """One request, which the client repeats while the server is busy or unwell."""
        call = (
            client.get(path, cast_to=object)
            if body is None
            else client.post(path, body=body, cast_to=object)
        )
        try:
            answer: Any = await call
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
                f"answered with something else than JSON: {str(answer)[:200]!r}. Is base_url the root of an "
                "OpenAI-compatible API (it usually ends in /v1)?"
            )
        if key := read_key(self.runtime.api_key_env):  # some servers repeat it
            trouble = trouble.replace(key, "***")
        raise ServerError(f"{self.base_url}{path} {trouble[:500]}")


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
