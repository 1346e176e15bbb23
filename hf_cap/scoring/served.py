"""A served model as scorer: an OpenAI-compatible `/completions` endpoint that gives prompt log-probabilities.

Two dialects are known: `prompt_logprobs` (vLLM) and `echo` with `logprobs`. The server is asked for
both when the scorer opens, and refused if it offers neither. Where the model's tokenizer can be loaded
here, token ids are sent, so that a served model scores exactly the tokens that a local one would.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from ..embedded import resolve_model
from ..errors import ExtractError, ServerError
from .http import Connection, wait_for
from .identity import tokenizer_fingerprint
from .protocol import Arrived, Query, Scored, characters
from .settings import ScorerRuntime, ScorerSettings
from .statistics import ScorerStatistics
from .tokens import PromptTokenizer

_logger = logging.getLogger(__name__)
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
