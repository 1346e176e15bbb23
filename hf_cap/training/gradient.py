"""Two ways to the gradient of a loss on attributions.

`double_backward` differentiates the inner gradient: exact, but attention needs a kernel with a second
derivative, and sharded models refuse. `finite_difference` needs only ordinary passes. With the loss L,
u = ∂L/∂φ and the *constant* direction v = u · (e − b),

    ∂L/∂θ = ∂/∂θ Σ_k q_k D_v f(x_k; θ)  +  the direct term through (e − b),
    D_v f(x) ≈ [f(x + h v) − f(x − h v)] / 2h,

so two forward passes and one ordinary backward give it, up to O(h²).

A way is a function `(explained, plan, loss, shared) -> (value of the loss, token scores)`; the value carries
the gradient with respect to the weights, and the caller's one `backward()` collects it with the task's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hf_cap.attribution import (
    Embeddings,
    Explained,
    Path,
    PerExample,
    Points,
    Scalar,
    TokenScores,
    common_attention,
    math_attention,
    path_scores,
    split_points,
    token_scores,
    without_dropout,
)

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
    recompute: bool = False
    """Make the graph of a finite difference again in the backward pass instead of keeping it."""
    step: float = 8e-3
    """Finite-difference step, as a part of the norm of the point."""

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
    carrying: list[TokenScores] = []
    plain: list[TokenScores] = []
    model = explained.model
    with common_attention(model), math_attention(), without_dropout(model):
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
    """The gradient by central differences in embedding space, in float32; without use for a shared pass."""
    with difference_passes(explained.model):
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
        if len(groups) == 1 and not plan.recompute:
            yield _directional(*arguments)
        else:  # one group's graph at a time: each is made again when backward comes to it
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
    copies = 2 * len(alpha)
    word = (explained.words >= 0)[..., None]

    def move(path: Path) -> tuple[Embeddings, PerExample]:
        """Direction v at each row, and h with ‖h v‖ = step · ‖x_k‖ over the words; 0 where v is zero."""
        v = direction.repeat(copies, 1)[..., None] * path.difference.detach()
        length = v.flatten(1).norm(dim=1)
        size = (path.point.detach() * word.repeat(copies, 1, 1)).flatten(1).norm(dim=1)
        return v, torch.where(length > 0, step * size / length, 0.0)

    def shift(path: Path) -> Embeddings:
        v, h = move(path)
        forth, back = (h[:, None, None] * v).chunk(2)
        return torch.cat([forth, -back])

    with difference_passes(explained.model):
        score, path = explained(torch.cat([alpha, alpha]), shift)
        forth, back = score.chunk(2)
        h = move(path)[1].view(copies, -1)[: len(alpha)]
        slope = (forth - back) * torch.where(h > 0, 0.5 / h, 0.0)
        term = (weights[:, None] * slope).sum()
        if gradient is not None:
            difference = path.difference[: len(direction)]
            term = term + (direction[..., None] * gradient * difference).sum()
    return term


@contextmanager
def difference_passes(model: nn.Module) -> Iterator[None]:
    """Without dropout, foreign attention and autocast, also where accelerate put that round `forward`.

    A difference of two nearly equal scores has no correct digit left in bfloat16. What FSDP and DeepSpeed
    cast cannot be switched off here; `choose_gradient` refuses it.
    """
    patched, original = model.forward, model.__dict__.get("_original_forward")
    if original is not None:
        model.forward = original
    autocast = torch.autocast(next(model.parameters()).device.type, enabled=False)
    try:
        with without_dropout(model), common_attention(model), autocast:
            yield
    finally:
        if original is not None:
            model.forward = patched


GRADIENTS: dict[
    str, Callable[[Explained, Plan, TokenLoss, Shared | None], tuple[Tensor, TokenScores]]
] = {
    "double_backward": double_backward,
    "finite_difference": finite_difference,
}
