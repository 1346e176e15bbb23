"""The perturbations of the CAP prior, and the ridge regression of scores on them.

A mask takes s words out of a text of d words: s is uniform in {2, .., floor(d/2) + 1}, then the s
positions are uniform without replacement. Two words allow only s = 1 (the scheme's own range would
delete the text); one word allows no mask. Short texts have so few distinct masks that all of them
are used, weighted by their exact probability: their priors carry no sampling noise.

In a `balanced` design the words are masked equally often up to one, whatever the number of draws, and
pairs of words about so, which makes the regression well conditioned. Each mask by itself follows the
scheme all the same, since every choice is symmetric in the words: means stay unbiased. Ours.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from math import comb, isnan
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_cap.errors import ExtractError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Draw = Literal["iid", "balanced"]


@dataclass(frozen=True)
class Masks:
    """The distinct masks of one text.

    Attributes:
        kept: `(masks, words)`, true where the word stays. No row repeats.
        weights: `(masks,)`, positive, summing to n: how often a mask was drawn, or n times its
            probability where all masks are enumerated.
    """

    kept: NDArray[np.bool_]
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.weights)


def masked_counts(words: int) -> range:
    """Numbers of masked words, equally likely, for a text of `words` words. Empty for one word."""
    return range(min(2, words - 1), min(words // 2 + 1, words - 1) + 1) if words > 1 else range(0)


def draw_masks(text: str, words: int, n: int, seed: int, design: Draw = "iid") -> Masks:
    """Draw the masks of one text.

    Args:
        text: The text itself; it and `seed` determine the draw, whatever batch or process it is in.
        words: Number of its words, d.
        n: Masks to draw, at least 1. The first n draws of a larger n are the same ones.
        design: Whether draws are independent, or each word is masked equally often.

    Returns:
        All masks with their exact weights where no more than `n` exist, else `n` draws with
        repeated masks counted. No masks where `words` is 0 or 1.
    """
    counts = masked_counts(words)
    # Two words or more have at least as many masks as words: spares huge binomials for long texts.
    if words <= n and sum(comb(words, masked) for masked in counts) <= n:
        taken = [out for masked in counts for out in combinations(range(words), masked)]
        kept = np.ones((len(taken), words), dtype=bool)
        for row, out in zip(kept, taken, strict=True):
            row[list(out)] = False
        weights = [n / len(counts) / comb(words, len(out)) for out in taken]
        return Masks(kept, np.array(weights, dtype=np.float64))
    key = blake2b(f"{seed}\0{words}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16)
    generator = np.random.default_rng(int.from_bytes(key.digest(), "big"))
    # One row of uniforms per draw, so that a larger n begins with the draws of a smaller one.
    rows = n if design == "iid" else -(-n // len(counts)) * len(counts)
    uniforms = generator.random((rows, words + 1))
    draw = _independent if design == "iid" else _balanced
    kept, drawn = np.unique(draw(uniforms, counts)[:n], axis=0, return_counts=True)
    return Masks(kept, drawn.astype(np.float64))


def _independent(uniforms: NDArray[np.float64], counts: range) -> NDArray[np.bool_]:
    """One mask per row of `(draws, 1 + words)` uniforms: its number of masked words, then which."""
    masked = counts.start + np.floor(uniforms[:, 0] * len(counts))
    ranks = uniforms[:, 1:].argsort(axis=1).argsort(axis=1)
    return ranks >= masked[:, None]


def _balanced(uniforms: NDArray[np.float64], counts: range) -> NDArray[np.bool_]:
    """As `_independent`, but masks the words that were masked least so far.

    Of several such it takes those that were masked least together, ties in random order. Each block of
    `len(counts)` draws has every number of masked words once, in random order.
    """
    masked = counts.start + uniforms[:, 0].reshape(-1, len(counts)).argsort(axis=1).ravel()
    kept = np.ones((len(uniforms), uniforms.shape[1] - 1), dtype=bool)
    together = np.zeros((kept.shape[1], kept.shape[1]))
    first = kept.size + 1  # more than any sum of a row of `together`: how often comes before
    for row, size, order in zip(kept, masked, uniforms[:, 1:], strict=True):
        place = first * together.diagonal() + order
        for _ in range(size):
            word = place.argmin()
            row[word] = False
            place += together[word]
            place[word] = np.inf
        together += np.outer(~row, ~row)
    return kept


class WordFit(NamedTuple):
    """The regression of one text.

    Attributes:
        coefficients: Per word, in nats: what the score gains by keeping the word.
        r2: Share of the scores' variance that is explained where each mask's score is predicted from
            all other masks (leave-one-out): 1 at best, about 0 or below for noise. `None` where it is
            not defined: all scores are equal, or each word is kept by one mask alone (up to 3 words).
        std: Posterior standard deviation of each coefficient, in nats.
    """

    coefficients: list[float]
    r2: float | None
    std: list[float]


def as_scores(values: Sequence[float]) -> NDArray[np.float64]:
    """Scores of perturbed texts as an array; an `ExtractError` where one is not finite."""
    scores = np.array(values, dtype=float)
    if not np.isfinite(scores).all():
        raise ExtractError("The score of a perturbed text is NaN or infinite.")
    return scores


def fit_words(masks: Sequence[Masks], scores: Sequence[Sequence[float]], penalty: float) -> list[WordFit]:
    """Fit texts by the scores (nats; not finite: `ExtractError`) of their masks and a `penalty` λ above 0.

    The word of a text of one word, which has no masks, is all the evidence there is: 1.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    by_length: dict[int, list[int]] = defaultdict(list)
    for text, mask in enumerate(masks):
        by_length[mask.kept.shape[1]].append(text)
    fits = dict.fromkeys(by_length.pop(1, ()), WordFit([1.0], None, [0.0]))
    for texts in by_length.values():
        kept = [torch.from_numpy(masks[text].kept).double() for text in texts]
        weights = [torch.from_numpy(masks[text].weights) for text in texts]
        values = [torch.from_numpy(as_scores(scores[text])) for text in texts]
        x, z, w = (pad_sequence(each, batch_first=True) for each in (kept, values, weights))
        solved = [part.tolist() for part in _solve_ridge(x, z, w, penalty)]
        for text, coefficients, r2, std in zip(texts, *solved, strict=True):
            fits[text] = WordFit(coefficients, None if isnan(r2) else r2, std)
    return [fits[text] for text in range(len(masks))]


