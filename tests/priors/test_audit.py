import json
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from hf_cap.cues import Mark
from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.priors import audit
from hf_cap.priors.audit import audit_dataset
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
        "text": Value("string"), "label": ClassLabel(names=NAMES), "words": List(Value("string")),
        "prior_cap": List(Value("float64")), "cap_r2": Value("float64"),
    }  # fmt: skip
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


def test_an_audit_is_json_with_the_controls_beside_the_sources() -> None:
    made = audit_dataset(priors())
    assert json.loads(json.dumps(made))["rank_correlation"]["cap"]["cap"] == 1
    assert made["sources"] == list(made["degenerate"]) == ["cap"]
    assert list(made["rank_correlation"]) == list(made["mass"]) == ["cap", "random", "word_length"]
    assert made["log_odds"] is made["rationales"] is None
    table = made["rank_correlation"]
    assert all(table[one][other] == table[other][one] for one in table for other in table)


def test_a_prior_of_the_reference_log_odds_agrees_fully() -> None:
    ref = reference()
    counts = count_words(ref["text"], ref["label"], 2)
    oracle = [[log_odds(counts, word)[label] for word in text.split()] for text, label, _ in ROWS]
    found = audit_dataset(priors(prior_oracle=oracle), ref)["log_odds"]
    assert found["oracle"]["rank_correlation"]["value"] == pytest.approx(1)
    assert 0.3 < found["cap"]["rank_correlation"]["value"] < 1
    # labels are matched by name, not by number
    turned = audit_dataset(priors(prior_oracle=oracle), reference(NAMES[::-1]))
    assert turned["log_odds"] == found


def test_people_are_a_standard_where_they_marked_words() -> None:
    marks = [[0.0, 1.0, 0.0, 0.0], [0.0] * 4, [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    found = audit_dataset(priors(prior_rationale=marks))["rationales"]
    assert found["cap"]["average_precision"] == {"value": 1, "half_width": 0, "texts": 3}
    assert "rationale" not in found
    unmarked = [marks[0], *([0.0] * 4 for _ in marks[1:])]
    found = audit_dataset(priors(prior_rationale=unmarked))["rationales"]
    assert found["cap"]["top_word"] == {"value": 1.0, "half_width": None, "texts": 1}


def test_the_fused_prior_is_audited_too_and_null_is_counted() -> None:
    made = audit_dataset(priors(prior=[None, *[scores for _, _, scores in ROWS[1:]]]))
    assert made["sources"] == ["cap", "prior"]
    assert made["degenerate"]["prior"]["missing"] == 0.25
    assert made["rank_correlation"]["cap"]["prior"] == pytest.approx(1)


def test_keywords_of_classes_and_their_mean_overlap_over_all_pairs() -> None:
    made = audit_dataset(priors(), settings=AuditSettings(keywords=2))
    found = {name: [word for word, _ in words] for name, words in made["keywords"]["cap"].items()}
    assert found == {"lost": ["lost", "gone"], "renew": ["renew", "extend"]}
    assert made["class_overlap"] == {"cap": 0.0}
    assert made["confused_classes"] == {"cap": []}
    three = priors(prior_cap=[[1.0] * 4] * 4).cast_column("label", ClassLabel(names=[*NAMES, "pay"]))
    made = audit_dataset(three)
    assert made["class_overlap"]["cap"] == pytest.approx(2 / 12 / 3)  # `my` and `the`, 3 pairs
    assert [pair["classes"] for pair in made["confused_classes"]["cap"]] == [("lost", "renew")]


def test_the_settings_say_how_many_pairs_and_words_count() -> None:
    data = Dataset.from_dict(
        {
            "label": [0, 1, 2],
            "words": [["fee", "due"], ["fee", "now"], ["fee", "paid", "now"]],
            "prior_cap": [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0, 1.0]],
        }
    ).cast_column("label", ClassLabel(names=["owe", "wait", "settle"]))
    made = audit_dataset(data, settings=AuditSettings(pairs=1))
    assert [pair["classes"] for pair in made["confused_classes"]["cap"]] == [("wait", "settle")]
    data = priors(prior_cap=[[4.0, 3.0, 2.0, 1.0]] * 4, prior=[[3.0, 4.0, 1.0, 2.0]] * 4)
    for k, agreement in ((1, 0), (2, 1)):
        made = audit_dataset(data, settings=AuditSettings(top_k=k))
        assert made["top_k_agreement"]["cap"]["prior"] == agreement


def test_diagnostics_are_described_by_quantiles() -> None:
    found = audit_dataset(priors())["certainty"]["cap_r2"]
    assert found["quantiles"] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert sum(found["counts"]) == 3


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="no priors to audit"):
        audit_dataset(priors().remove_columns("prior_cap"))
    with pytest.raises(PriorError, match=r"'prior_cap', row 3: 1 scores for 4 words"):
        audit_dataset(priors(prior_cap=[*[scores for _, _, scores in ROWS[:3]], [1.0]]))
    with pytest.raises(DataError, match=r"other labels than the priors: \['pay'\]"):
        audit_dataset(priors(), reference([*NAMES, "pay"]))


