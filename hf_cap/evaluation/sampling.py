"""Few-shot training sets: k texts per class, in several samples that are the same for every method."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_cap.errors import ConfigError, DataError
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import rank

if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)


def few_shot(
    dataset: "Dataset", k: int, *, draw: int = 0, seed: int = 0, allow_fewer: bool = False
) -> "Dataset":
    """A training set of `k` texts per class.

    The choice depends on the seed, the draw and the labelled texts alone: not on the order of the
    rows, on other columns or on other classes. The rows come in an order that mixes the classes.
    The k-shot set of a draw is part of its (k + 1)-shot set.

    Args:
        dataset: Columns `text` and `label` (a `ClassLabel`).
        k: Texts per class, at least 1. A text that occurs twice counts once.
        draw: Number of the draw, from 0.
        seed: Seed of the draws.
        allow_fewer: Take all texts of a class that has fewer than `k`, with one warning.

    Raises:
        ConfigError: `k` is below 1.
        DataError: a class has fewer than `k` different texts, or there is no `ClassLabel`.
    """
    from hf_cap.data import label_names

    names = label_names(dataset)
    labels = [names[label] for label in dataset[LABEL]]
    rows = few_shot_rows(
        dataset[TEXT], labels, k, draw=draw, seed=seed, space=names, allow_fewer=allow_fewer
    )
    return dataset.select(rows)


def few_shot_rows(
    texts: Sequence[str],
    labels: Sequence[str],
    k: int,
    *,
    draw: int = 0,
    seed: int = 0,
    space: Sequence[str] = (),
    allow_fewer: bool = False,
) -> list[int]:
    """Row numbers of a few-shot set, as `few_shot`; `space` names classes that may have no text."""
    if k < 1:
        raise ConfigError(f"A few-shot set has at least 1 text per class, got k={k!r}.")
    ranked: dict[str, dict[bytes, int]] = defaultdict(dict)
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        ranked[label].setdefault(rank(seed, draw, label, text), row)
    counts = {label: len(ranked[label]) for label in space or list(ranked)}
    if short := {label: count for label, count in counts.items() if count < k}:
        message = f"{len(short)} classes have fewer than {k} different texts: " + ", ".join(
            f"{label!r} has {count}" for label, count in list(short.items())[:5]
        )
        if not allow_fewer:
            raise DataError(f"{message}. Choose a smaller k, or allow fewer (`allow_fewer=True`).")
        _logger.warning("%s; all of them are taken.", message)
    chosen = [item for rows in ranked.values() for item in sorted(rows.items())[:k]]
    return [row for _, row in sorted(chosen)]
