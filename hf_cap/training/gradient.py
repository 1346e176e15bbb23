"""Two ways to the gradient of a distance between attributions and priors.

`double_backward` differentiates the inner gradient: exact, but attention needs a kernel with a second
derivative, and sharded models cannot do it. `finite_difference` needs only ordinary passes. With the loss L,
u = ∂L/∂φ and the *constant* direction v = u · (e − b),

    ∂L/∂θ = ∂/∂θ Σ_k q_k D_v f(x_k; θ)  +  the direct term through (e − b),
    D_v f(x) ≈ [f(x + h v) − f(x − h v)] / 2h,

so two forward passes and one ordinary backward give it, up to O(h²).

Each returns the loss, which carries the gradient with respect to the weights, and the token scores.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from hf_cap.attribution import (
    Embeddings,
    Path,
    PerExample,
    Points,
    Scalar,
    TextBatch,
    TokenScores,
    path_scores,
    score_points,
    split_points,
)

Distance = Callable[[TokenScores], Scalar]


def double_backward(
    model: nn.Module,
    batch: TextBatch,
    points: Points,
    distance: Distance,
    *,
    chosen: Sequence[int] | None = None,
    rows: int | None = None,
) -> tuple[Scalar, TokenScores]:
    """The exact gradient, through the graph of the inner gradient.

    Args:
        model: The classifier itself.
        batch: The texts.
        points: All points of the path, and their weights.
        distance: Of the token scores of a batch from its priors.
        chosen: Steps that carry the second derivative; all by default. The gradient stays unbiased.
        rows: Most path points in one pass; all by default.
    """
    alpha, weights = points
    steps = len(weights)
    carrying = list(range(steps) if chosen is None else chosen)
    plain = [k for k in range(steps) if k not in carrying]
    # attention by the kernel that has a second derivative
    with common_attention(model), sdpa_kernel(SDPBackend.MATH), without_dropout(model):
        some = (alpha[carrying], weights[carrying])
        total, _ = path_scores(model, batch, some, rows=rows, create_graph=True)
        if plain:
            rest, _ = path_scores(model, batch, (alpha[plain], weights[plain]), rows=rows)
            # value: all points; gradient: that of the chosen ones, scaled to be unbiased for all
            scaled = total * (steps / len(carrying))
            total = scaled + (total - scaled + rest).detach()
    return distance(total), total


def finite_difference(
    model: nn.Module,
    batch: TextBatch,
    points: Points,
    distance: Distance,
    *,
    chosen: Sequence[int] | None = None,
    rows: int | None = None,
    step: float = 8e-3,
    recompute: bool = False,
) -> tuple[Scalar, TokenScores]:
    """The gradient by central differences in embedding space, in float32.

    The arguments are those of `double_backward`; differences are computed at the `chosen` steps. `step` is
    the length of a difference as a part of the norm of the embeddings at the point. With `recompute` the
    graph is computed again in the backward pass instead of being kept.
    """
    with difference_passes(model):
        found, gradient = path_scores(model, batch, points, rows=rows)
    scores = found.detach().requires_grad_()
    value = distance(scores)
    (direction,) = torch.autograd.grad(value, scores)
    alpha, weights = points
    carrying = list(range(len(weights)) if chosen is None else chosen)
    scaled = (alpha[carrying], weights[carrying] * (len(weights) / len(carrying)))
    groups = list(split_points(scaled, rows and rows // 2))
    loss = value.detach()
    for index, group in enumerate(groups):
        arguments = (model, batch, group, direction, gradient if index == 0 else None, step)
        if len(groups) == 1 and not recompute:
            term = _directional(*arguments)
        else:  # one group's graph at a time: each is computed again when backward reaches it
            term = checkpoint(
                _directional, *arguments, use_reentrant=False, preserve_rng_state=False
            )
        loss = loss + (term - term.detach())
    return loss, scores.detach()


def _directional(
    model: nn.Module,
    batch: TextBatch,
    points: Points,
    direction: TokenScores,
    gradient: Embeddings | None,
    step: float,
) -> Scalar:
    """Σ_k q_k D_v f(x_k) for the constant v = direction · (e − b); with `gradient`, plus the direct term."""
    alpha, weights = points
    copies = 2 * len(alpha)
    word = (batch.words >= 0)[..., None]

    def move(path: Path) -> tuple[Embeddings, PerExample]:
        # direction v at each row, and h with ‖h v‖ = step · ‖x_k‖ over the words; 0 where v is zero
        v = direction.repeat(copies, 1)[..., None] * path.difference.detach()
        length = v.flatten(1).norm(dim=1)
        size = (path.point.detach() * word.repeat(copies, 1, 1)).flatten(1).norm(dim=1)
        return v, torch.where(length > 0, step * size / length, 0.0)

    def shift(path: Path) -> Embeddings:
        v, h = move(path)
        forth, back = (h[:, None, None] * v).chunk(2)
        return torch.cat([forth, -back])

    with difference_passes(model):
        score, path = score_points(model, batch, torch.cat([alpha, alpha]), shift)
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

    In bfloat16 a difference of two nearly equal scores has no correct digit left. The casts of FSDP and
    DeepSpeed cannot be switched off; `choose_gradient` rejects them.
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


@contextmanager
def common_attention(model: nn.Module) -> Iterator[None]:
    """Eager attention in place of a kernel in half precision or without a second derivative (flash)."""
    found: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    own = ("eager", "sdpa", None)
    foreign = {
        id(config): (config, name)
        for config in found
        if (name := getattr(config, "_attn_implementation", None)) not in own
    }
    for config, _ in foreign.values():
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, name in foreign.values():
            config._attn_implementation = name


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Every module as in evaluation: a difference of two scores needs the same network twice.

    It also switches off checkpointing, which would run the layers again outside of this context.
    """
    modules = [module for module in model.modules() if module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True
