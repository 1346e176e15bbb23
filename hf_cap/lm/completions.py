"""What is asked of an OpenAI-compatible server, and its answers, bounded and checked (extra `served`)."""

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

import httpx2
import openai
from pydantic import BaseModel, Field, StrictInt, ValidationError

from hf_cap.errors import ExtractError, ServerError
from hf_cap.lm.base import Reply, Scored, without_marks

if TYPE_CHECKING:
    from hf_cap.lm.tokens import AnswerTokens

Dialect: TypeAlias = Literal["prompt_logprobs", "echo"]
DIALECTS: dict[Dialect, dict[str, Any]] = {
    "prompt_logprobs": {"prompt_logprobs": 0},
    "echo": {"echo": True, "logprobs": 1},
}
"""Ways to ask a server for log-probabilities of prompt tokens, with what is added to a request."""
RawResponse = httpx2.Response
NEW_TOKENS = 1
"""Generated beside the scores, because some servers refuse to generate none."""
_MOST_BYTES = 32 * 2**20
"""Of one answer; the scores of 100,000 tokens take about 12 million."""
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

    def reply(self) -> Reply:
        """The message; one without content is an empty text."""
        message, usage = self.choices[0].message, self.usage or _Usage()
        if message is None:
            raise ServerError("The server's answer holds no message. Has it /chat/completions?")
        return Reply(message.content or "", usage.prompt_tokens or 0, usage.completion_tokens or 0)


Answer = TypeVar("Answer", bound=BaseModel)


def parse(kind: type[Answer], body: bytes) -> Answer:
    """Read JSON.

    Raises:
        ServerError: it is none, or a field is missing or not what it must be.
    """
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
        return httpx2.Response(
            response.status_code, headers=headers, content=bytes(body), request=request
        )


class ScoreRequest(NamedTuple):
    """What is sent for a query, and how to find its score in the answer."""

    prompt: list[int] | str
    answer: str
    tokens: "AnswerTokens | None"  # the last ones of the prompt; None where text is sent

    def read(self, completion: Completion, dialect: Dialect) -> Scored:
        """The score of the answer.

        `prompt_logprobs` has an entry per prompt token, `{token id: {"logprob": ...}}`, `null` for the first;
        `echo` the log-probabilities of prompt and completion in one list, with text offsets.

        Raises:
            ExtractError: there is none, or it is not that of the answer.
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
            starts = tuple(len(without_marks(self.answer[: max(0, at)])) for at in places.values())
        else:
            self._check_count(len(values), usage.prompt_tokens)
            end, starts = len(self.prompt), self.tokens.starts
            places = dict.fromkeys(range(end - len(starts), end), 0)
        self._check_spelling(echoed, list(places), len(values))
        found = [values[place] for place in places]
        numbers = [min(value, 0.0) for value in found if value is not None]
        if not numbers or len(numbers) != len(found):
            raise ExtractError(f"The server gave {found} for an answer of {len(starts)} tokens.")
        return Scored(tuple(numbers), starts)

    def _by_id(self, entries: Sequence[dict[str, _Entry] | None]) -> list[float | None]:
        size = len(self.prompt)
        if self.tokens is None or len(entries) != size:
            raise ExtractError(f"{len(entries)} prompt log-probabilities for {size} tokens.")
        found = [
            (entry or {}).get(str(token)) for token, entry in zip(self.prompt, entries, strict=True)
        ]
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
