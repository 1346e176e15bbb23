"""Controls: priors that carry no information, to compare a real one with.

A gain by a prior counts only over the best of its controls. Each function takes the scores of one text,
its text and a seed; what is random depends on text and seed only.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from datasets import Dataset, DatasetDict

from ..errors import ConfigError
from ..randomness import text_seed
from ..schema import PRIOR, PROVENANCE, TEXT, add_provenance
from .source_settings import Control

Splits = TypeVar("Splits", Dataset, DatasetDict)


def uniform(scores: Sequence[float], text: str = "", seed: int = 0) -> list[float]:
    """The same score, 1, for every word."""
    return [1.0] * len(scores)


def random_scores(scores: Sequence[float], text: str, seed: int = 0) -> list[float]:
    """An independent uniform score in [0, 1) for every word."""
    generator = random.Random(text_seed(seed, text))
    return [generator.random() for _ in scores]


def shuffled(scores: Sequence[float], text: str, seed: int = 0) -> list[float]:
    """The scores of the text in random order: the same distribution, on the wrong words."""
    return random.Random(text_seed(seed, text)).sample(list(scores), len(scores))


CONTROLS: Mapping[Control, Callable[[Sequence[float], str, int], list[float]]] = MappingProxyType(
    {"uniform": uniform, "random": random_scores, "shuffled": shuffled}
)


def with_control(
    dataset: Splits,
    control: Control,
    *,
    seed: int = 0,
    column: str = PRIOR,
    text_column: str = TEXT,
) -> Splits:
    """The data set with a prior column replaced by its control; null stays null.

    Args:
        dataset: Data set, or splits of one, with a prior column.
        control: `uniform`, `random` or `shuffled`.
        seed: Determines, together with the text, what is random.
        column: The prior column.
        text_column: Column that holds the texts.

    Raises:
        ConfigError: there is no such control.
    """
    if control not in CONTROLS:
        raise ConfigError(f"There is no control {control!r}; there are {sorted(CONTROLS)}.")
    arguments = {"control": control, "seed": seed, "column": column, "text_column": text_column}
    return dataset.map(_replace, batched=True, fn_kwargs=arguments, desc=f"Control {control}")


def _replace(
    batch: Mapping[str, list[Any]], control: Control, seed: int, column: str, text_column: str
) -> dict[str, list[Any]]:
    scores = [
        None if prior is None else CONTROLS[control](prior, text, seed)
        for prior, text in zip(batch[column], batch[text_column], strict=True)
    ]
    cells = batch.get(PROVENANCE) or [None] * len(scores)
    facts = {"control": control, "seed": seed, "column": column}
    return {column: scores, PROVENANCE: [add_provenance(cell, "control", facts) for cell in cells]}
