"""The examples of the README and of guides run as they are, the first on the embedded models."""

import re
from pathlib import Path
from typing import Any

import pytest

from hf_cap.data import label_names, load_splits
from hf_cap.sentence_encoder import label_config
from tests.tiny import roberta_classifier, save

ROOT = Path(__file__).parent.parent
README, *GUIDES = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/tutorials/tables.md", "docs/howto/confidence.md")
)
EXAMPLES = dict(
    re.findall(r"<!-- tested: (\w+) -->\n```python\n(.*?)```", README + "".join(GUIDES), re.DOTALL)
)


@pytest.mark.parametrize(("name", "limit"), [("readme", 12), ("laat", 20), ("confidence", 14)])
def test_the_examples_are_short(name: str, limit: int) -> None:
    lines = [line for line in EXAMPLES[name].splitlines() if line.strip()]
    assert len(lines) <= limit


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 900


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_the_example_of_a_table_tells_the_classes_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES["laat"], "README.md", "exec"), {})
    areas = dict(line.split() for line in capsys.readouterr().out.splitlines() if line[:1] in "TF")
    assert float(areas["True"]) == pytest.approx(0.98, abs=0.01)
    assert float(areas["False"]) < 0.85


def test_the_example_of_calibration_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = label_config(label_names(load_splits("embedded/library-desk")["test"]))
    save(roberta_classifier(**labels), "runs/model")
    exec(compile(EXAMPLES["confidence"], "confidence.md", "exec"), {})
    numbers, row = capsys.readouterr().out.splitlines()
    assert float(numbers.split()[2]) == pytest.approx(0.9, abs=0.15)
    assert "'labels': [" in row
    assert "'coverage': 0.9" in row


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(900)
# torch: transformers asks for pinned memory by default, and torch warns where there is no GPU
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_the_example_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    right = []
    for dropout in ("0.9", "0"):
        names: dict[str, Any] = {}
        code = EXAMPLES["readme"].replace("word_dropout=0.9", f"word_dropout={dropout}")
        exec(compile(code, "README.md", "exec"), names)
        right.append(float(capsys.readouterr().out.split()[-1]))
        assert sorted(one.cue.value for one in names["found"]) == [n.lower() for n in names["names"]]
    told = re.search(r"right on (\d+) %; with `word_dropout=0` on (\d+) %", README)
    assert told
    assert right == pytest.approx([int(one) / 100 for one in told.groups()], abs=0.1)
