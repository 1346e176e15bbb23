"""Keywords of each class, and how much those of two classes overlap: functions of texts and labels."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from hf_cap.schema import PRIOR, check_prior
from hf_cap.words import WORD_PATTERN, count_words, fold, phi, word_strings

Difficulty = Literal["easy", "medium", "hard"]
Keywords = tuple[tuple[str, ...], ...]
"""Per class, in the order of the label space, its keywords, the strongest first."""

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
"""Words too common to be a keyword, whatever their counts in a few texts."""


def chi_squared_keywords(
    texts: Sequence[str],
    labels: Sequence[int],
    classes: int,
    top: int,
    *,
    least_texts: int = 1,
    pattern: str = WORD_PATTERN,
) -> Keywords:
    """The words most strongly tied to each class by chi-squared (Yang and Pedersen 1997).

    A word counts once per text. Keywords of a class, at most `top`, occur in it more often than
    elsewhere and in at least `least_texts` of its texts; ties are broken alphabetically. `labels`
    are in [0, `classes`).
    """
    counts = count_words(texts, labels, classes, pattern)
    scores: list[dict[str, float]] = [{} for _ in range(classes)]
    for word, texts_with in counts.words.items():
        for label, tie in enumerate(phi(counts, word) if _is_content(word) else ()):
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
    """The words with the highest sum of prior scores over the texts of each class, at most `top`.

    `priors` have one score per word as `pattern` splits the text, or are `None`; `column` is their
    name in an error.

    Raises:
        PriorError: a prior does not fit the words of its text.
    """
    scores: list[dict[str, float]] = [defaultdict(float) for _ in range(classes)]
    for row, (text, label, prior) in enumerate(zip(texts, labels, priors, strict=True)):
        words = word_strings(text, pattern)
        check_prior(prior, words, column=column, row=row)
        for word, score in zip(map(fold, words), prior or (), strict=prior is not None):
            if _is_content(word):
                scores[label][word] += score
    positive = [{word: score for word, score in row.items() if score > 0} for row in scores]
    return _strongest(positive, top)


def _is_content(word: str) -> bool:
    """Whether a folded word can be a keyword: three letters or more, and no function word."""
    return len(word) >= 3 and word.replace("-", "").isalpha() and word not in FUNCTION_WORDS


def _strongest(scores: Sequence[Mapping[str, float]], top: int) -> Keywords:
    return tuple(tuple(sorted(row, key=lambda word: (-row[word], word))[:top]) for row in scores)


def overlap(left: Sequence[str], right: Sequence[str]) -> float:
    """Jaccard overlap of the keywords of two classes, in [0, 1]; 0 where both have none."""
    either = set(left) | set(right)
    return len(set(left) & set(right)) / len(either) if either else 0.0


def difficulties(label: int, keywords: Keywords) -> Mapping[int, Difficulty]:
    """Difficulty of each *other* class as the source of an added keyword.

    Classes are ranked by overlap with `label`, ties by their number, and cut into thirds: the most
    similar are `hard`. The remainder goes to the middle or to both ends. A single one is `hard`.
    """
    others = [other for other in range(len(keywords)) if other != label]
    others.sort(key=lambda other: (-overlap(keywords[label], keywords[other]), other))
    third = max(1, round(len(others) / 3))
    return {
        other: "hard" if place < third else "easy" if place >= len(others) - third else "medium"
        for place, other in enumerate(others)
    }
