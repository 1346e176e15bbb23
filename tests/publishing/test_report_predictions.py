"""Calibration, confusions and keywords of the report, with answers known on paper."""

from typing import Any

import pytest

from hf_cap.report.contents import (
    FUSED,
    RunGroup,
    audit_keywords,
    calibration,
    confusion,
    group_runs,
    model_keywords,
    prior_audit,
)
from hf_cap.report.load import Run


def group(**columns: list[Any]) -> RunGroup:
    evaluations = {"test": {"labels": ["a", "b", "c"]}}
    (found,) = group_runs([Run("run", {}, evaluations, {"test": columns})])
    return found


def test_calibration_error_by_hand() -> None:
    # two texts at 0.95, one of them right: |0.95 - 0.5| * 2/3; one at 0.6, right: |0.6 - 1| * 1/3
    records = group(
        label=["a", "a", "b"],
        prediction=["a", "b", "b"],
        probabilities=[[0.95, 0.05], [0.05, 0.95], [0.4, 0.6]],
    )
    found = calibration(0, records, "test")
    assert found is not None
    assert found.error == pytest.approx(0.45 * 2 / 3 + 0.4 / 3)
    assert [b.confidence for b in found.bins] == pytest.approx([0.6, 0.95])
    assert [(b.accuracy, b.texts) for b in found.bins] == [(1.0, 1), (0.5, 2)]


def test_full_confidence_belongs_to_the_last_bin() -> None:
    found = calibration(0, group(label=["a"], prediction=["a"], probabilities=[[1.0, 0.0]]), "test")
    assert found is not None
    assert (found.error, found.bins[0].texts) == (0.0, 1)


def test_confusions_are_counted_and_sorted() -> None:
    records = group(label=list("aaabbb"), prediction=list("abbbba"))
    found = confusion(0, records, "test", {"a": ["card", "my"], "b": ["my", "loan"]}, "prior")
    assert found is not None
    assert found.labels == ("a", "b", "c")
    assert found.counts == {(0, 0): 1, (0, 1): 2, (1, 1): 2, (1, 0): 1}
    assert [(p.gold, p.predicted, p.texts, p.of, p.shared) for p in found.pairs] == [
        ("a", "b", 2, 3, ("my",)),
        ("b", "a", 1, 3, ("my",)),
    ]


def test_without_records_there_is_nothing() -> None:
    (empty,) = group_runs([Run("run", {})])
    assert calibration(0, empty, "test") is None
    assert confusion(0, empty, "test", {}, None) is None


def test_model_keywords_are_the_highest_positive_totals() -> None:
    records: dict[str, list[Any]] = {
        "words": [["Lost", "card"], ["lost", "loan"], ["card"]],
        "attributions": [[1.0, 0.5], [1.0, -3.0], None],
        "prediction": ["a", "a", "b"],
    }
    assert model_keywords([records]) == {"a": ("lost", "card")}


AUDIT = {
    "texts": 12,
    "rank_correlation": {
        "cap": {"cap": 1.0, "prior": 0.5},
        "prior": {"cap": 0.5, "prior": None},
    },
    "keywords": {"prior": {"a": [["card", 0.4], ["my", 0.1]]}, "cap": {"a": [["cap", 0.1]]}},
    "confused_classes": {"prior": [{"classes": ["a", "b"], "overlap": 0.25, "shared": ["my"]}]},
    "class_overlap": {"cap": 0.1, "prior": 0.2},
    "mass": {"cap": {"stop word": 0.4, "other": 0.6}},
    "degenerate": {"cap": {"missing": 0.0, "constant": 0.125}},
    "log_odds": {
        "cap": {"rank_correlation": {"value": 0.3, "half_width": 0.1, "texts": 12}},
        "random": {"rank_correlation": {"value": None, "half_width": None, "texts": 0}},
    },
    "rationales": None,
}


def test_an_audit_is_read() -> None:
    found = prior_audit(AUDIT)
    assert found.texts == 12
    assert found.sources == ("cap", FUSED)
    assert found.correlations[(FUSED, "cap")] == 0.5
    assert (FUSED, FUSED) not in found.correlations
    figures = {table.title: [(f.source, f.value) for f in table.figures] for table in found.tables}
    assert figures == {
        "What is a source worth?": [("cap", 0.3)],
        "How much lies on stop words?": [("cap", 0.4)],
        "Do labels share keywords?": [("cap", 0.1), (FUSED, 0.2)],
    }
    assert found.keywords == {"a": ("card", "my")}
    assert [(p.one, p.other, p.overlap, p.shared) for p in found.overlaps] == [
        ("a", "b", 0.25, ("my",))
    ]
    assert found.warnings == ("cap: 12.5 % of the texts have the same score on every word.",)


def test_an_empty_audit_is_no_error() -> None:
    found = prior_audit({})
    assert (found.sources, found.tables, found.keywords, found.warnings) == ((), (), {}, ())


def test_keywords_are_of_the_first_source_where_nothing_was_fused() -> None:
    assert audit_keywords({"keywords": {"cap": {"a": [["lost", 1.0]]}}}) == {"a": ("lost",)}
    assert audit_keywords({}) == {}
