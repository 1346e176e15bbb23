"""`hf-cap extract`: what its sources learn from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from hf_cap.cli import main

ROWS = {
    "train": [("renew my book", "renew"), ("lost my card", "lost"), ("renew it", "renew")],
    "test": [("book lost", "lost"), ("card please", "renew")],
}


def extract(folder: Path, out: Path, *flags: str) -> int:
    for split, rows in ROWS.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines))
    places = ["--dataset", str(folder / "data"), "--output_dir", str(out)]
    return main(["extract", *places, "--sources", "keywords", *flags])


def extracted(folder: Path, *splits: str, learn: Sequence[str] = ()) -> dict[str, Any]:
    out = folder / "-".join([*splits, *learn])
    assert extract(folder, out, "--splits", *splits, *learn) == 0
    return {
        file.stem: load_dataset("parquet", data_files=str(file), split="train")["prior_keywords"][:]
        for file in out.glob("*.parquet")
    }


def test_sources_learn_from_train_in_whatever_order_the_splits_are_named(tmp_path: Path) -> None:
    first, last = extracted(tmp_path, "train", "test"), extracted(tmp_path, "test", "train")
    assert first == last
    assert first["train"] == extracted(tmp_path, "train")["train"]
    assert first["test"] != extracted(tmp_path, "test")["test"]


def test_sources_learn_from_the_split_that_is_named_though_it_gets_no_priors(
    tmp_path: Path,
) -> None:
    both = extracted(tmp_path, "train", "test")
    assert extracted(tmp_path, "test", learn=["--train_split", "train"]) == {"test": both["test"]}
    # `train` knows other words than the default learns from
    swapped = extracted(tmp_path, "train", learn=["--train_split", "test"])
    assert swapped != {"train": both["train"]}


def test_a_split_to_learn_from_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--splits", "test", "--train_split", "training"]
    assert extract(tmp_path, tmp_path / "out", *flags) == 2
    known = "There is no split 'training'; the data set has ['test', 'train']"
    assert known in capsys.readouterr().err
