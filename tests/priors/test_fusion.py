import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from datasets import Dataset, DatasetDict, Features, List, Value

from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.priors.fusion import (
    METHODS,
    NORMALISATIONS,
    Method,
    Normalisation,
    PriorFusion,
    find_defect,
    fuse,
    fuse_priors,
    normalise,
)

SCORES = List(Value("float64"))
Scores = list[float] | None


def table(
    first: Sequence[Scores],
    second: Sequence[Scores],
    *,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    **columns: list[Any],
) -> Dataset:
    rows = len(first)
    data = {
        "words": [["renew", "book"]] * rows,
        "prior_cap": list(first),
        "prior_lime": list(second),
        "provenance": [json.dumps(facts or {})] * rows,
        **columns,
    }
    features = {"words": List(Value("string")), "prior_cap": SCORES, "prior_lime": SCORES}
    others = {name: Value("float64") for name in columns}
    return Dataset.from_dict(data, Features({**features, "provenance": Value("string"), **others}))


def test_every_choice_has_a_function() -> None:
    assert set(METHODS) == set(get_args(Method))
    assert set(NORMALISATIONS) == set(get_args(Normalisation))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l2", [0.6, -0.8, 0.0]),
        ("max_abs", [0.75, -1.0, 0.0]),
        ("min_max", [1.0, 0.0, 4 / 7]),
        ("none", [3.0, -4.0, 0.0]),
    ],
)
def test_known_answers(name: Normalisation, expected: list[float]) -> None:
    assert normalise([3.0, -4.0, 0.0], name) == pytest.approx(expected)


def test_softmax_of_logarithms_is_the_distribution() -> None:
    scores = [math.log(1), math.log(2), math.log(5)]
    assert normalise(scores, "softmax") == pytest.approx([1 / 8, 2 / 8, 5 / 8])


@pytest.mark.parametrize("name", ["l2", "max_abs"])
def test_scale_of_a_source_does_not_matter(name: Normalisation) -> None:
    expected = normalise([1.0, -2.0, 2.0], name)
    for scale in (1e-200, 1e-3, 1e200):
        assert normalise([scale, -2 * scale, 2 * scale], name) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["l2", "max_abs", "min_max", "none"])
def test_all_zero_stays_all_zero(name: Normalisation) -> None:
    assert normalise([0.0, 0.0], name) == [0.0, 0.0]


def test_equal_scores_under_min_max_are_all_the_strongest() -> None:
    assert normalise([0.3, 0.3], "min_max") == [1.0, 1.0]


def test_softmax_of_large_scores_is_finite() -> None:
    assert normalise([1000.0, 1000.0], "softmax") == [0.5, 0.5]


@pytest.mark.parametrize("name", get_args(Normalisation))
def test_no_words_give_no_scores(name: Normalisation) -> None:
    assert normalise([], name) == []


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"'l2'.*got 'l1'"):
        normalise([1.0], "l1")  # type: ignore[arg-type]


def test_mean_of_normalised_sources() -> None:
    assert fuse([[3.0, 4.0], [10.0, 0.0]]) == pytest.approx([0.8, 0.4])


def test_sources_are_normalised_as_the_settings_say() -> None:
    data = table([[3.0, 4.0]], [[0.0, 2.0]])
    assert fuse_priors(data, normalisation="max_abs")["prior"][0] == [0.375, 1.0]
    assert fuse_priors(data, normalisation="none")["prior"][0] == [1.5, 3.0]
    assert fuse_priors(data)["prior"][0] == [pytest.approx(0.3), pytest.approx(0.9)]


def test_max_is_the_signed_maximum() -> None:
    assert fuse([[3.0, -4.0], [-1.0, 0.0]], method="max") == pytest.approx([0.6, 0.0])


def test_weights_matter_by_their_ratio_only() -> None:
    priors = [[1.0, 0.0], [0.0, 1.0]]
    assert fuse(priors, [3.0, 1.0]) == pytest.approx([0.75, 0.25])
    assert fuse(priors, [300.0, 100.0]) == pytest.approx([0.75, 0.25])
    assert fuse(priors, [3.0, 1.0], method="max") == pytest.approx([1.5, 0.5])


@pytest.mark.parametrize("method", get_args(Method))
def test_one_source_is_itself_whatever_its_weight(method: Method) -> None:
    assert fuse([[3.0, -4.0]], [0.2], method=method) == pytest.approx([0.6, -0.8])


@pytest.mark.parametrize("bad", [None, [math.nan, 1.0], [math.inf, 0.0], [0.0, 0.0]])
def test_an_unusable_source_leaves_the_others_as_if_it_were_not_there(bad: Scores) -> None:
    assert fuse([bad, [3.0, 4.0]], [5.0, 1.0]) == pytest.approx([0.6, 0.8])
    assert fuse([bad]) is None


def test_a_weight_of_zero_takes_a_source_out_of_the_maximum_too() -> None:
    assert fuse([[1.0, 0.0], [-1.0, -1.0]], [0.0, 1.0], method="max") == pytest.approx(
        [-(0.5**0.5)] * 2
    )


def test_sources_that_cancel_leave_no_prior() -> None:
    assert fuse([[1.0, -1.0], [-1.0, 1.0]]) is None


@pytest.mark.parametrize(
    ("scores", "weight", "expected"),
    [
        (None, 1.0, "missing"),
        ([math.nan], 1.0, "not_finite"),
        ([None], 1.0, "not_finite"),
        ([0.0], 1.0, "all_zero"),
        ([1.0], 0.0, "weightless"),
        ([1.0], 1.0, None),
    ],
)
def test_defects_have_names(scores: Any, weight: float, expected: str | None) -> None:
    assert find_defect(scores, weight) == expected


