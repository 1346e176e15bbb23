"""Alignment losses: distances of word attributions and priors, and the table of their names."""

from hf_cap.training.losses import (
    LOSSES,
    alignment_loss,
    cosine_distance,
    divergence,
    find_loss,
    mean_squared_distance,
    order_disagreement,
    register_loss,
    squared_distance,
)

__all__ = [
    "LOSSES",
    "alignment_loss",
    "cosine_distance",
    "divergence",
    "find_loss",
    "mean_squared_distance",
    "order_disagreement",
    "register_loss",
    "squared_distance",
]
