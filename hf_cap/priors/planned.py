"""Masks that are planned, and the coefficients that the scores of these few lead to expect.

A language model reads what is left of a text, so what it makes of a word depends on the words that now
stand beside it. A Gaussian process over masks says so: the scores of two of them are the more alike, the
more words are kept or masked in both, and the more pairs of neighbours their texts share. After a few
random masks each next one is that which leaves the least variance in the coefficients of the ridge
regression on all masks. Of these coefficients the fit is the mean given the answers (Bayesian quadrature).

The weights of the covariance were fitted to 18 texts of Banking77; that of single words was then raised,
so that their scores are hardly shrunk. Ours.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_cap.priors.masks import WordFit, as_scores, draw_masks

_WORDS, _NEAR, _NEIGHBOURS, _NOISE = 10.0, 2.0, 3.5, 0.05
_MOST = 1000
"""Masks that stand for all: every one up to 10 words, else so many draws."""
_DRAWN = 8
"""Masks at the beginning that are drawn, so that texts of the same length differ in the rest."""
Floats = NDArray[np.float64]


class Plan(NamedTuple):
    """The masks of one text in the order in which they are asked.

    Attributes:
        kept: `(masks, words)`, true where the word stays. No row repeats.
        covariance: `(masks, masks)`, of the scores, up to a factor.
        reach: `(words, masks)`, of the coefficients with the scores.
        variance: `(words,)`, of the coefficients before any answer.
    """

    kept: NDArray[np.bool_]
    covariance: Floats
    reach: Floats
    variance: Floats

    def fit(self, scores: Sequence[float]) -> WordFit:
        """The coefficients given the scores (nats) of the first masks; an `ExtractError` if not finite."""
        count, values = len(scores), as_scores(scores)
        inverse = np.linalg.inv(self.covariance[:count, :count])
        ones = inverse.sum(0)
        inverse -= np.outer(ones, ones) / ones.sum()  # the mean of the scores is not known
        reach, solved = self.reach[:, :count], inverse @ values
        left = self.variance - np.einsum("wm,mk,wk->w", reach, inverse, reach)
        scale = max(float(values @ solved), 0.0) / max(count - 1, 1)
        total = np.square(values - values.mean()).sum() * (count / max(count - 1, 1)) ** 2
        r2 = None
        if len(reach) > 3 and total > 1e-24 * np.square(values).sum():
            r2 = float(1 - np.square(solved / inverse.diagonal()).sum() / total)
        return WordFit((reach @ solved).tolist(), r2, np.sqrt(scale * left.clip(0)).tolist())


@lru_cache(maxsize=256)
def plan_masks(text: str, words: int, n: int, seed: int, penalty: float) -> Plan | None:
    """The n masks that tell most about the coefficients; `None` where no more than n exist.

    A plan depends on its arguments alone. `penalty` is the λ of the ridge regression on all masks.
    """
    everything = draw_masks(text, words, max(_MOST, n), seed)
    kept, weights = everything.kept, everything.weights
    if len(kept) <= n:
        return None
    covariance = _covariance(kept)
    x = kept - weights @ kept / weights.sum()
    gram = (x.T * weights) @ x + penalty * np.eye(words)
    ridge = np.linalg.solve(gram, x.T * weights)  # its rows sum to 0
    reach = ridge @ covariance
    drawn = {row.tobytes() for row in draw_masks(text, words, min(_DRAWN, n), seed).kept}
    first = [place for place, row in enumerate(kept) if row.tobytes() in drawn]
    order = _greedy(covariance, reach, first, n)
    own = covariance[np.ix_(order, order)] + _NOISE * np.eye(n)
    return Plan(kept[order], own, reach[:, order], np.einsum("wm,wm->w", reach, ridge))


def _greedy(covariance: Floats, reach: Floats, first: list[int], n: int) -> list[int]:
    """The first masks and those that then take off the most variance, n in all."""
    left, ahead, order = covariance.diagonal().copy(), reach.copy(), [*first]
    taken = np.zeros((n, len(left)))
    for step in range(n):
        if step >= len(first):
            gain = np.square(ahead).sum(0) / (left + _NOISE)
            gain[order] = 0
            order.append(int((gain / gain.max()).round(9).argmax()))  # the same on all machines
        mask = order[step]
        size = (left[mask] + _NOISE) ** 0.5
        taken[step] = (covariance[mask] - taken[:step, mask] @ taken[:step]) / size
        ahead -= np.outer(ahead[:, mask] / size, taken[step])
        left -= np.square(taken[step])
    return order


def _covariance(kept: NDArray[np.bool_]) -> Floats:
    """Of the scores of `(masks, words)`, as `(masks, masks)`."""
    from scipy.sparse import csr_array

    count, words = kept.shape
    signs = 2.0 * kept - 1
    alike = signs @ signs.T / words
    # per mask the next kept word, after the start and after each kept word; of a masked one, none
    there = np.where(kept, np.arange(words), words)[:, ::-1]
    after = np.minimum.accumulate(there, axis=1)[:, ::-1]
    after = np.pad(after, ((0, 0), (0, 1)), constant_values=words)
    mask, word = np.nonzero(np.pad(kept, ((0, 0), (1, 0)), constant_values=True))
    pair = word * (words + 1) + after[mask, word]
    pairs = csr_array((np.ones(len(mask)), (mask, pair)), shape=(count, (words + 1) ** 2))
    shared = (pairs @ pairs.T).toarray()
    found: Floats = _WORDS * alike + _NEAR * np.exp(1.5 * (alike - 1)) + _NEIGHBOURS * shared / words
    return found
