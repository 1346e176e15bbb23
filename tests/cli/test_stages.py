"""The stages as a user runs them, one after the other, on tiny models in local folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from safetensors.torch import load_file
from transformers import pipeline

from hf_cap.cli import main
from hf_cap.schema import read_provenance
from tests.tiny import byte_tokenizer, llama, roberta_classifier, word_tokenizer

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


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a language model and an encoder in folders, and the recipes of a small demo."""
    room = tmp_path_factory.mktemp("room")
    data = room / "data"
    data.mkdir()
    for split, rows in ROWS.items():
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        (data / f"{split}.jsonl").write_text("".join(lines))
    for name, model, tokenizer in (
        ("llm", llama(), byte_tokenizer()),
        ("encoder", roberta_classifier(labels=2), word_tokenizer()),
    ):
        model.save_pretrained(room / name)
        tokenizer.save_pretrained(room / name)
    recipes = room / "recipes"
    recipes.mkdir()
    (recipes / "extract.yaml").write_text(
        f"dataset: {data}\nmodel: {room / 'llm'}\nsources: [cap, word_length]\nn: 4\n"
        "splits: [train]\nstore: none\nkeep_label_scores: true\n"
    )
    (recipes / "fuse.yaml").write_text("method: max\n")
    (recipes / "train.yaml").write_text(
        f"model: {room / 'encoder'}\nnum_train_epochs: 2\nper_device_train_batch_size: 3\n"
        'learning_rate: 1e-2\nsave_strategy: "no"\nlogging_steps: 1\n'
    )
    (recipes / "evaluate.yaml").write_text(f"dataset: {data}\nattribution_steps: 2\n")
    return room


@pytest.fixture(scope="module")
def demo(room: Path) -> Path:
    """The folder of a finished small demo."""
    out = room / "out"
    flags = ["--output_dir", str(out), "--recipes", str(room / "recipes"), "--seeds", "0", "1"]
    assert main(["demo", *flags]) == 0
    return out


def test_the_prior_data_set_opens_without_hf_cap(demo: Path) -> None:
    splits = load_dataset(str(demo / "prior"))
    assert len(splits["train"]) == 6
    row = splits["train"][0]
    assert len(row["prior"]) == len(row["words"]) == 6
    assert max(row["prior_word_length"]) == pytest.approx(6)
    made = read_provenance(row["provenance"])
    assert made["cap"]["n"] == 4
    assert made["prior"]["how"] == "max"


