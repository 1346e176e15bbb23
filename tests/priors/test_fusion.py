import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hf_cap.cues import Mark, save_marks
from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.priors.fusion import (
    METHODS,
    NORMALISATIONS,
    Method,
    Normalisation,
    PriorFusion,
    fuse,
    fuse_priors,
)

Scores = list[float] | None


def table(first: Sequence[Scores], second: Sequence[Scores], **columns: list[Any]) -> Dataset:
    data = {
        "words": [["renew", "book"]] * len(first), "prior_cap": list(first), "prior_lime": list(second),
        "provenance": [None] * len(first), **columns,
    }  # fmt: skip
    scores = dict.fromkeys(("prior_cap", "prior_lime"), List(Value("float64")))
    others = {name: Value("float64") for name in columns}
    features = {"words": List(Value("string")), **scores, **others, "provenance": Value("string")}
    return Dataset.from_dict(data, Features(features))


def test_shortcuts_come_from_a_file_or_from_python(tmp_path: Path) -> None:
    data = Dataset.from_dict({"text": ["hi anna renew", "hi ben stop"], "label": [0, 1]})
    data = data.cast_column("label", ClassLabel(names=["renewal", "stop"]))
    marks = [
        Mark(kind="word", value="anna", label="renewal"),
        Mark(kind="word", value="hi", label="stop", decision="fine"),
    ]
    save_marks(marks, tmp_path / "marks.yaml")
    expected = [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
    assert fuse_priors(data, marks=marks)["prior"][:] == expected
    assert fuse_priors(data, shortcuts=str(tmp_path / "marks.yaml"))["prior"][:] == expected
    with pytest.raises(DataError, match="label 'go', which the data do not have"):
        fuse_priors(data, marks=[*marks, Mark(kind="word", value="anna", label="go")])


def test_every_choice_has_a_function() -> None:
    assert set(METHODS) == set(get_args(Method))
    assert set(NORMALISATIONS) == set(get_args(Normalisation))


@pytest.mark.parametrize(
    ("name", "scores", "expected"),
    [
        ("l2", [3.0, -4.0, 0.0], [0.6, -0.8, 0.0]),
        ("max_abs", [3.0, -4.0, 0.0], [0.75, -1.0, 0.0]),
        ("min_max", [3.0, -4.0, 0.0], [1.0, 0.0, 4 / 7]),
        ("min_max", [0.3, 0.3], [1.0, 1.0]),  # all the strongest
        ("none", [3.0, -4.0, 0.0], [3.0, -4.0, 0.0]),
        ("softmax", [math.log(1), math.log(2), math.log(5)], [1 / 8, 2 / 8, 5 / 8]),
        ("softmax", [1000.0, 1000.0], [0.5, 0.5]),
        *((name, [0.0, 0.0], [0.0, 0.0]) for name in ("l2", "max_abs", "min_max", "none")),
        *((name, [], []) for name in get_args(Normalisation)),
    ],
)
def test_known_answers(name: Normalisation, scores: list[float], expected: list[float]) -> None:
    assert NORMALISATIONS[name](scores) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["l2", "max_abs"])
def test_scale_of_a_source_does_not_matter(name: Normalisation) -> None:
    expected = NORMALISATIONS[name]([1.0, -2.0, 2.0])
    for scale in (1e-200, 1e-3, 1e200):
        assert NORMALISATIONS[name]([scale, -2 * scale, 2 * scale]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("priors", "weights", "method", "expected"),
    [
        ([[3.0, 4.0], [10.0, 0.0]], [1.0, 1.0], "mean", [0.8, 0.4]),
        ([[3.0, -4.0], [-1.0, 0.0]], [1.0, 1.0], "max", [0.6, 0.0]),  # signed
        ([[1.0, 0.0], [0.0, 1.0]], [3.0, 1.0], "mean", [0.75, 0.25]),
        ([[1.0, 0.0], [0.0, 1.0]], [300.0, 100.0], "mean", [0.75, 0.25]),  # ratios alone count
        ([[1.0, 0.0], [0.0, 1.0]], [3.0, 1.0], "max", [1.5, 0.5]),
        ([[1.0, 0.0], [-3.0, -4.0]], [0.0, 1.0], "max", [-0.6, -0.8]),  # weight 0: left out
        *(([[3.0, -4.0]], [0.2], method, [0.6, -0.8]) for method in get_args(Method)),
        *(
            ([unusable, [3.0, 4.0]], [5.0, 1.0], "mean", [0.6, 0.8])
            for unusable in (None, [math.nan, 1.0], [math.inf, 0.0], [None, 1.0], [0.0, 0.0])
        ),
        ([None, None], [1.0, 1.0], "mean", None),
        ([[1.0, -1.0], [-1.0, 1.0]], [1.0, 1.0], "mean", None),  # they cancel
    ],
)
def test_known_fusions(priors: Any, weights: list[float], method: Method, expected: Scores) -> None:
    assert fuse(priors, weights, method) == pytest.approx(expected)