def test_a_data_set_gets_a_prior_column_and_its_provenance() -> None:
    facts: dict[str, dict[str, Any]] = {
        "cap": {"word_pattern": r"\S+"},
        "lime": {"word_pattern": r"\S+", "samples": 9},
    }
    fused = fuse_priors(table([[3.0, 4.0]], [[10.0, 0.0]], facts=facts), weights={"cap": 1})
    assert fused["prior"][0] == pytest.approx([0.8, 0.4])
    made = json.loads(fused["provenance"][0])
    assert made["lime"] == {"word_pattern": r"\S+", "samples": 9}
    assert made["prior"] == {
        "sources": ["cap", "lime"],
        "method": "mean",
        "normalisation": "l2",
        "weights": {"cap": 1},
        "certainty": {},
        "word_pattern": r"\S+",
    }


def test_only_the_named_sources_are_fused() -> None:
    assert fuse_priors(table([[3.0, 4.0]], [[1.0, 0.0]]), ["cap"])["prior"][0] == pytest.approx(
        [0.6, 0.8]
    )


def test_what_was_left_out_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hf_cap")
    data = table(
        [[1.0, 0.0], None, [math.nan, 0.0], [0.0, 0.0], [1.0, -1.0]],
        [[1.0, 0.0], None, [0.0, 1.0], [0.0, 1.0], [-1.0, 1.0]],
    )
    assert fuse_priors(data)["prior"][:] == [[1.0, 0.0], None, [0.0, 1.0], [0.0, 1.0], None]
    assert caplog.messages == [
        "2 of 5 texts have no prior; cap was left out of 1 (all zero); cap was left out of 1 (missing); "
        "cap was left out of 1 (not finite); lime was left out of 1 (missing)."
    ]


def test_certainty_weighs_a_source_on_each_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hf_cap")
    data = table(
        [[1.0, 0.0]] * 4, [[0.0, 1.0]] * 4, cap_r2=[1.0, 0.5, -0.2, None]
    )  # fmt: skip
    fused = fuse_priors(data, certainty={"cap": "cap_r2"})
    expected = [[0.5, 0.5], [1 / 3, 2 / 3], [0.0, 1.0], [0.0, 1.0]]
    for row, prior in enumerate(expected):
        assert fused["prior"][row] == pytest.approx(prior)
    assert "cap was left out of 2 (weightless)" in caplog.text


def test_a_split_whose_first_rows_have_no_prior_keeps_the_column_type(tmp_path: Path) -> None:
    none: list[Scores] = [None]
    data = DatasetDict(
        {
            "train": table(none * 1500 + [[1.0, 0.0]], none * 1501),
            "test": table(none, none),
        }
    )
    fused = fuse_priors(data)
    assert fused["train"].features == fused["test"].features
    assert fused["train"][1500]["prior"] == [1.0, 0.0]
    fused["train"].to_parquet(str(tmp_path / "train.parquet"))
    again = Dataset.from_parquet(str(tmp_path / "train.parquet"), cache_dir=str(tmp_path))
    assert again[1500]["prior"] == [1.0, 0.0]
    assert again[0]["prior"] is None


def test_a_prior_of_the_wrong_length_is_an_error_and_not_a_gap() -> None:
    with pytest.raises(PriorError, match=r"'prior_lime', row 1: 3 scores for 2 words"):
        fuse_priors(table([[1.0, 0.0]] * 2, [[1.0, 0.0], [1.0, 0.0, 0.0]]))


def test_sources_of_different_words_are_refused() -> None:
    facts = {"cap": {"word_pattern": r"\S+"}, "lime": {"word_pattern": r"\w+"}}
    with pytest.raises(PriorError, match=r"different 'word_pattern'"):
        fuse_priors(table([[1.0, 0.0]], [[1.0, 0.0]], facts=facts))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "sum"}, r"`method` must be one of 'mean', 'max', got 'sum'"),
        ({"normalisation": "l1"}, "`normalisation` must be one of"),
        ({"weights": {"shap": 1.0}}, "'shap' has a weight or a certainty but is not fused"),
        ({"certainty": {"shap": "x"}}, "'shap' has a weight or a certainty but is not fused"),
        ({"weights": {"cap": -1.0}}, "weight of 'cap' must be at least 0, got -1.0"),
        ({"weights": {"cap": math.nan}}, "weight of 'cap' must be at least 0, got nan"),
        ({"weights": {"cap": 0.0, "lime": 0.0}}, "All sources have a weight of 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fuse_priors(table([[1.0, 0.0]], [[1.0, 0.0]]), **settings)


def test_missing_columns_are_named_with_those_that_exist() -> None:
    with pytest.raises(DataError, match=r"'prior_shap'.*'prior_cap'"):
        fuse_priors(table([[1.0, 0.0]], [[1.0, 0.0]]), ["shap"])
    with pytest.raises(DataError, match=r"no column prior_<source> among \['text'\]"):
        fuse_priors(Dataset.from_dict({"text": ["a"]}))


def test_the_result_does_not_depend_on_the_batch() -> None:
    data = table([[float(i), 1.0] for i in range(7)], [[1.0, float(-i)] for i in range(7)])
    fusion = PriorFusion(sources=("cap", "lime"))
    whole = fusion(data[:])["prior"]
    assert whole == [fusion(data[i : i + 1])["prior"][0] for i in range(7)]
