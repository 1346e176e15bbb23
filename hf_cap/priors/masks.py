"""Which words to take out of a text: the perturbation scheme of the CAP prior.

A mask takes s words out of a text of d words: s is uniform in {2, .., floor(d/2) + 1}, then the s
positions are uniform without replacement. Two words allow only s = 1 (the scheme's own range would
delete the text); one word allows no mask. Short texts have so few distinct masks that all of them
are used, weighted by their exact probability: their priors carry no sampling noise.
"""

from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray


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


def distinct_masks(words: int) -> int:
    """Number of different masks that the scheme can draw for a text of `words` words."""
    return sum(comb(words, masked) for masked in masked_counts(words))


def draw_masks(text: str, words: int, n: int, seed: int) -> Masks:
    """Draw the masks of one text.

    Args:
        text: The text itself; it and `seed` determine the draw, whatever batch or process it is in.
        words: Number of its words, d.
        n: Masks to draw, at least 1. The first n draws of a larger n are the same ones.
        seed: Any integer.

    Returns:
        All masks with their exact weights where no more than `n` exist, else `n` draws with
        repeated masks counted. No masks where `words` is 0 or 1.
    """
    # Two words or more have at least as many masks as words: spares huge binomials for long texts.
    few = words <= n and distinct_masks(words) <= n
    return _enumerate(words, n) if few else _sample(text, words, n, seed)


def _enumerate(words: int, n: int) -> Masks:
    counts = masked_counts(words)
    kept = np.ones((distinct_masks(words), words), dtype=bool)
    weights = np.empty(len(kept))
    masks = ((masked, out) for masked in counts for out in combinations(range(words), masked))
    for row, (masked, out) in enumerate(masks):
        kept[row, list(out)] = False
        weights[row] = n / len(counts) / comb(words, masked)
    return Masks(kept, weights)


def _sample(text: str, words: int, n: int, seed: int) -> Masks:
    counts = masked_counts(words)
    key = blake2b(f"{seed}\0{words}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16)
    generator = np.random.default_rng(int.from_bytes(key.digest(), "big"))
    # One row of uniforms per draw, so that a larger n begins with the draws of a smaller one.
    uniforms = generator.random((n, words + 1))
    masked = counts.start + np.floor(uniforms[:, 0] * len(counts))
    ranks = uniforms[:, 1:].argsort(axis=1).argsort(axis=1)
    kept, drawn = np.unique(ranks >= masked[:, None], axis=0, return_counts=True)
    return Masks(kept, drawn.astype(np.float64))
