"""Where on the path from baseline to text the gradient is taken: quadratures and random points."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from ..types import TokenIds, TokenMask


def _midpoint(steps: int) -> tuple[list[float], list[float]]:
    return [(k + 0.5) / steps for k in range(steps)], [1 / steps] * steps


def _gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


def _gauss_radau(steps: int) -> tuple[list[float], list[float]]:
    # Inner nodes: roots of (P_{n-1} − P_n) / (1 − x); Abramowitz & Stegun 25.4.31, mirrored.
    legendre = np.polynomial.legendre.Legendre.basis
    inner = (legendre(steps - 1) - legendre(steps)).roots().real
    nodes = np.append(np.sort(inner)[:-1], 1.0)
    weights = (1 + nodes) / (steps * legendre(steps - 1)(nodes)) ** 2
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


QUADRATURES: dict[str, Callable[[int], tuple[list[float], list[float]]]] = {
    "midpoint": _midpoint,
    "gauss_legendre": _gauss_legendre,
    "gauss_radau": _gauss_radau,
}
"""Rule name to (α_k, q_k) for a number of steps; the weights add up to 1. `gauss_radau` ends at α = 1."""


def quadrature(rule: str, steps: int) -> tuple[list[float], list[float]]:
    """Points α_k in (0, 1], increasing, and weights q_k of a rule.

    Raises:
        ConfigError: there is no such rule, or fewer than one step.
    """
    if rule not in QUADRATURES:
        raise ConfigError(f"There is no quadrature {rule!r}; there are {sorted(QUADRATURES)}.")
    _check_steps(steps)
    return QUADRATURES[rule](steps)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ConfigError(f"An attribution needs at least 1 step, got {steps!r}.")


def random_points(
    ids: TokenIds, mask: TokenMask, steps: int, seed: int
) -> Float[Tensor, "steps batch"]:
    """One random α in each of `steps` equal parts of [0, 1], from the text and the seed alone.

    The points of a text do not depend on its batch, padding or process, and no generator is advanced, so that
    resumed, accumulated and distributed training see the very same points.

    Raises:
        ConfigError: fewer than one step.
    """
    _check_steps(steps)
    place = mask.long().cumsum(-1)
    key = _mix(
        (_mix(place * 0x9E3779B1 + ids) * mask).sum(-1) + _mix(torch.full_like(ids[:, 0], seed))
    )
    strata = torch.arange(steps, device=ids.device)[:, None]
    uniform = (_mix(key + strata) >> 9).double() / 2**23  # 23 bits: exact in float32
    return ((strata + uniform) / steps).float()


def _mix(number: Tensor) -> Tensor:
    """32 well mixed bits of each integer (Mulvey's lowbias32 finaliser)."""
    number = number & 0xFFFFFFFF
    number = ((number ^ (number >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    number = ((number ^ (number >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return number ^ (number >> 15)


Points = tuple[Float[Tensor, "steps batch"], Float[Tensor, " steps"]]
"""Positions α_k of each example on its path, and the weights q_k."""


def _fixed(alpha: Sequence[float], weights: Sequence[float], like: Tensor) -> Points:
    column = torch.tensor(alpha, dtype=torch.float32, device=like.device)[:, None]
    return column.expand(-1, len(like)), torch.tensor(
        weights, dtype=torch.float32, device=like.device
    )


METHODS: dict[str, Callable[[TokenIds, TokenMask, int, str, int], Points]] = {
    "integrated_gradients": lambda ids, mask, steps, rule, seed: _fixed(
        *quadrature(rule, steps), ids
    ),
    "expected_gradients": lambda ids, mask, steps, rule, seed: (
        random_points(ids, mask, steps, seed),
        torch.full((steps,), 1 / steps, device=ids.device),
    ),
    "input_x_gradient": lambda ids, mask, steps, rule, seed: _fixed([1.0], [1.0], ids),
}
"""Method name to a function (ids, attention mask, steps, rule, seed) -> points on the path."""


def path_points(
    method: str,
    ids: TokenIds,
    mask: TokenMask,
    *,
    steps: int = 1,
    rule: str = "midpoint",
    seed: int = 0,
) -> Points:
    """The points at which `method` takes the gradient for each example of a batch.

    Raises:
        ConfigError: there is no such method or rule, or fewer than one step.
    """
    if method not in METHODS:
        raise ConfigError(
            f"There is no attribution method {method!r}; there are {sorted(METHODS)}."
        )
    return METHODS[method](ids, mask, steps, rule, seed)


def split_points(points: Points, rows: int | None) -> Iterator[Points]:
    """The points in groups of whole steps, none with more than `rows` rows unless a single step has."""
    alpha, weights = points
    per_pass = max(1, (rows or alpha.numel()) // max(alpha.shape[1], 1))
    return zip(alpha.split(per_pass), weights.split(per_pass), strict=True)
