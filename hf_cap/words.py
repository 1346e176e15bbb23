r"""Words: the units that a prior scores, as character spans of the text.

A word is a maximal run of non-white-space. Scripts that are written without blanks between words
(Chinese, Japanese, Thai, Lao, Khmer, Burmese) are divided further by the dictionaries of ICU, and
the few for which it has none into characters. Another regular expression makes other units, and only
those: `\w+|[^\w\s]` (punctuation apart), `\S` (characters), `(?:\S+)` (as the default, undivided).
"""

import logging
import math
import re
import string
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import regex
from icu4py import icu_version
from icu4py.breakers import WordBreaker

from hf_cap.errors import ConfigError
from hf_cap.utils import printable

WORD_PATTERN = r"\S+"
NO_WORD = -1
_PUNCTUATION = string.punctuation + "¿¡“”‘’…—–。、，．！？：；「」『』（）《》〈〉【】・"
_logger = logging.getLogger(__name__)

_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Tibetan}\p{Line_Break=SA}"
UNSPACED = regex.compile(f"[{_SCRIPTS}]")  # a character of a script without blanks between words
# Han, kana, Thai, Lao, Khmer and Burmese have dictionaries; characters of the others stand alone
_ALONE = regex.compile(r"(?=[\p{Yi}\p{Line_Break=SA}])(?![\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])\X")
# beside such a character, or the punctuation used with it, but as in other scripts, closing
# punctuation stays with the word before it and opening punctuation with the word after it
_CUT = regex.compile(
    r"(?:(?<=W)|(?=W))(?<![\p{Ps}\p{Pi}])(?=[\p{Ps}\p{Pi}\P{P}])".replace(
        "W", rf"[{_SCRIPTS}\u3001-\u30ff\uff01-\uff9f]"
    )
)
_MARKS = regex.compile(r"[\p{Terminal_Punctuation}\p{Quotation_Mark}\p{Pd}…`]+|\p{P}")


class Span(NamedTuple):
    """Half-open character range `[start, end)` of a word in its text."""

    start: int
    end: int


def split_words(text: str, pattern: str = WORD_PATTERN) -> list[Span]:
    """Character spans of the words of `text`, in order, never empty and never overlapping."""
    spans = [Span(*match.span()) for match in re.finditer(pattern, text) if match.group()]
    if pattern != WORD_PATTERN or text.isascii() or not UNSPACED.search(text):
        return spans
    return [part for span in spans for part in _divided(text, span)]


def check_pattern(pattern: str | None) -> None:
    """Raise `ConfigError` unless a word pattern is a regular expression that is not empty, or `None`."""
    if pattern is None:
        return
    try:
        re.compile(pattern)
        problem = "" if pattern else "it is empty"
    except (re.error, OverflowError, RecursionError) as error:
        problem = f"{error}"
    if problem:
        raise ConfigError(f"word_pattern={pattern!r} is no regular expression of a word: {problem}.")


def check_units(texts: Iterable[str], pattern: str = WORD_PATTERN, name: str = "training") -> None:
    """Log how many texts a dictionary divides, and warn where most are a single word."""
    total = divided = single = 0
    for text in texts:
        total += 1
        divided += UNSPACED.search(text) is not None
        single += len(split_words(text, pattern)) == 1
    if divided and pattern == WORD_PATTERN:
        _logger.info(
            "%d of %d texts of the %s set hold a script without blanks between words; ICU %s divides it.",
            *(divided, total, name, icu_version),
        )
    if single > total / 2:
        _logger.warning(
            "%d of %d texts of the %s set are a single word by word_pattern=%r, so that their scores "
            "compare no words; choose a pattern that finds more.",
            *(single, total, name, pattern),
        )


def _divided(text: str, span: Span) -> list[Span]:
    """The words in a stretch without blanks: itself, unless its script is written without them."""
    stretch = text[span.start : span.end]
    if not UNSPACED.search(stretch):
        return [span]
    # lengths, since its offsets are those of UTF-16; a lone surrogate would be an error
    pieces = WordBreaker(stretch.encode("utf-8", "replace").decode(), "root")
    bounds = set(accumulate(map(len, pieces)))
    bounds.update(at for match in _ALONE.finditer(stretch) for at in match.span())
    cuts = sorted(bounds.intersection(match.start() for match in _CUT.finditer(stretch)))
    ends = [0, *cuts, len(stretch)]
    return [Span(span.start + a, span.start + b) for a, b in pairwise(ends) if a < b]


