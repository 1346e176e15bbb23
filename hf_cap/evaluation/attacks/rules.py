"""Attacks by rule: a denied mention of another class's keyword, or synonyms for the class's own."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from hf_cap.errors import ConfigError
from hf_cap.words import WORD_PATTERN, fold, split_words

if TYPE_CHECKING:
    import numpy as np

Role = Literal["noun", "verb", "predicate"]
Entry: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]
"""Synonyms of a word, or for each part of speech (`Role`) those that fit there alone."""
Lexicon: TypeAlias = Mapping[str, Entry]

MENTIONS = (
    "never mind the {keyword} thing",
    "the {keyword} thing can wait",
    "not the {keyword} thing",
    "forget the {keyword} thing",
    "I did not say {keyword}",
    "this has nothing to do with the {keyword} thing",
)
"""Each names a word, whatever its part of speech, and denies that it matters: the label stays."""

_BEFORE_NOUN = frozenset(
    """a an the my your his her its our their this that these those any some no every each another which
    what new next last about by for from in of on with at per""".split()
)
_BEFORE_VERB = frozenset(
    "to please i you we they can could will would should must let's lets don't not never and then".split()
)
_BEFORE_PREDICATE = frozenset("is are am was were be been it's isn't aren't i'm".split())
_AFTER_IMPERATIVE = frozenset(
    "a an the my your his her its our their this that these those any some me us it them all".split()
)
_VOWEL_SOUND = re.compile(r"(?!uni|use|usu|euro|one)[aeiou]|hour|honest", re.IGNORECASE)
_GREETING = re.compile(
    r"(?:hi|hello|hey|good (?:morning|afternoon|evening)|excuse me|sorry)(?: there)?[,.!]*\s+",
    re.IGNORECASE,
)
# two letters before the stop, or an abbreviation such as "u. s. d." would be sentences
_SENTENCE_END = re.compile(r"(?:(?<=\w\w[.!?])|(?<=[!?][!?]))\s+(?=\S)")
_SINGULAR = frozenset("a an this that each every another".split())
_PRONOUNS = frozenset("it me them us him".split())


def add_mention(text: str, keyword: str, rng: "np.random.Generator") -> str:
    """The text with a denied mention of `keyword` where a remark can stand, in the text's capitals.

    The words of the text and their order stay as they are.
    """
    text = text.strip()
    mention = str(rng.choice(MENTIONS)).format(keyword=keyword)
    point = int(rng.choice(_insertion_points(text)))
    before, after = text[:point].rstrip(), text[point:]
    capital = text[:1].isupper()
    mention = mention if capital else mention.casefold()
    if before[-1:] in (".", "!", "?") or (not before and capital):
        sentence = f"{_capitalised(mention) if capital else mention}."
        return " ".join(part for part in (before, sentence, after) if part)
    return ", ".join(part for part in (before.rstrip(","), mention, after) if part)


def _insertion_points(text: str) -> list[int]:
    """Where a remark can stand: in front (but behind a greeting), between sentences, at the end."""
    greeting = _GREETING.match(text)
    start = greeting.end() if greeting else 0
    inner = [match.end() for match in _SENTENCE_END.finditer(text, start)]
    return [start, *(point for point in inner if point > start), len(text)]


def replace_keywords(
    text: str,
    keywords: Collection[str],
    lexicon: Lexicon,
    rng: "np.random.Generator",
    pattern: str = WORD_PATTERN,
) -> tuple[str, list[str]]:
    """The text with each keyword replaced by a synonym that is no keyword itself, where one fits.

    Capitals and the punctuation around a word stay as they are; `a` and `an` follow the new word.

    Returns:
        The text, and the folded keywords that were replaced.
    """
    spans = split_words(text, pattern)
    words = [text[start:end] for start, end in spans]
    folded = [fold(word) for word in words]
    replaced: list[str] = []
    for index, key in enumerate(folded):
        if key not in keywords:
            continue
        before = folded[index - 1] if index else None
        after = folded[index + 1] if index + 1 < len(folded) else None
        choices = [
            other
            for other in _synonyms(lexicon.get(key, ()), before, after)
            if _fits(key, other, before, after)
            and not {*map(fold, other.split())} & {*keywords, *folded}
        ]
        if choices:
            words[index] = _substituted(words[index], key, str(rng.choice(choices)))
            replaced.append(key)
            if index:
                words[index - 1] = _article(words[index - 1], words[index])
    ends = [0, *(span.end for span in spans)]
    gaps = [text[end : span.start] for end, span in zip(ends, spans, strict=False)]
    pairs = zip(gaps, words, strict=True)
    return "".join(gap + word for gap, word in pairs) + text[ends[-1] :], replaced


def _synonyms(entry: Entry, before: str | None, after: str | None) -> Sequence[str]:
    """The synonyms that fit the part of speech between two folded words; none where it is open."""
    if not isinstance(entry, Mapping):
        return entry
    role: Role
    if before in _BEFORE_NOUN:
        role = "noun"
    elif before in _BEFORE_VERB or (before is None and after in _AFTER_IMPERATIVE):
        role = "verb"
    elif before in _BEFORE_PREDICATE:
        role = "predicate"
    else:
        return ()
    return entry.get(role, ())


def _fits(word: str, substitute: str, before: str | None, after: str | None) -> bool:
    """Whether number and word order allow a substitute.

    A plural does not follow `this` or `a`; words that belong together do not stand before a pronoun
    ("take it off", not "take off it").
    """
    plural = substitute.endswith("s") and not word.endswith("s")
    return not (plural and before in _SINGULAR) and not (" " in substitute and after in _PRONOUNS)


def _substituted(word: str, key: str, synonym: str) -> str:
    """`synonym` in the place of `key` in `word`, with its capitals and surrounding punctuation."""
    at = word.casefold().find(key)
    core = word[at : at + len(key)]
    if core.isupper():
        synonym = synonym.upper()
    elif core[:1].isupper():
        synonym = _capitalised(synonym)
    return word[:at] + synonym + word[at + len(key) :]


def _article(article: str, word: str) -> str:
    """The article `a` or `an` in the form that `word` needs; other words as they are."""
    if article.casefold() not in ("a", "an"):
        return article
    return article[0] + ("n" if _VOWEL_SOUND.match(word) else "")


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


@cache
def own_lexicon() -> Lexicon:
    """The lexicon of the package: folded word to synonyms; small, as a wrong one changes the label."""
    path = Path(__file__).with_name("synonyms.json")
    lexicon: Lexicon = json.loads(path.read_text(encoding="utf-8"))
    return lexicon


def load_lexicon(path: str | None = None) -> Lexicon:
    """Synonyms of folded words: the own lexicon, overridden by a JSON file.

    Args:
        path: JSON file of a mapping from word to a list of synonyms, or to a mapping from part of
            speech (`noun`, `verb`, `predicate`) to such a list.

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
