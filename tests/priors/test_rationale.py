from typing import Any, get_args

import pytest

from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.priors.keywords import UNITS, RationalePrior, RationaleUnit
from tests.priors.conftest import LABELS

TEXT = "renew  my book"


def scores(unit: RationaleUnit, mark: Any) -> list[float]:
    prior = RationalePrior(labels=LABELS, rationale_unit=unit)
    made = prior({"text": [TEXT], "label": [0], "rationale": [mark]})
    found: list[float] = made["prior_rationale"][0]
    return found


def test_every_unit_of_the_settings_has_a_function() -> None:
    assert set(UNITS) == set(get_args(RationaleUnit))


@pytest.mark.parametrize(
    ("unit", "mark", "expected"),
    [
        ("characters", [[0, 5]], [1, 0, 0]),
        ("characters", [[3, 11]], [0.4, 1, 0.25]),
        ("characters", [[0, 4], [2, 5]], [1, 0, 0]),
        ("words", [[0, 1], [2, 3]], [1, 0, 1]),
        ("flags", [0, 1, 1], [0, 1, 1]),
        ("flags", [0.5, 0, 1], [0.5, 0, 1]),
        ("characters", None, [0, 0, 0]),
        ("words", [], [0, 0, 0]),
    ],
)
def test_marks_become_word_scores(unit: RationaleUnit, mark: Any, expected: list[float]) -> None:
    assert scores(unit, mark) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("unit", "mark", "message"),
    [
        ("characters", [[0, 15]], r"\[0, 15\) lies outside the 14 characters"),
        ("words", [[2, 2]], r"\[2, 2\) lies outside the 3 words"),
        ("words", [[-1, 2]], r"\[-1, 2\) lies outside the 3 words"),
        ("flags", [1], "1 flags for the 3 words"),
    ],
)
def test_marks_that_do_not_fit_the_text_are_refused(
    unit: RationaleUnit, mark: Any, message: str
) -> None:
    with pytest.raises(PriorError, match=message):
        scores(unit, mark)


def test_a_missing_column_is_named_with_those_that_exist() -> None:
    with pytest.raises(DataError, match=r"no column 'marks'; found \['label', 'text'\]"):
        RationalePrior(labels=LABELS, rationale_column="marks")({"text": [TEXT], "label": [0]})


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 'tokens'"):
        RationalePrior(labels=LABELS, rationale_unit="tokens")  # type: ignore[arg-type]
