"""Few-shot draws: k a class, the same for everyone, and honest about what is short."""

import logging

import pytest
from datasets import ClassLabel, Dataset

from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation.few_shot import few_shot, few_shot_rows

NAMES = ["card", "loan", "fine"]
TEXTS = [f"{name} text {i}" for i in range(20) for name in NAMES]
LABELS = [text.split()[0] for text in TEXTS]


def drawn(rows: list[int], texts: list[str] = TEXTS) -> list[str]:
    return [texts[row] for row in rows]


def dataset() -> Dataset:
    data = Dataset.from_dict({"text": TEXTS, "label": [NAMES.index(label) for label in LABELS]})
    return data.cast_column("label", ClassLabel(names=NAMES))


def test_k_texts_of_each_class() -> None:
    found = few_shot(dataset(), 5)
    counts = [found["label"][:].count(label) for label in range(3)]
    assert counts == [5, 5, 5]
    assert len(set(found["text"])) == 15
    assert found.features["label"].names == NAMES


def test_the_order_of_rows_changes_nothing() -> None:
    backwards, labels = TEXTS[::-1], LABELS[::-1]
    assert drawn(few_shot_rows(TEXTS, LABELS, 4)) == drawn(
        few_shot_rows(backwards, labels, 4), backwards
    )


def test_other_classes_change_nothing() -> None:
    only = [text for text in TEXTS if text.startswith("loan")]
    alone = drawn(few_shot_rows(only, ["loan"] * len(only), 4), only)
    together = drawn(few_shot_rows(TEXTS, LABELS, 4))
    assert set(alone) == {text for text in together if text.startswith("loan")}


def test_draws_and_seeds_differ_and_repeat() -> None:
    first = few_shot_rows(TEXTS, LABELS, 5, draw=0)
    assert first == few_shot_rows(TEXTS, LABELS, 5, draw=0)
    assert set(first) != set(few_shot_rows(TEXTS, LABELS, 5, draw=1))
    assert set(first) != set(few_shot_rows(TEXTS, LABELS, 5, seed=1))


def test_fewer_shots_are_part_of_more() -> None:
    assert set(few_shot_rows(TEXTS, LABELS, 3)) < set(few_shot_rows(TEXTS, LABELS, 4))


def test_every_text_has_the_same_chance() -> None:
    counts = dict.fromkeys(range(60), 0)
    for draw in range(300):
        for row in few_shot_rows(TEXTS, LABELS, 5, draw=draw):
            counts[row] += 1
    # 300 draws of 5 in 20: mean 75, standard deviation 7.5
    assert 45 < min(counts.values()) < max(counts.values()) < 105


def test_classes_are_mixed() -> None:
    order = [LABELS[row] for row in few_shot_rows(TEXTS, LABELS, 5)]
    assert order != sorted(order)


def test_a_repeated_text_counts_once() -> None:
    with pytest.raises(DataError, match="1 classes have fewer than 2 different texts: 'a' has 1"):
        few_shot_rows(["same", "same", "x", "y"], ["a", "a", "b", "b"], 2)


def test_short_classes_are_refused_or_noticed(caplog: pytest.LogCaptureFixture) -> None:
    texts, labels = ["p", "q", "r"], ["a", "a", "b"]
    with pytest.raises(DataError, match=r"'b' has 1, 'c' has 0\. Choose a smaller k"):
        few_shot_rows(texts, labels, 2, space=["a", "b", "c"])
    with caplog.at_level(logging.WARNING):
        rows = few_shot_rows(texts, labels, 2, space=["a", "b", "c"], allow_fewer=True)
    assert sorted(rows) == [0, 1, 2]
    assert "2 classes have fewer than 2" in caplog.text


def test_k_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match="got k=0"):
        few_shot_rows(TEXTS, LABELS, 0)
