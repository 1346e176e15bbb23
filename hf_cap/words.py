r"""Words: the units that a prior scores, as character spans of the text.

Everything that must agree on "the i-th word" (perturbation, priors, training, metrics) takes it from here.
A word is a maximal run of non-white-space; another regular expression makes other units, for
instance `\w+|[^\w\s]` (punctuation apart) or `\S` (single characters, for CJK text).
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WORD_PATTERN = r"\S+"
NO_WORD = -1


class Span(NamedTuple):
    """Half-open character range `[start, end)` of a word in its text."""

    start: int
    end: int


def split_words(text: str, pattern: str = WORD_PATTERN) -> list[Span]:
    """Character spans of the words of `text`, in order, never empty and never overlapping."""
    return [
        Span(*match.span()) for match in re.finditer(pattern, text) if match.end() > match.start()
    ]


def word_strings(text: str, pattern: str = WORD_PATTERN) -> list[str]:
    """The words of `text` as strings."""
    return [text[start:end] for start, end in split_words(text, pattern)]


def keep_words(
    text: str, spans: Sequence[Span], kept: Sequence[bool], replacement: str | None = None
) -> str:
    """The text with some words taken out.

    Args:
        text: The whole text.
        spans: Its words, from `split_words`.
        kept: One flag a word; true keeps the word as it stands.
        replacement: `None` deletes a word and, of the gaps on both sides, leaves the longer one,
            so that no word is glued to the next. A string is put in the word's place instead.

    Returns:
        The remaining text without white space at its ends. All words kept gives `text.strip()`.
    """
    parts: list[str] = []
    gap = text[: spans[0].start] if spans else text
    for index, (span, keep) in enumerate(zip(spans, kept, strict=True)):
        following = text[span.end : spans[index + 1].start if index + 1 < len(spans) else None]
        if keep or replacement is not None:
            parts += [gap, text[span.start : span.end] if keep else str(replacement)]
            gap = following
        else:
            gap = max(gap, following, key=len)
    return "".join([*parts, gap]).strip()


def token_words(offsets: Iterable[tuple[int, int]], spans: Sequence[Span], text: str) -> list[int]:
    """The word that each token belongs to: the one in which its span starts.

    Byte-level tokenizers let a token's span begin with the space before the word; such leading
    white space is passed over first.

    Args:
        offsets: Character span of each token, as a fast tokenizer returns it; `(0, 0)` (or any
            empty span) marks a special token.
        spans: The words, from `split_words`.
        text: The text that both refer to.

    Returns:
        One word index a token, `NO_WORD` (-1) for special tokens and for tokens between words.
    """
    owner = [NO_WORD] * len(text)
    for index, (start, end) in enumerate(spans):
        owner[start:end] = [index] * (end - start)
    words = []
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        words.append(owner[start] if start < end else NO_WORD)
    return words
