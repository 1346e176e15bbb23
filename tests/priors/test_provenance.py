"""What is known of a prior goes wherever its rows go."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk

from hf_cap.priors.cap import CAPPrior
from hf_cap.priors.extract import extract_priors
from hf_cap.priors.fusion import fuse_priors
from hf_cap.schema import read_provenance
from tests.priors.test_extraction import QUIET, read, splits
from tests.tiny import byte_tokenizer, llama

COMMAND = "hf-cap extract --dataset desk --n 5"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Fused priors of a language model in a folder."""
    monkeypatch.setenv("HF_CAP_LM_RUNTIME", json.dumps({"store": "none"}))
    llama().save_pretrained(tmp_path / "llm")
    byte_tokenizer().save_pretrained(tmp_path / "llm")
    data = splits()
    prior = CAPPrior.from_dataset(data["train"], model=str(tmp_path / "llm"), n=5, seed=3)
    extract_priors(data, [prior], tmp_path / "out", QUIET, command=COMMAND)
    return fuse_priors(read(tmp_path / "out"))


def test_a_prior_tells_all_that_made_it(made: Dataset, tmp_path: Path) -> None:
    (cell,) = made.unique("provenance")
    facts = read_provenance(cell)["cap"]
    given: dict[str, object] = {
        "source": "cap",
        "model": str(tmp_path / "llm"),
        "revision": None,
        "n": 5,
    }
    given |= {"penalty": 0.1, "seed": 3, "command": COMMAND, "word_pattern": r"\S+"}
    assert {name: facts[name] for name in given} == given
    told = {"fingerprint", "template_digest", "prompt_digest", "label_space", "versions", "date"}
    assert all(facts[name] for name in told)
    assert set(facts["versions"]) >= {"hf-cap", "torch", "transformers", "datasets"}
    assert read_provenance(cell)["prior"]["sources"] == ["cap"]


def test_it_survives_disk_parquet_map_and_concatenation(made: Dataset, tmp_path: Path) -> None:
    made.save_to_disk(tmp_path / "disk")
    made.to_parquet(str(tmp_path / "train.parquet"))
    mapped = made.map(lambda row: {"length": len(row["text"])}).shuffle(seed=0)
    copies = [load_from_disk(str(tmp_path / "disk")), read(tmp_path), mapped]
    copies.append(concatenate_datasets([made, made.select(range(2))]))
    for copy in copies:
        assert copy.unique("provenance") == made.unique("provenance")
