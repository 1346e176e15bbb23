import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.priors.audit import audit_dataset, write_audit
from hf_cap.priors.audit_figures import FIGURES
from hf_cap.priors.base import AuditSettings
from hf_cap.words import count_words, log_odds

NAMES = ["lost", "renew"]
ROWS = [
    ("i lost my card", 0, [0.0, 3.0, 0.0, 1.0]),
    ("the card is gone", 0, [0.0, 1.0, 0.1, 2.0]),
    ("renew my book please", 1, [3.0, 0.0, 1.0, -0.5]),
    ("extend the book loan", 1, [2.0, 0.0, 1.0, 1.5]),
]


def priors(**columns: list[Any]) -> Dataset:
    features = {
        "text": Value("string"),
        "label": ClassLabel(names=NAMES),
        "words": List(Value("string")),
        "prior_cap": List(Value("float64")),
        "cap_r2": Value("float64"),
    }
    data: dict[str, list[Any]] = {
        "text": [text for text, _, _ in ROWS],
        "label": [label for _, label, _ in ROWS],
        "words": [text.split() for text, _, _ in ROWS],
        "prior_cap": [scores for _, _, scores in ROWS],
        "cap_r2": [0.1, 0.5, None, 0.9],
        **columns,
    }
    more = {name: List(Value("float64")) for name in columns if name not in features}
    return Dataset.from_dict(data, Features({**features, **more}))


def reference(names: list[str] = NAMES) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    texts = ["lost card", "card gone", "i lost it", "renew book", "extend loan", "renew my loan"]
    gold = ["lost", "lost", "lost", "renew", "renew", "renew"]
    return Dataset.from_dict({"text": texts, "label": gold}, features)


def test_the_controls_stand_beside_the_sources() -> None:
    audit = audit_dataset(priors())
    assert audit.sources == ("cap",)
    assert list(audit.rank_correlation) == ["cap", "random", "word_length"]
    assert list(audit.mass) == ["cap", "random", "word_length"]
    assert list(audit.degenerate) == ["cap"]
    assert audit.log_odds is None
    assert audit.rationales is None


def test_a_prior_of_the_reference_log_odds_agrees_fully() -> None:
    ref = reference()
    counts = count_words(ref["text"], ref["label"], 2)
    oracle = [[log_odds(counts, word)[label] for word in text.split()] for text, label, _ in ROWS]
    audit = audit_dataset(priors(prior_oracle=oracle), ref)
    assert audit.log_odds is not None
    assert audit.log_odds["oracle"].rank_correlation.value == pytest.approx(1)
    cap = audit.log_odds["cap"].rank_correlation.value
    assert cap is not None
    assert 0.3 < cap < 1


def test_labels_of_the_reference_are_matched_by_name() -> None:
    same = audit_dataset(priors(), reference()).log_odds
    assert audit_dataset(priors(), reference(NAMES[::-1])).log_odds == same


