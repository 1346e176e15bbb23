"""Requests to a model server: bounded concurrency, patience, and a key that is never shown."""

import asyncio
import logging
import math
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import httpx2
import torch
from transformers import AutoTokenizer

from hf_cap.embedded import resolve_model
from hf_cap.errors import ConfigError, ExtractError, ModelError, ServerError
from hf_cap.lm.base import (
    Arrived,
    Query,
    Scored,
    ScorerRuntime,
    ScorerSettings,
    ScorerStatistics,
    characters,
)
from hf_cap.lm.chat import Arrived as ArrivedChat
from hf_cap.lm.chat import Reply, Sampling
from hf_cap.lm.local import (
    choose_device,
    load_language_model,
    model_identity,
    tokenizer_fingerprint,
)
from hf_cap.lm.tokens import FIXED_DATE, PromptTokenizer
from hf_cap.utils import text_seed

T = TypeVar("T")

_logger = logging.getLogger(__name__)
_PASSING = {408, 409, 429, 500, 502, 503, 504}
"""Statuses that may be gone the next time."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0


def wait_for(requests: Coroutine[Any, Any, T]) -> T:
    """The result of some requests, from code that is not asynchronous.

    They run in a thread of their own, because a notebook already runs an event loop in this one. When
    the user interrupts, those that have not ended are called back.
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


class Connection:
    """A server and how to talk to it.

    Args:
        base_url: Root of the API, e.g. `http://localhost:8000/v1`.
        runtime: Concurrency, retries, time limit, and the name of the key's environment variable.
    """

    def __init__(self, base_url: str, runtime: ScorerRuntime) -> None:
        self.base_url = base_url.rstrip("/")
        self.runtime = runtime

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON at `path`.

        Raises:
            ConfigError: the key cannot be sent.
            ServerError: the server cannot be reached or refuses.
        """
        async with self._client() as client:
            return await self._send(client, "GET", path, None)

    async def post_all(
        self,
        path: str,
        bodies: Sequence[dict[str, Any]],
        arrived: Callable[[int, dict[str, Any]], object] | None = None,
    ) -> list[dict[str, Any]]:
        """The replies to `bodies`, in order, at most `max_concurrency` under way at a time.

        Args:
            path: Below the root of the API.
            bodies: What is sent, one a request.
            arrived: Told the number and the reply of each request as it ends, whatever becomes of the others.

        Raises:
            ConfigError: the key cannot be sent.
            ServerError: a request is refused, or keeps failing.
        """
        gate = asyncio.Semaphore(self.runtime.max_concurrency)

        async with self._client() as client:

            async def one(number: int, body: dict[str, Any]) -> dict[str, Any]:
                async with gate:
                    reply = await self._send(client, "POST", path, body)
                if arrived:
                    arrived(number, reply)
                return reply

            tasks = [asyncio.ensure_future(one(*pair)) for pair in enumerate(bodies)]
            try:
                return await asyncio.gather(*tasks)
            finally:  # after a failure the others are called back before the client closes
                for task in tasks:
                    task.cancel()

    def _client(self) -> httpx2.AsyncClient:
        key = read_key(self.runtime.api_key_env)
        return httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.runtime.timeout,
            limits=httpx2.Limits(max_connections=self.runtime.max_concurrency),
        )

    async def _send(
        self, client: httpx2.AsyncClient, method: str, path: str, body: dict[str, Any] | None
    ) -> dict[str, Any]:
        """One request, repeated while the server is busy or unwell."""
        for attempt in range(self.runtime.max_retries + 1):
            wait = _wait(attempt)
            try:
                response = await client.request(method, self.base_url + path, json=body)
            except httpx2.TransportError as error:
                trouble = self._hidden(f"{type(error).__name__}: {error}")
            else:
                if response.is_success:
                    return self._json(response)
                trouble = f"status {response.status_code}: {self._hidden(response.text)[:500]}"
                if response.status_code not in _PASSING:
                    break
                wait = _asked_wait(response) or wait
            if attempt < self.runtime.max_retries:
                _logger.info("%s%s: %s; again in %.1f s.", self.base_url, path, trouble, wait)
                await asyncio.sleep(wait)
        raise ServerError(f"{self.base_url}{path} failed with {trouble}")

    def _json(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            return dict(response.json())
        except ValueError as error:
            raise ServerError(
                f"{response.url} answered with something else than JSON: "
                f"{self._hidden(response.text)[:200]!r}. Is base_url the root of an OpenAI-compatible API "
                "(it usually ends in /v1)?"
            ) from error

    def _hidden(self, text: str) -> str:
        """Words of the server or the network without the key, which some repeat."""
        key = read_key(self.runtime.api_key_env)
        return text.replace(key, "***") if key else text


def read_key(variable: str) -> str:
    """The key that an environment variable holds, without white space at its ends; empty for none.

    Raises:
        ConfigError: it could not be sent. The message does not show it.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"The environment variable {variable!r} holds a key with a control character or one outside "
            "ASCII, which no server takes. Copy the key into it anew, alone and on one line."
        )
    return key


