"""Sources without a model: keywords, word length and rationales, and the controls."""

import json
from typing import Any, get_args

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.priors.keywords import (
    CONTROLS,
    STATISTICS,
    Control,
    KeywordsPrior,
    RationalePrior,
    RationaleUnit,
    Statistic,
    WordLengthPrior,
    random_scores,
    shuffled,
    uniform,
    with_control,
)
from hf_cap.words import count_words
from tests.priors.conftest import LABELS


def test_every_choice_has_a_function() -> None:
    assert set(STATISTICS) == set(get_args(Statistic))
    assert set(CONTROLS) == set(get_args(Control))


# --- Keywords


TEXTS = ["Renew the book!", "renew my card", "lost the card", "lost book", "pay the card"]
GOLD = [0, 0, 1, 1, 2]


@pytest.fixture
def train() -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))})
    return Dataset.from_dict({"text": TEXTS, "label": GOLD}, features)


@pytest.mark.parametrize("statistic", list(STATISTICS))
def test_each_word_scores_its_statistic_for_the_gold_label(train: Dataset, statistic: Any) -> None:
    prior = KeywordsPrior.from_dataset(train, statistic=statistic)
    counts = count_words(TEXTS, GOLD, 3)
    made = prior({"text": ["RENEW the lost novel."], "label": ["lost"]})["prior_keywords"][0]
    expected = [STATISTICS[prior.statistic](counts, word)[1] for word in ("renew", "the", "lost")]
    assert made == pytest.approx([*expected, 0.0])


def test_a_word_list_holds_for_every_label(train: Dataset) -> None:
    prior = KeywordsPrior.from_dataset(train, word_list=("Renew", "lost"))
    made = prior({"text": ["renew lost card"] * 2, "label": [0, 2]})["prior_keywords"]
    assert made == [[1.0, 1.0, 0.0]] * 2
    assert not prior.table


def test_what_was_learned_is_part_of_the_cache_key_and_a_digest_in_the_provenance(
    train: Dataset,
) -> None:
    prior = KeywordsPrior.from_dataset(train)
    mapped = train.map(prior, batched=True)
    again = train.map(KeywordsPrior.from_dataset(train), batched=True)
    other = train.map(KeywordsPrior.from_dataset(train.select(range(4))), batched=True)
    assert mapped._fingerprint == again._fingerprint != other._fingerprint
    facts = json.loads(mapped["provenance"][0])["keywords"]
    assert facts["statistic"] == "chi_squared"
    assert len(facts["table"]) == 16


def test_without_words_the_error_says_how_to_count_them() -> None:
    with pytest.raises(ConfigError, match=r"from_dataset\(train\)"):
        KeywordsPrior(labels=LABELS)({"text": ["pay"], "label": [0]})


def test_an_unknown_statistic_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 'gini'"):
        KeywordsPrior(labels=LABELS, statistic="gini")  # type: ignore[arg-type]


# --- Word length


def test_each_word_scores_its_characters() -> None:
    batch: dict[str, list[Any]] = {"text": ["renew my  book!"], "label": ["renew"], "id": [7]}
    made = WordLengthPrior(labels=LABELS)(batch)
    assert made["prior_word_length"] == [[5.0, 2.0, 5.0]]
    assert made["words"] == [["renew", "my", "book!"]]
    assert made["id"] == [7]


def test_words_are_those_of_the_pattern() -> None:
    prior = WordLengthPrior(labels=LABELS, word_pattern=r"\w+|[^\w\s]")
    made = prior({"text": ["book!"], "label": [0]})
    assert made["prior_word_length"] == [[4.0, 1.0]]
    assert made["words"] == [["book", "!"]]


def test_provenance_is_added_to_what_is_there() -> None:
    cell = json.dumps({"cap": {"n": 100}})
    made = WordLengthPrior(labels=LABELS)({"text": ["a"], "label": [0], "provenance": [cell]})
    facts = json.loads(made["provenance"][0])
    assert facts["cap"] == {"n": 100}
    assert facts["word_length"]["source"] == "word_length"
    assert set(facts["word_length"]) == {
        "source",
        "label_space",
        "versions",
        "word_pattern",
        "text_column",
        "label_column",
    }


def test_a_single_row_is_refused() -> None:
    with pytest.raises(DataError, match=r"`dataset.map\(source, batched=True\)`"):
        WordLengthPrior(labels=LABELS)({"text": "a b", "label": 0})  # type: ignore[dict-item]


def test_the_label_space_has_one_digest_whatever_the_source() -> None:
    first = WordLengthPrior(labels=LABELS).facts["label_space"]
    assert WordLengthPrior(labels=LABELS, word_pattern=r"\S").facts["label_space"] == first
    assert WordLengthPrior(labels=LABELS[::-1]).facts["label_space"] != first


@pytest.mark.parametrize("text", ["", "  ", None])
def test_a_text_without_words_is_refused(text: str | None) -> None:
    with pytest.raises(DataError, match="finds no words"):
        WordLengthPrior(labels=LABELS)({"text": [text], "label": [0]})


# --- Rationales


TEXT = "renew  my book"


def scores(unit: RationaleUnit, mark: Any) -> list[float]:
    prior = RationalePrior(labels=LABELS, rationale_unit=unit)
    made = prior({"text": [TEXT], "label": [0], "rationale": [mark]})
    found: list[float] = made["prior_rationale"][0]
    return found


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


# --- Controls


SCORES = [float(i) for i in range(12)]


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
