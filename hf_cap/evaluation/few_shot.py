"""Few-shot training sets: k texts a class, in several draws that are the same for every method."""

import logging
from collections import defaultdict
from collections.abc import Sequence

from datasets import Dataset

from hf_cap.data import label_names
from hf_cap.errors import ConfigError, DataError
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import rank

_logger = logging.getLogger(__name__)


def few_shot(
    dataset: Dataset, k: int, *, draw: int = 0, seed: int = 0, allow_fewer: bool = False
) -> Dataset:
    """A training set of `k` texts a class.

    The choice depends on the seed, the draw and the labelled texts alone: not on the order of the rows, on
    other columns or on other classes. The rows come in an order that mixes the classes. The k-shot set of a
    draw is part of its (k + 1)-shot set.

    Args:
        dataset: Columns `text` and `label` (a `ClassLabel`).
        k: Texts a class, at least 1. A text that occurs twice counts once.
        draw: Number of the draw, from 0.
        seed: Seed of the draws.
        allow_fewer: Take all texts of a class that has fewer than `k`, with one warning, instead of refusing.

    Raises:
        ConfigError: `k` is below 1.
        DataError: a class has fewer than `k` different texts, or the label column is no `ClassLabel`.
    """
    names = label_names(dataset)
    return dataset.select(
        few_shot_rows(
            dataset[TEXT],
            [names[label] for label in dataset[LABEL]],
            k,
            draw=draw,
            seed=seed,
            space=names,
            allow_fewer=allow_fewer,
        )
    )


def few_shot_rows(
    texts: Sequence[str],
    labels: Sequence[str],
    k: int,
    *,
    draw: int = 0,
    seed: int = 0,
    space: Sequence[str] | None = None,
    allow_fewer: bool = False,
) -> list[int]:
    """Row numbers of a few-shot set; arguments and errors as for `few_shot`.

    Args:
        texts: The texts.
        labels: Label name of each text.
        space: All label names, where some may have no text; those that occur by default.
    """
    if k < 1:
        raise ConfigError(f"A few-shot set has at least 1 text a class, got k={k!r}.")
    ranked: dict[str, dict[bytes, int]] = defaultdict(dict)
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        ranked[label].setdefault(rank(seed, draw, label, text), row)
    short = {label: len(ranked[label]) for label in space or list(ranked) if len(ranked[label]) < k}
    if short:
        message = f"{len(short)} classes have fewer than {k} different texts: " + ", ".join(
            f"{label!r} has {count}" for label, count in list(short.items())[:5]
        )
        if not allow_fewer:
            raise DataError(f"{message}. Choose a smaller k, or allow fewer (`allow_fewer=True`).")
        _logger.warning("%s; all of them are taken.", message)
    chosen = [item for rows in ranked.values() for item in sorted(rows.items())[:k]]
    return [row for _, row in sorted(chosen)]
