"""How words and classes go together in a labelled data set: counts, and statistics of them.

Pure functions of texts and labels. A word counts once a text, in lower case and without the punctuation
around it. In the formulas n is the number of texts, n_w of those with the word w, n_c of those of class c,
n_wc of those of class c with w.
"""

import math
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .words import WORD_PATTERN, word_strings


@dataclass(frozen=True)
class WordCounts:
    """Number of texts by class, and by word and class.

    Attributes:
        texts: Texts of each class, n_c.
        words: For each word, in the form that `fold` gives, the texts of each class that have it, n_wc.
    """

    texts: Sequence[int]
    words: Mapping[str, Sequence[int]]


def fold(word: str) -> str:
    """The form in which a word is counted: lower case, without punctuation at its ends (unless it is all)."""
    return word.strip(string.punctuation + "¿¡“”‘’…—–").casefold() or word


def count_words(
    texts: Sequence[str], labels: Sequence[int], classes: int, pattern: str = WORD_PATTERN
) -> WordCounts:
    """Count in how many texts of each class a word occurs.

    Args:
        texts: The texts.
        labels: Index of the class of each text, in [0, `classes`).
        classes: Size of the label space.
        pattern: Regular expression of a word.
    """
    totals = [0] * classes
    found: dict[str, list[int]] = {}
    for text, label in zip(texts, labels, strict=True):
        totals[label] += 1
        for word in Counter(map(fold, word_strings(text, pattern))):
            found.setdefault(word, [0] * classes)[label] += 1
    return WordCounts(totals, found)


def phi(counts: WordCounts, word: str) -> list[float]:
    """Phi coefficient of a word and each class: (n n_wc − n_w n_c) / √(n_w (n − n_w) n_c (n − n_c)).

    Its square is the chi-squared statistic of the two-by-two table divided by n.

    Returns:
        One value a class in [-1, 1], positive where the word speaks for the class; 0 where the table has
        an empty row or column, or the word is unknown.
    """
    n, by_class = sum(counts.texts), counts.words.get(word, [0] * len(counts.texts))
    n_w = sum(by_class)
    scores = []
    for n_wc, n_c in zip(by_class, counts.texts, strict=True):
        scale = math.sqrt(n_w * (n - n_w) * n_c * (n - n_c))
        scores.append((n * n_wc - n_w * n_c) / scale if scale else 0.0)
    return scores


def tfidf(counts: WordCounts, word: str) -> list[float]:
    """Share of the texts of each class that have a word, times its inverse document frequency.

    (n_wc / n_c) · (ln((1 + n) / (1 + n_w)) + 1), with the smoothed frequency of scikit-learn; at least 0.
    """
    n, by_class = sum(counts.texts), counts.words.get(word, [0] * len(counts.texts))
    rarity = math.log((1 + n) / (1 + sum(by_class))) + 1
    return [
        n_wc / n_c * rarity if n_c else 0.0
        for n_wc, n_c in zip(by_class, counts.texts, strict=True)
    ]


def log_odds(counts: WordCounts, word: str) -> list[float]:
    """Logarithm of the odds ratio of a word between each class and all others, in nats.

    ln((n_wc + ½) / (n_c − n_wc + ½)) − ln((r + ½) / (n − n_c − r + ½)) with r = n_w − n_wc, that is with the
    half added to each cell of the two-by-two table that keeps it finite (Haldane 1956, Anscombe 1956).

    Returns:
        One value a class, positive where the word speaks for the class; 0 for an unknown word.
    """
    if word not in counts.words:
        return [0.0] * len(counts.texts)
    n, by_class = sum(counts.texts), counts.words[word]
    n_w = sum(by_class)
    return [
        math.log((n_wc + 0.5) / (n_c - n_wc + 0.5))
        - math.log((n_w - n_wc + 0.5) / (n - n_c - (n_w - n_wc) + 0.5))
        for n_wc, n_c in zip(by_class, counts.texts, strict=True)
    ]
