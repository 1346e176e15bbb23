"""Sources without a model: keywords, word length and rationales, and the controls."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from datasets import Dataset

from hf_cap.data import load_splits
from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.priors.keywords import (
    STATISTICS,
    KeywordsPrior,
    RationalePrior,
    RationaleUnit,
    Statistic,
    WordLengthPrior,
    control_scores,
    with_control,
)
from hf_cap.words import count_words
from tests.priors.conftest import LABELS, labelled

TEXTS = ["Renew the book!", "renew my card", "lost the card", "lost book", "pay the card"]
GOLD = [0, 0, 1, 1, 2]
TRAIN = labelled(TEXTS, GOLD)


@pytest.mark.parametrize("statistic", get_args(Statistic))
def test_each_word_scores_its_statistic_for_the_gold_label(statistic: Statistic) -> None:
    prior = KeywordsPrior.from_dataset(TRAIN, statistic=statistic)
    counts = count_words(TEXTS, GOLD, 3)
    made = prior({"text": ["RENEW the lost novel."], "label": ["lost"]})["prior_keywords"][0]
    expected = [STATISTICS[statistic](counts, word)[1] for word in ("renew", "the", "lost")]
    assert made == pytest.approx([*expected, 0.0])


def test_a_word_list_holds_for_every_label() -> None:
    prior = KeywordsPrior.from_dataset(TRAIN, word_list=("Renew", "lost"))
    made = prior({"text": ["renew lost card"] * 2, "label": [0, 2]})["prior_keywords"]
    assert made == [[1.0, 1.0, 0.0]] * 2
    assert not prior.table
    with pytest.raises(ConfigError, match=r"from_dataset\(train\)"):
        KeywordsPrior(labels=LABELS)({"text": ["pay"], "label": [0]})


def test_what_was_learned_is_part_of_the_cache_key_and_a_digest_in_the_provenance() -> None:
    mapped, again = (TRAIN.map(KeywordsPrior.from_dataset(TRAIN), batched=True) for _ in range(2))
    other = TRAIN.map(KeywordsPrior.from_dataset(TRAIN.select(range(4))), batched=True)
    assert mapped._fingerprint == again._fingerprint != other._fingerprint
    facts = json.loads(mapped["provenance"][0])["keywords"]
    assert facts["statistic"] == "chi_squared"
    assert len(facts["table"]) == 16


def test_each_word_scores_its_characters() -> None:
    cell = json.dumps({"cap": {"n": 100}})
    batch: dict[str, list[Any]] = {"text": ["renew my  book!"], "label": ["renew"], "id": [7]}
    made = WordLengthPrior(labels=LABELS)({**batch, "provenance": [cell]})
    assert made["prior_word_length"] == [[5.0, 2.0, 5.0]]
    assert made["words"] == [["renew", "my", "book!"]]
    assert made["id"] == [7]
    facts = json.loads(made["provenance"][0])
    assert facts["cap"] == {"n": 100}
    settings = {"word_pattern", "text_column", "label_column"}
    assert set(facts["word_length"]) == {"source", "label_space", "versions", *settings}
    prior = WordLengthPrior(labels=LABELS, word_pattern=r"\w+|[^\w\s]")
    assert prior({"text": ["book!"], "label": [0]})["words"] == [["book", "!"]]


def test_the_label_space_has_one_digest_whatever_the_source() -> None:
    first = WordLengthPrior(labels=LABELS).facts["label_space"]
    assert WordLengthPrior(labels=LABELS, word_pattern=r"\S").facts["label_space"] == first
    assert WordLengthPrior(labels=LABELS[::-1]).facts["label_space"] != first


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
        ("flags", [0.5, 0, 1], [0.5, 0, 1]),
        ("characters", None, [0, 0, 0]),
        ("words", [], [0, 0, 0]),
        ("characters", "[[3, 11]]", [0.4, 1, 0.25]),
        ("flags", "[0.5, false, 1]", [0.5, 0, 1]),
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
        ("characters", [0, 1, 2], r"\[0, 1, 2\] of .* no list of characters such as \[\[0, 5"),
        ("characters", [[0, 5, 9]], "no list of characters"),
        ("characters", [[0.5, 5]], "no list of characters"),
        ("words", [{"start": 0, "end": 1}], "no list of words"),
        ("characters", "0-5", "'0-5' of .* no list of characters"),
        ("characters", "0", "no list of characters"),
        ("flags", [[0, 1]], r"no list of flags such as \[1, 0, 1\]"),
        ("flags", [2, 0, 1], "no list of flags"),
        ("flags", [1, None, 0], "no list of flags"),
    ],
)
def test_marks_that_do_not_fit_the_text_are_refused(unit: RationaleUnit, mark: Any, message: str) -> None:
    with pytest.raises(PriorError, match=message):
        scores(unit, mark)


def test_rationales_of_a_csv_file_are_json(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        'text,label,rationale\nrenew my book,a,"[[0, 5], [9, 10]]"\nlost it,b,\n'
    )
    data = load_splits(tmp_path)["train"]
    made = data.map(RationalePrior.from_dataset(data), batched=True)
    assert made["prior_rationale"][:] == [[1.0, 0.0, 0.25], [0.0, 0.0]]


def test_what_is_not_there_is_named_with_what_is() -> None:
    with pytest.raises(DataError, match=r"no column 'marks'; found \['label', 'text'\]"):
        RationalePrior(labels=LABELS, rationale_column="marks")({"text": [TEXT], "label": [0]})
    with pytest.raises(ConfigError, match="no control 'ones'; there are"):
        with_control(Dataset.from_dict({"text": []}), "ones")  # type: ignore[arg-type]


# --- Controls


SCORES = [float(i) for i in range(12)]


@pytest.mark.parametrize("control", ["random", "shuffled"])
def test_what_is_random_depends_on_text_and_seed_only(control: Any) -> None:
    first = control_scores(control, SCORES, "a text", 0)
    assert control_scores(control, SCORES, "a text", 0) == first
    assert control_scores(control, SCORES, "a text", 1) != first
    assert control_scores(control, SCORES, "another text", 0) != first
    assert (sorted(first) == SCORES) == (control == "shuffled")
    assert first != SCORES


def test_random_scores_are_uniform_over_the_unit_interval() -> None:
    found = control_scores("random", [0.0] * 4000, "a text", 0)
    assert 0 <= min(found) < 0.01
    assert 0.99 < max(found) < 1
    assert sum(found) / 4000 == pytest.approx(0.5, abs=0.02)


def test_the_column_is_replaced_and_null_stays_null() -> None:
    data = Dataset.from_dict({"text": ["one two", "x"], "prior": [[1.0, 5.0], None]})
    replaced = with_control(data, "uniform", seed=4)
    assert replaced["prior"][:] == [[1.0, 1.0], None]
    facts = json.loads(replaced["provenance"][0])["control"]
    assert facts == {"control": "uniform", "seed": 4, "column": "prior"}
