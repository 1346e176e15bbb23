import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from hf_cap.errors import ConfigError
from hf_cap.priors.cap import distinct_masks, draw_masks, masked_counts


@pytest.mark.parametrize(
    ("words", "expected"), [(0, []), (1, []), (2, [1]), (3, [2]), (4, [2, 3]), (9, [2, 3, 4, 5])]
)
def test_number_of_masked_words(words: int, expected: list[int]) -> None:
    assert list(masked_counts(words)) == expected


def test_seven_words_are_the_longest_text_that_is_enumerated() -> None:
    assert [distinct_masks(words) for words in (1, 2, 3, 7, 8)] == [0, 2, 3, 91, 210]


def test_one_word_has_no_masks() -> None:
    masks = draw_masks("help", 1, 100, 0)
    assert len(masks) == 0
    assert masks.kept.shape == (0, 1)


def test_enumerated_masks_have_their_exact_probability() -> None:
    # four words: s = 2 (6 masks) and s = 3 (4 masks), each with probability 1/2
    masks = draw_masks("a b c d", 4, 48, 0)
    found = {
        tuple(kept): weight for kept, weight in zip(masks.kept.tolist(), masks.weights, strict=True)
    }
    assert len(found) == 10
    assert Counter((sum(kept), float(weight)) for kept, weight in found.items()) == {
        (2, 4.0): 6,
        (1, 6.0): 4,
    }


@pytest.mark.parametrize(("words", "n"), [(2, 5), (7, 100), (8, 100), (30, 100), (200, 10)])
def test_masks_are_distinct_lawful_and_weigh_n(words: int, n: int) -> None:
    masks = draw_masks("some text", words, n, 3)
    assert len(np.unique(masks.kept, axis=0)) == len(masks)
    assert set((~masks.kept).sum(1)) <= set(masked_counts(words))
    assert masks.weights.sum() == pytest.approx(n)


def test_drawn_masks_follow_the_scheme() -> None:
    words, n = 12, 60_000
    masks = draw_masks("some text", words, n, 0)
    share = masks.weights / n
    counts = (~masks.kept).sum(1)
    for masked in masked_counts(words):
        assert share[counts == masked].sum() == pytest.approx(1 / 6, abs=0.01)
    # E[s]/d of the time a word is masked, each word alike
    expected = np.mean(masked_counts(words)) / words
    np.testing.assert_allclose((~masks.kept).T @ share, expected, atol=0.01)


def test_draw_depends_on_seed_and_text_alone() -> None:
    kept = draw_masks("some text", 20, 50, 1).kept
    assert np.array_equal(kept, draw_masks("some text", 20, 50, 1).kept)
    assert not np.array_equal(kept, draw_masks("some text", 20, 50, 2).kept)
    assert not np.array_equal(kept, draw_masks("other text", 20, 50, 1).kept)


def test_draw_is_the_same_in_another_process() -> None:
    code = (
        "from hf_cap.priors.cap import draw_masks;"
        "print(draw_masks('some téxt', 20, 50, 1).kept.tobytes().hex())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == draw_masks("some téxt", 20, 50, 1).kept.tobytes().hex()


def test_larger_n_contains_the_draws_of_a_smaller_one() -> None:
    small = {tuple(row) for row in draw_masks("some text", 20, 40, 1).kept.tolist()}
    assert small < {tuple(row) for row in draw_masks("some text", 20, 400, 1).kept.tolist()}


def test_lone_surrogates_are_no_obstacle() -> None:
    assert len(draw_masks("bad \ud800", 20, 10, 0)) > 0


def test_no_perturbations_are_refused() -> None:
    with pytest.raises(ConfigError, match="`n` must be at least 1, got 0"):
        draw_masks("a b", 2, 0, 0)