def test_sources_are_normalised_as_the_settings_say() -> None:
    data = table([[3.0, 4.0]], [[0.0, 2.0]])
    assert fuse_priors(data, normalisation="max_abs")["prior"][0] == [0.375, 1.0]
    assert fuse_priors(data, normalisation="none")["prior"][0] == [1.5, 3.0]
    assert fuse_priors(data)["prior"][0] == pytest.approx([0.3, 0.9])
    assert fuse_priors(data, ["cap"])["prior"][0] == pytest.approx([0.6, 0.8])


def test_the_provenance_tells_the_fusion_and_what_its_sources_share() -> None:
    cell = json.dumps({"cap": {"word_pattern": r"\S+"}, "lime": {"word_pattern": r"\S+", "n": 9}})
    data = table([[3.0, 4.0]], [[10.0, 0.0]]).remove_columns("provenance")
    fused = fuse_priors(data.add_column("provenance", [cell]), weights={"cap": 1})
    made = json.loads(fused["provenance"][0])
    assert made["lime"] == {"word_pattern": r"\S+", "n": 9}
    assert made["prior"] == {
        "sources": ["cap", "lime"], "method": "mean", "normalisation": "l2", "weights": {"cap": 1},
        "certainty": {}, "punctuation": False, "word_pattern": r"\S+",
    }  # fmt: skip
    other = cell.replace('S+", "n', 'w+", "n')
    with pytest.raises(PriorError, match=r"different 'word_pattern'"):
        fuse_priors(data.add_column("provenance", [other]))


@pytest.mark.parametrize("normalisation", get_args(Normalisation))
def test_punctuation_apart_gets_nothing_and_the_words_what_they_get_without_it(
    normalisation: Normalisation,
) -> None:
    words = ["what", "?", "is", "it?", ":)", "..."]
    cap, lime = [3.0, 9.0, -1.0, 0.0, 2.0, -5.0], [1.0, 1.0, 0.0, 0.0, 0.0, 7.0]
    bare = [0, 2, 3, 4]

    def fused(kept: Sequence[int], **settings: Any) -> list[float]:
        shown = [words[i] for i in kept]
        data = table([[cap[i] for i in kept]], [[lime[i] for i in kept]])
        data = data.remove_columns("words").add_column("words", [shown])
        prior: list[float] = fuse_priors(data, normalisation=normalisation, **settings)["prior"][0]
        return prior

    whole = fused(range(6))
    assert [whole[1], whole[5]] == [0, 0]
    assert [whole[i] for i in bare] == fused(bare)
    assert fused(range(6), punctuation=True)[1] > 0


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
    data = table([[1.0, 0.0]] * 4, [[0.0, 1.0]] * 4, cap_r2=[1.0, 0.5, -0.2, None])
    fused = fuse_priors(data, certainty={"cap": "cap_r2"})
    expected = [[0.5, 0.5], [1 / 3, 2 / 3], [0.0, 1.0], [0.0, 1.0]]
    for prior, scores in zip(fused["prior"], expected, strict=True):
        assert prior == pytest.approx(scores)
    assert "cap was left out of 2 (weightless)" in caplog.text


def test_a_split_whose_first_rows_have_no_prior_keeps_the_column_type(tmp_path: Path) -> None:
    none: list[Scores] = [None]
    train = table(none * 1500 + [[1.0, 0.0]], none * 1501)
    fused = fuse_priors(DatasetDict({"train": train, "test": table(none, none)}))
    assert fused["train"].features == fused["test"].features
    fused["train"].to_parquet(str(tmp_path / "train.parquet"))
    again = Dataset.from_parquet(str(tmp_path / "train.parquet"), cache_dir=str(tmp_path))
    assert again["prior"][1499:] == [None, [1.0, 0.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "sum"}, r"`method` must be one of 'mean', 'max', got 'sum'"),
        ({"normalisation": "l1"}, "`normalisation` must be one of"),
        ({"weights": {"shap": 1.0}}, "'shap' has a weight or a certainty but is not among"),
        ({"certainty": {"shap": "x"}}, "'shap' has a weight or a certainty but is not among"),
        ({"weights": {"cap": -1.0}}, "weight of 'cap' must be at least 0, got -1.0"),
        ({"weights": {"cap": math.nan}}, "weight of 'cap' must be at least 0, got nan"),
        ({"weights": {"cap": 0.0, "lime": 0.0}}, "All sources have a weight of 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fuse_priors(table([[1.0, 0.0]], [[1.0, 0.0]]), **settings)


def test_data_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PriorError, match=r"'prior_lime', row 1: 3 scores for 2 words"):
        fuse_priors(table([[1.0, 0.0]] * 2, [[1.0, 0.0], [1.0, 0.0, 0.0]]))
    with pytest.raises(DataError, match=r"'prior_shap'.*'prior_cap'"):
        fuse_priors(table([[1.0, 0.0]], [[1.0, 0.0]]), ["shap"])
    with pytest.raises(DataError, match=r"'prior_<source>'.*\['words'\]"):
        fuse_priors(Dataset.from_dict({"words": [["a"]]}))


def test_the_result_does_not_depend_on_the_batch() -> None:
    data = table([[float(i), 1.0] for i in range(7)], [[1.0, float(-i)] for i in range(7)])
    fusion = PriorFusion(sources=("cap", "lime"))
    whole = fusion(data[:])["prior"]
    assert whole == [fusion(data[i : i + 1])["prior"][0] for i in range(7)]
