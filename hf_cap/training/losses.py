"""Distances between the word attributions of a classifier and the prior, one value an example.

Each takes `(attribution, prior, mask, floor)`, normalises both sides itself over the words that take part,
and is finite with a finite gradient even where a side is all zero.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import kl_div, softplus

from hf_cap.attribution import PerExample, WordMask, WordScores

_TINY = 1e-12


def unit(scores: WordScores, mask: WordMask, floor: float = 0.0) -> WordScores:
    """Scores divided by their Euclidean norm over the words; masked words are 0.

    Args:
        scores: Any scale.
        mask: Words that take part.
        floor: Softly bounds the norm from below: s / sqrt(‖s‖² + floor²). So the gradient is at most 1/floor.

    Returns:
        Vectors of norm 1, or less where the norm is not far above the floor; zero stays zero.
    """
    scores = scores.masked_fill(~mask, 0.0)
    return scores * (scores.square().sum(-1, keepdim=True) + max(floor**2, _TINY**2)).rsqrt()


def squared_distance(
    attribution: WordScores, prior: WordScores, mask: WordMask, floor: float = 0.0
) -> PerExample:
    """Squared distance of the unit vectors, summed over the words: 2 − 2·cosine, in [0, 4]."""
    return (unit(attribution, mask, floor) - unit(prior, mask)).square().sum(-1)


def mean_squared_distance(
    attribution: WordScores, prior: WordScores, mask: WordMask, floor: float = 0.0
) -> PerExample:
    """Squared distance of the unit vectors, as a mean over the d words: in [0, 4/d]."""
    return squared_distance(attribution, prior, mask, floor) / mask.sum(-1).clamp_min(1)


def cosine_distance(
    attribution: WordScores, prior: WordScores, mask: WordMask, floor: float = 0.0
) -> PerExample:
    """1 − cosine, in [0, 2]."""
    return 1 - (unit(attribution, mask, floor) * unit(prior, mask)).sum(-1)


def divergence(
    attribution: WordScores, prior: WordScores, mask: WordMask, floor: float = 0.0
) -> PerExample:
    """KL(prior ‖ attribution) in nats, at least 0; each side is the softmax of its unit vector times √d."""
    size = mask.sum(-1, keepdim=True).clamp_min(1).sqrt()

    def log_share(scores: WordScores, floor: float) -> WordScores:
        # a large number, not infinity: 0 · inf would be NaN in the gradient
        return (unit(scores, mask, floor) * size).masked_fill(~mask, -1e4).log_softmax(-1)

    return kl_div(
        log_share(attribution, floor), log_share(prior, 0.0), reduction="none", log_target=True
    ).sum(-1)


def order_disagreement(
    attribution: WordScores, prior: WordScores, mask: WordMask, floor: float = 0.0
) -> PerExample:
    """Logistic loss on the order of word pairs, weighted by how far the prior holds them apart; at least 0.

    With a and p the unit vectors, Σ (p_i − p_j) · log(1 + exp(a_j − a_i)) / Σ (p_i − p_j) over pairs with
    p_i > p_j: log 2 where the attribution does not tell the words apart, 0.13 at best with two words. 0 where
    the prior does not tell them apart.
    """
    a, p = unit(attribution, mask, floor), unit(prior, mask)
    both = mask[:, :, None] & mask[:, None, :]
    apart = (p[:, :, None] - p[:, None, :]).clamp_min(0) * both  # (batch, words, words)
    loss = softplus(a[:, None, :] - a[:, :, None])
    return (apart * loss).sum((1, 2)) / apart.sum((1, 2)).clamp_min(_TINY)


Loss = Callable[[WordScores, WordScores, WordMask, float], PerExample]

LOSSES: dict[tuple[str, str], Loss] = {
    ("mse", "sum"): squared_distance,
    ("mse", "mean"): mean_squared_distance,
    ("cosine", "sum"): cosine_distance,
    ("kl", "sum"): divergence,
    ("order", "sum"): order_disagreement,
}
"""(`alignment_loss`, `alignment_reduction`) to the distance."""


def alignment_loss(
    name: str,
    attribution: WordScores,
    prior: WordScores,
    mask: WordMask,
    weight: PerExample,
    *,
    reduction: str = "sum",
    floor: float = 0.0,
) -> torch.Tensor:
    """Mean over *all* examples of the batch of `weight · distance`.

    Examples without a prior count with weight 0. Dividing by the size of the batch, and not by the sum of the
    weights, keeps the value independent of how a batch is split over accumulation steps and processes.
    """
    losses = LOSSES[name, reduction](attribution, prior, mask, floor)
    return (weight * losses).sum() / max(len(losses), 1)
