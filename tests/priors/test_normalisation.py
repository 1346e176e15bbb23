import math
from typing import get_args

import pytest

from hf_cap.errors import ConfigError
from hf_cap.priors.base import Normalisation
from hf_cap.priors.fusion import NORMALISATIONS, normalise


def test_every_normalisation_of_the_settings_has_a_function() -> None:
    assert set(NORMALISATIONS) == set(get_args(Normalisation))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("l2", [0.6, -0.8, 0.0]),
        ("max_abs", [0.75, -1.0, 0.0]),
        ("min_max", [1.0, 0.0, 4 / 7]),
        ("none", [3.0, -4.0, 0.0]),
    ],
)
def test_known_answers(how: Normalisation, expected: list[float]) -> None:
    assert normalise([3.0, -4.0, 0.0], how) == pytest.approx(expected)


def test_softmax_of_logarithms_is_the_distribution() -> None:
    scores = [math.log(1), math.log(2), math.log(5)]
    assert normalise(scores, "softmax") == pytest.approx([1 / 8, 2 / 8, 5 / 8])


@pytest.mark.parametrize("how", ["l2", "max_abs"])
def test_scale_of_a_source_does_not_matter(how: Normalisation) -> None:
    expected = normalise([1.0, -2.0, 2.0], how)
    for scale in (1e-200, 1e-3, 1e200):
        assert normalise([scale, -2 * scale, 2 * scale], how) == pytest.approx(expected)


@pytest.mark.parametrize("how", ["l2", "max_abs", "min_max", "none"])
def test_all_zero_stays_all_zero(how: Normalisation) -> None:
    assert normalise([0.0, 0.0], how) == [0.0, 0.0]


def test_equal_scores_under_min_max_are_all_the_strongest() -> None:
    assert normalise([0.3, 0.3], "min_max") == [1.0, 1.0]


def test_softmax_of_large_scores_is_finite() -> None:
    assert normalise([1000.0, 1000.0], "softmax") == [0.5, 0.5]


@pytest.mark.parametrize("how", get_args(Normalisation))
def test_no_words_give_no_scores(how: Normalisation) -> None:
    assert normalise([], how) == []


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"'l2'.*got 'l1'"):
        normalise([1.0], "l1")  # type: ignore[arg-type]
