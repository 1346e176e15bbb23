"""Few-shot training sets: k texts per class, in several samples that are the same for every method."""

import logging
from typing import TYPE_CHECKING

from hf_cap.errors import ConfigError, DataError
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import rank

if TYPE_CHECKING:
    from datasets import Dataset


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
        DataError: a class has fewer than `k` different texts, or there is no `ClassLabel`.
    """
    from hf_cap.data import label_names

    if k < 1:
        raise ConfigError(f"A few-shot set has at least 1 text per class, got k={k!r}.")
    names = label_names(dataset)
    ranked: dict[str, dict[bytes, int]] = {name: {} for name in names}
    for row, (text, label) in enumerate(zip(dataset[TEXT], dataset[LABEL], strict=True)):
        ranked[names[label]].setdefault(rank(seed, draw, names[label], text), row)
    if short := [f"{name!r} has {len(rows)}" for name, rows in ranked.items() if len(rows) < k]:
        message = (
            f"{len(short)} classes have fewer than {k} different texts: {', '.join(short[:5])}"
        )
        if not allow_fewer:
            raise DataError(f"{message}. Choose a smaller k, or allow fewer (`allow_fewer=True`).")
        logging.getLogger(__name__).warning("%s; all of them are taken.", message)
    chosen = [item for rows in ranked.values() for item in sorted(rows.items())[:k]]
    return dataset.select([row for _, row in sorted(chosen)])
