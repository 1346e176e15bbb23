"""Two ways to the gradient of a loss on attributions.

`double_backward` differentiates the inner gradient: exact, but attention needs a kernel with a second
derivative, and sharded or compiled models refuse. `finite_difference` needs only ordinary passes. With the loss L,
u = ∂L/∂φ and the *constant* direction v = u · (e − b),

    ∂L/∂θ = ∂/∂θ Σ_k q_k D_v f(x_k; θ)  +  the direct term through (e − b),
    D_v f(x) ≈ [f(x + h v) − f(x − h v)] / 2h,

so two forward passes and one ordinary backward give it, up to O(h²).

A way is a function `(explained, plan, loss, shared) -> (value of the loss, token scores)`; the value carries the
gradient with respect to the weights, and the caller's one `backward()` collects it together with the task's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..attribution import (
    Explained,
    Path,
    Points,
    math_attention,
    path_scores,
    split_points,
    token_scores,
    without_dropout,
)
from ..types import Embeddings, PerExample, Scalar, TokenScores

TokenLoss = Callable[[TokenScores], Scalar]


@dataclass(frozen=True)
class Shared:
    """A pass of the text itself (α = 1) that the task makes anyway."""

    score: PerExample
    path: Path
    weight: Float[Tensor, " one"]
    """q of this point."""


@dataclass(frozen=True)
class Plan:
    """Which passes to make."""

    points: Points
    """All points of the path but the shared one."""
    chosen: tuple[int, ...] | None = None
    """Steps that carry the second derivative; `None` for all, the shared one included."""
    rows: int | None = None
    """Most path points in one pass."""
    step: float = 1e-2
    """Finite-difference step, as a part of ‖e − b‖."""

    def share(self, score: PerExample, path: Path) -> "tuple[Plan, Shared]":
        """Take the last point, at α = 1, from the pass that left `score` and `path`."""
        alpha, weights = self.points
        return replace(self, points=(alpha[:-1], weights[:-1])), Shared(score, path, weights[-1:])

    def pick(self, steps: list[int]) -> Points:
        """The points of some steps."""
        return self.points[0][steps], self.points[1][steps]


def double_backward(
    explained: Explained, plan: Plan, loss: TokenLoss, shared: Shared | None = None
) -> tuple[Scalar, TokenScores]:
    """The exact gradient, through the graph of the inner gradient."""
    steps = len(plan.points[1])
    count = steps + (shared is not None)
    chosen = tuple(range(count)) if plan.chosen is None else plan.chosen
    carrying, plain = [], []
    with math_attention(), without_dropout(explained.model):
        for group, create in ((carrying, True), (plain, False)):
            some = [k for k in range(steps) if (k in chosen) == create]
            if some:
                group.append(
                    path_scores(explained, plan.pick(some), rows=plan.rows, create_graph=create)[0]
                )
    if shared is not None:
        create = steps in chosen
        scores, _ = token_scores(
            shared.score[None], shared.path, shared.weight, create_graph=create, keep=True
        )
        (carrying if create else plain).append(scores)
    total = torch.stack(carrying).sum(0)
    if plain:
        # value: all points; gradient: that of the chosen ones, scaled to be unbiased for all
        scaled = total * (count / len(chosen))
        total = scaled + (total - scaled + torch.stack(plain).sum(0)).detach()
    return loss(total), total


def finite_difference(
    explained: Explained, plan: Plan, loss: TokenLoss, shared: Shared | None = None
) -> tuple[Scalar, TokenScores]:
    """The gradient by central differences in embedding space, in float32. A shared pass is of no use to it."""
    with without_dropout(explained.model), full_precision(explained.model):
        found, gradient = path_scores(explained, plan.points, rows=plan.rows)
    scores = found.detach().requires_grad_()
    value = loss(scores)
    (direction,) = torch.autograd.grad(value, scores)
    carrier = value.detach()
    for term in _terms(explained, plan, direction, gradient):
        carrier = carrier + (term - term.detach())
    return carrier, scores.detach()


def _terms(
    explained: Explained, plan: Plan, direction: TokenScores, gradient: Embeddings
) -> Iterator[Scalar]:
    """Terms whose gradients add up to that of the loss, one for each group of steps."""
    steps = len(plan.points[1])
    chosen = list(range(steps)) if plan.chosen is None else list(plan.chosen)
    alpha, weights = plan.pick(chosen)
    groups = list(
        split_points((alpha, weights * (steps / len(chosen))), plan.rows and plan.rows // 2)
    )
    for index, group in enumerate(groups):
        arguments = (explained, group, direction, gradient if index == 0 else None, plan.step)
        if len(groups) == 1:
            yield _directional(*arguments)
        else:  # only one group's graph at a time: each is made again when backward comes to it
            yield checkpoint(
                _directional, *arguments, use_reentrant=False, preserve_rng_state=False
            )


def _directional(
    explained: Explained,
    points: Points,
    direction: TokenScores,
    gradient: Embeddings | None,
    step: float,
) -> Scalar:
    """Σ_k q_k D_v f(x_k) for the constant v = direction · (e − b); with `gradient`, plus the direct term."""
    alpha, weights = points

    def along(difference: Embeddings) -> Embeddings:
        v, h = _move(direction, difference[: len(direction)], step)
        shift = h[:, None, None] * v
        return torch.cat([shift.repeat(len(alpha), 1, 1), -shift.repeat(len(alpha), 1, 1)])

    with without_dropout(explained.model), full_precision(explained.model):
        score, path = explained(torch.cat([alpha, alpha]), along)
        forth, back = score.chunk(2)
        difference = path.difference[: len(direction)]
        _, h = _move(direction, difference.detach(), step)
        slope = (forth - back) * torch.where(h > 0, 0.5 / h, 0.0)
        term = (weights[:, None] * slope).sum()
        if gradient is not None:
            term = term + (direction[..., None] * gradient * difference).sum()
    return term


def _move(
    direction: TokenScores, difference: Embeddings, step: float
) -> tuple[Embeddings, PerExample]:
    """The direction v = direction · (e − b) and h with ‖h v‖ = step · ‖e − b‖; h is 0 where v is zero."""
    v = direction[..., None] * difference
    length = v.flatten(1).norm(dim=1)
    return v, torch.where(length > 0, step * difference.flatten(1).norm(dim=1) / length, 0.0)


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """Autocast off, also where accelerate has put it round the model's own forward.

    A difference of two nearly equal scores has no correct digit left in bfloat16.
    """
    patched, original = model.__dict__.get("forward"), model.__dict__.get("_original_forward")
    if original is not None:
        model.forward = original  # type: ignore[method-assign]
    try:
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            yield
    finally:
        if original is not None:
            model.forward = patched  # type: ignore[method-assign, assignment]


GRADIENTS: dict[
    str, Callable[[Explained, Plan, TokenLoss, Shared | None], tuple[Tensor, TokenScores]]
] = {
    "double_backward": double_backward,
    "finite_difference": finite_difference,
}