def test_people_are_a_standard_where_they_marked_words() -> None:
    marks = [[0.0, 1.0, 0.0, 0.0], [0.0] * 4, [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    audit = audit_dataset(priors(prior_rationale=marks))
    assert audit.rationales is not None
    assert audit.rationales["cap"].average_precision.value == 1
    assert audit.rationales["cap"].average_precision.texts == 3
    assert "rationale" not in audit.rationales


def test_the_fused_prior_is_audited_too_and_null_is_counted() -> None:
    audit = audit_dataset(priors(prior=[None, *[scores for _, _, scores in ROWS[1:]]]))
    assert audit.sources == ("cap", "prior")
    assert audit.degenerate["prior"]["missing"] == 0.25
    assert audit.rank_correlation["cap"]["prior"] == pytest.approx(1)


def test_keywords_and_overlap_of_classes() -> None:
    audit = audit_dataset(priors(), settings=AuditSettings(keywords=2))
    keywords = {name: [word for word, _ in found] for name, found in audit.keywords["cap"].items()}
    assert keywords == {"lost": ["lost", "gone"], "renew": ["renew", "extend"]}
    assert audit.class_overlap == {"cap": 0.0}
    assert audit_dataset(priors()).confused_classes["cap"] == []


def test_the_overlap_is_the_mean_over_all_pairs_of_classes() -> None:
    alike = priors(prior_cap=[[1.0] * 4] * 4)
    overlap = 2 / 12  # `my` and `the`, of seven words each
    assert audit_dataset(alike).class_overlap["cap"] == pytest.approx(overlap)
    three = alike.cast_column("label", ClassLabel(names=[*NAMES, "pay"]))
    audit = audit_dataset(three)
    assert audit.class_overlap["cap"] == pytest.approx(overlap / 3)
    assert [pair.classes for pair in audit.confused_classes["cap"]] == [("lost", "renew")]


def test_of_the_confused_classes_the_most_confused_are_shown() -> None:
    data = Dataset.from_dict(
        {
            "text": ["fee due", "fee now", "fee paid now"],
            "label": [0, 1, 2],
            "words": [["fee", "due"], ["fee", "now"], ["fee", "paid", "now"]],
            "prior_cap": [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0, 1.0]],
        }
    ).cast_column("label", ClassLabel(names=["owe", "wait", "settle"]))
    audit = audit_dataset(data, settings=AuditSettings(pairs=1))
    assert [pair.classes for pair in audit.confused_classes["cap"]] == [("wait", "settle")]


def test_agreement_is_on_as_many_words_as_were_asked_for() -> None:
    data = priors(prior_cap=[[4.0, 3.0, 2.0, 1.0]] * 4, prior=[[3.0, 4.0, 1.0, 2.0]] * 4)
    one, two = (
        audit_dataset(data, settings=AuditSettings(top_k=k)).top_k_agreement["cap"]["prior"]
        for k in (1, 2)
    )
    assert (one, two) == (0, 1)


def test_diagnostics_are_described_by_quantiles() -> None:
    found = audit_dataset(priors()).certainty["cap_r2"]
    assert found.quantiles == pytest.approx((0.1, 0.3, 0.5, 0.7, 0.9))
    assert sum(found.counts) == 3


def test_the_files_are_json_png_and_svg(tmp_path: Path) -> None:
    marks = [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    confused = [[1.0, 1.0, 1.0, 1.0]] * 4
    data = priors(prior_rationale=marks, prior=confused)
    audit = audit_dataset(data, reference(), tmp_path)
    assert json.loads((tmp_path / "audit.json").read_text()) == json.loads(
        json.dumps(audit.to_dict())
    )
    for name in FIGURES:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_figures_without_facts_are_not_drawn(tmp_path: Path) -> None:
    write_audit(audit_dataset(priors().remove_columns("cap_r2")), tmp_path)
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {"rank_correlation", "top_k_agreement", "mass"}


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="no priors to audit"):
        audit_dataset(priors().remove_columns("prior_cap"))
    with pytest.raises(PriorError, match=r"'prior_cap', row 3: 1 scores for 4 words"):
        audit_dataset(priors(prior_cap=[*[scores for _, _, scores in ROWS[:3]], [1.0]]))
    with pytest.raises(DataError, match=r"other labels than the priors: \['pay'\]"):
        audit_dataset(priors(), reference([*NAMES, "pay"]))
    with pytest.raises(ConfigError, match="`top_k` must be at least 1, got 0"):
        AuditSettings(top_k=0)


def with_patterns(*patterns: str) -> Dataset:
    facts = {f"source{number}": {"word_pattern": one} for number, one in enumerate(patterns)}
    words = [list("lost"), list("card"), list("rene"), list("book")]
    return priors(words=words).add_column("provenance", [json.dumps(facts)] * len(ROWS))


def test_words_of_the_reference_are_found_as_those_of_the_priors() -> None:
    # by the default pattern the reference has none of these words
    data = with_patterns(r"\S")
    found = audit_dataset(data, reference()).log_odds
    assert found is not None
    assert found["cap"].rank_correlation.value is not None
    asked = audit_dataset(data, reference(), settings=AuditSettings(word_pattern=r"\S")).log_odds
    assert asked == found


def test_another_word_pattern_than_that_of_the_priors_is_refused() -> None:
    data = with_patterns(r"\S+")
    with pytest.raises(ConfigError, match=r"word_pattern='\[a-z\]'.*Leave it out"):
        audit_dataset(data, reference(), settings=AuditSettings(word_pattern="[a-z]"))
    with pytest.raises(ConfigError, match="several word patterns"):
        audit_dataset(with_patterns(r"\S+", r"\w+"), reference())
    assert audit_dataset(with_patterns(r"\S+", r"\w+")).log_odds is None
