"""Word attributions of a text classifier: how much each word moves the score of a label.

The members of the family differ in the points of the straight path from baseline to text at which
the gradient is taken. With `e` the word embeddings, `b` the baseline and `f` the score of the label,

    score of a token = (e − b) · Σ_k q_k ∇f(b + α_k (e − b)),    score of a word = sum over its tokens

Integrated Gradients (Sundararajan et al. 2017, arXiv 1703.01365) takes the α_k and weights q_k of a
quadrature rule, expected gradients (Erion et al. 2021, arXiv 1906.10670) random ones, and
`input_x_gradient` the single point α = 1. Scores are in units of the logit; positive = evidence *for* the
label. The baseline puts the pad embedding at every token of a word and leaves all other tokens (special
tokens, padding, what the word pattern skips) and the position embeddings as they are, so that the word
scores add up to f(text) − f(baseline).

Everything is a function of tensors and differentiable on request; `attribute_words` is the plain use.
"""

from .passes import (
    Explained,
    Inputs,
    common_attention,
    math_attention,
    path_scores,
    token_scores,
    without_dropout,
)
from .path import Path, Shift, on_path, only_path, pad_token
from .plain import attribute_words, check_offsets
from .points import (
    METHODS,
    QUADRATURES,
    Points,
    path_points,
    quadrature,
    random_points,
    split_points,
)
from .target import TARGETS, at_least_float32, pool_words, target_score

__all__ = [
    "METHODS",
    "QUADRATURES",
    "TARGETS",
    "Explained",
    "Inputs",
    "Path",
    "Points",
    "Shift",
    "at_least_float32",
    "attribute_words",
    "check_offsets",
    "common_attention",
    "math_attention",
    "on_path",
    "only_path",
    "pad_token",
    "path_points",
    "path_scores",
    "pool_words",
    "quadrature",
    "random_points",
    "split_points",
    "target_score",
    "token_scores",
    "without_dropout",
]
