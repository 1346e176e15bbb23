"""Column names, prior validation, provenance cells."""

import math

import pytest

from hf_cap.errors import PriorError
from hf_cap.schema import add_provenance, check_prior, check_words, read_provenance


def test_no_prior_is_fine() -> None:
    check_prior(None, ["a"])
    check_prior([0.5], ["a"])


def test_a_prior_of_another_length_is_refused() -> None:
    with pytest.raises(PriorError, match=r"'prior_cap', row 7: 1 scores for 2 words"):
        check_prior([0.5], ["a", "b"], column="prior_cap", row=7)


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_a_score_that_is_no_number_is_refused(score: float) -> None:
    with pytest.raises(PriorError, match=r"word 1 \('b'\)"):
        check_prior([0.5, score], ["a", "b"])


def test_words_of_another_splitter_are_refused() -> None:
    check_words("a, b", ["a,", "b"])
    with pytest.raises(PriorError, match=r"'a', ',', 'b'"):
        check_words("a, b", ["a", ",", "b"], row=3)


def test_provenance_grows_and_is_the_same_text_for_the_same_facts() -> None:
    cell = add_provenance(None, "cap", {"n": 100, "model": "m"})
    cell = add_provenance(cell, "lime", {"seed": 0})
    assert read_provenance(cell) == {"cap": {"n": 100, "model": "m"}, "lime": {"seed": 0}}
    other = add_provenance(add_provenance("", "lime", {"seed": 0}), "cap", {"model": "m", "n": 100})
    assert cell == other
