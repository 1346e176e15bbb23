"""The README's example is run as it stands, on the embedded models."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"<!-- tested: readme -->\n```python\n(.*?)```", README, re.DOTALL)


def test_the_example_is_short() -> None:
    lines = [line for line in EXAMPLE.splitlines() if line.strip()]
    assert len(lines) < 25


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
    exec(compile(EXAMPLE, "README.md", "exec"), names)
    assert "Evaluation(texts=24, accuracy=" in capsys.readouterr().out
    train = names["train"]
    assert [len(p) for p in train["prior"]] == [len(w) for w in train["words"]]  # type: ignore[index]
