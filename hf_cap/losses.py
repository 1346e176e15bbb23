"""Alignment losses: distances of word attributions and priors, and the table of their names.

A distance takes `(attribution, prior, mask, floor)`, normalises both sides over the words that take part,
and is finite with a finite gradient even where a side is all zero.
"""

from collections.abc import Callable

from torch.nn.functional import kl_div, softplus

from hf_cap.attribution import PerExample, Scalar, WordMask, WordScores
from hf_cap.errors import ConfigError
from hf_cap.utils import choose, load_object

_TINY = 1e-12


def unit(scores: WordScores, mask: WordMask, floor: float = 0.0) -> WordScores:
    """Scores divided by their norm over the words of the mask; the other words are 0.

    A floor softly bounds the norm from below, s / sqrt(‖s‖² + floor²), so the gradient is at most 1/floor.
    Zero stays zero.
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


def divergence(attribution: WordScores, prior: WordScores, mask: WordMask, floor: float = 0.0) -> PerExample:
    """KL(prior ‖ attribution) in nats, at least 0; each side is the softmax of its unit vector times √d."""
    size = mask.sum(-1, keepdim=True).clamp_min(1).sqrt()
    # the masked words get a large number, not infinity: 0 · inf would be NaN in the gradient
    ours, theirs = (
        (side * size).masked_fill(~mask, -1e4).log_softmax(-1)
        for side in (unit(attribution, mask, floor), unit(prior, mask))
    )
    return kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)


def order_disagreement(
    attribution: WordScores, prior: WordScores, mask: WordMask, floor: float = 0.0
) -> PerExample:
    """Logistic loss on the order of word pairs, weighted by their distance in the prior; at least 0.

    With a and p the unit vectors, Σ (p_i − p_j) · log(1 + exp(a_j − a_i)) / Σ (p_i − p_j) over pairs with p_i
    > p_j: log 2 where all attributions are equal, 0.13 at best with two words, 0 where all priors are equal.
    """
    a, p = unit(attribution, mask, floor), unit(prior, mask)
    both = mask[:, :, None] & mask[:, None, :]
    apart = (p[:, :, None] - p[:, None, :]).clamp_min(0) * both  # (batch, words, words)
    loss = softplus(a[:, None, :] - a[:, :, None])
    return (apart * loss).sum((1, 2)) / apart.sum((1, 2)).clamp_min(_TINY)


Loss = Callable[..., PerExample]
"""`(attribution, prior, mask, floor)` to one distance per example; a loss of your own takes three."""

LOSSES: dict[str, Loss] = {
    "mse": squared_distance,
    "mse_mean": mean_squared_distance,
    "cosine": cosine_distance,
    "kl": divergence,
    "order": order_disagreement,
}
"""Name (`alignment_loss`) to the distance."""


def register_loss(name: str, loss: Loss) -> None:
    """Register a distance `(attribution, prior, mask)`, from `(batch, words)` to `(batch,)`, by a name.

    Raises:
        ConfigError: the name is taken.
    """
    if name in LOSSES:
        raise ConfigError(f"There is a loss {name!r} already; give yours another name.")
    LOSSES[name] = without_floor(loss)


def without_floor(loss: Loss) -> Loss:
    """A loss of the user's, which takes no floor, as one of the table."""
    return lambda attribution, prior, mask, floor: loss(attribution, prior, mask)


def find_loss(name: str) -> Loss:
    """The distance with this name, or a function of your own as `module:function`.

    Raises:
        ConfigError: there is none.
    """
    if name not in LOSSES and ":" in name:
        return without_floor(load_object(name))
    return choose(LOSSES, name, "`alignment_loss`")


def alignment_loss(
    loss: Loss,
    attribution: WordScores,
    prior: WordScores,
    mask: WordMask,
    weight: PerExample,
    floor: float = 0.0,
) -> Scalar:
    """Mean over *all* examples of the batch of `weight · loss`; without a prior the weight is 0.

    Dividing by the size of the batch, and not by the sum of the weights, keeps the value independent of how
    a batch is split over accumulation steps and processes.

    Raises:
        ConfigError: the loss does not return one value per example.
    """
    losses = loss(attribution, prior, mask, floor)
    if losses.shape != weight.shape:
        raise ConfigError(
            f"An alignment loss returns one value per example, shape {tuple(weight.shape)}; got "
            f"{tuple(losses.shape)}."
        )
    return (weight * losses).sum() / max(len(losses), 1)
