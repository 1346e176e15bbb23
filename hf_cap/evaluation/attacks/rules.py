"""Attacks by rule: a denied mention of a foreign keyword, or synonyms for the own ones. Pure functions."""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from ...word_counts import fold
from ...words import WORD_PATTERN, split_words

MENTIONS = (
    "this is not about {keyword}",
    "nothing to do with {keyword}",
    "i do not mean {keyword}",
    "{keyword} is not the point here",
    "leave {keyword} aside",
)
"""Each names a word and denies that it matters, so that the label of the text stays right."""

Lexicon = Mapping[str, Sequence[str]]


def add_mention(text: str, keyword: str, rng: np.random.Generator) -> str:
    """The text with a denied mention of `keyword` before or after it, in its own capitals and punctuation."""
    mention = str(rng.choice(MENTIONS)).format(keyword=keyword)
    text = text.strip()
    capital = text[:1].isupper()
    closed = text[-1:] in ".!?"
    if rng.random() < 0.5:
        if capital:
            return f"{_capitalised(mention)}. {text}"
        return f"{mention}, {text}"
    if closed:
        return f"{text} {_capitalised(mention) if capital else mention}{'.' if capital else ''}"
    return f"{text}, {mention}"


def replace_keywords(
    text: str,
    keywords: Collection[str],
    lexicon: Lexicon,
    rng: np.random.Generator,
    pattern: str = WORD_PATTERN,
) -> tuple[str, list[str]]:
    """The text with each keyword that has a synonym replaced by one that is no keyword itself.

    Capitals and the punctuation around a word stay as they are.

    Returns:
        The text, and the folded keywords that were replaced; none where no keyword has a fitting synonym.
    """
    parts: list[str] = []
    replaced: list[str] = []
    end = 0
    for span in split_words(text, pattern):
        word = text[span.start : span.end]
        key = fold(word)
        choices = [other for other in lexicon.get(key, ()) if other not in keywords]
        if key in keywords and choices:
            synonym = str(rng.choice(choices))
            at = word.casefold().find(key)
            core = word[at : at + len(key)]
            parts += [
                text[end : span.start],
                word[:at],
                _like(core, synonym),
                word[at + len(key) :],
            ]
            replaced.append(key)
        else:
            parts.append(text[end : span.end])
        end = span.end
    return "".join([*parts, text[end:]]), replaced


def load_lexicon(path: str | None = None) -> Lexicon:
    """Synonyms of folded words: the own lexicon, and those of a JSON file (word to list) before it.

    The own one holds words that others can stand for in most requests to a service; it is small on purpose,
    because a wrong synonym changes the label.
    """
    if path is None:
        return own_lexicon()
    extra = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    return {**own_lexicon(), **{fold(word): list(others) for word, others in extra.items()}}


@cache
def own_lexicon() -> Lexicon:
    """The lexicon that ships with the package; word to what can stand for it."""
    lexicon: Lexicon = json.loads(
        Path(__file__).with_name("synonyms.json").read_text(encoding="utf-8")
    )
    return lexicon


def _like(model: str, word: str) -> str:
    """`word` in the capitals of `model`."""
    if model.isupper():
        return word.upper()
    return _capitalised(word) if model[:1].isupper() else word


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
