"""The little grammar that keeps a text edited by rule natural: parts of speech, articles, places to insert.

English, and by the neighbouring words alone. Where they do not tell, the answer is that they do not.
"""

import re
from typing import Literal

Role = Literal["noun", "verb", "predicate"]

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


def role(before: str | None, after: str | None) -> Role | None:
    """Part of speech of a word that can be several, from its neighbours.

    Args:
        before: Folded word before it; `None` at the beginning.
        after: Folded word after it; `None` at the end.

    Returns:
        What the neighbours make it, or `None` where they leave it open.
    """
    if before in _BEFORE_NOUN:
        return "noun"
    if before in _BEFORE_VERB or (before is None and after in _AFTER_IMPERATIVE):
        return "verb"
    return "predicate" if before in _BEFORE_PREDICATE else None


def article_for(article: str, word: str) -> str:
    """The article `a` or `an` in the form that `word` needs, its capital kept; other words as they are."""
    if article.casefold() not in ("a", "an"):
        return article
    return article[0] + ("n" if _VOWEL_SOUND.match(word) else "")


def fits(word: str, substitute: str, before: str | None, after: str | None) -> bool:
    """Whether a substitute can take the place of a word, as far as number and word order go.

    A plural does not follow `this` or `a`; words that belong together do not stand before a pronoun ("take it
    off", not "take off it").

    Args:
        word: Folded word.
        substitute: What would stand for it.
        before: Folded word before it; `None` at the beginning.
        after: Folded word after it; `None` at the end.
    """
    plural = substitute.endswith("s") and not word.endswith("s")
    return not (plural and before in _SINGULAR) and not (" " in substitute and after in _PRONOUNS)


def insertion_points(text: str) -> list[int]:
    """Where a remark can stand: in front (but behind a greeting), between sentences, at the end.

    Args:
        text: A text without white space at its ends.
    """
    greeting = _GREETING.match(text)
    start = greeting.end() if greeting else 0
    inner = [match.end() for match in _SENTENCE_END.finditer(text, start)]
    return [start, *(point for point in inner if point > start), len(text)]
