"""Worked examples in the prompt: two disjoint sets, so that no text is scored beside its own label.

Demonstrations are the strongest lever on the quality of a prior from a language model. A text that is
itself a demonstration would be answered by copying, so each text is scored under a set without it.
"""

import logging
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from ..errors import ConfigError
from .prompts import Example

_logger = logging.getLogger(__name__)

DemonstrationSets = tuple[tuple[Example, ...], ...]
"""Two sets that share no text (ignoring case and white space), or one empty set for no demonstrations.
Labels are names of the label space."""

NO_DEMONSTRATIONS: DemonstrationSets = ((),)


def choose_demonstrations(
    texts: Sequence[str], labels: Sequence[str], *, per_label: int, seed: int
) -> DemonstrationSets:
    """Choose two disjoint sets of demonstrations.

    The choice depends on the seed and the set of examples only, not on their order. Where a class has
    fewer than two texts per demonstration asked for, the sets share out what there is, with one notice.

    Args:
        texts: Training texts.
        labels: Their label names.
        per_label: Demonstrations a label in each set, at least 0.
        seed: Any integer.

    Raises:
        ConfigError: `per_label` is negative.
    """
    if per_label < 0:
        raise ConfigError(f"`per_label` must be at least 0, got {per_label!r}.")
    if per_label == 0:
        return NO_DEMONSTRATIONS
    pools = _pools(texts, labels, seed)
    # Alternating, so that the sets stay as equal as they can where a class is short of texts.
    chosen = [
        [example for pool in pools for example in pool[: 2 * per_label][part::2]] for part in (0, 1)
    ]
    short = [pool[0][1] for pool in pools if len(pool) < 2 * per_label]
    if short:
        _logger.warning(
            "%d of %d labels have fewer than %d different texts, so that some prompts show fewer than %d "
            "demonstrations of them: %s",
            len(short), len(pools), 2 * per_label, per_label, ", ".join(short[:8]),
        )  # fmt: skip
    return tuple(tuple(sorted(part, key=lambda example: _rank(seed, *example))) for part in chosen)


def set_without(sets: DemonstrationSets, text: str) -> int:
    """Index of the first set in which `text` does not occur, ignoring case and white space."""
    key = _same(text)
    return next(i for i, part in enumerate(sets) if all(_same(shown) != key for shown, _ in part))


def _pools(texts: Sequence[str], labels: Sequence[str], seed: int) -> list[list[Example]]:
    """The different texts of each label, each under one label only, in an order of the seed's making."""
    pools: dict[str, list[Example]] = {label: [] for label in sorted(set(labels))}
    seen: set[str] = set()
    for text, label in sorted(_pairs(texts, labels), key=lambda example: _rank(seed, *example)):
        if (key := _same(text)) and key not in seen:
            seen.add(key)
            pools[label].append((" ".join(text.split()), label))
    return [pool for pool in pools.values() if pool]


def _pairs(texts: Iterable[str], labels: Iterable[str]) -> set[Example]:
    return set(zip(texts, labels, strict=True))


def _same(text: str) -> str:
    """What two texts share that are the same but for case and white space."""
    return " ".join(text.split()).casefold()


def _rank(seed: int, text: str, label: str) -> bytes:
    digest = blake2b(f"{seed}\0{label}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8)
    return digest.digest()
