"""The rivals of the study of shortcuts that need no prior."""

import pytest
import torch
from datasets import Dataset

from benchmarks.shortcuts import dropped_copies, shows, with_hard_texts


def test_texts_that_were_wrong_weigh_more_and_else_those_of_the_highest_loss() -> None:
    data = Dataset.from_dict({"text": list("abcdefghij"), "label": [0, 1] * 5})
    sure = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]] * 5)
    sure[3] = torch.tensor([0.0, 0.1, 0.0])  # right, and the least sure: its loss is 1.03
    hard = with_hard_texts(data, sure, weight=3)
    assert sorted(hard["text"]) == sorted("abcdefghij" + "dd")
    wrong = sure.clone()
    wrong[6], wrong[7] = torch.tensor([0.0, 0.1, -9.0]), torch.tensor([0.1, 0.0, -9.0])  # 0.74
    hard = with_hard_texts(data, wrong, weight=3)
    assert sorted(hard["text"]) == sorted("abcdefghij" + "gghh")


def test_every_word_is_left_out_as_often_and_in_each_copy_anew() -> None:
    text = " ".join(f"w{i}" for i in range(50))
    data = Dataset.from_dict({"text": [text, "one"], "label": [0, 1]})
    copies = dropped_copies(data, kept=0.6, copies=40)
    assert copies["label"] == [0, 1] * 40
    assert set(copies["text"][1::2]) == {"one"}  # a text is never empty
    lengths = [len(one.split()) for one in copies["text"][::2]]
    assert sum(lengths) / 40 == pytest.approx(30, abs=2)
    assert len(set(copies["text"][::2])) == 40


@pytest.mark.parametrize(
    ("planted", "found", "right"),
    [
        ("anna", "anna here", True),
        ("K12", "k12", True),
        ("!!", "!!", True),
        ("no_rush", "rush", True),
        ("no_rush", "now", False),
        ("anna", "an", False),
    ],
)
def test_a_part_of_what_was_planted_is_right(planted: str, found: str, right: bool) -> None:
    assert shows(planted, found) is right
