"""Tiny models and a data set in folders, and the priors that the stages make of them."""

import json
from pathlib import Path

import pytest
from transformers import AutoModel

from hf_cap.sentence_encoder import label_config
from tests.launching import run
from tests.test_sentence_encoder import sentence_encoder
from tests.tiny import llama, roberta_classifier, save
from tests.training.cases import family

ROWS = {
    "train": [
        ("i lost my card please help", "lost_card"),
        ("my card is lost", "lost_card"),
        ("where is my lost card", "lost_card"),
        ("renew my loan please", "renew_loan"),
        ("i want to renew the book", "renew_loan"),
        ("please renew my book loan", "renew_loan"),
    ],
    "test": [("the card is lost help", "lost_card"), ("can i renew a loan", "renew_loan")],
}
LABELS = ["lost_card", "renew_loan"]
TRAIN = (
    "--num_train_epochs 2 --per_device_train_batch_size 3 --learning_rate 1e-2 --save_strategy no "
    "--logging_steps 1 --report_to none"
).split()


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(lines))


def save_classifier(folder: Path) -> None:
    """A classifier of `LABELS`."""
    save(roberta_classifier(**label_config(LABELS)), folder)


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, `table.csv`, `llm`, `classifier` and encoders without heads; not written to."""
    room = tmp_path_factory.mktemp("room")
    for split, rows in ROWS.items():
        write_rows(room / "data" / f"{split}.jsonl", rows)
    lost, renewed = (("the card number {} is lost", "lost_card"), ("renew loan number {}", "renew_loan"))
    attacked = [(text.format(at), label) for at in range(30) for text, label in (lost, renewed)]
    write_rows(room / "attacked" / "test.jsonl", attacked)
    judged = "".join(f"{text},{label},1\n" for text, label in attacked[:52])
    (room / "verdicts.csv").write_text(f"text,label,valid\n{judged}")
    (room / "scores.json").write_text('{"a": {"x": 0.5}, "b": {"y": 1}}')
    (room / "table.csv").write_text("x,y,label\n0,1,a\n1,0,b\n0.5,1,a\n1,0.5,b\n")
    save(llama(), room / "llm")
    for name, model in (("encoder", roberta_classifier(2)), ("deberta-v2", family("deberta-v2"))):
        save(AutoModel.from_config(model.config), room / name)
    sentence_encoder(room / "sentence")
    save_classifier(room / "classifier")
    return room


@pytest.fixture(scope="session")
def prior(room: Path) -> Path:
    """The folder that `extract` and `fuse` wrote."""
    places = ("--dataset", room / "data", "--output_dir", room / "priors", "--model", room / "llm")
    cap = ("--cap.n", 4, "--cap.keep_label_scores", "--lm.store", "none")
    run("extract", *places, "--sources", "cap", "word_length", *cap)
    run("fuse", "--dataset", room / "priors", "--output_dir", room / "prior", "--method", "max")
    return room / "prior"


@pytest.fixture(scope="session")
def model(room: Path, prior: Path) -> Path:
    """The folder of an aligned classifier."""
    places = ("--dataset", prior, "--model", room / "encoder", "--output_dir", room / "model")
    run("train", *places, *TRAIN, "--seed", 1)
    return room / "model"
