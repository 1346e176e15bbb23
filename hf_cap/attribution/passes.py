"""Passes through the classifier and the token scores that their gradients give."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..types import Embeddings, Labels, TokenScores, TokenWords
from .path import Path, Shift, on_path, only_path
from .points import Points, split_points
from .target import at_least_float32, target_score

Inputs = Mapping[str, Tensor]
"""Arguments of the classifier's forward, one row an example; no labels."""


def math_attention() -> AbstractContextManager[Any]:
    """Attention by the kernel that has a second derivative; to be open during the forward pass."""
    return sdpa_kernel(SDPBackend.MATH)


@contextmanager
def common_attention(model: nn.Module) -> Iterator[None]:
    """Eager attention in place of a kernel that is not PyTorch's own, flash attention for instance.

    Such kernels compute in half precision only, and have no second derivative.
    """
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = [(c, getattr(c, "_attn_implementation", None)) for c in configs.values()]
    foreign = [(c, name) for c, name in before if name not in ("eager", "sdpa", None)]
    for config, _ in foreign:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, name in foreign:
            config._attn_implementation = name


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Every module as in evaluation, because a difference of two scores needs the same network twice.

    It also switches off checkpointing, which would make the layers again outside of this context.
    """
    modules = [module for module in model.modules() if module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True


@dataclass(frozen=True)
class Explained:
    """A classifier, a batch and the labels to explain; calling it runs a pass at points of the path."""

    model: nn.Module
    inputs: Inputs
    labels: Labels
    words: TokenWords
    target: str = "gold"

    def __call__(
        self, alpha: Float[Tensor, "steps batch"], shift: Shift | None = None
    ) -> tuple[Float[Tensor, "steps batch"], Path]:
        """Scores at several points of each example's path, in one forward pass.

        Args:
            alpha: Positions on the path, a row for each step.
            shift: As for `on_path`.

        Returns:
            The scores, and the record of the pass with `steps · batch` rows, step by step.
        """
        steps = len(alpha)
        repeated = {
            name: value.repeat(steps, *[1] * (value.dim() - 1))
            for name, value in self.inputs.items()
        }
        with on_path(self.model, self.words.repeat(steps, 1), alpha.flatten(), shift) as seen:
            outputs = self.model(**repeated)
        path = only_path(seen, self.model)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        scores = target_score(logits, self.labels.repeat(steps), self.target)
        return scores.view(steps, -1), path


def token_scores(
    score: Float[Tensor, "steps batch"],
    path: Path,
    weights: Float[Tensor, " steps"],
    *,
    create_graph: bool = False,
    keep: bool = False,
) -> tuple[TokenScores, Embeddings]:
    """Token scores from one forward pass at points of the path.

    Args:
        score: Scores of the pass.
        path: Its record.
        weights: q_k of each step.
        create_graph: Keep the graph of the gradient, so that the scores can be differentiated.
        keep: Keep the graph of the forward pass, for another use of it.

    Returns:
        Token scores Σ_k q_k ∇f · (e − b), and the mean gradient Σ_k q_k ∇f that they are made of.
    """
    (gradient,) = torch.autograd.grad(
        score.sum(), path.point, create_graph=create_graph, retain_graph=create_graph or keep
    )
    gradient = torch.einsum(
        "k,kbth->bth", weights.to(gradient.dtype), gradient.unflatten(0, (len(weights), -1))
    )
    return at_least_float32(gradient * path.difference[: len(gradient)]).sum(-1), gradient


def path_scores(
    explained: Explained, points: Points, *, rows: int | None = None, create_graph: bool = False
) -> tuple[TokenScores, Embeddings]:
    """Token scores and mean gradient over a whole path.

    Args:
        explained: Model, batch and labels.
        points: Where the gradient is taken, and with what weights.
        rows: Most path points (steps · batch) in one pass; one step at least, all by default.
        create_graph: As for `token_scores`.
    """
    parts = [
        token_scores(*explained(alpha), weights, create_graph=create_graph)
        for alpha, weights in split_points(points, rows)
    ]
    return torch.stack([s for s, _ in parts]).sum(0), torch.stack([g for _, g in parts]).sum(0)
