import json
from typing import get_args

import pytest
from datasets import Dataset

from hf_cap.errors import ConfigError
from hf_cap.priors.keywords import CONTROLS, Control, random_scores, shuffled, uniform, with_control

SCORES = [float(i) for i in range(12)]


def test_every_control_of_the_settings_has_a_function() -> None:
    assert set(CONTROLS) == set(get_args(Control))


def test_uniform_gives_every_word_the_same() -> None:
    assert uniform([0.3, -1.0]) == [1.0, 1.0]


def test_shuffled_keeps_the_scores_and_moves_them() -> None:
    moved = shuffled(SCORES, "a text", 0)
    assert sorted(moved) == SCORES
    assert moved != SCORES
    assert shuffled([2.0], "a text", 0) == [2.0]


@pytest.mark.parametrize("control", [random_scores, shuffled])
def test_what_is_random_depends_on_text_and_seed_only(control: object) -> None:
    assert callable(control)
    first = control(SCORES, "a text", 0)
    assert control(SCORES, "a text", 0) == first
    assert control(SCORES, "a text", 1) != first
    assert control(SCORES, "another text", 0) != first


def test_random_scores_are_uniform_over_the_unit_interval() -> None:
    found = random_scores([0.0] * 4000, "a text", 0)
    assert 0 <= min(found) < 0.01
    assert 0.99 < max(found) < 1
    assert sum(found) / 4000 == pytest.approx(0.5, abs=0.02)


def test_the_column_is_replaced_and_null_stays_null() -> None:
    data = Dataset.from_dict({"text": ["one two", "x"], "prior": [[1.0, 5.0], None]})
    replaced = with_control(data, "uniform", seed=4)
    assert replaced["prior"][:] == [[1.0, 1.0], None]
    facts = json.loads(replaced["provenance"][0])["control"]
    assert facts == {"control": "uniform", "seed": 4, "column": "prior"}


def test_an_unknown_control_is_refused() -> None:
    with pytest.raises(ConfigError, match="no control 'ones'; there are"):
        with_control(Dataset.from_dict({"text": []}), "ones")  # type: ignore[arg-type]
