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
from functools import cached_property, partial
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

from transformers import PreTrainedTokenizerBase

from hf_cap.errors import ConfigError, ExtractError, MissingExtra, ServerError
from hf_cap.lm import base
from hf_cap.lm.local import load_tokenizer
from hf_cap.lm.tokens import AnswerTokens, PromptTokenizer, tokenizer_fingerprint

try:
    import httpx2
    import openai
    from anyio.from_thread import start_blocking_portal
    from pydantic import BaseModel, Field, StrictInt, ValidationError
except ImportError as error:
    needed = "A served model needs the extra `served`: pip install 'hf-cap[served]'."
    raise MissingExtra(needed) from error

_logger = logging.getLogger(__name__)
_LIKELY_TOKENS = re.compile(
    r"(?=<[|｜][^<>]{1,60}[|｜]>|</?s>|<</?SYS>>|</?(?:think|tool_call|tool_response)>"
    r"|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]).",
    re.DOTALL,
)
"""First character of what chat templates of common models write, for text that the server tokenises."""
_BASIC = "Basic "  # begins a key that is a user's name and password, joined by a colon, perhaps in base64
_PROBE_RETRIES, _PROBE_SECONDS = 2, 30.0
"""For the first request, which tells whether there is such a server."""


# --- What is asked of a server, and its answers, bounded and checked.

Dialect: TypeAlias = Literal["prompt_logprobs", "echo"]
DIALECTS: dict[Dialect, dict[str, Any]] = {
    "prompt_logprobs": {"prompt_logprobs": 0},
    "echo": {"echo": True, "logprobs": 1},
}
"""Ways to ask a server for log-probabilities of prompt tokens, with what is added to a request."""
NEW_TOKENS = 1  # generated beside the scores, because some servers refuse to generate none
_MOST_BYTES = 32 * 2**20  # of one answer; the scores of 100,000 tokens take about 12 million
_NO_LETTERS = re.compile(r"bytes:|\\x[0-9a-f]{2}|<0x[0-9a-f]{2}>|[^a-z0-9]", re.IGNORECASE)

# a log-probability is rounded: a little above 0 it still is one
_LogProb = Annotated[float, Field(strict=True, allow_inf_nan=False, le=1e-3)]
_Count = Annotated[int, Field(strict=True, ge=0)]


class _Entry(BaseModel):
    logprob: _LogProb


class _Logprobs(BaseModel):
    tokens: list[str | None] | None = None
    token_logprobs: list[_LogProb | None] | None = None
    text_offset: list[StrictInt] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    logprobs: _Logprobs | None = None
    prompt_logprobs: list[dict[str, _Entry] | None] | None = None
    message: _Message | None = None


class _Usage(BaseModel):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None


class _Served(BaseModel):
    id: str
    max_model_len: Annotated[int, Field(strict=True, gt=0)] | None = None


class Models(BaseModel):
    """The answer of `/models`."""

    data: list[_Served]


class Completion(BaseModel):
    """The answer of `/completions` or `/chat/completions`."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None

    def reply(self) -> base.Reply:
        """The message; one without content is an empty text."""
        message, usage = self.choices[0].message, self.usage or _Usage()
        if message is None:
            raise ServerError("The server's answer holds no message. Has it /chat/completions?")
        return base.Reply(message.content or "", usage.prompt_tokens or 0, usage.completion_tokens or 0)


Answer = TypeVar("Answer", bound=BaseModel)


def parse(kind: type[Answer], body: bytes) -> Answer:
    """Read JSON; a `ServerError` where it is none, or a field is missing or not what it must be."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ServerError(
            f"gave an answer that cannot be used: {place}{': ' if place else ''}{first['msg']}, got "
            f"{str(first['input'])[:200]!r}. Is it the root of an OpenAI-compatible API (usually .../v1)?"
        ) from error


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """Reads an answer whole, within `seconds` from the request to its last byte and `_MOST_BYTES`."""

    seconds: float

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request; a late answer is a `ReadTimeout`, one that is too large a `ServerError`."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.seconds):
                response = await super().send(request, **{**options, "stream": True})
                try:
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > _MOST_BYTES:
                            raise ServerError(f"sent more than {_MOST_BYTES} bytes in one answer.")
                finally:
                    await response.aclose()
        except TimeoutError as error:
            message = f"no whole answer within {self.seconds:g} seconds"
            raise httpx2.ReadTimeout(message, request=request) from error
        about_the_body = ("content-encoding", "content-length", "transfer-encoding")
        headers = [pair for pair in response.headers.multi_items() if pair[0] not in about_the_body]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)


