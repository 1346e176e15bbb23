"""Random draws that depend on what they are for, and on nothing else: not on order, batch or process."""

import hashlib

import numpy as np


def rank(*key: object) -> bytes:
    """A place in a random order, as bytes to sort by.

    Args:
        key: What is ranked: values with a stable `repr`, such as a seed, a draw number and a text.
    """
    return hashlib.sha256(repr(key).encode()).digest()


def generator(*key: object) -> np.random.Generator:
    """A generator whose draws depend only on `key`; see `rank`."""
    return np.random.default_rng(int.from_bytes(rank(*key)[:8]))


def text_seed(seed: int, text: str) -> int:
    """A seed in [0, 2**32) from the user's seed and the text."""
    return int.from_bytes(rank(seed, text)[:4])
