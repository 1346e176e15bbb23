"""What a chat model is asked for, and the checks that its reply must pass. Pure functions of strings."""

import re
from collections.abc import Collection, Mapping, Sequence

from hf_cap.evaluation.attacks.rules import Plan
from hf_cap.evaluation.attacks.settings import Kind
from hf_cap.words import WORD_PATTERN, fold, word_strings

ADD_PROMPT = (
    "Rewrite the message below. Keep its meaning, and mention the word '{keyword}' in passing without making "
    "it the topic. The topic stays: {label}.\nMessage: {text}\n"
    "Reply with the rewritten message only, on one line."
)
REPLACE_PROMPT = (
    "Rewrite the message below in other words. Keep its meaning, but do not use these words: {keywords}. The "
    "topic stays: {label}.\nMessage: {text}\nReply with the rewritten message only, on one line."
)
REQUESTS: Mapping[Kind, str] = {
    "keyword_addition": ADD_PROMPT,
    "keyword_replacement": REPLACE_PROMPT,
}
JUDGE_PROMPT = (
    'Is the topic of the message below "{label}"?\nMessage: {text}\nReply with yes or no.'
)
REFUSALS = (
    "i'm sorry",
    "i am sorry, but",
    "sorry, but",
    "sorry, i can",
    "unfortunately, i can",
    "i can't",
    "i cannot",
    "i won't",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "as an ai",
    "i am an ai",
)
ECHO = re.compile(
    r"\brewritten\b|\brewrite\b|\breply with\b|the topic stays|\bthe message\b", re.IGNORECASE
)
"""What only a reply that talks about the request has in it."""
_SHORTEST, _LONGEST, _SLACK = 0.4, 2.5, 8
"""A rewritten text has between these shares of the original's number of words, the slack added at the top."""


def request(kind: Kind, plan: Plan) -> str:
    """The prompt that asks for the rewritten text."""
    return REQUESTS[kind].format(
        keyword=plan.keywords[0],
        keywords=listed(plan.keywords),
        label=readable(plan.label),
        text=plan.text,
    )


def question(label: str, text: str) -> str:
    """The prompt that asks whether a rewritten text still has its label."""
    return JUDGE_PROMPT.format(label=readable(label), text=text)


def clean_reply(reply: str) -> str:
    """The reply without what models put around an answer: white space, a heading and quotation marks."""
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
        required: Folded words that must be in it.
        forbidden: Folded words that must not be.
        pattern: Regular expression of a word.
    """
    words, before = _words(rewritten, pattern), _words(original, pattern)
    if not words:
        return "empty reply"
    if _refuses(rewritten) and not _refuses(original):
        return "refusal"
    if ECHO.search(rewritten) and not ECHO.search(original):
        return "request echoed"
    if "\n" in rewritten:
        return "several lines"
    if words == before:
        return "nothing changed"
    if not _SHORTEST * len(before) <= len(words) <= _LONGEST * len(before) + _SLACK:
        return "wrong length"
    if not set(required) <= set(words):
        return "keyword missing"
    if set(forbidden) & set(words):
        return "keyword still there"
    return None


def _refuses(text: str) -> bool:
    """Whether a text begins as refusals do; a typographic apostrophe is one too."""
    return text.replace("’", "'").casefold().startswith(REFUSALS)


def _words(text: str, pattern: str) -> list[str]:
    """Folded words with a letter or digit: a reply of question marks has said nothing."""
    return [fold(word) for word in word_strings(text, pattern) if any(map(str.isalnum, word))]


def agrees(judgement: str) -> bool:
    """Whether the second call says that the label still holds; anything but a plain yes does not."""
    words = [fold(word) for word in judgement.split()]
    return words[:1] == ["yes"]


def readable(label: str) -> str:
    """A label name as a person would write it: `card_arrival` becomes `card arrival`."""
    return label.replace("_", " ").replace("-", " ")


def listed(words: Sequence[str]) -> str:
    """Words in quotation marks, with commas."""
    return ", ".join(f'"{word}"' for word in words)
