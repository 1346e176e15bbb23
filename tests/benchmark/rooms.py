"""A tiny benchmark: three intents, a classifier built in code, and a recipe that runs in seconds."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.tiny import roberta_classifier, word_tokenizer

TEXTS = {
    "lost_card": [
        "i lost my card please help",
        "my card is lost",
        "where is my lost card",
        "the card is stolen",
        "please cancel my stolen card",
        "help with a lost card",
    ],
    "renew_loan": [
        "renew my loan please",
        "i want to renew the loan",
        "please renew my loan",
        "can i renew a loan",
        "how to renew the old loan",
        "need to renew my loan",
    ],
    "pay_fine": [
        "i want to pay my fine",
        "pay the late fine",
        "where to pay a fine",
        "how is the fine",
        "my fine is late",
        "please help pay my fine",
    ],
}
TESTS = {
    "lost_card": ["lost the card", "my stolen card help"],
    "renew_loan": ["renew the loan", "please renew it"],
    "pay_fine": ["the fine is late", "pay it"],
}


def write_data(folder: Path, tests: dict[str, list[str]] = TESTS) -> Path:
    """The data set as a folder."""
    folder.mkdir(parents=True)
    for split, labelled in (("train", TEXTS), ("test", tests)):
        rows = [{"text": t, "label": label} for label, texts in labelled.items() for t in texts]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_encoder(folder: Path) -> Path:
    """An untrained classifier and its tokenizer."""
    roberta_classifier(labels=3).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def recipe(room: Path, more: str = "") -> Path:
    """A recipe whose cells take a second."""
    file = room / "recipe.yaml"
    file.write_text(
        "regimes: [2_shot]\ndraws: 1\nseeds: [0, 1]\nmethods: [none, keywords, shuffled, oracle]\n"
        "hybrid: [keywords, word_length]\ncontrol_of: keywords\nattacks: [keyword_addition]\n"
        f"training:\n  model: {room / 'encoder'}\n  num_train_epochs: 1\n  learning_rate: 1e-2\n"
        "  logging_steps: 1\n  alignment_every: 1\n"
        "evaluation:\n  attribution_steps: 2\nfaithfulness_texts: 2\n" + more
    )
    return file


def flags(room: Path, out: Path, *more: str, data: Sequence[Path] = ()) -> list[str]:
    """Arguments of `hf-cap benchmark`."""
    places = [str(place) for place in data or [room / "data"]]
    return [
        "benchmark",
        "--config",
        str(room / "recipe.yaml"),
        "--dataset",
        *places,
        "--output_dir",
        str(out),
        *more,
    ]


def cell_files(out: Path) -> dict[str, int]:
    """Folder of each finished cell, and when it was written, in nanoseconds."""
    return {
        str(file.parent.relative_to(out / "cells")): file.stat().st_mtime_ns
        for file in (out / "cells").rglob("cell.json")
    }