def test_the_model_folder_holds_no_pickle_and_tells_how_it_was_made(demo: Path) -> None:
    folder = demo / "models" / "aligned-seed1"
    assert not [file for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pkl")]
    run = json.loads((folder / "run.json").read_text())
    assert run["seed"] == 1
    assert run["alignment"]["alignment_weight"] == 0.1
    assert run["data"]["labels"] == ["lost_card", "renew_loan"]
    assert any("loss_align" in entry for entry in run["history"])


def test_alignment_and_seed_change_the_weights(demo: Path) -> None:
    def weights(name: str) -> torch.Tensor:
        return torch.cat(
            [
                tensor.flatten()
                for _, tensor in sorted(
                    load_file(demo / "models" / name / "model.safetensors").items()
                )
            ]
        )

    runs = [weights(name) for name in ("none-seed0", "aligned-seed0", "none-seed1")]
    assert not torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_model_works_in_a_plain_pipeline(demo: Path) -> None:
    classify = pipeline("text-classification", model=str(demo / "models" / "none-seed0"))
    assert classify("my card is lost")[0]["label"] in ("lost_card", "renew_loan")


def test_the_evaluation_is_numbers_and_one_record_a_text(demo: Path) -> None:
    folder = demo / "models" / "none-seed0" / "evaluation"
    numbers = json.loads((folder / "test.json").read_text())
    assert numbers["texts"] == 2
    assert 0 <= numbers["accuracy"] <= 1
    on_train = json.loads((folder / "train.json").read_text())
    assert on_train["alignment_texts"] == 6
    assert on_train["comprehensiveness"] is None
    records = load_dataset("parquet", data_files=str(folder / "test.parquet"))["train"]
    assert records["text"][:] == [text for text, _ in ROWS["test"]]


def test_the_report_has_a_row_a_method(demo: Path) -> None:
    report = (demo / "report.md").read_text()
    assert "| none | " in report
    assert "| aligned | " in report
    assert " ± " in report


def test_a_second_run_does_nothing_again(demo: Path, room: Path) -> None:
    def written() -> dict[Path, int]:
        files = [file for file in demo.rglob("*") if file.is_file()]
        return {file: file.stat().st_mtime_ns for file in files if file.name != "report.md"}

    before = written()
    flags = ["--output_dir", str(demo), "--recipes", str(room / "recipes"), "--seeds", "0", "1"]
    assert main(["demo", *flags]) == 0
    assert written() == before


def test_lora_trains_adapters_and_head(room: Path, demo: Path) -> None:
    flags = ["--config", str(room / "recipes" / "train.yaml"), "--dataset", str(demo / "prior")]
    out = room / "lora"
    lora = ["--lora_rank", "2", "--lora_alpha", "6", "--lora_targets", "key"]
    assert main(["train", *flags, "--output_dir", str(out), *lora]) == 0
    saved = load_file(out / "adapter_model.safetensors")
    adapters = [name for name in saved if "lora_A" in name]
    assert adapters
    assert all(".key." in name and len(saved[name]) == 2 for name in adapters)
    assert any("classifier" in name for name in saved)
    assert json.loads((out / "adapter_config.json").read_text())["lora_alpha"] == 6
    assert main(["evaluate", "--model", str(out), "--dataset", str(room / "data")]) == 0
    found = json.loads((out / "evaluation" / "test.json").read_text())
    assert found["labels"] == ["lost_card", "renew_loan"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "--dataset", "{room}/none", "--output_dir", "o"], "no file or folder"),
        (["extract", "--dataset", "{room}/data", "--output_dir", "o", "--sources", "cpa"], "'cpa'"),
        (
            ["extract", "--dataset", "{room}/data", "--output_dir", "o", "--sources", "lime"],
            "--classifier FOLDER",
        ),
        (["fuse", "--dataset", "{room}/data", "--output_dir", "o"], "no prior"),
        (
            ["train", "--dataset", "{room}/data", "--output_dir", "o", "--model", "{room}/encoder"],
            "there is no column 'prior'",
        ),
        (
            ["train", "--dataset", "{room}/data", "--output_dir", "o", "--train_split", "dev"],
            r"no split 'dev'",
        ),
        (["evaluate", "--model", "{room}/nothing", "--dataset", "{room}/data"], "no model folder"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    room: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(room=room) for word in arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_model_and_priors_are_staged_without_being_uploaded(
    demo: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO")
    for what, folder in (("model", demo / "models" / "aligned-seed0"), ("priors", demo / "prior")):
        flags = ["--folder", str(folder), "--repo_id", "me/thing", "--output_dir"]
        assert main(["push", what, *flags, str(tmp_path / what)]) == 0
        card = (tmp_path / what / "README.md").read_text()
        assert card.startswith("---\n")
        assert str(demo) not in card
    assert "README.md" in caplog.text
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="with GPUs processes find one another")
def test_processes_that_would_each_train_alone_are_refused(
    room: Path, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    flags = ["--config", str(room / "recipes" / "train.yaml"), "--dataset", str(demo / "prior")]
    assert main(["train", *flags, "--output_dir", str(room / "alone")]) == 2
    assert "--use_cpu true" in capsys.readouterr().err
    assert not (room / "alone").exists()


def test_a_token_is_no_setting(room: Path, demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--config", str(room / "recipes" / "train.yaml"), "--dataset", str(demo / "prior")]
    out = room / "token"
    assert main(["train", *flags, "--output_dir", str(out), "--hub_token", "hf_secret"]) == 2
    said = capsys.readouterr().err
    assert "HF_TOKEN" in said
    assert "hf_secret" not in said
    assert not out.exists()


def test_a_model_trained_anew_has_no_evaluation_of_the_old_one(room: Path, demo: Path) -> None:
    flags = ["--config", str(room / "recipes" / "train.yaml"), "--dataset", str(demo / "prior")]
    model, out = room / "again", room / "again" / "evaluation"
    for _ in range(2):
        assert main(["train", *flags, "--output_dir", str(model)]) == 0
        assert not out.exists()
        tested = ["--dataset", str(room / "data"), "--faithfulness", "false"]
        assert main(["evaluate", "--model", str(model), *tested]) == 0
        assert (out / "test.json").is_file()


def test_an_evaluation_makes_no_folder_that_hides_a_model_of_the_hub(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--model", "me/clf", "--dataset", str(room / "data")]) == 2
    assert "--output_dir FOLDER" in capsys.readouterr().err


def test_an_extraction_loses_nothing_that_lies_in_its_folder(
    room: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["extract", "--sources", "word_length", "--dataset"]
    raw = tmp_path / "raw"
    shutil.copytree(room / "data", raw)
    before = sorted(raw.iterdir())
    assert main([*command, str(raw), "--output_dir", str(raw)]) == 2
    assert "would be replaced" in capsys.readouterr().err
    assert sorted(raw.iterdir()) == before
    out = str(tmp_path / "out")
    both = ["--output_dir", out, "--splits", "train", "test"]
    assert main([*command, str(raw), *both]) == 0
    assert main([*command, out, *both, "--limit", "1"]) == 2
    assert "`limit=1` would leave" in capsys.readouterr().err
    assert main([*command, out, "--output_dir", out]) == 2
    assert "'test.parquet'" in capsys.readouterr().err
    assert main([*command, out, *both]) == 0


def test_an_audit_prints_the_worth_of_each_source(
    room: Path, demo: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--dataset", str(demo / "prior"), "--reference", str(room / "data")]
    assert main(["audit", *flags, "--output_dir", str(tmp_path / "audit")]) == 0
    assert "word_length" in capsys.readouterr().out
    assert (tmp_path / "audit" / "audit.json").is_file()


def test_trackers_get_loss_parts_and_heat_maps(room: Path, demo: Path) -> None:
    pytest.importorskip("tensorboard")
    flags = ["--config", str(room / "recipes" / "train.yaml"), "--dataset", str(demo / "prior")]
    out = room / "tracked"
    assert main(["train", *flags, "--output_dir", str(out), "--report_to", "tensorboard"]) == 0
    written = b"".join(file.read_bytes() for file in out.rglob("events.out.tfevents.*"))
    for name in (b"train/loss_align", b"train/align_cosine", b"heat_maps"):
        assert name in written
