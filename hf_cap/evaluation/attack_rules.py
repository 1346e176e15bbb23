"""Keywords of each class, and attacks by rule: a denied mention of a keyword, or synonyms for it."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import regex

from hf_cap.errors import ConfigError
from hf_cap.schema import PRIOR, check_prior
from hf_cap.words import UNSPACED, WORD_PATTERN, count_words, fold, phi, split_words, with_words, word_strings

Difficulty = Literal["easy", "medium", "hard"]
Keywords: TypeAlias = tuple[tuple[str, ...], ...]
"""Per class, in the order of the label space, its keywords, the strongest first."""
Role = Literal["noun", "verb", "predicate"]
Entry: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]
"""Synonyms of a word, or for each part of speech (`Role`) those that fit there alone."""
Lexicon: TypeAlias = Mapping[str, Entry]

# what the rules say and look for; the synonyms are few, as a wrong one changes the label
ENGLISH: Mapping[str, Any] = json.loads(Path(__file__).with_name("english.json").read_text(encoding="utf-8"))
FUNCTION_WORDS = frozenset(ENGLISH["function_words"].split())
"""Words too common to be a keyword, whatever their counts in a few texts."""
_ENGLISH_ONLY = FUNCTION_WORDS - {*ENGLISH["also_in_other_languages"].split()}
_LETTERS = regex.compile(r"-*\p{L}[\p{L}\p{M}\u200c\u200d-]*")
_NOT_LATIN = regex.compile(r"[\p{L}--\p{Latin}]", regex.VERSION1)
_NEAR = {name: frozenset(words.split()) for name, words in ENGLISH["neighbours"].items()}
_VOWEL_SOUND = re.compile(r"(?!uni|use|usu|euro|one)[aeiou]|hour|honest", re.IGNORECASE)
_GREETING = re.compile(
    r"(?:hi|hello|hey|good (?:morning|afternoon|evening)|excuse me|sorry)(?: there)?[,.!]*\s+", re.IGNORECASE
)
# two letters before the stop, or an abbreviation such as "u. s. d." would be sentences
_SENTENCE_END = re.compile(r"(?:(?<=\w\w[.!?])|(?<=[!?][!?]))\s+(?=\S)")


def class_keywords(
    texts: Sequence[str],
    labels: Sequence[int],
    classes: int,
    top: int,
    least_texts: int = 1,
    pattern: str = WORD_PATTERN,
    priors: Sequence[Sequence[float] | None] | None = None,
    column: str = PRIOR,
) -> Keywords:
    """The `top` words of each class, ties broken alphabetically; never function words or short ones.

    Those most strongly tied to it by chi-squared (Yang and Pedersen 1997) that occur in it more often
    than elsewhere and in at least `least_texts` of its texts. With `priors`, the `column` of that name,
    those with the highest sum of scores.
    """
    scores: list[dict[str, float]] = [defaultdict(float) for _ in range(classes)]
    if priors is None:
        counts = count_words(texts, labels, classes, pattern)
        for word, texts_with in counts.words.items():
            for label, tie in enumerate(phi(counts, word)):
                if texts_with[label] >= least_texts:
                    scores[label][word] = tie  # chi-squared is n times its square: the same order
    for row, prior in enumerate(priors or ()):
        words = word_strings(texts[row], pattern)
        check_prior(prior, words, column=column, row=row)
        for word, score in zip(words, prior or (), strict=prior is not None):
            scores[labels[row]][fold(word)] += score
    found = []
    for of_class in scores:
        kept = [word for word, score in of_class.items() if score > 0 and _is_content(word)]
        ranked = sorted((-of_class[word], word) for word in kept)
        found.append(tuple(word for _, word in ranked[:top]))
    return tuple(found)


def _is_content(word: str) -> bool:
    least = 2 if UNSPACED.match(word) else 3
    return len(word) >= least and bool(_LETTERS.fullmatch(word)) and word not in FUNCTION_WORDS


def is_english(texts: Sequence[str], pattern: str = WORD_PATTERN) -> bool:
    """Whether texts have the function words of English; so it is assumed for fewer than 20 words.

    They are 29 % of the words of HWU64 and 12 % of those of its driest class, but in other
    languages next to none, since those that are words there too are not counted.
    """
    words = [fold(word) for text in texts for word in word_strings(text, pattern)]
    found = sum(word in _ENGLISH_ONLY for word in words)
    return len(words) < 20 or found >= 0.08 * len(words)


def is_latin(text: str) -> bool:
    """Whether at least half of the letters of a text are Latin."""
    return 2 * len(_NOT_LATIN.findall(text)) <= sum(map(str.isalpha, text))


def difficulties(label: int, keywords: Keywords) -> Mapping[int, Difficulty]:
    """Difficulty of each *other* class as the source of an added keyword.

    Classes are ranked by the Jaccard overlap of their keywords with those of `label`, ties by their
    number, and cut into thirds: the most similar are `hard`. The remainder goes to the middle or to
    both ends. A single one is `hard`.
    """
    own, overlap = set(keywords[label]), {}
    for other, words in enumerate(keywords):
        either = own.union(words)
        overlap[other] = len(own.intersection(words)) / len(either) if either else 0.0
    others = sorted({*overlap} - {label}, key=lambda other: (-overlap[other], other))
    third = max(1, round(len(others) / 3))
    return {
        other: "hard" if place < third else "easy" if place >= len(others) - third else "medium"
        for place, other in enumerate(others)
    }


def add_mention(text: str, keyword: str, rng: np.random.Generator) -> str:
    """The text with a denied mention of `keyword`, in the text's capitals.

    It stands in front (but behind a greeting), between sentences, or at the end; the words of the
    text and their order stay as they are.
    """
    text = text.strip()
    mention = str(rng.choice(ENGLISH["mentions"])).format(keyword=keyword)
    greeting = _GREETING.match(text)
    start = greeting.end() if greeting else 0
    inner = [match.end() for match in _SENTENCE_END.finditer(text, start)]
    point = int(rng.choice([start, *(point for point in inner if point > start), len(text)]))
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
    *,
    avoided: Collection[str] = (),
    english: bool = True,
) -> tuple[str, list[str]]:
    """The text with each keyword replaced by a synonym that is no keyword itself, where one fits.

    No word of a synonym is one of `keywords` or `avoided`. Capitals and the punctuation around a word stay as
    they are; in English `a` and `an` follow the new word. Also the folded keywords that were replaced.
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
        taken = {*keywords, *avoided, *folded}
        choices = [
            synonym
            for synonym in _synonyms(lexicon.get(key, ()), before, after)
            if not taken.intersection(map(fold, synonym.split()))
            # number and word order: no "this tunes", no "take off it"
            and not (synonym.endswith("s") > key.endswith("s") and before in _NEAR["singular"])
            and not (" " in synonym and after in _NEAR["pronoun"])
        ]
        if choices:
            words[index] = _substituted(words[index], key, str(rng.choice(choices)))
            replaced.append(key)
            if english and index and words[index - 1].casefold() in ("a", "an"):
                vowel = _VOWEL_SOUND.match(words[index])
                words[index - 1] = words[index - 1][0] + ("n" if vowel else "")
    return with_words(text, spans, words), replaced