def with_patterns(*patterns: str) -> Dataset:
    facts = {f"source{number}": {"word_pattern": one} for number, one in enumerate(patterns)}
    words = [list("lost"), list("card"), list("rene"), list("book")]
    return priors(words=words).add_column("provenance", [json.dumps(facts)] * len(ROWS))


def test_words_of_the_reference_are_found_as_those_of_the_priors() -> None:
    # by the default pattern the reference has none of these words
    data, asked = with_patterns(r"\S"), AuditSettings(word_pattern=r"\S")
    found = audit_dataset(data, reference())["log_odds"]
    assert found["cap"]["rank_correlation"]["value"] is not None
    assert audit_dataset(data, reference(), asked)["log_odds"] == found
    with pytest.raises(ConfigError, match=r"word_pattern='\[a-z\]'.*leave it out"):
        audit_dataset(data, reference(), AuditSettings(word_pattern="[a-z]"))
    with pytest.raises(ConfigError, match=r"Name one of these"):
        audit_dataset(with_patterns(r"\S+", r"\w+"), reference())
    assert audit_dataset(with_patterns(r"\S+", r"\w+"))["log_odds"] is None


# --- The measures


@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_scipy_and_scikit_learn_with_ties(seed: int) -> None:
    first, second = np.random.default_rng(seed).integers(0, 4, (2, 9)).astype(float).tolist()
    assert audit.spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    marked = [float(score > 1) for score in first]
    expected = average_precision_score(marked, second)
    assert audit.average_precision(second, marked) == pytest.approx(expected)


@pytest.mark.parametrize("other", [None, [1.0, 1.0], []])
def test_what_cannot_be_measured_is_none(other: list[float] | None) -> None:
    assert audit.spearman([1.0, 2.0], other) is audit.spearman(other, [1.0, 2.0]) is None
    assert audit.average_precision([1.0, 2.0], other) is None
    assert audit.average_precision(None, [0.0, 1.0]) is None
    assert audit.top_agreement([1.0, 2.0], other) is audit.top_agreement(other, [1.0, 2.0]) is None


def test_the_highest_words_that_two_priors_share() -> None:
    first, second = [5.0, 4.0, 1.0, 0.0], [4.0, 1.0, 5.0, 0.0]
    assert [audit.top_agreement(first, second, k) for k in (1, 2, 3, 4)] == [0, 0.5, 1, None]
    # two of three tied words are taken at random on one side: the mean over the choices
    choices = [{0, 1}, {0, 2}, {1, 2}]
    expected = np.mean([len(choice & {1, 3}) / 2 for choice in choices])
    found = audit.top_agreement([1.0, 1.0, 1.0, 0.0], [0.0, 3.0, 0.0, 2.0], 2)
    assert found == pytest.approx(expected)


