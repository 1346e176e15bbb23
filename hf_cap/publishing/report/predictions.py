"""What the predictions of a group look like: calibration, confusions, keywords that labels share."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...schema import WORDS
from .groups import RunGroup
from .loading import Columns
from .values import Bin, Calibration, ConfusedPair, Confusion

BINS = 10
PAIRS = 12
KEYWORDS = 10


def calibration(index: int, group: RunGroup, name: str) -> Calibration | None:
    """Expected calibration error (Naeini et al., 2015) of a group on one evaluation set.

    The confidence is the probability of the predicted label. A bin counts by its share of the texts.
    """
    confidence: list[float] = []
    right: list[bool] = []
    for records in _records(group, name):
        confidence += [max(row) for row in records["probabilities"]]
        right += _right(records)
    if not confidence:
        return None
    place = np.minimum((np.array(confidence) * BINS).astype(int), BINS - 1)
    bins = tuple(
        Bin(
            confidence=float(np.mean(np.array(confidence)[place == number])),
            accuracy=float(np.mean(np.array(right)[place == number])),
            texts=int(np.sum(place == number)),
        )
        for number in range(BINS)
        if np.any(place == number)
    )
    error = sum(abs(b.confidence - b.accuracy) * b.texts for b in bins) / len(confidence)
    return Calibration(index, float(error), bins)


def confusion(
    index: int,
    group: RunGroup,
    name: str,
    keywords: Mapping[str, Sequence[str]],
    source: str | None,
) -> Confusion | None:
    """Gold against predicted labels of a group on one evaluation set.

    Args:
        index: Position of the group.
        group: The group.
        name: The evaluation set.
        keywords: Keywords of each label, from the audit or `model_keywords`.
        source: What the keywords are made of.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    space: dict[str, None] = {}
    for run in group.runs:
        if name in run.records:
            records = run.records[name]
            space |= dict.fromkeys(run.evaluations.get(name, {}).get("labels") or ())
            pairs.update(
                zip(map(str, records["label"]), map(str, records["prediction"]), strict=True)
            )
    if not pairs:
        return None
    labels = tuple(dict.fromkeys([*space, *sorted({label for pair in pairs for label in pair})]))
    position = {label: number for number, label in enumerate(labels)}
    texts = Counter[str]()
    for (gold, _), count in pairs.items():
        texts[gold] += count
    errors = [(pair, count) for pair, count in pairs.most_common() if pair[0] != pair[1]]
    return Confusion(
        group=index,
        labels=labels,
        counts={(position[gold], position[said]): count for (gold, said), count in pairs.items()},
        pairs=tuple(
            ConfusedPair(gold, said, count, texts[gold], _shared(keywords, gold, said))
            for (gold, said), count in errors[:PAIRS]
        ),
        keywords_from=source,
    )


def model_keywords(records: Iterable[Columns]) -> dict[str, tuple[str, ...]]:
    """The words that models count most for each label they predict: the highest totals, if positive."""
    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for data in records:
        rows = zip(data[WORDS], data["attributions"], data["prediction"], strict=True)
        for words, scores, label in rows:
            for word, score in zip(words, scores or (), strict=False):
                totals[str(label)][word.lower()] += score
    return {
        label: tuple(word for word, total in words.most_common(KEYWORDS) if total > 0)
        for label, words in totals.items()
    }


def _shared(keywords: Mapping[str, Sequence[str]], one: str, other: str) -> tuple[str, ...]:
    return tuple(word for word in keywords.get(one, ()) if word in keywords.get(other, ()))


def _right(records: Columns) -> list[bool]:
    return [
        str(gold) == str(said)
        for gold, said in zip(records["label"], records["prediction"], strict=True)
    ]


def _records(group: RunGroup, name: str) -> list[Mapping[str, Sequence[Any]]]:
    return [run.records[name] for run in group.runs if name in run.records]
