"""A folder as `hf-cap fit` leaves it, with tiny models, priors, a decided list and hostile texts."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_cap.cues import Mark, save_marks
from hf_cap.data import save_splits
from hf_cap.sentence_encoder import label_config
from tests.publishing.runs import LABELS, prior_splits
from tests.report.runs import HOSTILE
from tests.tiny import roberta_classifier, save

MARKS = [
    Mark(kind="word", value="hold", label="cancel"),
    Mark(kind="last", value="card", label="renew", decision="fine"),
    Mark(kind="phrase", value="x<img src=x onerror=alert(1)>x", label="pay"),
]


def write_model(folder: Path, seed: int, evaluated: dict[str, str]) -> None:
    """A model, and its prediction for each evaluated text."""
    save(roberta_classifier(seed=seed, **label_config(LABELS)), folder)
    rows = [{"text": text, "label": "pay", "prediction": said} for text, said in evaluated.items()]
    (folder / "evaluation").mkdir()
    Dataset.from_list(rows).to_parquet(str(folder / "evaluation" / "test.parquet"))


def write_fit(folder: Path) -> Path:
    """What `hf-cap fit` leaves; the models differ on the evaluated text `pay my fine`."""
    same = dict.fromkeys(HOSTILE, "pay")
    for seed, role in enumerate(("baseline", "aligned")):
        said: dict[str, str] = {**same, "pay my fine": LABELS[seed]}
        write_model(folder / "models" / f"{role}-seed3", seed, said)
    save_splits({"train": prior_splits()["train"]}, folder / "prior")
    save_marks(MARKS, folder / "shortcuts.yaml")
    numbers = {"texts": 3, "of": 4, "elsewhere": 1, "log_odds": 2.0, "q": 0.01, "relevance": 0.5}
    named = {"kind": "word", "value": "hold", "cue": "hold", "label": "cancel"}
    found = {**named, **numbers, "flipped": 0.25, "examples": ["cancel the hold"]}
    (folder / "shortcuts.json").write_text(json.dumps({"shortcuts": [found]}))
    names = ("prior", "shortcuts.yaml", "models/baseline-seed3", "models/aligned-seed3")
    done: dict[str, Any] = {name: {"settings": {}, "key": "", "finished": True} for name in names}
    (folder / "fit.json").write_text(json.dumps(done))
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fit(tmp_path_factory.mktemp("fit"))