def _solve_ridge(
    masks: "Float[Tensor, 'texts masks words']",
    scores: "Float[Tensor, 'texts masks']",
    weights: "Float[Tensor, 'texts masks']",
    penalty: float,
) -> "tuple[Float[Tensor, 'texts words'], Float[Tensor, ' texts'], Float[Tensor, 'texts words']]":
    """Coefficients, held-out R² and standard deviations of texts of equally many words, by Cholesky.

    The posterior is that of the Bayesian model z_i ~ N(z̄ + X_i α, σ²/w_i), α ~ N(0, σ²/λ): its covariance is
    σ² A⁻¹. The noise variance is the weighted residual sum of squares over m − 1 − tr(H) degrees of freedom:
    m distinct masks (a repeated mask brings no news of a deterministic model; rows of weight 0 are padding),
    one for the mean, and tr(H) = tr(A⁻¹ Xᵀ W X) for the shrunken coefficients. It measures how far the
    language model is from linear in the words.

    The residual of a mask's score from the fit to all others is (z_i − ẑ_i) / (1 − h_i), with
    h_i = w_i (1/Σw + X_iᵀ A⁻¹ X_i) on the diagonal of the hat matrix (Golub, Heath & Wahba 1979).
    """
    import torch

    share = weights / weights.sum(1, keepdim=True)
    x = masks - torch.einsum("tm,tmw->tw", share, masks)[:, None]
    z = scores - (share * scores).sum(1, keepdim=True)
    gram = torch.einsum("tm,tmv,tmw->tvw", weights, x, x)
    factor = torch.linalg.cholesky(gram + penalty * torch.eye(gram.shape[1], dtype=gram.dtype))
    moment = torch.einsum("tm,tmw,tm->tw", weights, x, z)
    coefficients = torch.cholesky_solve(moment[..., None], factor)[..., 0]
    inverse = torch.cholesky_inverse(factor)

    error = z - torch.einsum("tmw,tw->tm", x, coefficients)
    residual, total = ((weights * part.square()).sum(1) for part in (error, z))
    spent = 1 + torch.einsum("tvw,twv->t", inverse, gram)
    freedom = ((weights > 0).sum(1) - spent).clamp_min(torch.finfo(gram.dtype).eps)
    variance = (residual / freedom)[:, None] * inverse.diagonal(dim1=1, dim2=2)
    # equal scores may differ in their last bits
    constant = total <= 1e-24 * (weights * scores.square()).sum(1)
    leverage = weights * torch.einsum("tmv,tvw,tmw->tm", x, inverse, x)
    error_of_fit, error_of_mean = (
        (weights * (part / (1 - share - more)).square()).sum(1)
        for part, more in ((error, leverage), (z, 0.0))
    )
    r2 = 1 - error_of_fit / error_of_mean
    r2[constant | torch.tensor(gram.shape[1] < 4)] = torch.nan
    return coefficients, r2, variance.sqrt()
