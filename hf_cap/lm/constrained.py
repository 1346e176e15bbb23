"""Replies that obey a boolean constraint while they are written, by adaptive weighted rejection sampling.

Lipkin et al. 2025, "Fast Controlled Generation from Language Models with Adaptive Weighted Rejection
Sampling" (https://arxiv.org/abs/2504.05410), in the recursive form of their package genlm-control. Tokens
are drawn without replacement until the constraint accepts one, so only few of the vocabulary are checked.
The weight of a draw estimates, without bias, the probability of all accepted tokens; the product over a
reply corrects that choosing token by token favours beginnings which the constraint hardly lets end.
"""

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hf_cap.lm.base import Constraint

FloatArray: TypeAlias = NDArray[np.float64]
TRIES = 256
"""Most tokens that are checked at a place; a draw that finds none of them allowed has weight 0."""


def accept_first(
    order: Sequence[int], probs: FloatArray, allowed: Callable[[int], bool]
) -> tuple[int | None, float]:
    """The first allowed token of an order, and its weight in [0, 1]; `None` and 0 where there is none.

    Over orders drawn without replacement by `probs`, `(vocabulary,)`, the mean of weight times f(token) is
    the sum of probs times f over all allowed tokens. That holds for an order that is cut off too.
    """
    weight, left = 1.0, 1.0
    for place, token in enumerate(order):
        share = min(1.0, float(probs[token]) / left) if left > 0 else 1.0
        if allowed(token):
            # the other tokens' part is estimated by whether the next of the order is allowed
            others = place + 1 < len(order) and allowed(order[place + 1])
            whole = others or place + 1 == len(order)
            return token, weight * (1.0 if whole else share)
        weight, left = weight * (1 - share), left - float(probs[token])
    return None, 0.0


def draw_token(
    log_probs: FloatArray, allowed: Callable[[int], bool], rng: np.random.Generator
) -> tuple[int | None, float]:
    """An allowed token and its weight, as by `accept_first`; `log_probs`, `(vocabulary,)`, in nats."""
    keys = log_probs + rng.gumbel(size=log_probs.shape)
    size = min(TRIES, int(np.isfinite(keys).sum()))
    top = np.argpartition(-keys, size - 1)[:size]
    return accept_first(top[np.argsort(-keys[top])].tolist(), np.exp(log_probs), allowed)


def draw_reply(
    next_log_probs: Callable[[list[int]], FloatArray],
    decode: Callable[[list[int]], str],
    ends: Collection[int],
    barred: Collection[int],
    allowed: Constraint,
    most: int,
    rng: np.random.Generator,
) -> tuple[list[int] | None, float]:
    """The tokens of a reply that is allowed to end, and its weight; `None` and 0 where it came to none.

    Args:
        next_log_probs: Given the tokens so far, the log-probabilities of the next, `(vocabulary,)`.
        decode: Tokens to text.
        ends: Tokens that end a reply; they are not a part of it.
        barred: Tokens that have no place in a reply.
        allowed: The constraint.
        most: Most tokens, without the end.
        rng: Draws the tokens.
    """
    written: list[int] = []
    weight = 1.0

    def check(token: int) -> bool:
        if token in ends:
            return allowed(decode(written), True)
        full = len(written) == most or token in barred
        return not full and allowed(decode([*written, token]), False)

    while True:
        token, share = draw_token(next_log_probs(written), check, rng)
        weight *= share
        if token is None or not weight:
            return None, 0.0
        if token in ends:
            return written, weight
        written.append(token)


def cached_log_probs(
    model: Any, prompt: Sequence[int], temperature: float
) -> Callable[[list[int]], FloatArray]:
    """The next token's log-probabilities behind a prompt, for replies written one after the other.

    What is returned is called with no token for a new reply, then each time with one more.
    """
    import torch

    def read(ids: Sequence[int], cache: Any) -> tuple[FloatArray, Any]:
        rows = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            found = model(input_ids=rows, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = found.logits[0, -1].double() / temperature
        return logits.log_softmax(-1).cpu().numpy(), found.past_key_values

    first, of_prompt = read(prompt, None)
    cache: Any = None

    def after(written: list[int]) -> FloatArray:
        nonlocal cache
        if not written:
            cache = deepcopy(of_prompt)
            return first
        log_probs, cache = read(written[-1:], cache)
        return log_probs

    return after
