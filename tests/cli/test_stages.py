"""The stages as a user runs them, one after the other, on tiny models in local folders."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, concatenate_datasets, load_dataset
from safetensors.torch import load_file
from transformers import pipeline

from hf_cap.classifiers import load_model, load_tokenizer, new_classifier
from hf_cap.cli import main
from hf_cap.cues import Mark, save_marks
from hf_cap.data import load_splits, save_splits
from hf_cap.refit import average_encoder, encoder_weights, refine_head
from hf_cap.schema import read_provenance
from hf_cap.training.config import CAPConfig, set_for_few_texts
from hf_cap.training.trainer import AlignedTrainer
from tests.cli.conftest import LABELS, ROWS, TRAIN, save_classifier
from tests.launching import refused, run
from tests.tiny import word_tokenizer

Output = pytest.CaptureFixture[str]
Damage = Callable[[Path], None]


def columns(folder: Path, name: str) -> dict[str, Any]:
    """A column of each split."""
    return {
        file.stem: load_dataset("parquet", data_files=str(file), split="train")[name][:]
        for file in folder.glob("*.parquet")
    }


def test_the_folders_open_without_hf_cap_and_record_how_they_were_made(prior: Path, model: Path) -> None:
    splits = load_dataset(str(prior))
    assert len(splits["train"]) == 6
    row = splits["train"][0]
    assert len(row["prior"]) == len(row["words"]) == 6
    assert max(row["prior_word_length"]) == pytest.approx(6)
    made = read_provenance(row["provenance"])
    assert (made["cap"]["n"], made["prior"]["method"]) == (4, "max")
    assert not [file for file in model.iterdir() if file.suffix in (".bin", ".pt", ".pkl")]
    record = json.loads((model / "run.json").read_text())
    assert (record["kind"], record["seed"]) == ("train", 1)
    assert record["alignment"]["alignment_weight"] == 0.1
    assert record["settings"]["learning_rate"] == 1e-2
    assert record["data"]["labels"] == LABELS
    assert record["data"]["provenance"][0]["cap"]["n"] == 4
    assert any("loss_align" in entry for entry in record["history"])
    assert pipeline("text-classification", model=str(model))("my card")[0]["label"] in LABELS


def test_what_is_not_given_suits_few_texts_and_is_recorded(room: Path, tmp_path: Path) -> None:
    places = ("--dataset", room / "data", "--model", room / "encoder", "--alignment_weight", "0")
    run(
        "train", *places, "--output_dir", tmp_path / "one", *"--max_steps 1 --save_strategy no".split(),
    )  # fmt: skip
    chosen = json.loads((tmp_path / "one" / "run.json").read_text())["chosen"]
    static = {"per_device_train_batch_size": 16, "warmup_steps": 0.1, "weight_decay": 0.01}
    assert chosen == {**static, "learning_rate": 3e-4}
    config = CAPConfig(str(tmp_path), alignment_weight=0, gradient_accumulation_steps=2)
    given = {"per_device_train_batch_size", "weight_decay"}  # 8 texts, two times
    chosen = set_for_few_texts(config, given, 120, small=False)
    assert chosen == {"warmup_steps": 0.1, "learning_rate": 5e-5, "num_train_epochs": 63}
    assert (config.num_train_epochs, config.weight_decay) == (63, 0)
    assert set_for_few_texts(config, given, 1_000_000, small=False)["num_train_epochs"] == 3
    assert set_for_few_texts(config, {*given, *chosen}, 120, small=True) == {}
    # 20 * sqrt(64) = 160 steps of 16 texts, 4 of them an epoch
    chosen = set_for_few_texts(config, given, 64, small=True, sentence=True)
    assert (chosen["num_train_epochs"], chosen["learning_rate"]) == (40, 3e-4)


def test_sources_learn_from_train_or_the_split_that_is_named(room: Path, tmp_path: Path) -> None:
    def extracted(name: str, *words: str) -> dict[str, Any]:
        places = ("--dataset", room / "data", "--output_dir", tmp_path / name)
        run("extract", *places, "--sources", "keywords", *words)
        return columns(tmp_path / name, "prior_keywords")

    both = extracted("a", "--splits", "train", "test")
    assert extracted("b", "--splits", "test", "train") == both
    test = extracted("c", "--splits", "test", "--train_split", "train")
    assert test["test"] == both["test"]
    # by default the only split is learned from
    assert extracted("d", "--splits", "test")["test"] != both["test"]


def test_a_source_of_the_user_is_named_by_its_place(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from hf_cap.priors import Source, SourceResult\n"
        "from hf_cap.utils import option\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class FirstWord(Source):\n"
        "    name = 'first_word'\n"
        "    weight: float = option(1.0, 'Score of the first word.')\n"
        "    words: tuple[str, ...] = option((), 'Other words.')\n"
        "    def score_words(self, rows):\n"
        "        return SourceResult([[self.weight, *[0.0] * (len(r.spans) - 1)] for r in rows])\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("extract", "--dataset", room / "data", "--output_dir", "out", "--sources", "mine:FirstWord")
    run(*words, "--options", "first_word.weight=2.5", "first_word.words=[on, No, 007, 12:30, 1e-1]")
    cell = load_splits("out")["train"][0]["provenance"]
    assert read_provenance(cell)["first_word"]["words"] == ["on", "No", "007", "12:30", "1e-1"]
    assert [scores[:2] for scores in columns(Path("out"), "prior_first_word")["train"]] == [[2.5, 0]] * 6
    assert "has no setting 'wieght'" in refused(*words, "--options", "first_word.wieght=2")
    assert "settings for 'cap', which is not among ['mine:FirstWord']" in refused(*words, "--cap.n", "3")


def test_an_extraction_loses_nothing_that_lies_in_its_folder(room: Path, tmp_path: Path) -> None:
    command, raw, out = (
        ("extract", "--sources", "word_length", "--dataset"),
        tmp_path / "raw",
        tmp_path / "out",
    )
    shutil.copytree(room / "data", raw)
    before = sorted(raw.iterdir())
    assert "would be replaced" in refused(*command, raw, "--output_dir", raw)
    assert sorted(raw.iterdir()) == before
    both = ("--output_dir", out, "--splits", "train", "test")
    run(*command, raw, *both)
    assert "`limit=1` would leave" in refused(*command, out, *both, "--limit", "1")
    assert "'test.parquet'" in refused(*command, out, "--output_dir", out)


def test_the_parts_of_an_array_of_jobs_make_the_whole(room: Path, tmp_path: Path) -> None:
    command = ["extract", "--sources", "word_length", "--dataset", room / "data", "--output_dir"]
    run(*command, tmp_path / "whole")
    for part in ("1/4", "2/4", "3/4", "4/4"):
        run(*command, tmp_path / f"part{part[0]}", "--shard", part)
    parts = [load_splits(tmp_path / f"part{number}")["train"] for number in range(1, 5)]
    assert [len(part) for part in parts] == [2, 2, 1, 1]
    save_splits({"train": concatenate_datasets(parts)}, tmp_path / "merged")
    merged, whole = (load_splits(tmp_path / name)["train"] for name in ("merged", "whole"))
    assert merged.features == whole.features
    kept = [name for name in whole.column_names if name != "provenance"]
    assert merged.select_columns(kept)[:] == whole.select_columns(kept)[:]


def trained(room: Path, out: Path, *words: object, model: str = "encoder") -> Path:
    """Two epochs without alignment; gives the folder."""
    places = ("--dataset", room / "data", "--model", room / model, "--output_dir", out)
    run("train", *places, *TRAIN, "--alignment_weight", 0, *words)
    return out


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        model: Any = load_model(str(folder))
        found: torch.Tensor = model.eval()(**word_tokenizer()(["my card"], return_tensors="pt")).logits
    return found


@pytest.mark.parametrize(
    ("model", "lacking"), [("deberta-v2", {"classifier", "pooler"}), ("sentence", {"head"})]
)
def test_an_adapter_brings_every_module_that_its_base_lacks(
    room: Path, tmp_path: Path, model: str, lacking: set[str]
) -> None:
    lora = ("--lora.rank", 2, "--lora.alpha", 6)
    out = trained(room, tmp_path / "out", *lora, model=model)
    saved = json.loads((out / "adapter_config.json").read_text())
    assert lacking <= set(saved["modules_to_save"])
    assert saved["lora_alpha"] == 6
    torch.manual_seed(1)
    first = logits(out)
    torch.manual_seed(2)
    torch.testing.assert_close(first, logits(out))


def test_a_split_of_unlabelled_texts_refines_the_head(room: Path, tmp_path: Path) -> None:
    plain = trained(room, tmp_path / "plain", model="sentence")
    shutil.copytree(room / "data", tmp_path / "data")
    free = ["my lost card", "a book loan please", "renew my loan", "card lost"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in free)
    (tmp_path / "data" / "unlabelled.jsonl").write_text(lines)
    own = trained(tmp_path, tmp_path / "own", model=str(room / "sentence"))
    (tmp_path / "free.csv").write_text("words\n" + "\n".join(free) + "\n")
    given = trained(room, tmp_path / "given", "--unlabelled", tmp_path / "free.csv", model="sentence")
    model: Any = load_model(str(plain))
    start = encoder_weights(new_classifier(str(room / "sentence"), LABELS).model)
    average_encoder(model, start, 0.5)
    refine_head(model, load_tokenizer(str(plain)), free)
    for folder in (own, given):
        found: Any = load_model(str(folder))
        torch.testing.assert_close(found.head.weight, model.head.weight)
    # without a sentence encoder the split is not in the way
    trained(tmp_path, tmp_path / "sequence", model=str(room / "encoder"))
    assert set(load_splits(tmp_path / "data")) == {"train", "test"}


def test_a_folder_that_is_used_again_holds_the_last_model_alone(room: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    saved = ("--save_strategy", "steps", "--save_steps", 4)
    adapted = logits(trained(room, out, "--lora.rank", 2, "--lora.targets", "key", *saved))
    assert (out / "checkpoint-4").is_dir()
    weights = load_file(out / "adapter_model.safetensors")
    assert all(".key." in name for name in weights if "lora_A" in name)
    tested = ("evaluate", "--model", out, "--dataset", room / "data", "--faithfulness", "false")
    run(*tested)
    trained(room, out, "--overwrite_output_dir")
    assert not (out / "evaluation").exists(), "it measured the model that was here before"
    assert not [*out.glob("adapter*"), *out.glob("checkpoint-*")]
    assert not torch.equal(logits(out), adapted)


def test_a_training_replaces_no_other_run_in_its_folder(room: Path, tmp_path: Path) -> None:
    out = trained(room, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    fixed = ("train", *TRAIN, "--output_dir", out)
    again = (*fixed, "--dataset", room / "data", "--model", room / "encoder")
    table = (*fixed, "--task", "tabular", "--dataset", room / "table.csv", "--label_column", "label")
    last = ("--resume_from_checkpoint", "last", "--alignment_weight", "0")
    for words, message in (
        (again, "go on with it by `--resume_from_checkpoint last`"),
        (table, "go on with it by"),
        ((*table, *last), "with another 'dataset', 'label_column', 'model', 'task'; name"),
        ((*again, *last, "--seed", "3"), "another run, with another 'seed'; name another"),
    ):
        error = refused(*words)
        assert message in error
        assert "`--overwrite_output_dir`" in error
        assert before == {file.name: file.read_bytes() for file in out.iterdir()}
    trained(room, out, *last, "--num_train_epochs", "1")
    assert {file.name for file in out.iterdir()} == set(before)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 255
    file.write_bytes(content)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (cut, "model.safetensors", "incomplete metadata"),
        (Path.unlink, "trainer_state.json", "No such file"),
        (cut, "trainer_state.json", "line"),
        (cut, "optimizer.pt", "not a zip file"),
        (flip, "optimizer.pt", "is damaged"),
        (Path.unlink, "optimizer.pt", "has no optimizer"),
        (Path.unlink, "model.safetensors", "has no weights"),
        (empty, ".", "No such file"),
    ],
)
def test_a_training_goes_on_from_the_newest_checkpoint_that_loads(
    room: Path, tmp_path: Path, damage: Damage, file: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    saves = ("--save_strategy", "steps", "--save_steps", 1)
    whole = trained(room, tmp_path / "out", *saves)
    expected = logits(whole)
    damage(whole / "checkpoint-4" / file)
    places = ("--dataset", room / "data", "--output_dir", tmp_path / "other")
    error = refused("train", *places, "--resume_from_checkpoint", whole / "checkpoint-4")
    assert "checkpoint-4' cannot be loaded: " in error
    trained(room, whole, *saves, "--resume_from_checkpoint", "last")
    assert re.search(rf"checkpoint-4 cannot be loaded .*{message}", caplog.text)
    assert f"goes on from {whole / 'checkpoint-3'}" in caplog.text
    torch.testing.assert_close(logits(whole), expected, rtol=0, atol=0)
    assert (whole / "damaged-checkpoint-4").is_dir()
    assert (whole / "checkpoint-4" / "optimizer.pt").is_file()


def test_without_a_checkpoint_that_loads_a_training_begins_anew(
    room: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = logits(trained(room, tmp_path / "out"))
    (tmp_path / "other" / "checkpoint-3").mkdir(parents=True)
    found = trained(room, tmp_path / "other", "--resume_from_checkpoint", "last")
    torch.testing.assert_close(logits(found), expected, rtol=0, atol=0)
    assert "No checkpoint can be loaded; the training begins anew." in caplog.text


@pytest.mark.parametrize("task", ["text", "tabular"])
def test_a_step_that_overflowed_does_not_cost_the_record(
    room: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AlignedTrainer.log

    def with_norm(self: AlignedTrainer, logs: dict[str, float], *rest: Any) -> None:
        log(self, {**logs, "grad_norm": float("inf")}, *rest)

    monkeypatch.setattr(AlignedTrainer, "log", with_norm)
    table = ("--task", "tabular", "--dataset", room / "table.csv", "--label_column", "label")
    out = trained(room, tmp_path / "out", *(table if task == "tabular" else ()))
    history = json.loads((out / "run.json").read_text())["history"]
    assert {line["grad_norm"] for line in history} == {None}


def test_trackers_get_loss_parts_heat_maps_and_shortcuts(
    room: Path, prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    places = ("--dataset", prior, "--model", room / "encoder", "--output_dir", tmp_path / "out")
    save_marks([Mark(kind="word", value="card", label="lost_card")], tmp_path / "marks.yaml")
    listed = ("--shortcuts", tmp_path / "marks.yaml")
    run("train", *places, *TRAIN, "--report_to", "tensorboard", *listed)
    assert "Writing model shards" not in capsys.readouterr().err
    written = b"".join(file.read_bytes() for file in tmp_path.glob("logs/**/events*"))
    table = rb"| card | lost\_card | 3 | "  # three training texts of the label have the word
    for name in (b"train/loss_align", b"train/align_cosine", b"heat_maps", table):
        assert name in written


SERVER = "http://me:hf_secret@localhost:1/v1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extract", "--dataset", "{room}/none"], "no file or folder"),
        (["extract", "--dataset", "{room}/data", "--sources", "lime"], "--classifier FOLDER"),
        (["extract", "--dataset", "{room}/data", "--model", "{room}/llm", "--lm.device", "meta"],
         "no device 'meta' here"),
        (["fuse", "--dataset", "{room}/data"], "Run `hf-cap extract` first"),
        (["train", "--dataset", "{room}/data"], "There is no prior column 'prior'"),
        (["train", "--dataset", "{prior}", "--hub_token", "hf_secret"], "HF_TOKEN"),
        (["train", "--dataset", "{prior}", "--push_to_hub", "--hub_strategy", "end"],
         "hf-cap push model --folder"),
        (["train", "--dataset", "{prior}", "--max_grad_norm", "inf"], "`max_grad_norm` cannot be rec"),
        (["train", "--dataset", "{prior}", "--lora.alpha", "1", "--run_name", "\udcff"], "got '\\udcff'"),
        (["train", "--dataset", "{prior}", "--report_to", "wandb"], "requires wandb to be installed"),
        (["train", "--dataset", "{prior}", "--report_to", "wandbx"], "wandbx is not supported"),
        (["train", "--dataset", "{prior}", "--resume_from_checkpoint", "true"], "'true' cannot be"),
        (["fit", "{room}/data", "--train.max_grad_norm", "nan"], "`train.max_grad_norm` cannot be"),
        (["fit", "{room}/data", "--train.report_to", "wandb"], "requires wandb to be installed"),
        (["train", "--task", "tabular", "--dataset", "{room}/table.csv", "--label_column", "label",
          "--push_to_hub", "--hub_strategy", "end"], "hf-cap push model --folder"),
        (["fit", "{room}/data", "--train.hub_token", "hf_secret"], "HF_TOKEN"),
        (["fit", "{room}/data", "--controls", "shufled"], "no control 'shufled'"),
        (["fit", "{room}/data", "--lm.base_url", SERVER], "`base_url` holds a user"),
        (["extract", "--dataset", "{room}/data", "--lm.base_url", SERVER], "`base_url` holds a user"),
        (["attack", "--dataset", "{room}/data", "--kind", "keyword_addition", "--base_url", SERVER],
         "`base_url` holds a user"),
        (["elicit", "--dataset", "{room}/table.csv", "--label_column", "label", "--model", "m",
          "--lm.base_url", SERVER], "`base_url` holds a user"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_any_work(
    room: Path, prior: Path, tmp_path: Path, words: list[str], message: str, capsys: Output
) -> None:
    out = tmp_path / "out"
    given = [word.format(room=room, prior=prior) for word in words]
    assert main([*given, "--output_dir", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "hf_secret" not in error
    assert not out.exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="with GPUs processes find one another")
def test_processes_that_would_each_train_alone_are_refused(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = tmp_path / "out"
    assert "--use_cpu true" in refused("train", "--dataset", prior, "--output_dir", out)
    assert "Launch its stages" in refused("fit", prior, "--output_dir", out)
    assert not out.exists()


def test_an_evaluation_is_numbers_and_one_record_per_text(
    room: Path, model: Path, tmp_path: Path, capsys: Output
) -> None:
    places = ("--model", model, "--dataset", room / "data", "--output_dir", tmp_path)
    words = ("evaluate", *places, "--attribution_steps", "2")
    for name in ("test", "other"):
        run(*words, "--records", "--name", name)
    records = load_dataset("parquet", data_files=str(tmp_path / "test.parquet"))["train"]
    assert records["text"][:] == [text for text, _ in ROWS["test"]]
    capsys.readouterr()
    run(*words, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((tmp_path / "test.json").read_text())
    assert shown["texts"] == 2
    # records of an earlier evaluation do not stay beside new numbers
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"other.json", "other.parquet", "test.json"}
    assert "`--output_dir FOLDER`" in refused("evaluate", "--model", "me/clf", "--dataset", "data")
    assert "'../escaped' cannot name a file" in refused(*words, "--name", "../escaped")
    assert not (tmp_path.parent / "escaped.json").exists()


CODE = """
from transformers import RobertaConfig, RobertaForSequenceClassification

