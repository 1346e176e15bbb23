"""`hf-cap extract`: what its sources learn from."""

import json
from pathlib import Path
from typing import Any

from datasets import load_dataset

from hf_cap.cli import main

ROWS = {
    "train": [("renew my book", "renew"), ("lost my card", "lost"), ("renew it", "renew")],
    "test": [("book lost", "lost"), ("card please", "renew")],
}


def extracted(folder: Path, *splits: str) -> dict[str, Any]:
    for split, rows in ROWS.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines))
    out = folder / "-".join(splits)
    flags = ["--dataset", str(folder / "data"), "--output_dir", str(out), "--sources", "keywords"]
    assert main(["extract", *flags, "--splits", *splits]) == 0
    return {
        file.stem: load_dataset("parquet", data_files=str(file), split="train")["prior_keywords"][:]
        for file in out.glob("*.parquet")
    }


def test_sources_learn_from_train_in_whatever_order_the_splits_are_named(tmp_path: Path) -> None:
    first, last = extracted(tmp_path, "train", "test"), extracted(tmp_path, "test", "train")
    assert first == last
    assert first["train"] == extracted(tmp_path, "train")["train"]
    assert first["test"] != extracted(tmp_path, "test")["test"]