def _wait(attempt: int) -> float:
    """Seconds before the next attempt: doubling, with jitter so that many clients do not march in step."""
    return float(min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0))


def _asked_wait(response: httpx2.Response) -> float | None:
    """The seconds that the server asks for in `Retry-After`, if it does."""
    try:
        return min(_LONGEST_WAIT, max(0.0, float(response.headers["Retry-After"])))
    except (KeyError, ValueError):  # absent, or a date
        return None


# --- A served model as scorer


_NEW_TOKENS = 1
"""Asked for beside the scores, because some servers refuse to write none."""


class _Request(NamedTuple):
    """What is sent for a query, and how to find the answer in what comes back."""

    prompt: list[int] | str
    answer_ids: tuple[int, ...]
    starts: tuple[int, ...]
    answer_start: int
    """Character of the prompt at which the answer begins; used where there is no tokenizer."""


class ServedScorer:
    """Scores through `connection`.

    Args:
        connection: The server.
        model: Name under which it serves the model.
        tokens: Tokenizer of the model, where it can be had.

    Raises:
        ServerError: the server cannot be reached, does not serve the model, or gives no
            log-probabilities of prompt tokens.
    """

    def __init__(
        self, connection: Connection, model: str, tokens: PromptTokenizer | None = None
    ) -> None:
        self.connection = connection
        self.model = model
        self.tokens = tokens
        self.statistics = ScorerStatistics()
        self._longest = self._longest_prompt()
        self.dialect = self._probe()

    @cached_property
    def identity(self) -> str:
        """Server, model, dialect, and what is sent: token ids of which tokenizer, or text.

        The server does not tell its weights.
        """
        sent = tokenizer_fingerprint(self.tokens.tokenizer) if self.tokens else "text"
        return "|".join([self.connection.base_url, self.model, "served", self.dialect, sent])

    def score(self, queries: Sequence[Query]) -> list[Scored]:
        """Score each query; equal ones once.

        Raises:
            ServerError: the server refuses, or keeps failing.
            ExtractError: a score is missing or not finite.
        """
        return self.score_each(queries, lambda query, scored: None)

    def score_each(self, queries: Sequence[Query], arrived: Arrived) -> list[Scored]:
        """As `score`, and tell each distinct query's score as it arrives.

        Raises:
            ServerError: the server refuses, or keeps failing.
            ExtractError: a score is missing or not finite.
        """
        started = time.perf_counter()
        distinct = list(dict.fromkeys(queries))
        requests = [self._request(query) for query in distinct]
        results: dict[Query, Scored] = {}

        def read(number: int, answer: dict[str, Any]) -> None:
            query = distinct[number]
            results[query] = DIALECTS[self.dialect].read(answer, requests[number])
            arrived(query, results[query])

        self._ask([self._body(request, self.dialect) for request in requests], read)
        self.statistics += ScorerStatistics(
            queries=len(queries), distinct=len(distinct), seconds=time.perf_counter() - started
        )
        return [results[query] for query in queries]

    def render_chat(self, user: str) -> str | None:
        """The user's turn in the model's chat template; `None` where no tokenizer could be loaded."""
        return self.tokens.render_chat(user) if self.tokens else None

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """The tokens of an answer; its characters where no tokenizer could be loaded."""
        return self.tokens.answer(answer).ids if self.tokens else characters(answer)

    def end_of_turn(self) -> str | None:
        """What the chat template puts behind the model's answer, where a tokenizer could be loaded."""
        return self.tokens.end_of_turn if self.tokens else None

    def excess(self, query: Query) -> int:
        """Tokens by which a query is longer than the server reads; 0 where it or the tokenizer is silent."""
        if self._longest is None or self.tokens is None:
            return 0
        return len(self._request(query).prompt) + _NEW_TOKENS - self._longest

    def _request(self, query: Query) -> _Request:
        text = query.prefix + query.body
        if self.tokens is None:
            return _Request(text + query.answer, (), (), len(text))
        answer = self.tokens.answer(query.answer)
        prompt = self.tokens.prefix(query.prefix).ids + self.tokens.body(query.prefix, query.body)
        return _Request([*prompt, *answer.ids], answer.ids, answer.starts, len(text))

    def _body(self, request: _Request, dialect: str) -> dict[str, Any]:
        common = {
            "model": self.model,
            "prompt": request.prompt,
            "max_tokens": _NEW_TOKENS,
            "temperature": 0.0,
        }
        return {**common, **DIALECTS[dialect].options}

    def _ask(
        self,
        bodies: Sequence[dict[str, Any]],
        arrived: Callable[[int, dict[str, Any]], object] | None = None,
    ) -> list[dict[str, Any]]:
        return wait_for(self.connection.post_all("/completions", bodies, arrived))

    def _longest_prompt(self) -> int | None:
        """Tokens that the server reads, the new one included; `None` where it does not say."""
        listed = wait_for(self.connection.get("/models")).get("data", [])
        served = {str(item.get("id")): item for item in listed}
        if served and self.model not in served:
            raise ServerError(
                f"{self.connection.base_url} does not serve {self.model!r}; it serves {list(served)!r}. Name "
                "one of these as the model."
            )
        longest = served.get(self.model, {}).get("max_model_len")
        return longest if isinstance(longest, int) else None

    def _probe(self) -> str:
        """The first dialect in which the server gives usable log-probabilities of a prompt."""
        reasons = []
        request = self._request(Query("", "The sky is", " blue"))
        for name, dialect in DIALECTS.items():
            try:
                (answer,) = self._ask([self._body(request, name)])
                dialect.read(answer, request)
            except (ServerError, ExtractError) as error:
                reasons.append(f"{name}: {error}")
            else:
                return name
        raise ServerError(
            f"{self.connection.base_url} gives no log-probabilities of prompt tokens, which scoring needs. "
            f"Serve the model with vLLM, or load it locally. Tried " + "; ".join(reasons)
        )


