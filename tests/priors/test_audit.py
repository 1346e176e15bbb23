import json
from itertools import product
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.priors.audit import (
    DEGENERATE,
    AuditSettings,
    Prior,
    audit_dataset,
    average_precision,
    class_keywords,
    class_overlaps,
    degenerate_cases,
    mass_by_kind,
    mean,
    pairwise,
    spearman,
    top_agreement,
    word_kind,
)
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


def test_an_audit_is_plain_json() -> None:
    audit = audit_dataset(priors(), reference())
    assert json.loads(json.dumps(audit.to_dict()))["rank_correlation"]["cap"]["cap"] == 1


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


# --- The measures


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys_with_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, 4, (2, 9)).astype(float).tolist()
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)


@pytest.mark.parametrize("other", [None, [1.0, 1.0], []])
def test_spearman_of_nothing_is_none(other: list[float] | None) -> None:
    assert spearman([1.0, 2.0], other) is None
    assert spearman(other, [1.0, 2.0]) is None


def test_the_highest_words_that_two_priors_share() -> None:
    first, second = [5.0, 4.0, 1.0, 0.0], [4.0, 1.0, 5.0, 0.0]
    assert top_agreement(first, second, 1) == 0
    assert top_agreement(first, second, 2) == 0.5
    assert top_agreement(first, second, 3) == 1
    assert top_agreement(first, second, 4) is None
    assert top_agreement(first, None) is None


def test_ties_count_by_chance() -> None:
    """Two of the three tied words are taken at random on one side: 1/3 is the mean over the choices."""
    tied, certain = [1.0, 1.0, 1.0, 0.0], [0.0, 3.0, 0.0, 2.0]
    choices = [{0, 1}, {0, 2}, {1, 2}]
    expected = np.mean([len(choice & {1, 3}) / 2 for choice in choices])
    assert top_agreement(tied, certain, 2) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_scikit_learns(seed: int) -> None:
    generator = np.random.default_rng(seed)
    prior = generator.integers(0, 5, 12).astype(float).tolist()
    marked = [1.0, *generator.integers(0, 2, 10).astype(float).tolist(), 0.0]
    assert average_precision(prior, marked) == pytest.approx(average_precision_score(marked, prior))


def test_average_precision_needs_marked_and_unmarked_words() -> None:
    assert average_precision([1.0, 2.0], [1.0, 1.0]) is None
    assert average_precision([1.0, 2.0], [0.0, 0.0]) is None
    assert average_precision(None, [0.0, 1.0]) is None


def test_a_mean_leaves_out_what_could_not_be_measured() -> None:
    found = mean([1.0, None, 2.0, 3.0])
    assert (found.value, found.texts) == (2.0, 3)
    assert found.half_width == pytest.approx(1.96 / 3**0.5)
    assert mean([None]).value is None
    assert mean([1.0]).half_width is None


def test_a_pairwise_table_is_symmetric() -> None:
    priors: dict[str, list[Prior]] = {"a": [[1.0, 2.0, 3.0]], "b": [[3.0, 2.0, 1.0]], "c": [None]}
    table = pairwise(priors, spearman)
    assert table["a"]["b"] == table["b"]["a"] == pytest.approx(-1)
    assert [table[name][name] for name in priors] == [1, 1, 1]
    assert table["a"]["c"] is None
    assert all(first in table[second] for first, second in product(priors, priors))


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("The", "stop word"),
        ("I'm,", "stop word"),
        ("2nd", "number"),
        ("?!", "punctuation"),
        ("card", "other"),
    ],
)
def test_kinds_of_words(word: str, kind: str) -> None:
    assert word_kind(word) == kind


def test_mass_is_the_mean_share_of_absolute_scores() -> None:
    words = [["the", "card", "?"], ["7", "cards"], ["a"], ["b"]]
    found = mass_by_kind(words, [[1.0, -2.0, 1.0], [0.0, 9.0], None, [0.0]])
    assert found == {"stop word": 0.125, "number": 0.0, "punctuation": 0.125, "other": 0.75}


def test_keywords_are_averaged_over_all_texts_of_the_class() -> None:
    words = [["Renew", "book"], ["renew", "rare"], ["lost", "book"]]
    priors = [[3.0, 4.0], [4.0, 3.0], [-1.0, 0.0]]
    first, second = class_keywords(words, [0, 0, 1], priors, 2, k=2)
    assert [word for word, _ in first] == ["renew", "book"]
    assert [score for _, score in first] == pytest.approx([0.7, 0.4])
    assert second == []


def test_overlap_of_classes_is_the_jaccard_index() -> None:
    pairs = class_overlaps({"x": ["a", "b"], "y": ["b", "c"], "z": ["b", "a"], "w": []})
    assert [(pair.classes, pair.overlap, pair.shared) for pair in pairs] == [
        (("x", "z"), 1.0, ("a", "b")),
        (("x", "y"), 1 / 3, ("b",)),
        (("y", "z"), 1 / 3, ("b",)),
    ]


def test_degenerate_priors_are_counted() -> None:
    words = [["lost", "card"], ["my", "card"], ["a", "b"], ["a"], ["the", "card"]]
    priors = [[2.0, 1.0], [1.0, 1.0], None, [3.0], [0.0, -1.0]]
    found = degenerate_cases(words, ["Lost_book"] * 5, priors)
    assert found == {"missing": 0.2, "constant": 0.2, "one_word": 0.2, "label_copied": 0.2}
    assert tuple(found) == DEGENERATE
