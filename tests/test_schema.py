"""Column names, prior validation, provenance cells."""

import math

import pytest
from datasets import Features, List, Value

from hf_cap.errors import PriorError
from hf_cap.schema import (
    add_provenance,
    check_prior,
    check_words,
    find_prior_column,
    read_provenance,
)


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


@pytest.mark.parametrize(
    ("columns", "wanted", "found"),
    [
        (["text", "prior", "prior_cap", "prior_lime"], None, "prior"),
        (["text", "prior_cap"], None, "prior_cap"),
        (["prior_cap", "prior_lime"], "prior_lime", "prior_lime"),
        (["mine", "prior"], "mine", "mine"),
    ],
)
def test_the_prior_column_to_train_with(columns: list[str], wanted: str | None, found: str) -> None:
    assert find_prior_column(columns, wanted) == found


def test_weights_of_priors_are_no_priors() -> None:
    features = Features({"prior_weight": Value("float64"), "prior_cap": List(Value("float64"))})
    assert find_prior_column(features) == "prior_cap"


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        (["prior_cap", "prior_lime"], None, r"\['prior_cap', 'prior_lime'\]. Fuse them"),
        (["text", "label"], None, "no prior column 'prior'; found .*hf-cap extract"),
        (["prior_cap"], "prior_lime", "no prior column 'prior_lime'; found"),
    ],
)
def test_a_prior_column_that_is_missing_or_ambiguous(
    columns: list[str], wanted: str | None, message: str
) -> None:
    with pytest.raises(PriorError, match=message):
        find_prior_column(columns, wanted)
