"""Importance resampling on corpora that are small enough for paper."""

import json
from collections import Counter
from math import log
from pathlib import Path

import pytest
from datasets import load_dataset

from hf_cap.errors import ConfigError, DataError
from hf_cap.priors.extract import read_lines, select_texts
from tests.launching import refused, run

CORPUS = ["card", "card", "loan", "loan"]
TRAFFIC = ["Card!", "card", "card"]


def test_the_divergence_of_four_texts_is_that_of_paper() -> None:
    """Three counts of `card`; with one more for each n-gram the traffic has 4/5 and 1/5."""
    by_hand = {
        (0, 1): 0.8 * log(0.8 / 0.75) + 0.2 * log(0.2 / 0.25),
        (0, 2): 0.8 * log(0.8 / 0.5) + 0.2 * log(0.2 / 0.5),
        (2, 3): 0.8 * log(0.8 / 0.25) + 0.2 * log(0.2 / 0.75),
    }
    found: Counter[tuple[int, int]] = Counter()
    for seed in range(100):
        chosen = select_texts(CORPUS, TRAFFIC, 2, seed)
        words = sorted(CORPUS[index] for index in chosen.indices)
        pair = {"card": 0, "loan": 2}[words[0]], {"card": 1, "loan": 3}[words[1]]
        expected = by_hand[(0, 2) if pair == (0, 3) else pair]
        assert chosen.divergence == pytest.approx(expected)
        assert min(abs(chosen.random_divergence - each) for each in by_hand.values()) < 1e-9
        found[pair] += 1
    assert found[0, 1] > found[0, 3] > found[2, 3]


def test_a_text_is_drawn_by_its_importance() -> None:
    """The ratios are (4/5) / (1/2) and (1/5) / (1/2): the first draw is `card` in 4 of 5 cases."""
    first = [select_texts(CORPUS, TRAFFIC, 1, seed).indices[0] for seed in range(600)]
    assert sum(index < 2 for index in first) / 600 == pytest.approx(0.8, abs=0.05)
    assert {0, 1, 2, 3} == set(first)


def test_the_order_of_words_counts_and_the_draw_is_determined_by_the_seed() -> None:
    texts = ["lost my card", "card my lost"] * 10
    traffic = ["I lost my card"] * 200
    chosen = select_texts(texts, traffic, 10, 0)
    assert sum(index % 2 == 0 for index in chosen.indices) >= 8
    assert chosen == select_texts(texts, traffic, 10, 0) != select_texts(texts, traffic, 10, 1)
    assert chosen.divergence < chosen.random_divergence
    assert select_texts(texts, traffic, 99).indices == list(range(20))


def test_what_cannot_be_chosen_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`budget` must be at least 1, got 0"):
        select_texts(CORPUS, TRAFFIC, 0)
    with pytest.raises(DataError, match="no word in the texts of `like`"):
        select_texts(CORPUS, ["  "], 1)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="has no text; write one per line"):
        read_lines(tmp_path / "empty.txt")
    for name in ("bytes.txt", "missing.txt"):
        with pytest.raises(DataError, match="Cannot read "):
            read_lines(tmp_path / name)


def test_extract_writes_the_chosen_texts(tmp_path: Path) -> None:
    rows = [{"text": f"{word} number {i}", "label": word} for i in range(30) for word in ("card", "loan")]
    data, logs, out = tmp_path / "data.jsonl", tmp_path / "logs.txt", tmp_path / "priors"
    data.write_text("\n".join(map(json.dumps, rows)))
    logs.write_text("where is my card\nthe card is lost\n" * 50)
    command = ("extract", "--dataset", data, "--sources", "keywords", "--output_dir")
    choice = ("--budget", "10", "--like", logs)
    run(*command, out, *choice)
    made = load_dataset("parquet", data_files=str(out / "*.parquet"), split="train")
    assert len(made) == 10
    assert sum("card" in text for text in made["text"]) >= 7
    for wrong, message in (
        (("--budget", "10"), "`budget` and `like` go together"),
        ((*choice, "--limit", "3"), "both choose the texts; leave one out"),
    ):
        assert message in refused(*command, tmp_path / "no", *wrong)
