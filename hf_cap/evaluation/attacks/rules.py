"""Keywords of each class, and how much those of two classes overlap. Pure functions of texts and labels."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from hf_cap.errors import ConfigError
from hf_cap.evaluation.attacks.settings import Difficulty, Maker
from hf_cap.schema import PRIOR, check_prior
from hf_cap.words import WORD_PATTERN, Span, count_words, fold, phi, split_words, word_strings

FUNCTION_WORDS = frozenset(
    """a about after again all also am an and any are as at be because been before but by can could did
    do does for from get got had has have he her here him his how i if in into is it its just
    know like me more my need no not now of off on one or our out please she should so some tell
    than thank thanks that the their them then there they this to too up us want was we were
    what when where which while who why will with would you your i'm i'd i've it's don't can't
    what's able another anything around back between both currently down else ever every everything exactly
    last lately later many much never next nobody nothing often once only over own really same
    since someone something still thing things through twice until very whatever yeah yes yet""".split()
)
"""Words too common to be a keyword, whatever few texts say of them."""
Keywords = tuple[tuple[str, ...], ...]
"""For each class in the order of the label space its keywords, the strongest first."""


def is_content(word: str) -> bool:
    """Whether a folded word can be a keyword: three letters or more, no contraction, no function word."""
    return len(word) >= 3 and word.replace("-", "").isalpha() and word not in FUNCTION_WORDS


def chi_squared_keywords(
    texts: Sequence[str],
    labels: Sequence[int],
    classes: int,
    top: int,
    *,
    least_texts: int = 1,
    pattern: str = WORD_PATTERN,
) -> Keywords:
    """The words most strongly tied to each class in labelled texts, by chi-squared (Yang and Pedersen 1997).

    A word counts once a text. Only words that occur in the class more often than elsewhere are its keywords;
    ties go by the alphabet.

    Args:
        texts: Training texts; nothing else is looked at.
        labels: Class of each text, in [0, `classes`).
        classes: Size of the label space.
        top: Keywords a class at most.
        least_texts: Texts of the class that a keyword must occur in.
        pattern: Regular expression of a word.
    """
    counts = count_words(texts, labels, classes, pattern)
    scores: list[dict[str, float]] = [{} for _ in range(classes)]
    for word, texts_with in counts.words.items():
        for label, tie in enumerate(phi(counts, word) if is_content(word) else ()):
            if tie > 0 and texts_with[label] >= least_texts:
                scores[label][word] = tie  # chi-squared is n times its square: the same order
    return _strongest(scores, top)


def prior_keywords(
    texts: Sequence[str],
    labels: Sequence[int],
    priors: Sequence[Sequence[float] | None],
    classes: int,
    top: int,
    *,
    pattern: str = WORD_PATTERN,
    column: str = PRIOR,
) -> Keywords:
    """The words with the highest sum of prior scores over the texts of each class.

    Such an attack depends on the prior, and so favours or harms the method that the prior comes from.

    Args:
        texts: Training texts.
        labels: Class of each text, in [0, `classes`).
        priors: One score a word of each text; `None` for a text that has none.
        classes: Size of the label space.
        top: Keywords a class at most.
        pattern: Regular expression of a word, the one that the prior was made with.
        column: What the prior is called in an error.

    Raises:
        PriorError: a prior does not fit the words of its text.
    """
    scores: list[dict[str, float]] = [defaultdict(float) for _ in range(classes)]
    for row, (text, label, prior) in enumerate(zip(texts, labels, priors, strict=True)):
        if prior is None:
            continue
        words = word_strings(text, pattern)
        check_prior(prior, words, column=column, row=row)
        for word, score in zip(words, prior, strict=True):
            if is_content(fold(word)):
                scores[label][fold(word)] += score
    positive = [{word: score for word, score in row.items() if score > 0} for row in scores]
    return _strongest(positive, top)


def overlap(left: Sequence[str], right: Sequence[str]) -> float:
    """Jaccard overlap of the keywords of two classes, in [0, 1]; 0 where both have none."""
    either = set(left) | set(right)
    return len(set(left) & set(right)) / len(either) if either else 0.0


def difficulties(label: int, keywords: Keywords) -> Mapping[int, Difficulty]:
    """Difficulty of each *other* class as the source of an added keyword.

    Classes are ranked by overlap with `label`, ties by their number, and cut into thirds: the most similar
    are `hard`. What is left over goes to the middle or to both ends alike. A single other class is `hard`.
    """
    others = [other for other in range(len(keywords)) if other != label]
    others.sort(key=lambda other: (-overlap(keywords[label], keywords[other]), other))
    third = max(1, round(len(others) / 3))
    return {
        other: "hard" if place < third else "easy" if place >= len(others) - third else "medium"
        for place, other in enumerate(others)
    }


def _strongest(scores: Sequence[Mapping[str, float]], top: int) -> Keywords:
    return tuple(tuple(sorted(row, key=lambda word: (-row[word], word))[:top]) for row in scores)


# --- The little grammar that keeps a text edited by rule natural


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


# --- What an attack is to do to a text, and what became of it.


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to one text."""

    text: str
    label: str
    keywords: tuple[str, ...]
    """The word to add, or the words of the text to replace; none where the text offers nothing."""
    source_label: str
    """The class that the keywords come from."""
    difficulty: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one text."""

    text: str
    keywords: tuple[str, ...]
    maker: Maker | None = None
    """Who changed the text; `None` where it is as it was."""
    note: str = ""
    """Why the text is unchanged, or why the rules had to write it."""


# --- Attacks by rule: a denied mention of a foreign keyword, or synonyms for the own ones. Pure functions.


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
