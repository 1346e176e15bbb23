"""Feature scores from a language model: the expectation over all answers, or the mean of a few in words."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..errors import ExtractError
from ..scoring.chat import Chat, Reply
from ..scoring.protocol import Query, Scorer
from ..versions import versions
from .prompts import (
    ANSWERS,
    Question,
    answer_text,
    chat_prompt,
    expectation_body,
    expectation_prefix,
    questions,
    read_answer,
)
from .schema import TableSchema
from .scores import FeatureScore, FeatureScores
from .settings import ElicitOptions

_logger = logging.getLogger(__name__)


def elicit_expectation(
    schema: TableSchema, scorer: Scorer, options: ElicitOptions | None = None
) -> FeatureScores:
    """The mean of the integers from -10 to 10 under the probability that the model gives each as the answer.

    Deterministic, and one short pass a feature and class: all else is shared.

    Args:
        schema: The table.
        scorer: The language model.
        options: `chat` and `calibrate`; the defaults where not given.

    Raises:
        ExtractError: the scorer cannot score a prompt.
    """
    options = options or ElicitOptions()
    asked = questions(schema)
    answers = [answer_text(score) for score in ANSWERS]
    prompts = [_prompt(question, scorer, options.chat) for question in asked]
    scored = scorer.score([Query(*prompt, answer) for prompt in prompts for answer in answers])
    log_probs = np.array([one.total for one in scored]).reshape(len(asked), len(answers))
    scores = expectations(log_probs, calibrate=options.calibrate)
    statistics = getattr(scorer, "statistics", None)
    return _assemble(
        [
            FeatureScore(
                one.output, one.feature.name, float(score), one.feature.description, (float(score),)
            )
            for one, score in zip(asked, scores, strict=True)
        ],
        method="expectation",
        model=scorer.identity,
        chat=options.chat,
        calibrate=options.calibrate,
        calls=len(scored),
        tokens=getattr(statistics, "tokens_computed", None),
        tokens_without_sharing=getattr(statistics, "naive_tokens", None),
    )


def expectations(log_probs: NDArray[np.float64], *, calibrate: bool) -> NDArray[np.float64]:
    """Mean answer of each row.

    Args:
        log_probs: `(questions, 21)`, log-probability of each answer; need not be normalised.
        calibrate: Subtract each answer's mean over the questions first.

    Returns:
        `(questions,)` in [-10, 10].
    """
    if calibrate:
        log_probs = log_probs - log_probs.mean(0)
    probs = np.exp(log_probs - log_probs.max(1, keepdims=True))
    mean: NDArray[np.float64] = (probs / probs.sum(1, keepdims=True)) @ np.array(
        ANSWERS, dtype=float
    )
    return mean


def elicit_chat(
    schema: TableSchema, chat: Chat, options: ElicitOptions | None = None
) -> FeatureScores:
    """The mean of a few answers in words, each after reasoning step by step.

    An answer without a score is asked again; after the last attempt it counts as missing.

    Args:
        schema: The table.
        chat: Answers the prompts; one of `open_chat` keeps its replies, so that a stopped run goes on.
        options: Estimates, attempts and sampling; the defaults where not given.

    Raises:
        ExtractError: not one answer held a score.
        ServerError: the server of the model keeps failing.
    """
    options = options or ElicitOptions()
    asked = questions(schema)
    found, costs = _ask([chat_prompt(question) for question in asked], chat, options)
    missing = sum(options.estimates - len(one) for one in found)
    if not any(found):
        raise ExtractError(
            f"None of the {len(costs)} answers held a score; the last one was {costs[-1].text[-200:]!r}. "
            "Use a stronger model, more `max_new_tokens`, or `method='expectation'`."
        )
    if missing:
        _logger.warning("%d of %d answers held no score.", missing, options.estimates * len(asked))
    return _assemble(
        [_averaged(*pair, options.estimates) for pair in zip(asked, found, strict=True)],
        method="chat",
        model=chat.identity,
        estimates=options.estimates,
        temperature=options.temperature,
        seed=options.seed,
        calls=len(costs),
        prompt_tokens=sum(reply.prompt_tokens for reply in costs),
        completion_tokens=sum(reply.completion_tokens for reply in costs),
    )


def _ask(
    prompts: Sequence[str], chat: Chat, options: ElicitOptions
) -> tuple[list[list[tuple[int, str]]], list[Reply]]:
    """The scores that each prompt was answered, with the answers; and all replies."""
    found: list[list[tuple[int, str]]] = [[] for _ in prompts]
    replies: list[Reply] = []
    with tqdm(total=options.estimates * len(prompts), desc="scores told", disable=None) as bar:

        def count(_: str, reply: Reply) -> None:
            bar.update(read_answer(reply.text) is not None)

        for estimate in range(options.estimates):
            waiting = list(range(len(prompts)))
            for attempt in range(options.attempts + 1):
                made = chat.reply(
                    [prompts[index] for index in waiting],
                    options.sampling(estimate, attempt),
                    count,
                )
                replies += made
                waiting = _sort(waiting, made, found)
                if not waiting:
                    break
    return found, replies


def _sort(
    waiting: Sequence[int], replies: Sequence[Reply], found: list[list[tuple[int, str]]]
) -> list[int]:
    """Put the scores that were answered into `found`; returns the questions that must be asked again."""
    again = []
    for index, reply in zip(waiting, replies, strict=True):
        score = read_answer(reply.text)
        if score is None:
            again.append(index)
        else:
            found[index].append((score, reply.text))
    return again


def _averaged(question: Question, found: Sequence[tuple[int, str]], wanted: int) -> FeatureScore:
    scores = [float(score) for score, _ in found]
    return FeatureScore(
        question.output,
        question.feature.name,
        float(np.mean(scores)) if scores else None,
        question.feature.description,
        tuple(scores),
        wanted - len(scores),
        tuple(text for _, text in found),
    )


def _prompt(question: Question, scorer: Scorer, chat: bool) -> tuple[str, str]:
    """Prefix and body; the model's chat template goes round them, and the answer continues its turn."""
    prefix, body = expectation_prefix(question), expectation_body(question)
    if not chat:
        return prefix, body
    request, slot = body.rsplit("\n", 1)
    rendered = scorer.render_chat(prefix + request)
    if rendered is None:
        return prefix, body
    at = rendered.rfind(request)
    return rendered[:at], rendered[at:] + slot


def _assemble(scores: Sequence[FeatureScore], **facts: Any) -> FeatureScores:
    return FeatureScores(tuple(scores), {**facts, "versions": versions()})