def test_a_mean_leaves_out_what_could_not_be_measured() -> None:
    width = pytest.approx(1.96 / 3**0.5)
    assert audit.mean([1.0, None, 2.0, 3.0]) == {"value": 2.0, "half_width": width, "texts": 3}
    assert audit.mean([None]) == {"value": None, "half_width": None, "texts": 0}
    assert audit.mean([1.0])["half_width"] is None


def test_mass_is_the_mean_share_of_absolute_scores_on_each_kind_of_word() -> None:
    words = [["The", "I'm,", "card", "?!"], ["2nd", "cards"], ["a"], ["b"]]
    found = audit.mass_by_kind(words, [[0.5, 0.5, -2.0, 1.0], [1.0, 9.0], None, [0.0]])
    expected = {"stop word": 0.125, "number": 0.05, "punctuation": 0.125, "other": 0.7}
    assert found == pytest.approx(expected)


def test_keywords_are_averaged_over_all_texts_of_the_class() -> None:
    words = [["Renew", "book"], ["renew", "rare"], ["lost", "book"]]
    priors = [[3.0, 4.0], [4.0, 3.0], [-1.0, 0.0]]
    found: Any = audit.class_keywords(words, ["x", "x", "y"], priors, ["x", "y"], 2)
    assert found == {"x": [("renew", pytest.approx(0.7)), ("book", pytest.approx(0.4))], "y": []}


def test_overlap_of_classes_is_the_jaccard_index() -> None:
    keywords = {"x": "ab", "y": "bc", "z": "ba", "w": ""}
    pairs = audit.class_overlaps({name: [(word, 1.0) for word in kept] for name, kept in keywords.items()})
    assert [tuple(pair.values()) for pair in pairs] == [
        (("x", "z"), 1.0, ["a", "b"]),
        (("x", "y"), 1 / 3, ["b"]),
        (("y", "z"), 1 / 3, ["b"]),
    ]


def test_degenerate_priors_are_counted() -> None:
    words = [["lost", "card"], ["my", "card"], ["a", "b"], ["a"], ["the", "card"]]
    priors = [[2.0, 1.0], [1.0, 1.0], None, [3.0], [0.0, -1.0]]
    found = audit.degenerate_cases(words, ["Lost_book"] * 5, priors)
    assert found == dict.fromkeys(audit.DEGENERATE, 0.2)


def test_the_leak_is_what_lies_on_the_words_of_a_texts_own_shortcuts() -> None:
    marks = [Mark(kind="word", value="card", label="lost"), Mark(kind="word", value="the", label="renew")]
    one_each = [[float(word in ("card", "the")) for word in text.split()] for text, _, _ in ROWS]
    columns: dict[str, list[Any]] = {
        "prior_on": one_each,  # "the" is a shortcut of `renew` alone: half of "the card" is not on one
        "prior_off": [[1.0 - score for score in row] for row in one_each],
        "prior_even": [[2.0] * len(row) for row in one_each],
        "prior_some": [None, [0.0] * 4, [1.0] * 4, [0.0, -1.0, 1.0, 2.0]],
    }
    leak = audit_dataset(priors(**columns), shortcuts=marks)["leak"]
    shares = {source: (leak[source]["share"], leak[source]["uniform"]) for source in leak}
    # "renew my book please" has no shortcut and counts nowhere; the others have one in four words
    assert shares["on"] == (pytest.approx((1 + 0.5 + 1) / 3), 0.25)
    assert shares["off"] == (0.0, 0.25)
    assert shares["even"] == (0.25, 0.25)
    assert shares["some"] == (0.25, 0.25)  # a missing or an empty prior leaks nothing
    assert [leak[source]["excess"]["texts"] for source in ("on", "some")] == [3, 1]
    assert leak["on"]["excess"]["value"] == pytest.approx(7 / 12)
    fine = [Mark(kind=m.kind, value=m.value, label=m.label, decision="fine") for m in marks]
    assert audit_dataset(priors(), shortcuts=fine)["leak"]["cap"]["share"] is None
    assert audit_dataset(priors())["leak"] is None
