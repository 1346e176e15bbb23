"""The scripts of benchmarks/: the figure of the README, shortcuts, ways to score on a GPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from benchmarks.figure import FIGURE, RESULTS, alternative_text, draw, percentages
from benchmarks.gpu import MODES, SMALL, measure
from benchmarks.shortcuts import METHODS, dropped_copies, shows, with_hard_texts
from hf_cap.priors.base import SOURCES

ROOT = Path(__file__).parents[2]


def row(group: str, method: str, test_set: str, mean: float, n: int) -> dict[str, Any]:
    return {"group": group, "method": method, "test_set": test_set, "mean": mean, "n": n}


def test_the_group_with_the_most_draws_is_shown_with_the_methods_that_have_them_all() -> None:
    rows = [
        row(group, method, test_set, mean + (test_set == "shifted") / 10, n)
        for group, n, mean in (("data, 9", 2, 0.1), ("data, 5", 5, 0.2), ("data, 20", 5, 0.5))
        for method in ("none", "drop_found")
        for test_set in ("clean", "shifted", "same")
    ]
    rows += [row("data, 20", "logistic_names", "clean", 0.9, 4), row("none, 99", "none", "clean", 0.9, 9)]
    expected = {"clean": pytest.approx(50), "shifted": pytest.approx(60)}
    assert percentages({"accuracy": rows}) == {"none": expected, "drop_found": expected}


def test_the_figure_and_its_words_are_those_of_the_results() -> None:
    summary = json.loads(RESULTS.read_text(encoding="utf-8"))
    remake = "run `python -m benchmarks.figure` and put its sentence into the pages"
    assert FIGURE.read_text(encoding="utf-8") == draw(summary), remake
    for page in ("README.md", "docs/index.md"):
        assert alternative_text(summary) in (ROOT / page).read_text(encoding="utf-8"), remake


def test_methods_ask_sources_that_there_are() -> None:
    named = {name for method in METHODS.values() if method.prior for name in method.prior.split("+")}
    assert named - {"found", "known", "best"} < set(SOURCES)
    assert METHODS["align_max_cap+integrated_gradients+lime"].fusion == "max"


# --- The rivals of the study of shortcuts that need no prior.


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


# --- The benchmark for GPUs at toy size: its ways to score give the same scores.


# transformers 5.23 passes `_compile` for the prefix's own mask, and torch's compiler uses `script_method`,
# which torch 2.13 deprecates
@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_all_ways_to_score_agree_and_each_mode_is_timed() -> None:
    with torch.compiler.set_stance("force_eager"):
        found = measure(SMALL, torch.device("cpu"))
    scoring = found["scoring"]
    assert max(scoring["mean_abs_difference"].values()) < 1e-4
    # the trie leaves out what texts share, the padded side computes each prompt whole
    whole, packed = (scoring["sides"][name] for name in ("whole prompts, padded", "packed, FlexAttention"))
    tokens = [one["tokens_per_second"] * one["seconds"] for one in (whole, packed)]
    assert tokens[0] > 3 * tokens[1]
    dense = scoring["dense_tokens_per_second"]
    assert packed["share_of_dense"] == pytest.approx(packed["tokens_per_second"] / dense)
    assert all(list(one) == MODES for one in found["aligned_steps"].values())
