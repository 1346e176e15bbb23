"""The README's examples are run as they stand, the first on the embedded models."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- tested: (\w+) -->\n```python\n(.*?)```", README, re.DOTALL))


@pytest.mark.parametrize(("name", "limit"), [("readme", 24), ("laat", 20)])
def test_the_examples_are_short(name: str, limit: int) -> None:
    lines = [line for line in EXAMPLES[name].splitlines() if line.strip()]
    assert len(lines) <= limit


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_the_example_of_a_table_tells_the_classes_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES["laat"], "README.md", "exec"), {})
    area = float(capsys.readouterr().out.splitlines()[-1])
    assert area == pytest.approx(0.98, abs=0.01)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(900)
# torch: transformers asks for pinned memory by default, and torch warns where there is no GPU
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_the_example_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(EXAMPLES["readme"], "README.md", "exec"), names)
    assert "Evaluation(texts=24, accuracy=" in capsys.readouterr().out
    train = names["train"]
    assert [len(p) for p in train["prior"]] == [len(w) for w in train["words"]]  # type: ignore[index]
