"""Models whose answers are known on paper."""

from collections.abc import Mapping, Sequence

import numpy as np

from hf_cap.evaluation.metrics import FloatArray


class WeightedWords:
    """Two classes; p(class 1) is a bias plus the weight of each word that is present. Counts its texts."""

    def __init__(self, weights: Mapping[str, float], bias: float = 0.1) -> None:
        self.weights = weights
        self.bias = bias
        self.calls: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        self.calls.append(list(texts))
        positive = [
            self.bias + sum(self.weights.get(word, 0.0) for word in text.split()) for text in texts
        ]
        return np.array([[1 - p, p] for p in positive])
