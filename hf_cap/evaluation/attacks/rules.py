"""Attacks by rule: a denied mention of a foreign keyword, or synonyms for the own ones. Pure functions."""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np

from ...errors import ConfigError
from ...word_counts import fold
from ...words import WORD_PATTERN, Span, split_words
from .grammar import Role, article_for, fits, insertion_points, role

MENTIONS = (
    "never mind the {keyword} thing",
    "the {keyword} thing can wait",
    "not the {keyword} thing",
    "forget the {keyword} thing",
    "I did not say {keyword}",
    "this has nothing to do with the {keyword} thing",
)
"""Each names a word, whatever its part of speech, and denies that it matters: the label stays right."""

Entry = Sequence[str] | Mapping[str, Sequence[str]]
"""Synonyms of a word, or for each of its parts of speech (`grammar.Role`) those that fit there alone."""
Lexicon = Mapping[str, Entry]


def add_mention(text: str, keyword: str, rng: np.random.Generator) -> str:
    """The text with a denied mention of `keyword` where a remark can stand, in the text's own capitals.

    The words of the text and their order stay as they are.
    """
    text = text.strip()
    mention = str(rng.choice(MENTIONS)).format(keyword=keyword)
    point = int(rng.choice(insertion_points(text)))
    before, after = text[:point].rstrip(), text[point:]
    capital = text[:1].isupper()
    mention = mention if capital else mention.casefold()
    if before[-1:] in (".", "!", "?") or (not before and capital):
        sentence = f"{_capitalised(mention) if capital else mention}."
        return " ".join(part for part in (before, sentence, after) if part)
    return ", ".join(part for part in (before.rstrip(","), mention, after) if part)


def replace_keywords(
    text: str,
    keywords: Collection[str],
    lexicon: Lexicon,
    rng: np.random.Generator,
    pattern: str = WORD_PATTERN,
) -> tuple[str, list[str]]:
    """The text with each keyword that has a synonym replaced by one that is no keyword itself.

    Capitals and the punctuation around a word stay as they are; `a` and `an` follow the new word.

    Returns:
        The text, and the folded keywords that were replaced; none where no keyword has a fitting synonym.
    """
    spans = split_words(text, pattern)
    words = [text[start:end] for start, end in spans]
    folded = [fold(word) for word in words]
    replaced: list[str] = []
    for index, key in enumerate(folded):
        entry = lexicon.get(key, ()) if key in keywords else ()
        before, after = _at(folded, index - 1), _at(folded, index + 1)
        choices = [
            other
            for other in _synonyms(entry, before, after)
            if fits(key, other, before, after)
            and not {*map(fold, other.split())} & {*keywords, *folded}
        ]
        if choices:
            words[index] = _put(words[index], key, str(rng.choice(choices)))
            replaced.append(key)
            if index:
                words[index - 1] = article_for(words[index - 1], words[index])
    return _joined(text, spans, words), replaced


def _at(words: Sequence[str], index: int) -> str | None:
    return words[index] if 0 <= index < len(words) else None


def _synonyms(entry: Entry, before: str | None, after: str | None) -> Sequence[str]:
    """The synonyms of an entry for the part of speech that it has between two words."""
    if not isinstance(entry, Mapping):
        return entry
    found = role(before, after)
    return entry.get(found, ()) if found else ()


def _put(word: str, key: str, synonym: str) -> str:
    """`synonym` in the place of `key` in `word`, with its capitals and the punctuation around it."""
    at = word.casefold().find(key)
    core = word[at : at + len(key)]
    return word[:at] + _like(core, synonym) + word[at + len(key) :]


def _joined(text: str, spans: Sequence[Span], words: Sequence[str]) -> str:
    """The text with other words between the same gaps."""
    parts, end = [], 0
    for (start, stop), word in zip(spans, words, strict=True):
        parts += [text[end:start], word]
        end = stop
    return "".join([*parts, text[end:]])


def load_lexicon(path: str | None = None) -> Lexicon:
    """Synonyms of folded words: the own lexicon, and those of a JSON file before it.

    The own one holds words that others can stand for in most requests to a service; it is small on purpose,
    because a wrong synonym changes the label.

    Args:
        path: JSON file of a mapping from word to a list of synonyms, or to a mapping from part of speech
            (`noun`, `verb`, `predicate`) to such a list.

    Raises:
        ConfigError: the file is missing or holds something else.
    """
    if path is None:
        return own_lexicon()
    try:
        extra = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        return {**own_lexicon(), **{fold(word): _entry(value) for word, value in extra.items()}}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"Cannot read synonyms from {path!r}: {error}. It must be a JSON file like "
            '{"fee": ["charge"], "book": {"noun": ["volume"], "verb": ["reserve"]}}.'
        ) from error


def _entry(value: object) -> Entry:
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
    if isinstance(value, dict) and set(value) <= set(get_args(Role)):
        if all(not isinstance(_entry(part), Mapping) for part in value.values()):
            return value
    raise ValueError(f"{value!r} is no list of synonyms")


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