class Dialect(NamedTuple):
    """What to ask for, and how to read the answer's scores from the reply."""

    options: dict[str, Any]
    read: Callable[[dict[str, Any], _Request], Scored]


def _read_prompt_logprobs(reply: dict[str, Any], request: _Request) -> Scored:
    """`prompt_logprobs`: one entry a prompt token, `{token id: {"logprob": ...}}`, `null` for the first."""
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


def open_served(settings: ScorerSettings, runtime: ScorerRuntime) -> ServedScorer:
    """The scorer of a served model, with the model's tokenizer where it can be loaded."""
    tokens = None
    try:
        tokens = PromptTokenizer(
            AutoTokenizer.from_pretrained(
                resolve_model(settings.model),
                revision=settings.revision,
                trust_remote_code=settings.trust_remote_code,
            )
        )
    except (OSError, ValueError) as error:
        _logger.warning(
            "No tokenizer for %r here (%s); the server's is used.", settings.model, error
        )
    return ServedScorer(Connection(str(settings.base_url), runtime), settings.model, tokens)


# --- The two kinds of chat models: a local one that generates, and one behind an OpenAI-compatible server.


_BATCH = 16
"""Prompts that a local model answers at a time; fixed, because a sampled answer depends on its batch."""


class LocalChat:
    """A transformers model with a chat template.

    Args:
        settings: Which model.
        runtime: Its device.

    Raises:
        ModelError: the model cannot be loaded, or has no chat template.
    """

    def __init__(self, settings: ScorerSettings, runtime: ScorerRuntime) -> None:
        # the auto class does not promise `generate`, though every causal model has it
        self.model: Any
        self.tokenizer: Any
        self.model, self.tokenizer = load_language_model(settings, choose_device(runtime.device))
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"{settings.model!r} has no chat template and so cannot be asked in words. Choose an "
                "instruction-tuned model (its name often ends in -Instruct), or a way that asks none."
            )
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._name = settings.model

    @cached_property
    def identity(self) -> str:
        """Name, number format, and fingerprints of weights and tokenizer."""
        return f"{model_identity(self.model, self.tokenizer, self._name)}|chat"

    def reply(
        self, prompts: Sequence[str], sampling: Sampling, arrived: ArrivedChat | None = None
    ) -> list[Reply]:
        """One reply a prompt, without special tokens."""
        replies: list[Reply] = []
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            replies += self._answers(batch, sampling)
            if arrived:
                for prompt, reply in zip(batch, replies[start:], strict=True):
                    arrived(prompt, reply)
        return replies

    @torch.no_grad()
    def _answers(self, prompts: Sequence[str], sampling: Sampling) -> list[Reply]:
        inputs = self.tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
            date_string=FIXED_DATE,
        ).to(self.model.device)
        pad = self.tokenizer.pad_token_id
        device = inputs["input_ids"].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # seeded batch by batch, so that a run that goes on draws what it would have drawn
            torch.manual_seed(text_seed(sampling.seed, "\0".join(prompts)))
            generated = self.model.generate(
                **inputs,
                **_drawing(sampling.temperature),
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=pad,
            )[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
        read, written = inputs["attention_mask"].sum(1), (generated != pad).sum(1)
        return [Reply(*one) for one in zip(texts, read.tolist(), written.tolist(), strict=True)]


class ServedChat:
    """A model behind `/chat/completions`.

    Args:
        connection: The server.
        model: Name under which it serves the model.
    """

    def __init__(self, connection: Connection, model: str) -> None:
        self.connection = connection
        self.model = model

    @property
    def identity(self) -> str:
        """Server and model: the server does not tell its weights."""
        return f"{self.connection.base_url}|{self.model}|chat"

    def reply(
        self, prompts: Sequence[str], sampling: Sampling, arrived: ArrivedChat | None = None
    ) -> list[Reply]:
        """One reply a prompt.

        Raises:
            ServerError: the server cannot be reached, keeps refusing, or answers without a message.
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

        def tell(number: int, answer: dict[str, Any]) -> None:
            if arrived:
                arrived(prompts[number], read_reply(answer))

        answers = wait_for(self.connection.post_all("/chat/completions", bodies, tell))
        return [read_reply(answer) for answer in answers]


def read_reply(answer: dict[str, Any]) -> Reply:
    """The reply in the JSON of `/chat/completions`; a message without content is an empty text.

    Raises:
        ServerError: there is no message.
    """
    try:
        text = answer["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        raise ServerError(
            f"The server's answer holds no message: {str(answer)[:200]!r}. Is base_url the root of an "
            "OpenAI-compatible API with /chat/completions?"
        ) from error
    usage = answer.get("usage") or {}
    return Reply(text, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)


def _drawing(temperature: float) -> dict[str, Any]:
    """Settings of `generate`; what a model's own settings say of sampling has no place in a greedy answer."""
    if temperature:
        return {"do_sample": True, "temperature": temperature}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
