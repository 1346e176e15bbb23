"""What is asked of an OpenAI-compatible server, and how its answers are read."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hf_cap.errors import ExtractError, ServerError
from hf_cap.lm.base import Reply, Scored


class ScoreRequest(NamedTuple):
    """What is sent for a query, and how to find the answer in what comes back."""

    prompt: list[int] | str
    answer_ids: tuple[int, ...]
    starts: tuple[int, ...]
    answer_start: int
    """Character of the prompt at which the answer begins; used where there is no tokenizer."""


class Dialect(NamedTuple):
    """A way to ask a server for log-probabilities of prompt tokens."""

    options: dict[str, Any]
    read: Callable[[dict[str, Any], ScoreRequest], Scored]


def _read_prompt_logprobs(reply: dict[str, Any], request: ScoreRequest) -> Scored:
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


def _read_echo(reply: dict[str, Any], request: ScoreRequest) -> Scored:
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


def read_reply(answer: dict[str, Any]) -> Reply:
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