def word_strings(text: str, pattern: str = WORD_PATTERN) -> list[str]:
    """The words of `text` as strings."""
    return [text[start:end] for start, end in split_words(text, pattern)]


def is_punctuation(word: str) -> bool:
    """Whether a word is marks of a sentence, quotation marks or dashes alone; `:)` is not."""
    return _MARKS.fullmatch(word) is not None


def keep_words(text: str, spans: Sequence[Span], kept: Sequence[bool], replacement: str | None = None) -> str:
    """The text without the words whose flag in `kept` is false, stripped of white space at its ends.

    Without a `replacement`, a word is deleted and the longer of the gaps on both sides is left, so
    that no word is glued to the next. `spans` are the words of the text, from `split_words`.
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


def without_words(text: str, spans: Sequence[Span], places: Container[int]) -> str:
    """The text without the words at these places; see `keep_words`."""
    return keep_words(text, spans, [place not in places for place in range(len(spans))])


def with_words(text: str, spans: Sequence[Span], words: Iterable[str]) -> str:
    """The text with other words in the places of its own."""
    ends = [0, *(span.end for span in spans)]
    gaps = [text[end : span.start] for end, span in zip(ends, spans, strict=False)]
    pairs = zip(gaps, words, strict=True)
    return "".join(gap + word for gap, word in pairs) + text[ends[-1] :]


def token_words(offsets: Iterable[tuple[int, int]], spans: Sequence[Span], text: str) -> list[int]:
    """The word that each token belongs to: the first that its span touches.

    White space at the start of a token's span, which byte-level tokenizers include, is skipped.

    Args:
        offsets: Character span of each token, as a fast tokenizer returns it; empty for special ones.
        spans: The words, from `split_words`.

    Returns:
        One word index per token, `NO_WORD` (-1) for special tokens and for tokens between words.
    """
    owner = [NO_WORD] * len(text)
    for index, (start, end) in enumerate(spans):
        owner[start:end] = [index] * (end - start)
    words = []
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        words.append(next((word for word in owner[start:end] if word != NO_WORD), NO_WORD))
    return words


def token_hosts(
    offsets: Iterable[tuple[int, int]], owners: Sequence[int], spans: Sequence[Span]
) -> list[int]:
    """The word whose tokens each word shares: itself, or that in which the token over its start begins.

    Arguments are as for `token_words`, and its result, the `owners`. Several words share a token where
    there is no blank between them, or where an unknown stretch is one token.
    """
    hosts = list(range(len(spans)))
    for (_, end), owner in zip(offsets, owners, strict=True):
        word = owner + 1
        while owner != NO_WORD and word < len(spans) and spans[word].start < end:
            hosts[word] = owner
            word += 1
    for owner in {*owners} - {NO_WORD}:
        hosts[owner] = owner
    return hosts


def pool_shared(scores: Sequence[float], hosts: Sequence[int]) -> list[float]:
    """The sum of the scores of words that share a token, at the first of them, and 0 at the others."""
    pooled = [0.0] * len(scores)
    for score, host in zip(scores, hosts, strict=True):
        pooled[host] += score
    return pooled


def share_scores(scores: Sequence[float], hosts: Sequence[int]) -> list[float]:
    """The scores of words that share a token, divided equally among them."""
    pooled, members = pool_shared(scores, hosts), Counter(hosts)
    return [pooled[host] / members[host] for host in hosts]


@dataclass(frozen=True)
class WordCounts:
    """Number of texts per class, n_c, and per word (as `fold` returns it) and class, n_wc."""

    texts: Sequence[int]
    words: Mapping[str, Sequence[int]]

    def of(self, word: str) -> Sequence[int]:
        """Texts of each class that have a word, n_wc."""
        return self.words.get(word, [0] * len(self.texts))


def fold(word: str) -> str:
    """Lower case, without punctuation at the ends unless the word is all punctuation."""
    return word.strip(_PUNCTUATION).casefold() or word


def count_words(
    texts: Sequence[str], labels: Sequence[int], classes: int, pattern: str = WORD_PATTERN
) -> WordCounts:
    """Count in how many texts of each class a word occurs; `labels` are class indices."""
    totals = [0] * classes
    found: dict[str, list[int]] = {}
    for text, label in zip(texts, labels, strict=True):
        totals[label] += 1
        for word in Counter(map(fold, word_strings(text, pattern))):
            found.setdefault(word, [0] * classes)[label] += 1
    return WordCounts(totals, found)


def phi(counts: WordCounts, word: str) -> list[float]:
    """Phi coefficient of a word and each class: (n n_wc − n_w n_c) / √(n_w (n − n_w) n_c (n − n_c)).

    In [-1, 1], positive where the word speaks for the class, 0 for an unknown word.
    """
    n, n_w, scores = sum(counts.texts), sum(counts.of(word)), []
    for n_wc, n_c in zip(counts.of(word), counts.texts, strict=True):
        scale = math.sqrt(n_w * (n - n_w) * n_c * (n - n_c))
        scores.append((n * n_wc - n_w * n_c) / scale if scale else 0.0)
    return scores


def tfidf(counts: WordCounts, word: str) -> list[float]:
    """(n_wc / n_c) · (ln((1 + n) / (1 + n_w)) + 1) of a word and each class, as scikit-learn smooths it."""
    rarity = math.log((1 + sum(counts.texts)) / (1 + sum(counts.of(word)))) + 1
    pairs = zip(counts.of(word), counts.texts, strict=True)
    return [n_wc / n_c * rarity if n_c else 0.0 for n_wc, n_c in pairs]


def log_odds(counts: WordCounts, word: str) -> list[float]:
    """Logarithm of the odds ratio of a word between each class and all others, in nats.

    ln((n_wc + ½) / (n_c − n_wc + ½)) − ln((r + ½) / (n − n_c − r + ½)) with r = n_w − n_wc: the half
    added to each cell keeps it finite (Haldane 1956, Anscombe 1956). 0 for an unknown word.
    """
    n, n_w, scores = sum(counts.texts), sum(counts.of(word)), []
    for n_wc, n_c in zip(counts.of(word), counts.texts, strict=True):
        scores.append(log_odds_ratio(n_wc, n_c, n_w, n) if n_w else 0.0)
    return scores


def log_odds_ratio(n_wc: int, n_c: int, n_w: int, n: int) -> float:
    """The ratio of `log_odds` from counts: n_wc of the n_c texts of a class have it, n_w of all n texts."""
    rest = n_w - n_wc
    odds = math.log((n_wc + 0.5) / (n_c - n_wc + 0.5))
    return odds - math.log((rest + 0.5) / (n - n_c - rest + 0.5))


# --- Word scores in plain characters.

_BARS = "▁▂▃▄▅▆▇█"


def heat_map(words: Sequence[str], scores: Sequence[float] | None, width: int = 76) -> str:
    """The words with a bar below each; a minus before the bar marks evidence against the label.

    There is one score per word, or with `None` no bar; bars are proportional to the largest absolute one. A
    text longer than `width` columns continues in further pairs of lines.
    """
    from rich.cells import cell_len

    shown = [printable(word) for word in words]
    if scores is None:
        return " ".join(shown)
    largest = max(map(abs, scores), default=0.0)
    lines, top, bottom = [], "", ""
    for word, score in zip(shown, scores, strict=True):
        bar = "·"
        if largest and abs(score) >= largest / (2 * len(_BARS)):
            level = min(int(abs(score) / largest * len(_BARS)), len(_BARS) - 1)
            bar = "-" * (score < 0) + _BARS[level]
        cell = max(cell_len(word), len(bar)) + 2
        if top and cell_len(top) + cell > width:
            lines += [top.rstrip(), bottom.rstrip(), ""]
            top = bottom = ""
        top += word + " " * (cell - cell_len(word))
        bottom += bar.ljust(cell)
    return "\n".join([*lines, top.rstrip(), bottom.rstrip()])
