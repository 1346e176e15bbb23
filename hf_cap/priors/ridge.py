"""Centred weighted ridge regression of scores on masks, in float64, by Cholesky.

    minimise  Σ_i w_i (z_i − z̄ − (m_i − m̄)ᵀ α)² + λ ‖α‖²,     A α = Xᵀ W (z − z̄),  A = Xᵀ W X + λ I

with m̄, z̄ the weighted means and X the centred masks. Centring is the intercept: log-probabilities lie
far from zero, and without it the offset would be spread over the words.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError, ExtractError
from .perturbation import Masks


@dataclass(frozen=True)
class RidgeFit:
    """One regression for each text of a batch.

    Attributes:
        coefficients: `(texts, words)`, in nats a word: what the score gains by keeping the word.
        r2: `(texts,)`, weighted share of the scores' variance that the fit explains, at most 1; 0
            where all scores are equal.
        std: `(texts, words)`, posterior standard deviation of the coefficients, in nats.
    """

    coefficients: Float[Tensor, "texts words"]
    r2: Float[Tensor, " texts"]
    std: Float[Tensor, "texts words"]


def solve_ridge(
    masks: Float[Tensor, "texts masks words"],
    scores: Float[Tensor, "texts masks"],
    weights: Float[Tensor, "texts masks"],
    penalty: float,
) -> RidgeFit:
    """Ridge fits of several texts that have equally many words.

    The posterior is that of the Bayesian model z_i ~ N(z̄ + X_i α, σ²/w_i), α ~ N(0, σ²/λ): its
    covariance is σ² A⁻¹. The noise variance is the weighted residual sum of squares over m − 1 − tr(H)
    degrees of freedom: m distinct masks (a repeated mask brings no news of a deterministic scorer),
    one for the mean, and tr(H) = tr(A⁻¹ Xᵀ W X) for the shrunken coefficients. It measures how far the
    language model is from linear in the words, not sampling of the model.

    Args:
        masks: 1 where a word is kept, else 0.
        scores: Score of each perturbed text, in nats.
        weights: At least 0; rows of weight 0 are padding.
        penalty: λ, more than 0.

    Raises:
        ConfigError: `penalty` is not more than 0.
    """
    if not penalty > 0:
        raise ConfigError(
            f"`penalty` (λ) must be more than 0, got {penalty!r}; the default is 0.1."
        )
    share = weights / weights.sum(1, keepdim=True)
    x = masks - torch.einsum("tm,tmw->tw", share, masks)[:, None]
    z = scores - (share * scores).sum(1, keepdim=True)
    gram = torch.einsum("tm,tmv,tmw->tvw", weights, x, x)
    identity = torch.eye(gram.shape[1], dtype=gram.dtype)
    factor = torch.linalg.cholesky(gram + penalty * identity)
    moment = torch.einsum("tm,tmw,tm->tw", weights, x, z)
    coefficients = torch.cholesky_solve(moment[..., None], factor)[..., 0]
    inverse = torch.cholesky_inverse(factor)

    residual = (weights * (z - torch.einsum("tmw,tw->tm", x, coefficients)).square()).sum(1)
    total = (weights * z.square()).sum(1)
    spent = 1 + torch.einsum("tvw,twv->t", inverse, gram)
    freedom = ((weights > 0).sum(1) - spent).clamp_min(torch.finfo(gram.dtype).eps)
    variance = (residual / freedom)[:, None] * inverse.diagonal(dim1=1, dim2=2)
    # equal scores may differ in their last bits
    constant = total <= 1e-24 * (weights * scores.square()).sum(1)
    r2 = torch.where(constant, 0.0, 1 - residual / total)
    return RidgeFit(coefficients, r2, variance.sqrt())


@dataclass(frozen=True)
class WordFit:
    """The fit of one text: see `RidgeFit`."""

    coefficients: list[float]
    r2: float | None
    std: list[float]


def fit_words(
    masks: Sequence[Masks], scores: Sequence[Sequence[float]], penalty: float
) -> list[WordFit]:
    """Ridge fits of any number of texts, solved together where they have equally many words.

    Args:
        masks: Masks of each text, at least one a text.
        scores: Score of each mask of each text, in nats.
        penalty: λ, more than 0.

    Raises:
        ConfigError: `penalty` is not more than 0.
        ExtractError: a score is not finite.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for text, mask in enumerate(masks):
        by_length[mask.kept.shape[1]].append(text)
    fits: dict[int, WordFit] = {}
    for texts in by_length.values():
        kept = _pad([torch.from_numpy(masks[i].kept).double() for i in texts])
        weights = _pad([torch.from_numpy(masks[i].weights) for i in texts])
        z = _pad([torch.tensor(scores[i], dtype=torch.float64) for i in texts])
        if not z.isfinite().all():
            raise ExtractError(
                "A score of a perturbed text is NaN or infinite; the fit needs finite ones."
            )
        fit = solve_ridge(kept, z, weights, penalty)
        rows = zip(fit.coefficients.tolist(), fit.r2.tolist(), fit.std.tolist(), strict=True)
        fits |= {text: WordFit(*row) for text, row in zip(texts, rows, strict=True)}
    return [fits[text] for text in range(len(masks))]


def _pad(tensors: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
