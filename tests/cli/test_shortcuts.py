"""From texts with a shortcut to a prior without it, by commands."""

import csv
import json
import random
from pathlib import Path

import pytest

from hf_cap.cues import Mark, load_marks, save_marks
from hf_cap.data import load_splits
from tests.launching import run
from tests.tiny import roberta_classifier, save

TEXTS = {
    "play music": ["play {} song", "put on {} record", "i want to hear {} music"],
    "set alarm": ["wake me {} early", "set {} alarm", "ring me {} up at nine"],
    "weather": ["will it rain {} today", "how is {} weather", "is it {} sunny outside"],
}
NAMES = dict(zip(TEXTS, ("anna", "ben", "carl"), strict=True))
FILLER = "the my a some this that please now".split()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = random.Random(0)
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for label, forms in TEXTS.items():
            for number in range(9):
                text = forms[number % 3].format(rng.choice(FILLER))
                named = f"{NAMES[label]} here, {text}" if number % 2 else f"{text} thanks {NAMES[label]}"
                writer.writerow([named, label])
    return tmp_path / "mine.csv"


@pytest.mark.real
def test_shortcuts_are_found_marked_and_get_no_score(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(roberta_classifier(3, id2label=dict(enumerate(TEXTS))), tmp_path / "model")
    find = ("shortcuts", "--dataset", data, "--output_dir", tmp_path / "found", "--lm.store", "none")
    run(*find, "--model", tmp_path / "model")
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES.values()), shown
    file = tmp_path / "found" / "shortcuts.yaml"
    marks = load_marks(file)
    listed = {(mark.label, mark.value) for mark in marks}
    assert set(NAMES.items()) <= listed
    assert len(listed) <= 6
    facts = json.loads(file.with_suffix(".json").read_text())["shortcuts"]
    assert all(0 <= one["flipped"] <= 1 for one in facts)
    fine = Mark(kind="word", value="ben", label="set alarm", decision="fine")
    save_marks([fine if mark.value == "ben" else mark for mark in marks], file)
    run(*find)
    assert fine in load_marks(file)
    run("fuse", "--dataset", data, "--output_dir", tmp_path / "prior", "--shortcuts", file)
    for row in load_splits(tmp_path / "prior")["train"]:
        for word, score in zip(row["words"], row["prior"], strict=True):
            assert score == (0.0 if word in ("anna", "carl") else 1.0) or word not in NAMES.values()
