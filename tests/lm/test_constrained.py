"""Replies within a constraint: weights without bias on four tokens, and a local model that obeys."""

from collections import defaultdict
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest

from hf_cap.errors import ModelError
from hf_cap.lm.base import MockLanguageModel, Sampling
from hf_cap.lm.local import LocalLanguageModel, accept_first, cached_log_probs, draw_reply, draw_token
from tests.tiny import byte_tokenizer, llama

PROBS = np.array([0.5, 0.3, 0.15, 0.05])


def orders(size: int) -> list[tuple[tuple[int, ...], float]]:
    """Each order of the first `size` draws without replacement, and its probability."""
    found = []
    for order in permutations(range(4), size):
        chance, left = 1.0, 1.0
        for token in order:
            chance, left = chance * PROBS[token] / left, left - PROBS[token]
        found.append((order, chance))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("allowed", [{1, 3}, {0}, {3}, {0, 1, 2, 3}, set()])
def test_weights_are_unbiased_over_all_orders(allowed: set[int], size: int) -> None:
    mean = np.zeros(4)
    for order, chance in orders(size):
        token, weight = accept_first(order, PROBS, allowed.__contains__)
        assert 0 <= weight <= 1
        assert (token is None) == (weight == 0)
        if token is not None:
            mean[token] += chance * weight
    np.testing.assert_allclose(mean, [p * (t in allowed) for t, p in enumerate(PROBS)], atol=1e-12)


def test_a_draw_without_an_allowed_token_is_none() -> None:
    rng = np.random.default_rng(0)
    assert draw_token(np.log(PROBS), lambda token: False, rng) == (None, 0.0)
    only = np.array([-np.inf, 0.0, -np.inf, -np.inf])
    assert draw_token(only, lambda token: True, rng) == (1, 1.0)


# --- Replies. Token 3 ends a reply; the others are "a", "b" and "c", each as likely after any text.


def decode(tokens: list[int]) -> str:
    return "".join("abc"[token] for token in tokens)


def replies(allowed: Callable[[str, bool], bool], most: int, count: int) -> dict[str, float]:
    """Mean weight of each reply of `count` draws."""
    rng, found = np.random.default_rng(1), defaultdict[str, float](float)
    log_probs = np.log(PROBS[[0, 1, 2, 3]])
    for _ in range(count):
        ids, weight = draw_reply(lambda written: log_probs, decode, {3}, {2}, allowed, most, rng)
        if ids is not None:
            found[decode(ids)] += weight / count
    return found


def test_weights_of_replies_are_their_probabilities() -> None:
    # it must contain "b", has at most two tokens, and token 2 is barred
    found = replies(lambda text, ended: "b" in text or (not ended and len(text) < 2), 2, 8_000)
    truth = {
        "b": 0.3 * 0.05, "ab": 0.5 * 0.3 * 0.05, "ba": 0.3 * 0.5 * 0.05, "bb": 0.3 * 0.3 * 0.05,
    }  # fmt: skip
    assert set(found) == set(truth)
    for text, share in truth.items():
        assert found[text] == pytest.approx(share, rel=0.15)
    assert sum(found.values()) == pytest.approx(sum(truth.values()), rel=0.05)


def test_a_reply_that_cannot_end_is_none() -> None:
    assert replies(lambda text, ended: not ended, 3, 5) == {}


# --- A local model


def test_cached_log_probs_are_those_of_the_whole_text() -> None:
    import torch

    model, prompt = llama(), [5, 6, 7]
    after = cached_log_probs(model, prompt, 0.5)
    for written in ([], [8], [8, 9], [], [9]):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *written]])).logits[0, -1] / 0.5
        expected = logits.double().log_softmax(-1)
        np.testing.assert_allclose(after(written), expected, atol=1e-5)


def test_a_local_model_obeys_and_repeats_itself() -> None:
    tokenizer = byte_tokenizer()
    model = LocalLanguageModel(llama(), tokenizer)
    sampling = Sampling(max_new_tokens=12, temperature=1.0)

    def digits(text: str, ended: bool) -> bool:
        return all(one in "0123" for one in text) and (not ended or "2" in text)

    prompts = ["one", "two", "three"]
    found = model.generate_within(prompts, sampling, [digits] * 3)
    texts = [reply.text for reply in found if reply]
    assert texts
    assert all(set(text) <= set("0123") and "2" in text for text in texts)
    assert model.generate_within(prompts[::-1], sampling, [digits] * 3) == found[::-1]
    assert model.generate_within(["one"], sampling, [lambda text, ended: False]) == [None]


def test_other_models_cannot_be_held_to_a_constraint() -> None:
    with pytest.raises(ModelError, match="only a local model"):
        MockLanguageModel(reply=str).generate_within(["a"], Sampling(max_new_tokens=1), [])
