"""Few-shot draws: k per class, the same for every method, and a clear error where texts are short."""

import logging

import pytest
from datasets import ClassLabel, Dataset

from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation import few_shot
from hf_cap.evaluation.sampling import few_shot_rows

NAMES = ["card", "loan", "fine"]
TEXTS = [f"{name} text {i}" for i in range(20) for name in NAMES]
LABELS = [text.split()[0] for text in TEXTS]


def test_k_texts_of_each_class() -> None:
    data = Dataset.from_dict({"text": TEXTS, "label": [NAMES.index(label) for label in LABELS]})
    found = few_shot(data.cast_column("label", ClassLabel(names=NAMES)), 5, draw=2, seed=3)
    assert [found["label"][:].count(label) for label in range(3)] == [5, 5, 5]
    assert found["text"][:] == [TEXTS[i] for i in few_shot_rows(TEXTS, LABELS, 5, draw=2, seed=3)]
    assert found.features["label"].names == NAMES


@pytest.mark.parametrize(
    ("draw", "seed", "rows"),
    [
        (0, 0, [25, 28, 31, 3, 12, 44, 45, 2, 26]),
        (1, 0, [47, 21, 31, 19, 34, 14, 6, 23, 57]),
        (0, 1, [4, 52, 34, 0, 48, 8, 33, 50, 56]),
    ],
)
def test_the_draws_never_change(draw: int, seed: int, rows: list[int]) -> None:
    # published results name their training texts by draw and seed
    assert few_shot_rows(TEXTS, LABELS, 3, draw=draw, seed=seed) == rows


def test_neither_the_order_of_rows_nor_other_classes_matter() -> None:
    found = [TEXTS[row] for row in few_shot_rows(TEXTS, LABELS, 4)]
    backwards = few_shot_rows(TEXTS[::-1], LABELS[::-1], 4)
    assert [TEXTS[::-1][row] for row in backwards] == found
    loans = [text for text in TEXTS if text.startswith("loan")]
    alone = {loans[row] for row in few_shot_rows(loans, ["loan"] * len(loans), 4)}
    assert alone == {text for text in found if text.startswith("loan")}


def test_fewer_shots_are_part_of_more() -> None:
    assert set(few_shot_rows(TEXTS, LABELS, 3)) < set(few_shot_rows(TEXTS, LABELS, 4))


def test_every_text_has_the_same_chance() -> None:
    counts = dict.fromkeys(range(60), 0)
    for draw in range(300):
        for row in few_shot_rows(TEXTS, LABELS, 5, draw=draw):
            counts[row] += 1
    # 300 draws of 5 in 20: mean 75, standard deviation 7.5
    assert 45 < min(counts.values()) < max(counts.values()) < 105


def test_a_repeated_text_counts_once() -> None:
    with pytest.raises(DataError, match="1 classes have fewer than 2 different texts: 'a' has 1"):
        few_shot_rows(["same", "same", "x", "y"], ["a", "a", "b", "b"], 2)


def test_short_classes_are_refused_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    texts, labels, space = ["p", "q", "r"], ["a", "a", "b"], ["a", "b", "c"]
    with pytest.raises(DataError, match=r"'b' has 1, 'c' has 0\. Choose a smaller k"):
        few_shot_rows(texts, labels, 2, space=space)
    with caplog.at_level(logging.WARNING):
        rows = few_shot_rows(texts, labels, 2, space=space, allow_fewer=True)
    assert sorted(rows) == [0, 1, 2]
    assert "2 classes have fewer than 2" in caplog.text


def test_k_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match="got k=0"):
        few_shot_rows(TEXTS, LABELS, 0)
