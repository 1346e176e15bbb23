"""`hf-cap attack` as a user runs it, and what takes its result."""

import json
from pathlib import Path

import pytest

from hf_cap.cli import main
from hf_cap.data import load_splits
from hf_cap.lm import CachedLanguageModel, MockLanguageModel
from tests.cli.conftest import save_classifier, write_rows
from tests.launching import refused, run

TRAIN = {
    "lost_card": ["my card is lost", "lost card again", "card lost on the bus"],
    "renew_loan": ["renew my loan", "loan renewal please renew", "renew the loan again"],
}
TEST = [("i lost it , the card", "lost_card"), ("renew this", "renew_loan"), ("hello", "renew_loan")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [(text, label) for label in TRAIN for text in TRAIN[label]]
    write_rows(tmp_path / "data/train.jsonl", rows)
    write_rows(tmp_path / "data/test.jsonl", TEST)
    return tmp_path / "data"


def test_what_it_writes_can_be_evaluated(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "attacked", tmp_path / "model"
    run("attack", "--dataset", data, "--output_dir", out)
    assert "3 of 3 texts changed" in capsys.readouterr().out
    facts = json.loads((out / "attack.json").read_text())
    assert facts["keywords"]["lost_card"] == ["card", "lost"]
    assert facts["summary"]["changed"] == 3
    assert load_splits(out)["test"]["original"][:] == [text for text, _ in TEST]
    save_classifier(model)
    words = ("--model", model, "--name", "attacked", "--faithfulness", "false")
    run("evaluate", "--dataset", out, *words)
    assert json.loads((model / "evaluation/attacked.json").read_text())["texts"] == 3


def test_a_killed_run_repeats_no_text(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(data / "test.jsonl", [(f"renew item {i} please", "renew_loan") for i in range(80)])

    def reply(prompt: str) -> str:
        if prompt.startswith("Is the topic"):
            return "yes"
        if len(chat.asked) > 100:  # the second batch of texts
            raise KeyboardInterrupt
        return "by the way, lost card: " + prompt.split("Message: ")[1].splitlines()[0]

    chat = MockLanguageModel(reply=reply)
    cached = CachedLanguageModel(chat, tmp_path / "replies.sqlite")
    monkeypatch.setattr("hf_cap.evaluation.attacks.open_language_model", lambda settings: cached)
    out = tmp_path / "attacked"
    words = ["attack", "--dataset", str(data), "--output_dir", str(out), "--maker", "chat"]
    assert main(words) == 130
    assert not out.exists()
    assert "run the same command again" in capsys.readouterr().err
    asked, answered = set(chat.asked[:64]), set(chat.asked[:-1])  # the last one was interrupted
    chat.asked.clear()
    assert main(words) == 0
    assert not asked & set(chat.asked)
    assert len(chat.asked) < 2 * 80
    assert len(answered & set(chat.asked)) <= 16, "only what was in hand may be asked again"
    assert load_splits(out)["test"]["maker"][:] == ["chat"] * 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output_dir {data}", "would be replaced by the attacked split alone"),
        ("--split dev", "no split 'dev'"),
        ("--keywords_from prior", "need the column 'prior'"),
        ("--keyword_texts 9", "No class has a keyword"),
        ("--maker gpt", "takes one of rules, chat, got 'gpt'"),
        ("--synonyms none.json", "Cannot read synonyms from 'none.json'"),
    ],
)
def test_bad_input_is_one_sentence(data: Path, tmp_path: Path, words: str, message: str) -> None:
    fixed = f"attack --dataset {data} --output_dir {tmp_path}/out --kind keyword_replacement"
    assert message in refused(*fixed.split(), *words.format(data=data).split())
    assert (data / "train.jsonl").exists()
    assert not (tmp_path / "out").exists()


def test_a_test_label_that_training_lacks(data: Path, tmp_path: Path) -> None:
    write_rows(data / "test.jsonl", [*TEST, ("pay", "pay_fine")])
    words = ("attack", "--dataset", data, "--output_dir", tmp_path / "out")
    assert "row 3: the label 'pay_fine' is not in the label space" in refused(*words)
    (data / "labels.json").write_text('["lost_card", "pay_fine", "renew_loan"]')
    assert "have labels of which there is no training text" in refused(*words)
