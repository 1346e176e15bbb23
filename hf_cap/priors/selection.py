"""Which texts deserve priors: those most like unlabelled traffic, under a budget.

Data Selection with Importance Resampling (Xie et al., "Data Selection for Language Models via Importance
Resampling", arXiv 2302.03169): each text is a bag of hashed n-grams of one and two words, and is drawn
without replacement in proportion to p(text) in the traffic over p(text) in the data set. The authors' own
package reads and writes files, starts processes, draws without a seed and leaves out texts under 100
tokens. Ours is the smoothing: one count more for each n-gram that occurs, where theirs adds 1e-8, by which
a single unseen word outweighs all others of a short text.
"""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_cap.errors import ConfigError, DataError
from hf_cap.utils import generator
from hf_cap.words import WORD_PATTERN, fold, word_strings

BUCKETS = 10_000
"""N-grams share this many counts, as in the paper."""


class Selection(NamedTuple):
    """The texts that were chosen.

    `divergence` is KL(traffic ‖ chosen texts) of the n-grams in nats, at least 0, and `random_divergence`
    that of as many texts at random: by how much it is the larger of the two, the choice has paid.
    """

    indices: list[int]
    divergence: float
    random_divergence: float


def select_texts(
    texts: Sequence[str],
    like: Sequence[str],
    budget: int,
    seed: int = 0,
    pattern: str = WORD_PATTERN,
) -> Selection:
    """Choose texts that are like others, without any label.

    Args:
        like: Unlabelled texts of the traffic.
        budget: Texts to choose, at least 1; all where there are no more.
        seed: Determines the draw, together with the texts.

    Returns:
        The indices of the chosen texts, increasing.

    Raises:
        ConfigError: the budget is less than 1.
        DataError: there is no word in `like`.
    """
    if budget < 1:
        raise ConfigError(f"`budget` must be at least 1, got {budget!r}.")
    bags, traffic = ([_buckets(text, pattern) for text in some] for some in (texts, like))
    if not any(map(len, traffic)):
        raise DataError(
            "There is no word in the texts of `like`; give a file with one text per line."
        )
    known = np.bincount(np.concatenate([*bags, *traffic]), minlength=BUCKETS) > 0
    wanted = _log_shares(traffic, known)
    ratio = wanted - _log_shares(bags, known)
    # the largest of log-weight plus Gumbel noise are a draw without replacement
    noise = generator("selection", seed).gumbel(size=len(bags))
    weights = np.array([ratio[bag].sum() for bag in bags])
    chosen, random = (
        np.sort((-order).argsort(kind="stable")[:budget]) for order in (weights + noise, noise)
    )
    divergence, by_chance = (
        float(np.exp(wanted[known]) @ (wanted - _log_shares([bags[i] for i in some], known))[known])
        for some in (chosen, random)
    )
    return Selection(chosen.tolist(), divergence, by_chance)


def read_lines(file: str | Path) -> list[str]:
    """The texts of a file, one per line; a `DataError` where it cannot be read or has none."""
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {str(file)!r} as UTF-8 text: {error}.") from error
    if texts := [line for line in lines if line.strip()]:
        return texts
    raise DataError(f"{str(file)!r} has no text; write one per line.")


def _buckets(text: str, pattern: str) -> NDArray[np.int64]:
    """The bucket of each word and each pair of neighbouring words."""
    words = [fold(word) for word in word_strings(text, pattern)]
    grams = [*words, *map(" ".join, pairwise(words))]
    found = [
        blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest() for gram in grams
    ]
    return np.array([int.from_bytes(each) % BUCKETS for each in found], dtype=np.int64)


def _log_shares(bags: Sequence[NDArray[np.int64]], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`(buckets,)`: log-probability of each bucket, with one count more for each that is `known`."""
    counts = np.bincount(np.concatenate(bags), minlength=BUCKETS) + known
    shares: NDArray[np.float64] = np.log(np.maximum(counts, 1)) - np.log(counts.sum())
    return shares
