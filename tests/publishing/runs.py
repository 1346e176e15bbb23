"""A small run and a small prior data set, as the command line leaves them on disk."""

import json
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict

from hf_cap.data import save_splits
from hf_cap.schema import add_provenance
from hf_cap.sentence_encoder import label_config
from tests.tiny import roberta_classifier, save

LABELS = ["renew", "cancel", "pay"]

RECORD: dict[str, Any] = {
    "kind": "train",
    "model": "embedded/minilm-l6",
    "seed": 3,
    "settings": {"output_dir": "/home/alice/runs/desk", "learning_rate": 1e-4},
    "alignment": {"alignment_weight": 0.1, "attribution_method": "input_x_gradient", "word_pattern": r"\S+"},
    "data": {
        "dataset": "/home/alice/data/library-desk",
        "train_split": "train",
        "rows": 4,
        "labels": LABELS,
        "provenance": [{"cap": {"model": "embedded/smollm2-135m-instruct", "n": 100}}],
    },
    "history": [
        {"step": 1, "epoch": 0.5, "loss": 1.2, "loss_task": 1.1, "loss_align": 0.9},
        {"step": 2, "epoch": 1.0, "loss": 1.0, "loss_task": 0.9, "loss_align": 0.8},
        {"train_runtime": 3.0, "step": 2},
    ],
    "versions": {"hf-cap": "0.1.0"},
    "command": "hf-cap train --dataset /home/alice/data/library-desk --output_dir ~/runs/desk",
}


def write_run(folder: Path) -> Path:
    """A trained model with its record, an evaluation and one evaluated text."""
    save(roberta_classifier(**label_config(LABELS)), folder)
    (folder / "run.json").write_text(json.dumps(RECORD))
    (folder / "optimizer.pt").write_bytes(b"momentum")
    (folder / "training_args.bin").write_bytes(b"/home/alice")
    (folder / "evaluation").mkdir()
    numbers = {"texts": 2, "accuracy": 0.5, "macro_f1": 0.4, "comprehensiveness": 0.125}
    (folder / "evaluation" / "test.json").write_text(json.dumps(numbers))
    record: dict[str, Any] = {"label": "renew", "prediction": "pay"}
    record |= {"words": ["renew", "my", "card"], "text": "renew my card", "attributions": [1.0, 0.0, -0.5]}
    Dataset.from_list([record]).to_parquet(str(folder / "evaluation" / "test.parquet"))
    return folder


CAP_FACTS = {
    "model": "/home/alice/models/smollm2",
    "n": 100,
    "command": "hf-cap extract --dataset /home/alice/data/desk",
    "versions": {"hf-cap": "0.1.0"},
}


def prior_splits() -> DatasetDict:
    """Two splits with the priors `cap` and `lime` and their fusion; one text has none."""
    cell = add_provenance(None, "cap", CAP_FACTS)
    cell = add_provenance(cell, "lime", {"model": "roberta-base", "samples": 1000})
    cell = add_provenance(cell, "prior", {"sources": ["cap", "lime"], "method": "mean"})
    texts = ["renew my card", "cancel the hold", "pay fine"]
    cap = [[1.0, 0.0, -0.5], [2.0, 0.0, 1.0], [0.5, 0.5]]
    table = {
        "text": texts,
        "label": [0, 1, 2],
        "words": [text.split() for text in texts],
        "prior_cap": cap,
        "cap_r2": [0.9, 0.8, None],
        "prior_lime": [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], None],
        "prior": [*cap[:2], None],
        "provenance": [cell] * 3,
    }
    train = Dataset.from_dict(table).cast_column("label", ClassLabel(names=LABELS))
    return DatasetDict({"train": train, "test": train.select([1, 0])})


def write_priors(folder: Path) -> Path:
    save_splits(prior_splits(), folder)
    return folder
