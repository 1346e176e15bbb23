"""Few-shot draws: k per class, the same for every method, and a clear error where texts are short."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from datasets import ClassLabel, Dataset

from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation import few_shot

NAMES = ["card", "loan", "fine"]
TEXTS = [f"{name} text {i}" for i in range(20) for name in NAMES]


def dataset(texts: Sequence[str], names: Sequence[str] = NAMES) -> Dataset:
    """The label of a text is its first word."""
    labels = [names.index(text.split()[0]) for text in texts]
    data = Dataset.from_dict({"text": list(texts), "label": labels})
    return data.cast_column("label", ClassLabel(names=list(names)))


ALL = dataset(TEXTS)


def drawn(data: Dataset, k: int, **options: Any) -> list[str]:
    texts: list[str] = few_shot(data, k, **options)["text"][:]
    return texts


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
    found = few_shot(ALL, 3, draw=draw, seed=seed)
    assert found["text"][:] == [TEXTS[row] for row in rows]
    assert [found["label"][:].count(label) for label in range(3)] == [3, 3, 3]
    assert found.features["label"].names == NAMES


def test_neither_the_order_of_rows_nor_other_classes_matter() -> None:
    found = drawn(ALL, 4)
    assert drawn(dataset(TEXTS[::-1]), 4) == found
    loans = [text for text in TEXTS if text.startswith("loan")]
    alone = drawn(dataset(loans, ["loan"]), 4)
    assert set(alone) == {text for text in found if text.startswith("loan")}


def test_fewer_shots_are_part_of_more() -> None:
    assert set(drawn(ALL, 3)) < set(drawn(ALL, 4))


def test_every_text_has_the_same_chance() -> None:
    counts = dict.fromkeys(TEXTS, 0)
    for draw in range(300):
        for text in drawn(ALL, 5, draw=draw):
            counts[text] += 1
    # 300 draws of 5 in 20: mean 75, standard deviation 7.5
    assert 45 < min(counts.values()) < max(counts.values()) < 105


def test_short_classes_are_refused_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    short = dataset(["card p", "card q", "loan r", "loan r"])  # a repeated text counts once
    with pytest.raises(
        DataError, match=r"2 classes .*'loan' has 1, 'fine' has 0\. Choose a smaller"
    ):
        few_shot(short, 2)
    with caplog.at_level(logging.WARNING):
        assert sorted(drawn(short, 2, allow_fewer=True)) == ["card p", "card q", "loan r"]
    assert "2 classes have fewer than 2" in caplog.text
    with pytest.raises(ConfigError, match="got k=0"):
        few_shot(short, 0)
