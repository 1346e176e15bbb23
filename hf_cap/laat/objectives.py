"""Ordered classes and known class shares: what a tabular model is fitted to beside single labels."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid, pad

from hf_cap.attribution import Logits, Scalar

_NEAREST = 1e-2
"""Gap of two thresholds, in logits, below which its logarithm goes on as a straight line."""


def ordinal_logits(steps: Float[Tensor, "batch thresholds"]) -> Logits:
    """Log probabilities of K ordered classes, `(batch, K)`, by cumulative logits.

    The sum of the first k + 1 steps, `(batch, K - 1)`, is the logit of P(y > k). All steps but the first are
    negative where the thresholds are in order. Where two of them cross, the class between them gets nearly
    no probability, with a gradient that parts them, and the result is no longer normalised.
    """
    above, gap = steps.cumsum(-1), -steps[:, 1:]
    near = gap.clamp_min(_NEAREST)
    # σ(a) − σ(b) = σ(a) · σ(−b) · (1 − exp(b − a))
    between = (-torch.expm1(-near)).log() + (gap - near) / _NEAREST
    return pad(logsigmoid(above), (1, 0)) + pad(logsigmoid(-above), (0, 1)) + pad(between, (1, 1))


def start_in_order(layer: torch.nn.Linear) -> None:
    """Let the layer that gives the steps begin with equal classes and proportional odds."""
    classes = layer.out_features + 1
    above = torch.logit(1 - torch.arange(1, classes) / classes)
    with torch.no_grad():
        layer.weight[1:] = 0.0
        layer.bias.copy_(torch.cat([above[:1], above.diff()]))


def share_divergence(logits: Logits, shares: Float[Tensor, " classes"]) -> Scalar:
    """KL(shares ‖ mean predicted probabilities of the rows) in nats; at least 0, and 0 where they agree.

    It is the loss of the rows as one bag, of which only the shares of the classes are known ("Learning from
    Aggregate Responses", arXiv 2401.11081).
    """
    mean = logits.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log()
    return kl_div(mean, shares.to(mean), reduction="sum")
