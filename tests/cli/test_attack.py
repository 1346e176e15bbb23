"""`hf-cap attack` as a user runs it, and what takes its result."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import load_dataset

from hf_cap.cli import main
from hf_cap.data import load_splits
from hf_cap.evaluation.classifier import load_classifier
from hf_cap.evaluation.modules import load_metric
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.mock import MockLanguageModel
from tests.tiny import roberta_classifier, word_tokenizer

TRAIN = {
    "lost_card": ["my card is lost", "lost card again", "card lost on the bus"],
    "renew_loan": ["renew my loan", "loan renewal please renew", "renew the loan again"],
}
TEST = [
    ("i lost it , the card", "lost_card"),
    ("renew this", "renew_loan"),
    ("hello", "renew_loan"),
]


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "data/train.jsonl", [(t, label) for label in TRAIN for t in TRAIN[label]])
    write(tmp_path / "data/test.jsonl", TEST)
    return tmp_path / "data"


def test_what_it_writes_can_be_evaluated(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "attacked", tmp_path / "model"
    assert main(["attack", "--dataset", str(data), "--output_dir", str(out)]) == 0
    assert "3 of 3 texts changed" in capsys.readouterr().out
    facts = json.loads((out / "attack.json").read_text())
    assert facts["keywords"]["lost_card"] == ["card", "lost"]
    assert facts["summary"]["changed"] == 3
    assert load_dataset(str(out))["test"]["original"][:] == [text for text, _ in TEST]

    labels: dict[str, Any] = {
        "id2label": {0: "renew_loan", 1: "lost_card"},
        "label2id": {"renew_loan": 0, "lost_card": 1},
    }
    roberta_classifier(2, **labels).save_pretrained(model)
    word_tokenizer().save_pretrained(model)
    flags = [
        "--model",
        str(model),
        "--split",
        "test",
        "--name",
        "attacked",
        "--faithfulness",
        "false",
    ]
    assert main(["evaluate", "--dataset", str(out), *flags]) == 0
    measured = json.loads((model / "evaluation/attacked.json").read_text())

    attacked = load_splits(out)["test"]
    classifier = load_classifier(str(model), None)
    names = [
        classifier.labels.index(attacked.features["label"].int2str(i)) for i in attacked["label"]
    ]
    robust = load_metric("robust_accuracy").compute(
        predictions=classifier(attacked["text"][:]).argmax(1)[:, None],
        clean_predictions=classifier(attacked["original"][:]).argmax(1),
        references=names,
    )
    assert robust["robust_accuracy"] == pytest.approx(measured["accuracy"])


def chat_model(
    monkeypatch: pytest.MonkeyPatch, path: Path, reply: Callable[[str], str]
) -> MockLanguageModel:
    chat = MockLanguageModel(reply=reply)
    monkeypatch.setattr(
        "hf_cap.lm.open.open_language_model", lambda settings: CachedLanguageModel(chat, path)
    )
    return chat


def test_a_killed_run_repeats_no_text(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"renew item {number} please", "renew_loan") for number in range(80)]
    write(data / "test.jsonl", rows)

    def reply(prompt: str) -> str:
        if prompt.startswith("Is the topic"):
            return "yes"
        if len(chat.asked) > 100:  # the second batch of texts
            raise KeyboardInterrupt
        return "by the way, lost card: " + prompt.split("Message: ")[1].splitlines()[0]

    out = tmp_path / "attacked"
    chat = chat_model(monkeypatch, tmp_path / "replies.sqlite", reply)
    flags = ["attack", "--dataset", str(data), "--output_dir", str(out), "--maker", "chat"]
    assert main(flags) == 130
    assert not out.exists()
    assert "run the same command again" in capsys.readouterr().err
    asked, answered = set(chat.asked[:64]), set(chat.asked[:-1])  # the last one was interrupted
    chat.asked.clear()
    assert main(flags) == 0
    assert not asked & set(chat.asked)
    assert len(chat.asked) < 2 * 80
    assert len(answered & set(chat.asked)) <= 16, "only what was in hand may be asked again"
    assert load_splits(out)["test"]["maker"][:] == ["chat"] * 80


def test_garbage_is_counted_and_left_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = {"it": "I cannot help with that.", "this": "renew the lost card thing", "hello": "%%"}

    def reply(prompt: str) -> str:
        if prompt.startswith("Is the topic"):
            return "Yes."
        message = prompt.split("Message: ")[1].splitlines()[0]
        return next(text for word, text in replies.items() if word in message)

    chat_model(monkeypatch, tmp_path / "replies.sqlite", reply)
    flags = [
        "attack",
        "--dataset",
        str(data),
        "--output_dir",
        str(tmp_path / "a"),
        "--maker",
        "chat",
    ]
    assert main([*flags, "--unchanged", "drop"]) == 0
    told = capsys.readouterr().out
    assert "1 of 3 texts changed" in told
    assert "2 unchanged and left out; notes: refusal 1, empty reply 1" in told
    assert load_splits(tmp_path / "a")["test"]["text"][:] == ["renew the lost card thing"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output_dir", "{data}"], "would be replaced by the attacked split alone"),
        (["--split", "dev"], "no split 'dev'"),
        (["--keywords_from", "prior"], "need the column 'prior'"),
        (["--kind", "keyword_replacement", "--keyword_texts", "9"], "No class has a keyword"),
        (["--maker", "gpt"], "`maker` must be one of 'rules', 'chat'"),
        (["--synonyms", "none.json"], "Cannot read synonyms from 'none.json'"),
    ],
)
def test_bad_input_is_one_sentence(
    data: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [flag.format(data=data) for flag in flags]
    kind = [] if "--kind" in flags else ["--kind", "keyword_replacement"]
    out = [] if "--output_dir" in flags else ["--output_dir", str(tmp_path / "out")]
    assert main(["attack", "--dataset", str(data), *kind, *out, *given]) == 2
    assert message in capsys.readouterr().err
    assert (data / "train.jsonl").exists()
    assert not (tmp_path / "out").exists()


def test_a_test_label_that_training_does_not_know(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(data / "test.jsonl", [*TEST, ("pay", "pay_fine")])
    flags = ["attack", "--dataset", str(data), "--output_dir", str(tmp_path / "out")]
    assert main(flags) == 2
    assert (
        "'test', row 3: the label 'pay_fine' is not in the label space" in capsys.readouterr().err
    )
    (data / "labels.json").write_text('["lost_card", "pay_fine", "renew_loan"]')
    assert main(flags) == 2
    assert "1 test texts have labels of which there is no training text" in capsys.readouterr().err


def full_disk() -> sqlite3.OperationalError:
    """The very error of SQLite on a full disk."""
    store = sqlite3.connect(":memory:")
    store.execute("CREATE TABLE t (x)")
    store.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as caught:
        store.execute("INSERT INTO t VALUES (zeroblob(100000))")
    store.close()
    return caught.value


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), full_disk()], ids=str)
def test_a_full_disk_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(values: dict[str, Any]) -> None:
        raise error

    monkeypatch.setattr(
        "hf_cap.cli.import_module", lambda *_: SimpleNamespace(run=run, SETTINGS=())
    )
    assert main(["attack"]) == 1
    assert "The disk is full" in capsys.readouterr().err
