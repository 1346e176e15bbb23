import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_cap.priors.base import SOURCES

DOCS = Path(__file__).parents[2] / "docs"


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)


def data() -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["renew", "lost"])})
    return Dataset.from_dict({"text": ["renew my book", "card"], "label": [0, 1]}, features)


def test_the_example_of_a_new_source_runs_as_it_stands() -> None:
    definition, use = python_blocks("adding_a_source.md")
    code = [line for line in definition.splitlines() if line.strip()]
    assert len(code) <= 20
    namespace: dict[str, Any] = {"train": data(), "__name__": __name__}
    with patch.dict(SOURCES):
        exec(definition + use, namespace)  # the documentation's own code
    train = namespace["train"]
    assert train["prior_early"][0] == pytest.approx([1, 4 / 9, 1 / 9])
    assert train["early_words"][:] == [3, 1]
    assert '"steepness": 2.0' in train["provenance"][0]


def test_every_source_is_described() -> None:
    described = re.findall(r"^\| `(\w+)` \|", (DOCS / "priors.md").read_text(), re.MULTILINE)
    assert set(SOURCES) <= set(described)


def test_the_first_example_of_the_overview_runs(
    reference: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (example,) = python_blocks("priors.md")
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=["renew", "lost", "pay"])}
    )
    train = Dataset.from_dict({"text": ["renew my book", "card lost"], "label": [0, 1]}, features)
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/plain").symlink_to(reference)
    namespace: dict[str, Any] = {"train": train}
    exec(example, namespace)
    fused = namespace["train"]
    assert [len(prior) for prior in fused["prior"]] == [3, 2]
