"""Attacks by a language model: what it is asked, and the checks that its reply must pass."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from hf_cap.lm.base import LanguageModel, Sampling
from hf_cap.words import WORD_PATTERN, fold, word_strings

Kind = Literal["keyword_addition", "keyword_replacement"]

REQUESTS: Mapping[Kind, str] = {
    "keyword_addition": (
        "Rewrite the message below. Keep its meaning, and mention the word '{keyword}' in passing without "
        "making it the topic. The topic stays: {label}.\nMessage: {text}\n"
        "Reply with the rewritten message only, on one line."
    ),
    "keyword_replacement": (
        "Rewrite the message below in other words. Keep its meaning, but do not use these words: {keywords}. "
        "The topic stays: {label}.\nMessage: {text}\nReply with the rewritten message only, on one line."
    ),
}
JUDGE_PROMPT = (
    'Is the topic of the message below "{label}"?\nMessage: {text}\nReply with yes or no.'
)
REFUSALS = tuple(
    "i'm sorry|i am sorry, but|sorry, but|sorry, i can|unfortunately, i can|i can't|i cannot|i won't"
    "|i'm unable|i am unable|i'm not able|as an ai|i am an ai".split("|")
)
ECHO = re.compile(
    r"\brewritten\b|\brewrite\b|\breply with\b|the topic stays|\bthe message\b", re.IGNORECASE
)
"""Occurs only in replies that talk about the request."""
_SHORTEST, _LONGEST, _SLACK = 0.4, 2.5, 8
"""Bounds of a reply: shares of the original's number of words, the slack added to the upper one."""


class Plan(NamedTuple):
    """What is to be done to one text."""

    text: str
    label: str
    keywords: tuple[str, ...]
    """The word to add, or the words of the text to replace; empty where the text offers none."""
    source_label: str = ""
    """The class that the keywords come from."""
    difficulty: str = ""


def rewrite(
    model: LanguageModel,
    kind: Kind,
    plans: Sequence[Plan],
    sampling: Sampling,
    pattern: str = WORD_PATTERN,
) -> list[tuple[str, str | None]]:
    """Let the model rewrite texts, check the replies, and let a second call confirm their labels.

    Returns:
        For each plan the cleaned reply, and why it is no attack (`None` where it passes).

    Raises:
        ModelError: the model cannot generate.
        ServerError: its server keeps failing.
    """

    def replies(prompts: list[str]) -> list[str]:
        return [reply.text for reply in model.generate(prompts, sampling)] if prompts else []

    texts = [clean_reply(reply) for reply in replies([_request(kind, plan) for plan in plans])]
    faults = [
        fault(plan.text, text, pattern=pattern, **_conditions(kind, plan.keywords))
        for plan, text in zip(plans, texts, strict=True)
    ]
    passing = [row for row, found in enumerate(faults) if found is None]
    questions = [
        JUDGE_PROMPT.format(label=_readable(plans[row].label), text=texts[row]) for row in passing
    ]
    for row, verdict in zip(passing, replies(questions), strict=True):
        faults[row] = None if agrees(verdict) else "label not confirmed"
    return list(zip(texts, faults, strict=True))


def _request(kind: Kind, plan: Plan) -> str:
    return REQUESTS[kind].format(
        keyword=plan.keywords[0],
        keywords=", ".join(f'"{word}"' for word in plan.keywords),
        label=_readable(plan.label),
        text=plan.text,
    )


def _conditions(kind: Kind, keywords: Sequence[str]) -> dict[str, Sequence[str]]:
    return {"required" if kind == "keyword_addition" else "forbidden": keywords}


def _readable(label: str) -> str:
    """A label name as a person would write it: `card_arrival` becomes `card arrival`."""
    return label.replace("_", " ").replace("-", " ")


def clean_reply(reply: str) -> str:
    """The reply without white space, heading and quotation marks around the answer."""
    text = reply.strip()
    for heading in ("rewritten message:", "message:"):
        if text.casefold().startswith(heading):
            text = text[len(heading) :].strip()
    if len(text) > 1 and text[0] in "\"“'" and text[-1] in "\"”'":
        text = text[1:-1].strip()
    return text


def fault(
    original: str,
    rewritten: str,
    *,
    required: Collection[str] = (),
    forbidden: Collection[str] = (),
    pattern: str = WORD_PATTERN,
) -> str | None:
    """Why a rewritten text is no attack, in two or three words; `None` where it passes.

    Args:
        original: The text as it was.
        rewritten: The cleaned reply.
        required: Folded words that it must contain.
        forbidden: Folded words that it must not contain.
        pattern: Regular expression of a word.
    """
    words, before = _words(rewritten, pattern), _words(original, pattern)
    lengths = _SHORTEST * len(before), _LONGEST * len(before) + _SLACK
    checks = {
        "empty reply": not words,
        "refusal": _refuses(rewritten) and not _refuses(original),
        "request echoed": ECHO.search(rewritten) and not ECHO.search(original),
        "several lines": "\n" in rewritten,
        "nothing changed": words == before,
        "wrong length": not lengths[0] <= len(words) <= lengths[1],
        "keyword missing": not set(required) <= set(words),
        "keyword still there": set(forbidden) & set(words),
    }
    return next((name for name, failed in checks.items() if failed), None)


def _refuses(text: str) -> bool:
    """Whether a text begins as refusals do, with any apostrophe."""
    return text.replace("’", "'").casefold().startswith(REFUSALS)


def _words(text: str, pattern: str) -> list[str]:
    """Folded words with a letter or digit: a reply of question marks has none."""
    return [fold(word) for word in word_strings(text, pattern) if any(map(str.isalnum, word))]


def agrees(judgement: str) -> bool:
    """Whether the second call confirms the label: only a plain yes does."""
    return [fold(word) for word in judgement.split()][:1] == ["yes"]
