"""`hf-cap adapt` as a user runs it: prompts of the prior, texts held out, and a model that extract takes."""

import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, load_dataset

from hf_cap.cli import main
from hf_cap.cli.adapt import hold_out
from hf_cap.errors import DataError
from hf_cap.lm.base import LMSettings
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.priors.cap import CAPPrior
from tests.tiny import byte_tokenizer, llama

ROWS = [
    ("i lost my card", "lost_card"),
    ("my card is lost", "lost_card"),
    ("where is my lost card", "lost_card"),
    ("lost it", "lost_card"),
    ("renew my loan", "renew_loan"),
    ("i want to renew the book", "renew_loan"),
    ("renew", "renew_loan"),
    ("please renew my book loan", "renew_loan"),
]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("room")
    (room / "data").mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[::4])):
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        (room / "data" / f"{split}.jsonl").write_text("".join(lines))
    llama().save_pretrained(room / "llm")
    byte_tokenizer().save_pretrained(room / "llm")
    return room


@pytest.fixture(scope="module")
def adapted(room: Path) -> Path:
    flags = ["--dataset", str(room / "data"), "--model", str(room / "llm"), "--store", "none"]
    training = ["--learning_rate", "1e-2", "--epochs", "8", "--batch_size", "3", "--chat", "false"]
    out = room / "adapted"
    more = ["--masked_copies", "2", "--output_dir", str(out)]
    assert main(["adapt", *flags, *training, *more]) == 0
    return out


def train_split() -> Dataset:
    names = ["lost_card", "renew_loan"]
    columns = {"text": [t for t, _ in ROWS], "label": [names.index(label) for _, label in ROWS]}
    return Dataset.from_dict(columns).cast_column("label", ClassLabel(names=names))


def test_it_says_what_it_did(adapted: Path) -> None:
    facts = json.loads((adapted / "adapt.json").read_text())
    assert (facts["texts"], facts["zero_shot"]["texts"]) == (6, 2)
    single = 1 if "renew" in held_texts() else 0  # a single word has nothing to take out
    assert facts["prompts"] == 6 + 2 * (5 + single)
    assert facts["losses"][-1] < facts["losses"][0]
    assert facts["zero_shot"]["before"].keys() == {"raw", "calibrated"}
    assert (facts["base_model"], facts["settings"]["masked_copies"]) == (
        str(adapted.parent / "llm"), 2,
    )  # fmt: skip
    adapter = json.loads((adapted / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(adapted.parent / "llm")


def held_texts() -> list[str]:
    return list(hold_out(train_split(), 1, seed=0)[1]["text"])


def test_extract_takes_the_model_and_scores_anew(room: Path, adapted: Path) -> None:
    common = ["--dataset", str(room / "data"), "--n", "4", "--store", str(room / "scores.sqlite")]
    models = {"before": room / "llm", "after": adapted / "model"}
    for name, model in models.items():
        flags = ["--model", str(model), "--output_dir", str(room / name), "--chat", "false"]
        assert main(["extract", *common, *flags]) == 0
    before, after = (load_dataset(str(room / name))["train"]["prior_cap"][:] for name in models)
    assert before != after


def test_the_examples_are_what_the_prior_asks() -> None:
    data = train_split()
    scorer = LocalLanguageModel(llama(), byte_tokenizer())
    prior = CAPPrior.from_dataset(data, model=scorer, n=4, chat=False)
    asker, rows = prior.open(), prior.read_rows(data[:])
    whole = prior.examples(asker, rows)
    totals = [one.total for one in scorer.log_probs(whole)]
    gold = [
        scores[row.label] for scores, row in zip(prior.label_scores(asker, rows), rows, strict=True)
    ]
    assert totals == pytest.approx(gold)
    for query, row in zip(whole, rows, strict=True):
        assert f"Message: {row.text}\n" not in query.prefix
    with_copies = prior.examples(asker, rows, copies=3)
    assert with_copies == prior.examples(asker, rows, copies=3)
    assert len(with_copies) == 4 * (len(rows) - 1) + 1
    assert [with_copies[at] for at in (0, 4, 8, 12, 16, 20, 24, 25)] == whole
    words = [set(query.body.split()) for query in with_copies[:4]]
    assert all(part < words[0] for part in words[1:])


def test_texts_are_held_out_by_label() -> None:
    data = train_split()
    kept, held = hold_out(data, 1, seed=0)
    assert sorted(held["label"]) == [0, 1]
    assert sorted([*kept["text"], *held["text"]]) == sorted(data["text"])
    assert hold_out(data, 1, seed=0)[1]["text"][:] == held["text"][:]
    order = data.select(range(len(data) - 1, -1, -1))
    assert set(hold_out(order, 1, seed=0)[1]["text"]) == set(held["text"])
    assert len(hold_out(data, 0, seed=0)[1]) == 0
    twice = data.select([0, 0, 1, 4, 5])
    parts = hold_out(twice, 1, seed=3)
    assert not set(parts[0]["text"]) & set(parts[1]["text"])
    with pytest.raises(DataError, match="holdout=4 leaves no text to learn 2 labels from"):
        hold_out(data, 4, seed=0)


def test_another_split_is_measured_on(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset", str(room / "data"), "--model", str(room / "llm"), "--store", "none"]
    out = ["--output_dir", str(room / "quick"), "--max_steps", "1", "--chat", "false"]
    assert main(["adapt", *flags, *out, "--eval_split", "test", "--eval_texts", "1"]) == 0
    assert "of 1 texts" in capsys.readouterr().out
    assert json.loads((room / "quick" / "adapt.json").read_text())["texts"] == 8
    assert main(["adapt", *flags, *out, "--eval_texts", "0"]) == 0
    assert "after:  not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--base_url", "http://x/v1"], "A served model cannot be adapted"),
        (["--quantization", "4bit"], "cannot be merged into quantised weights"),
        (["--masked_copies", "-1"], "`masked_copies` must be at least 0"),
        (["--rank", "0"], "`rank` must be at least 1"),
        (["--holdout", "4"], "holdout=4 leaves no text to learn"),
        (["--eval_split", "dev"], "no split 'dev'"),
        (["--target_modules", "nowhere"], "Cannot put adapters on the layers ['nowhere']"),
    ],
)
def test_bad_input_is_one_sentence(
    room: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", str(room / "data"), "--model", str(room / "llm"), "--store", "none"]
    assert main(["adapt", *given, "--output_dir", str(room / "bad"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (room / "bad" / "model").exists()


def test_a_model_folder_is_a_scorer_of_its_own(adapted: Path) -> None:
    settings = LMSettings(model=str(adapted / "model"))
    from hf_cap.lm.base import LMRuntime
    from hf_cap.lm.open import open_language_model

    plain = LocalLanguageModel(llama(), byte_tokenizer(), name=str(adapted / "model"))
    assert open_language_model(settings, LMRuntime(store="none")).fingerprint != plain.fingerprint
