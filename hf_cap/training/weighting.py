"""Weights of the training examples: by their losses in the batch, by their classes, or given.

The losses of a batch are those of all processes; under gradient accumulation each micro-batch is a batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hf_cap.attribution import PerExample, Scalar
from hf_cap.errors import DataError
from hf_cap.training.options import ExampleWeighting, WeightingOptions

EXAMPLE_WEIGHT = "example_weight"
"""Column of an encoded data set, and entry of a batch, `(batch,)`."""
_SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "loss_linupper": lambda scaled: (scaled + 1).clamp_max(1),
    "loss_quadratic": lambda scaled: 1 - scaled.square(),
    "loss_extremes": torch.abs,
}
"""Scaled losses in [-1, 1] to h in [0, 1] (arXiv 2502.06733, whose δ is 1 here: only h / r matters)."""


def example_weights(
    method: ExampleWeighting, losses: PerExample, labels: Tensor, temperature: float
) -> PerExample:
    """Weights of mean 1 for the examples of a batch, from their losses (nats) and class indices.

    The weights are the softmax of h(loss) / r times the number of examples. For `loss_...` the losses are
    scaled to [-1, 1]. For `dro` h is the loss itself: these weights are the gradient of
    r · log mean exp(loss / r), the worst mean over distributions near the batch in KL divergence. For
    `class_dro` it is the mean loss of the example's class. The larger r, the nearer are the weights to 1.
    """
    if method == "none":
        return torch.ones_like(losses)
    if method == "class_dro":
        same = (labels[:, None] == labels).to(losses.dtype)
        scores = same @ losses / same.sum(1)
    else:
        scores = _SHAPES[method](scale(losses)) if method in _SHAPES else losses
    return len(losses) * (scores / temperature).softmax(0)


def scale(losses: PerExample) -> PerExample:
    """Losses from -1, the least, to 1, the largest; all 0 where they are equal."""
    low, high = losses.aminmax()
    return torch.where(high > low, (2 * losses - low - high) / (high - low), 0.0)


def temperature_at(options: WeightingOptions, progress: float) -> float:
    """Temperature r at this part of the training, in [0, 1]: in the warm-up it falls from infinity."""
    warmup = options.example_weighting_warmup
    risen = min(1.0, progress / warmup) if warmup else 1.0
    return options.example_weighting_temperature / max(risen, 1e-9)


def reweigh(loss: Scalar, losses: PerExample, weight: PerExample) -> Scalar:
    """The mean of `weight · losses`, where `loss` is the mean of `losses`.

    Only the difference is added, so that weights of 1 leave loss and gradient as they are, to the bit.
    """
    return loss + ((weight - 1) * losses).mean()


def weigh_task(
    loss: Scalar, logits: Tensor, labels: Any, given: Tensor | None, trainer: Any
) -> Scalar:
    """The task loss of a batch, `loss`, with the weights that the settings of a trainer ask for.

    Raises:
        DataError: there is to be a column of weights, and the batch has none.
    """
    args, state, gather = trainer.args, trainer.state, trainer.accelerator.gather
    if args.example_weight_column and given is None:
        raise DataError(
            f"The batch has no {EXAMPLE_WEIGHT!r}, got {args.example_weight_column=!r}; give raw texts with "
            "that column, or encode them by `encode_dataset(..., example_weight_column=...)`."
        )
    smoothing = args.label_smoothing_factor
    losses = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    temperature = temperature_at(args, state.global_step / max(state.max_steps, 1))
    every = gather(losses.detach()), gather(labels)
    # processes are gathered in order, each with as many rows
    own = slice(args.process_index * len(losses), (args.process_index + 1) * len(losses))
    weight = example_weights(args.example_weighting, *every, temperature)[own]
    return reweigh(loss, losses, weight if given is None else weight * given)