def _synonyms(entry: Entry, before: str | None, after: str | None) -> Sequence[str]:
    """The synonyms that fit the part of speech between two folded words; none where it is open."""
    if not isinstance(entry, Mapping):
        return entry
    roles = [role for role in get_args(Role) if before in _NEAR[role]]
    if before is None and after in _NEAR["imperative"]:
        roles = ["verb"]
    return entry.get(roles[0], ()) if roles else ()


def _substituted(word: str, key: str, synonym: str) -> str:
    """`synonym` in the place of `key` in `word`, with its capitals and surrounding punctuation."""
    at = word.casefold().find(key)
    core = word[at : at + len(key)]
    if core.isupper():
        synonym = synonym.upper()
    elif core[:1].isupper():
        synonym = _capitalised(synonym)
    return word[:at] + synonym + word[at + len(key) :]


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def load_lexicon(path: str | None = None, *, english: bool = True) -> Lexicon:
    """Synonyms of folded words: for `english` texts the own lexicon, and above it a JSON file."""
    own: Lexicon = ENGLISH["synonyms"] if english else {}
    if path is None:
        return own
    try:
        extra = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        return {**own, **{fold(word): _entry(value) for word, value in extra.items()}}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"Cannot read synonyms from {path!r}: {error}. It must be a JSON file like "
            '{"fee": ["charge"], "book": {"noun": ["volume"], "verb": ["reserve"]}}.'
        ) from error


def _entry(value: Entry) -> Entry:
    parts = value.values() if isinstance(value, dict) else [value]
    if isinstance(value, dict) and not set(value) <= set(get_args(Role)):
        raise ValueError(f"{set(value)} are no parts of speech")
    if not all(isinstance(p, list) and all(isinstance(word, str) for word in p) for p in parts):
        raise ValueError(f"{value!r} is no list of synonyms")
    return value