class ScoreRequest(NamedTuple):
    """What is sent for a query, and how to find its score in the answer."""

    prompt: list[int] | str
    answer: str
    tokens: AnswerTokens | None  # the last ones of the prompt; None where text is sent

    def read(self, completion: Completion, dialect: Dialect) -> base.Scored:
        """The score of the answer.

        `prompt_logprobs` has an entry per prompt token, `{token id: {"logprob": ...}}`, `null` for the first;
        `echo` the log-probabilities of prompt and completion in one list, with text offsets.
        """
        choice, usage = completion.choices[0], completion.usage or _Usage()
        echoed = choice.logprobs or _Logprobs()
        values = echoed.token_logprobs or []
        if dialect == "prompt_logprobs":
            echoed, values = _Logprobs(), self._by_id(choice.prompt_logprobs or [])
        different = {*values} - {None}
        if len(values) > 3 and len(different) == 1:
            raise ExtractError(
                f"The server gave all {len(values)} tokens the log-probability {different.pop()}, which no "
                "model does; use another server."
            )
        if self.tokens is None:
            places = self._by_offset(echoed, len(values))
            starts = tuple(len(base.without_marks(self.answer[: max(0, at)])) for at in places.values())
        else:
            self._check_count(len(values), usage.prompt_tokens)
            end, starts = len(self.prompt), self.tokens.starts
            places = dict.fromkeys(range(end - len(starts), end), 0)
        self._check_spelling(echoed, list(places), len(values))
        found = [values[place] for place in places]
        numbers = [min(value, 0.0) for value in found if value is not None]
        if not numbers or len(numbers) != len(found):
            raise ExtractError(f"The server gave {found} for an answer of {len(starts)} tokens.")
        return base.Scored(tuple(numbers), starts)

    def _by_id(self, entries: Sequence[dict[str, _Entry] | None]) -> list[float | None]:
        size = len(self.prompt)
        if self.tokens is None or len(entries) != size:
            raise ExtractError(f"{len(entries)} prompt log-probabilities for {size} tokens.")
        pairs = zip(self.prompt, entries, strict=True)
        found = [(entry or {}).get(str(token)) for token, entry in pairs]
        return [entry.logprob if entry else None for entry in found]

    def _check_count(self, echoed: int, counted: int | None) -> None:
        size = len(self.prompt)
        if echoed not in (size, size + NEW_TOKENS) or (counted or size) != size:
            raise ExtractError(
                f"The server scored {counted or echoed} tokens where {size} were sent, so no score can be "
                "told to be the answer's; it may add tokens of its own, which must be switched off there."
            )

    def _by_offset(self, echoed: _Logprobs, size: int) -> dict[int, int]:
        """Places of the answer's tokens, each with the character of the answer at which it starts."""
        offsets, end = echoed.text_offset or [], len(self.prompt)
        if len(offsets) != size or offsets != sorted(offsets) or offsets[-1:] != [end]:
            raise ExtractError(
                f"The server's text offsets do not count the {end} characters sent ({len(offsets)} for "
                f"{size} tokens, the new one at {offsets[-1] if offsets else None}); they may count bytes or "
                "tokens of its own. Where the model's tokenizer can be loaded by its name, none are needed."
            )
        start = end - len(self.answer)
        # a token that reaches over from the prompt counts as the answer's
        return {
            place: offset - start
            for place, offset in enumerate(offsets)
            if offset < end and offsets[place + 1] > start
        }

    def _check_spelling(self, echoed: _Logprobs, places: Sequence[int], size: int) -> None:
        """Check that the echoed tokens are the answer, as far as its letters are told."""
        tokens = echoed.tokens
        if tokens is None or not self.answer.isascii():
            return
        spelled = "".join(tokens[place] or "" for place in places if place < len(tokens))
        wanted = _NO_LETTERS.sub("", self.answer)
        if len(tokens) != size or not _NO_LETTERS.sub("", spelled).endswith(wanted):
            raise ExtractError(
                f"The server scored {spelled[:200]!r} in place of the answer {self.answer[:200]!r}; "
                "its echo does not repeat the tokens that it was sent."
            )


# --- The language model.


