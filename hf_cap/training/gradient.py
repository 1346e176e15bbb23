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
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from hf_cap import attribution
from hf_cap.classifiers import evaluation_mode, temporarily

Distance = Callable[[attribution.TokenScores], attribution.Scalar]


def double_backward(
    model: nn.Module,
    batch: attribution.TextBatch,
    points: attribution.Points,
    distance: Distance,
    *,
    chosen: Sequence[int] | None = None,
    rows: int | None = None,
) -> tuple[attribution.Scalar, attribution.TokenScores]:
    """The exact gradient, through the graph of the inner gradient.

    `model` is the classifier itself, and `distance` that of the token scores from the priors. Only the steps
    `chosen` carry the second derivative; the gradient stays unbiased. At most `rows` path points are in one
    pass. By default all are in both.
    """
    alpha, weights = points
    steps = len(weights)
    carrying = list(range(steps) if chosen is None else chosen)
    plain = [k for k in range(steps) if k not in carrying]
    # attention by the kernel that has a second derivative
    with common_attention(model), sdpa_kernel(SDPBackend.MATH), evaluation_mode(model):
        some = (alpha[carrying], weights[carrying])
        total, _ = attribution.path_scores(model, batch, some, rows=rows, create_graph=True)
        if plain:
            rest, _ = attribution.path_scores(model, batch, (alpha[plain], weights[plain]), rows=rows)
            # value: all points; gradient: that of the chosen ones, scaled to be unbiased for all
            scaled = total * (steps / len(carrying))
            total = scaled + (total - scaled + rest).detach()
    return distance(total), total


def finite_difference(
    model: nn.Module,
    batch: attribution.TextBatch,
    points: attribution.Points,
    distance: Distance,
    *,
    chosen: Sequence[int] | None = None,
    rows: int | None = None,
    step: float = 8e-3,
    recompute: bool = False,
) -> tuple[attribution.Scalar, attribution.TokenScores]:
    """The gradient by central differences in embedding space, in float32.

    The arguments are those of `double_backward`; differences are computed at the `chosen` steps. `step` is
    the length of a difference as a part of the norm of the embeddings at the point. With `recompute` the
    graph is computed again in the backward pass instead of being kept.
    """
    with difference_passes(model):
        found, gradient = attribution.path_scores(model, batch, points, rows=rows)
    scores = found.detach().requires_grad_()
    value = distance(scores)
    (direction,) = torch.autograd.grad(value, scores)
    alpha, weights = points
    carrying = list(range(len(weights)) if chosen is None else chosen)
    scaled = (alpha[carrying], weights[carrying] * (len(weights) / len(carrying)))
    groups = list(attribution.split_points(scaled, rows and rows // 2))
    loss = value.detach()
    for index, group in enumerate(groups):
        arguments = (model, batch, group, direction, gradient if index == 0 else None, step)
        if len(groups) == 1 and not recompute:
            term = _directional(*arguments)
        else:  # one group's graph at a time: each is computed again when backward reaches it
            term = checkpoint(_directional, *arguments, use_reentrant=False, preserve_rng_state=False)
        loss = loss + (term - term.detach())
    return loss, scores.detach()


def _directional(
    model: nn.Module,
    batch: attribution.TextBatch,
    points: attribution.Points,
    direction: attribution.TokenScores,
    gradient: attribution.Embeddings | None,
    step: float,
) -> attribution.Scalar:
    """Σ_k q_k D_v f(x_k) for the constant v = direction · (e − b); with `gradient`, plus the direct term."""
    alpha, weights = points
    copies = 2 * len(alpha)
    word = (batch.words >= 0)[..., None]

    sizes: list[attribution.PerExample] = []

    def shift(path: attribution.Path) -> attribution.Embeddings:
        # direction v at each row, and h with ‖h v‖ = step · ‖x_k‖ over the words; 0 where v is zero
        v = direction.repeat(copies, 1)[..., None] * path.difference.detach()
        length = v.flatten(1).norm(dim=1)
        size = (path.point.detach() * word.repeat(copies, 1, 1)).flatten(1).norm(dim=1)
        sizes.append(torch.where(length > 0, step * size / length, 0.0))
        forth, back = (sizes[0][:, None, None] * v).chunk(2)
        return torch.cat([forth, -back])

    with difference_passes(model):
        score, path = attribution.score_points(model, batch, torch.cat([alpha, alpha]), shift)
        forth, back = score.chunk(2)
        h = sizes[0].view(copies, -1)[: len(alpha)]
        slope = (forth - back) * torch.where(h > 0, 0.5 / h, 0.0)
        term = (weights[:, None] * slope).sum()
        if gradient is not None:
            difference = path.difference[: len(direction)]
            term = term + (direction[..., None] * gradient * difference).sum()
    return term


# --- Which network and which kernels the passes use.


@contextmanager
def difference_passes(model: nn.Module) -> Iterator[None]:
    """Without dropout, foreign attention and autocast, also where accelerate put that round `forward`.

    A difference of two scores needs the same network twice, and checkpointing would run layers outside of it.
    In bfloat16 a difference of two nearly equal scores has no correct digit left. The casts of FSDP and
    DeepSpeed cannot be switched off; `choose_gradient` rejects them.
    """
    original = model.__dict__.get("_original_forward")
    plain = temporarily([model] if original is not None else [], "forward", original)
    autocast = torch.autocast(next(model.parameters()).device.type, enabled=False)
    with plain, evaluation_mode(model), common_attention(model), autocast:
        yield


def common_attention(model: nn.Module) -> AbstractContextManager[None]:
    """Eager attention in place of a kernel in half precision or without a second derivative (flash)."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    own = ("eager", "sdpa", None)
    foreign = [one for one in configs if getattr(one, "_attn_implementation", None) not in own]
    return temporarily(foreign, "_attn_implementation", "eager")
