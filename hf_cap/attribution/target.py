"""What is attributed, and how the scores of tokens become scores of words."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ConfigError
from ..types import Labels, Logits, PerExample, TokenScores, TokenWords, WordScores


def _gold(logits: Logits, labels: Labels) -> PerExample:
    return logits.gather(1, labels[:, None])[:, 0]


def _contrast(logits: Logits, labels: Labels) -> PerExample:
    rivals = logits.scatter(1, labels[:, None], -torch.inf)
    return _gold(logits, labels) - rivals.logsumexp(1)


TARGETS: dict[str, Callable[[Logits, Labels], PerExample]] = {"gold": _gold, "contrast": _contrast}
"""`gold`: the label's logit. `contrast`: its log-odds, that minus the logsumexp of all other logits."""


def target_score(logits: Logits, labels: Labels, target: str = "gold") -> PerExample:
    """The score of each example that is attributed to its words.

    Raises:
        ConfigError: there is no such target.
    """
    if target not in TARGETS:
        raise ConfigError(
            f"There is no attribution target {target!r}; there are {sorted(TARGETS)}."
        )
    return TARGETS[target](at_least_float32(logits), labels)


def at_least_float32(values: Tensor) -> Tensor:
    """Half-precision values as float32; sums of many of them need it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pool_words(scores: TokenScores, words: TokenWords, count: int) -> WordScores:
    """Sum of the token scores of each of `count` words; tokens of no word (index -1) are left out."""
    pooled = scores.new_zeros(len(scores), count + 1).scatter_add(1, words + 1, scores)
    return pooled[:, 1:]