class OwnConfig(RobertaConfig):
    model_type = "own"

class OwnClassifier(RobertaForSequenceClassification):
    config_class = OwnConfig
"""


def test_code_of_a_model_runs_on_request_only(room: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_classifier(folder)
    (folder / "own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "OwnConfig", "AutoModelForSequenceClassification": "OwnClassifier"}
    config |= {"model_type": "own", "auto_map": {key: f"own.{name}" for key, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    evaluate = f"evaluate --model {folder} --faithfulness false --trust_remote_code"
    extract = f"extract --splits test --sources occlusion --classifier {folder}"
    extract += f" --output_dir {tmp_path}/priors --classifier_trust_remote_code"
    for command in (evaluate, extract):
        words = [*command.split(), "--dataset", str(room / "data")]
        flag = next(word for word in words if word.endswith("trust_remote_code"))
        assert "trust_remote_code=True" in refused(*(word for word in words if word != flag))
        run(*words)


def test_an_audit_prints_the_worth_of_each_source(
    room: Path, prior: Path, capsys: Output, tmp_path: Path
) -> None:
    words = ("--dataset", prior, "--reference", room / "data", "--output_dir", tmp_path / "audit")
    run("audit", *words)
    assert "word_length" in capsys.readouterr().out
    assert (tmp_path / "audit" / "audit.json").is_file()


def test_an_audit_warns_of_a_prior_on_shortcuts(
    capsys: Output, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    texts = [f"anna {word}" for word in ("lost it", "has gone", "cannot find one", "is away")]
    words = [text.split() for text in texts]
    rows = {"text": texts, "label": ["lost"] * 4, "words": words}
    on = [[1.0, *[0.1] * (len(row) - 1)] for row in words]
    off = [[0.0, *[1.0] * (len(row) - 1)] for row in words]
    data = Dataset.from_dict({**rows, "prior_on": on, "prior_off": off})
    features = Features({**data.features, "label": ClassLabel(names=["found", "lost"])})
    save_splits({"train": data.cast(features)}, tmp_path / "prior")
    save_marks([Mark(kind="word", value="anna", label="lost")], tmp_path / "shortcuts.yaml")
    run("audit", "--dataset", tmp_path / "prior", "--shortcuts", tmp_path / "shortcuts.yaml")
    lines = capsys.readouterr().out.splitlines()
    (shown,) = [line.split() for line in lines if line.strip().startswith("off")]
    assert shown == ["off", "0.000", "0.312"]
    assert "The prior 'on' leaks: 8" in caplog.text
    assert "'off' leaks" not in caplog.text
