"""Random draws that depend on what they are for, and on nothing else."""

import hashlib

import numpy as np


def generator(*key: object) -> np.random.Generator:
    """A generator whose draws depend only on `key`, not on order, batch or process.

    Args:
        key: Values with a stable `repr`: a seed, a text, a draw number.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