class ServedLanguageModel(base.LanguageModel):
    """Scores and generates through the server at `settings.base_url`.

    Args:
        settings: The server, and the name under which it serves the model.
        runtime: Concurrency, retries, time limit, and the name of the key's environment variable.
        tokenizer: That of the model; `auto` loads it where it can be had, without one text is sent.
    """

    def __init__(
        self,
        settings: base.LMSettings,
        runtime: base.LMRuntime | None = None,
        tokenizer: PreTrainedTokenizerBase | Literal["auto"] | None = "auto",
    ) -> None:
        self._tokenizer = tokenizer
        self.settings, self.runtime = settings, runtime or base.current_runtime()
        self.model, self.base_url = settings.model, str(settings.base_url).rstrip("/")

    @cached_property
    def fingerprint(self) -> str:
        """Server, model, and what is sent: token ids of which tokenizer, or text."""
        sent = tokenizer_fingerprint(self.tokens.tokenizer) if self.tokens else "text"
        return f"{self.base_url}|{self.model}|served|{sent}"

    @cached_property
    def tokens(self) -> PromptTokenizer | None:  # type: ignore[override]
        """Tokenises as the model does; `None` where its tokenizer cannot be loaded."""
        if self._tokenizer is None:
            return None
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

    def log_probs(
        self, queries: Sequence[base.Query], on_result: base.OnScore | None = None
    ) -> list[base.Scored]:
        """Score each query; equal ones once."""
        started, distinct = time.perf_counter(), list(dict.fromkeys(queries))
        requests = [self._request(query) for query in distinct]
        results: dict[base.Query, base.Scored] = {}

        def arrived(number: int, answer: Completion) -> None:
            query = distinct[number]
            results[query] = requests[number].read(answer, self.dialect)
            if on_result:
                on_result(query, results[query])

        bodies = [self._body(request, self.dialect) for request in requests]
        self._ask("/completions", Completion, bodies, arrived)
        seconds = time.perf_counter() - started
        self.statistics += base.LMStatistics(len(queries), distinct=len(distinct), seconds=seconds)
        return [results[query] for query in queries]

    def generate(
        self, prompts: Sequence[str], sampling: base.Sampling, on_result: base.OnReply | None = None
    ) -> list[base.Reply]:
        """Reply to each prompt through `/chat/completions`."""
        options = {
            "model": self.model,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
            "seed": sampling.seed,
        }
        turns = [base.split_tokens(prompt, _LIKELY_TOKENS).replace(base.MARK, " ") for prompt in prompts]
        bodies = [{**options, "messages": [{"role": "user", "content": turn}]} for turn in turns]
        replies: dict[int, base.Reply] = {}

        def arrived(number: int, answer: Completion) -> None:
            replies[number] = answer.reply()
            if on_result:
                on_result(prompts[number], replies[number])

        self._ask("/chat/completions", Completion, bodies, arrived)
        return [replies[number] for number in range(len(prompts))]

    def as_data(self, text: str) -> str:
        """`text` with marks; where the server tokenises, a space is sent for each."""
        return super().as_data(text) if self.tokens else base.split_tokens(text, _LIKELY_TOKENS)

    def excess(self, query: base.Query) -> int:
        """Tokens by which a query is longer than the server reads; 0 where that is not known."""
        if self.tokens is None or self._longest is None:
            return 0
        return len(self._request(query).prompt) + NEW_TOKENS - self._longest

    @cached_property
    def dialect(self) -> Dialect:
        """The first dialect in which the server gives usable log-probabilities of a prompt."""
        _ = self._longest  # checks that the model is served
        request, reasons = self._request(base.Query("", "The sky is", " blue")), []
        for name in DIALECTS:
            try:
                body = self._body(request, name)
                (answer,) = self._ask("/completions", Completion, [body])
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
            (listed,) = self._ask("/models", Models, [None])
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

    def _request(self, query: base.Query) -> ScoreRequest:
        text = query.prefix + query.body
        if self.tokens is None:
            shown = (text + query.answer).replace(base.MARK, " ")
            return ScoreRequest(shown, query.answer, None)
        answer = self.tokens.answer(query.answer)
        prompt = self.tokens.prefix(query.prefix).ids + self.tokens.body(query.prefix, query.body)
        return ScoreRequest([*prompt, *answer.ids], query.answer, answer)

    def _body(self, request: ScoreRequest, dialect: Dialect) -> dict[str, Any]:
        options = {"prompt": request.prompt, "max_tokens": NEW_TOKENS, "temperature": 0.0}
        return {"model": self.model, **options, **DIALECTS[dialect]}

    def _ask(
        self,
        path: str,
        kind: type[Answer],
        bodies: Sequence[dict[str, Any] | None],
        arrived: Callable[[int, Answer], object] = lambda number, answer: None,
    ) -> list[Answer]:
        """The answer to each body (`None` is a GET), at most `max_concurrency` under way at a time.

        Requests run in a thread of their own, because a notebook already runs an event loop in this one;
        when the user interrupts, those that have not ended are cancelled.
        """

        async def all_answers() -> list[Answer]:
            gate = asyncio.Semaphore(self.runtime.max_concurrency)

            async def one(number: int, body: dict[str, Any] | None) -> Answer:
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

        with start_blocking_portal() as portal:
            return portal.call(all_answers)

    def _client(self, *, probe: bool) -> openai.AsyncOpenAI:
        seconds, retries, key = self.runtime.timeout, self.runtime.max_retries, self._key()
        if probe:
            seconds, retries = min(seconds, _PROBE_SECONDS), min(retries, _PROBE_RETRIES)
        bounded = BoundedClient(follow_redirects=True)
        bounded.seconds = seconds
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=key or "none",
            default_headers={"Authorization": _basic(key)} if key.startswith(_BASIC) else None,
            timeout=seconds,
            max_retries=retries,
            http_client=bounded,
        )

    async def _send(
        self, client: openai.AsyncOpenAI, path: str, kind: type[Answer], body: dict[str, Any] | None
    ) -> Answer:
        """One request, which the client repeats while the server is busy or unwell."""
        ask: Any = client.get if body is None else partial(client.post, body=body)
        try:
            return parse(kind, (await ask(path, cast_to=httpx2.Response)).content)
        except openai.APIStatusError as error:
            trouble = f"failed with status {error.status_code}: {error.response.text}"
        except openai.OpenAIError as error:
            cause = error.__cause__ or error
            trouble = f"failed with {type(cause).__name__}: {str(cause)[:300]}. "
            trouble += "Check that it runs, its address and `timeout`."
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
