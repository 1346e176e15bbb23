"""Centred weighted ridge regression of scores on masks, in float64, by Cholesky."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hf_cap.errors import ExtractError
from hf_cap.priors.masks import Masks


class WordFit(NamedTuple):
    """The regression of one text.

    Attributes:
        coefficients: Per word, in nats: what the score gains by keeping the word.
        r2: Weighted share of the scores' variance that the fit explains, at most 1; 0 where all
            scores are equal; `None` for a text without masks.
        std: Posterior standard deviation of each coefficient, in nats.
    """

    coefficients: list[float]
    r2: float | None
    std: list[float]


def fit_words(
    masks: Sequence[Masks], scores: Sequence[Sequence[float]], penalty: float
) -> list[WordFit]:
    """Fit any number of texts, solved together where they have equally many words.

    Args:
        masks: Masks of each text, at least one per text.
        scores: Score of each mask of each text, in nats.
        penalty: λ, more than 0.

    Raises:
        ExtractError: a score is not finite.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for text, mask in enumerate(masks):
        by_length[mask.kept.shape[1]].append(text)
    fits: dict[int, WordFit] = {}
    for texts in by_length.values():
        kept = [torch.from_numpy(masks[text].kept).double() for text in texts]
        weights = [torch.from_numpy(masks[text].weights) for text in texts]
        values = [torch.tensor(scores[text], dtype=torch.float64) for text in texts]
        x, z, w = (pad_sequence(each, batch_first=True) for each in (kept, values, weights))
        if not z.isfinite().all():
            raise ExtractError(
                "A score of a perturbed text is NaN or infinite; the fit needs finite ones."
            )
        fit = [values.tolist() for values in solve_ridge(x, z, w, penalty)]
        fits |= {text: WordFit(*row) for text, *row in zip(texts, *fit, strict=True)}
    return [fits[text] for text in range(len(masks))]


def solve_ridge(
    masks: Float[Tensor, "texts masks words"],
    scores: Float[Tensor, "texts masks"],
    weights: Float[Tensor, "texts masks"],
    penalty: float,
) -> tuple[Float[Tensor, "texts words"], Float[Tensor, " texts"], Float[Tensor, "texts words"]]:
    """Fit several texts that have equally many words.

    The posterior is that of the Bayesian model z_i ~ N(z̄ + X_i α, σ²/w_i), α ~ N(0, σ²/λ): its
    covariance is σ² A⁻¹. The noise variance is the weighted residual sum of squares over
    m − 1 − tr(H) degrees of freedom: m distinct masks (a repeated mask brings no news of a
    deterministic model), one for the mean, and tr(H) = tr(A⁻¹ Xᵀ W X) for the shrunken
    coefficients. It measures how far the language model is from linear in the words.

    Args:
        masks: 1 where a word is kept, else 0.
        scores: Score of each perturbed text, in nats.
        weights: At least 0; rows of weight 0 are padding.
        penalty: λ, more than 0.

    Returns:
        Coefficients, R² and standard deviations, as in `WordFit`.
    """
    share = weights / weights.sum(1, keepdim=True)
    x = masks - torch.einsum("tm,tmw->tw", share, masks)[:, None]
    z = scores - (share * scores).sum(1, keepdim=True)
    gram = torch.einsum("tm,tmv,tmw->tvw", weights, x, x)
    factor = torch.linalg.cholesky(gram + penalty * torch.eye(gram.shape[1], dtype=gram.dtype))
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
    return coefficients, r2, variance.sqrt()
