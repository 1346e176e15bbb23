"""`fit` and the demo: all stages in one call, nothing twice, and what changed again."""

import csv
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from datasets import load_dataset

import hf_cap
from hf_cap import workflow
from hf_cap.cli import load_command, main
from hf_cap.cli.core import Result, Values, parse, read_settings
from hf_cap.cli.train import LIBRARIANS
from hf_cap.cues import Cue, Mark, ShortcutSettings, load_marks, save_marks
from hf_cap.data import load_splits
from hf_cap.errors import CAPError, ConfigError, DataError
from hf_cap.lm import MockLanguageModel
from hf_cap.priors.extract import extract_priors
from hf_cap.shortcuts import Shortcut
from hf_cap.words import word_strings
from hf_cap.workflow import FitResult
from tests.cli.conftest import ROWS
from tests.launching import run

Fit = Callable[..., FitResult]
TEXTS = [*ROWS["train"], *ROWS["test"], ("lost the card", "lost_card"), ("a loan", "renew_loan")]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Five texts of each class in a file without a test split."""
    with (tmp_path / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("message", "topic"), *TEXTS])
    return tmp_path / "data.csv"


@pytest.fixture
def fit(room: Path, table: Path, tmp_path: Path) -> Fit:
    """`hf_cap.fit` with tiny models; groups of settings add to the fixed ones."""
    fixed: dict[str, dict[str, Any]] = {
        "extract": {"model": str(room / "llm"), "progress": False},
        "cap": {"n": 4},
        "lm": {"store": "none"},
        "train": {"model": str(room / "encoder"), "num_train_epochs": 2, "use_cpu": True},
        "evaluate": {"attribution_steps": 2},
    }

    def call(dataset: Any = table, **more: Any) -> FitResult:
        groups: Any = {**fixed, **more}
        groups |= {key: {**fixed[key], **more[key]} for key in fixed.keys() & more}
        if groups["extract"].get("sources") == ():
            del groups["cap"]
        named: Any = {"text_column": "message", "label_column": "topic"} if dataset == table else {}
        return hf_cap.fit(dataset, tmp_path / "run", **named, **groups)

    return call


def written(folder: Path) -> dict[str, int]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "fit.json"]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """The stages whose files were written again."""
    files = [name for name in after if after[name] != before.get(name)]
    return {"/".join(name.split("/")[: 2 if name.startswith("models") else 1]) for name in files}


def test_one_call_gives_models_numbers_and_a_report(fit: Fit) -> None:
    started = time.monotonic()
    result = fit(controls=("shuffled",), seeds=(1,), test_size=0.4)
    stages = json.loads((result.output_dir / "fit.json").read_text())
    taken = [stage["seconds"] for stage in stages.values()]
    assert min(taken) >= 0
    assert 0 < sum(taken) < time.monotonic() - started + 0.1 * len(taken)  # rounded to 0.1
    assert set(result.accuracy) == {"baseline", "aligned", "shuffled"}
    assert result.report.is_file()
    record = json.loads((result.model / "run.json").read_text())
    assert record["alignment"]["alignment_weight"] == 0.1
    assert record["data"]["provenance"][0]["cap"]["n"] == 4
    assert len(list((result.output_dir / "models").iterdir())) == 3
    measured = set(result.results["measure"])
    assert {"accuracy", "alignment", "comprehensiveness"} <= measured
    compared = hf_cap.evaluation.compare(
        result.results, "baseline", ["test_set", "measure"], pair_on=["seed"]
    )
    assert ("test", "accuracy", "aligned") in compared.index
    shuffled = json.loads((result.output_dir / "models/shuffled-seed1/run.json").read_text())
    assert shuffled["data"]["provenance"][0]["control"]["seed"] == 1
    # a part of each class was held out
    data = load_dataset(str(result.output_dir / "data"))
    texts = {split: set(data[split]["text"]) for split in data}
    assert texts["train"] | texts["test"] == {text for text, _ in TEXTS}
    assert not texts["train"] & texts["test"]
    assert sorted(data["test"]["label"]) == [0, 0, 1, 1]


def test_nothing_is_done_twice_and_a_change_redoes_what_it_concerns(
    fit: Fit, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fit().output_dir
    first = written(folder)
    fit(lm={"token_budget": 512}, extract={"batch_size": 2})  # changes no answer
    for mistake, message in (
        ({"cap": {"penalty": -1.0}}, "`penalty` must be more than 0"),
        ({"lmie": {"samples": 3}}, "settings for 'lmie', which is not among"),
        ({"evaluate": {"bacth_size": 3}}, r"no such setting: .*bacth_size"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(**mistake)
    assert written(folder) == first, "a mistake costs nothing"
    fit(train={"alignment_weight": 0.5})
    second = written(folder)
    assert changed(first, second) == {"models/aligned-seed0", "shown", "report.html"}
    assert "aligned-seed0 is made again: changed alignment_weight" in caplog.text
    fit(train={"alignment_weight": 0.5}, cap={"n": 5}, seeds=(0, 1))
    third = written(folder)
    models = {f"models/{name}-seed{seed}" for name in ("aligned", "baseline") for seed in (0, 1)}
    assert changed(second, third) == {"priors", "prior", "shown", "report.html", *models}
    weights = "models/baseline-seed0/model.safetensors"
    assert third[weights] == first[weights], "the baseline has no prior"


def test_decisions_about_shortcuts_reach_prior_and_training(fit: Fit) -> None:
    folder = fit(shortcuts=True).output_dir
    first = written(folder)
    assert json.loads((folder / "models/aligned-seed0/run.json").read_text())["settings"][
        "word_dropout"
    ] == pytest.approx(0.9)
    plain = json.loads((folder / "models/baseline-seed0/run.json").read_text())
    assert "word_dropout" not in plain["settings"]
    fit(shortcuts=True)
    assert written(folder) == first
    mark = Mark(kind="word", value="card", label="lost_card")
    save_marks([mark], folder / "shortcuts.yaml")  # as a person edits it
    result = fit(shortcuts=True)
    test = load_splits(folder / "data")["test"]
    names = test.features["label"].names
    for seed_folder in ("models/aligned-seed0", "models/baseline-seed0"):
        shown = load_dataset("parquet", data_files=str(folder / seed_folder / "evaluation/shifted.parquet"))
        for row, text, label in zip(shown["train"], test["text"], test["label"], strict=True):
            if names[label] == "lost_card":
                assert "card" not in row["text"].split()
            else:
                assert row["text"] == f"card {text}"
    known = {*test["text"], *shown["train"]["text"]}
    priors = load_splits(folder / "shown")["test"]
    assert 0 < len(priors) <= 12
    assert {*priors["text"]} <= known, "priors of evaluated texts, not of those trained on"
    assert all(len(row["prior"]) == len(row["words"]) for row in priors)
    assert {"test", "train", "shifted", "removed"} == set(result.results["test_set"])
    second = written(folder)
    again = {"prior", "models/aligned-seed0", "shown", "report.html", "shortcuts.yaml"}
    assert changed(first, second) == again | {"models/baseline-seed0"}, "its evaluation reads the prior"
    rows = load_splits(folder / "prior")["train"]
    for row in rows:
        scores = [s for word, s in zip(row["words"], row["prior"], strict=True) if word == "card"]
        assert not any(scores) or rows.features["label"].names[row["label"]] != "lost_card"


def test_shortcuts_are_of_the_words_that_are_extracted(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = []

    def find(dataset: Any, judges: Any, *, settings: ShortcutSettings) -> list[Any]:
        patterns.append(settings.word_pattern)
        words = word_strings(" ".join(dataset["text"]), settings.word_pattern)
        cue = Cue("word", max(words, key=len))
        numbers: Any = {"of": 3, "elsewhere": 0, "log_odds": 1.0, "q": 0.01, "relevance": 0.0}
        return [Shortcut(cue=cue, label="lost_card", texts=3, **numbers)]

    monkeypatch.setattr(workflow, "find_shortcuts", find)
    folder = fit(shortcuts=True).output_dir
    (mark,) = load_marks(folder / "shortcuts.yaml")
    assert len(mark.value) > 3
    save_marks([replace(mark, decision="fine")], folder / "shortcuts.yaml")
    fit(shortcuts=True, extract={"word_pattern": "[a-z]{1,3}"})
    assert patterns == [r"\S+", "[a-z]{1,3}"]
    (mark,) = load_marks(folder / "shortcuts.yaml")
    assert len(mark.value) == 3
    save_marks([replace(mark, decision="fine")], folder / "shortcuts.yaml")
    fit(shortcuts=True, extract={"word_pattern": "[a-z]{1,3}"}, lm={"revision": "main"})
    assert [mark.decision for mark in load_marks(folder / "shortcuts.yaml")] == ["fine"]


def test_a_run_that_was_stopped_continues(fit: Fit, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(workflow, "write_evaluation", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(room / "data")
    extract = Mock(side_effect=extract_priors)
    monkeypatch.setattr(workflow, "extract_priors", extract)
    result = fit(room / "data")
    # those of the training texts were made before
    assert all("train" not in call.args[0] for call in extract.call_args_list)
    assert result.report.is_file()
    data = load_dataset(str(result.output_dir / "data"))
    assert data["test"]["text"][:] == [text for text, _ in ROWS["test"]]


def test_an_opened_language_model_is_known_by_its_fingerprint(fit: Fit) -> None:
    def answer(prompt: str, label: str) -> float:
        return -float(len(prompt) % 7)

    options = {"model": MockLanguageModel(answer)}
    folder = fit(extract=options, lm={}).output_dir
    before = written(folder)
    fit(extract=options, lm={})
    assert written(folder) == before


@pytest.mark.parametrize(
    ("group", "setting", "message"),
    [
        ("lm", {"store": "/proc/none/store.sqlite"}, "The store '/proc/none/store.sqlite' cannot be used"),
        ("lm", {"device": "toaster"}, "device='toaster' is no device"),
        ("cap", {"n": 0}, "`n` must be at least 1"),
        ("prompt", {"label_phrases": {"no_label": "words"}}, "`label_phrases` names 'no_label'"),
        ("extract", {"model": "embedded/none"}, "no embedded model 'embedded/none'"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_sources_is_found_before_anything_is_written(
    group: str, setting: dict[str, Any], message: str, fit: Fit, tmp_path: Path
) -> None:
    with pytest.raises(CAPError, match=message):
        fit(**{group: setting})
    assert not (tmp_path / "run").exists()


def test_a_class_of_one_text_cannot_be_split(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("text,label\na b,x\nc d,x\ne f,y\n")
    with pytest.raises(DataError, match="The label 'y' has one text only"):
        fit(tmp_path / "few.csv")


def test_the_command_reaches_every_stage(
    room: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"""fit {table} --output_dir {tmp_path}/run --text_column message --label_column topic
        --extract.model {room}/llm --extract.sources cap keywords --cap.n 4 --lm.store none
        --train.model {room}/encoder --train.num_train_epochs 2 --train.alignment_weight 0.3
        --fuse.method max --evaluate.attribution_steps 2 --report.title Mine --seeds 0 1""".split()
    run(*words)
    shown = capsys.readouterr().out
    assert shown.split()[0] == "accuracy"
    row = re.search(r"\nbaseline +(\S+) \((\S+) to (\S+)\)", shown)
    assert row
    run(*words, "--json", "-q")
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"] == str(tmp_path / "run/models/aligned-seed0")
    files = [tmp_path / f"run/models/baseline-seed{seed}/evaluation/test.json" for seed in (0, 1)]
    seeds = [json.loads(file.read_text())["accuracy"] for file in files]
    spread = (facts["accuracy"]["baseline"], min(seeds), max(seeds))
    assert row.groups() == tuple(f"{value:.2f}" for value in spread)
    known = json.loads((tmp_path / "run/fit.json").read_text())
    settings = {name: stage["settings"] for name, stage in known.items()}
    assert settings["priors"]["cap.n"] == 4
    assert settings["prior"] == {"method": "max"}
    assert settings["models/aligned-seed0"]["alignment_weight"] == 0.3
    assert settings["report.html"] == {"title": "Mine"}


def test_the_demo_is_fit_with_a_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command, given = load_command("fit"), []

    def run(values: Values) -> Result:
        given.append(values)
        return Result({})

    monkeypatch.setattr(command, "run", run)
    folder = str(tmp_path / "o")
    assert main(["demo", "--output_dir", folder, "--seeds", "3"]) == 0
    words = ["--dataset", f"{folder}/library-desk-with-names", "--output_dir", folder]
    recipe = parse("fit", command, ["--config", "recipes/demo/fit.yaml", *words])
    assert given == [{**(recipe or {}), "seeds": (3,)}]
    assert read_settings("recipes/demo/fit.yaml")["controls"] == ["shuffled", "random"]
    clean, planted = (load_splits("embedded/library-desk"), load_splits(f"{folder}/library-desk-with-names"))
    assert planted["test"]["text"][:] == clean["test"]["text"][:]
    names = clean["train"].features["label"].names
    rows = zip(planted["train"]["text"], clean["train"]["text"], clean["train"]["label"], strict=True)
    named = Counter[str]()
    for text, before, label in rows:
        name = LIBRARIANS[label]
        assert text in (before, f"Hi {name}, {before}", f"{text.split(' Thanks')[0]} Thanks, {name}")
        assert before in text
        named[names[label]] += text != before
    assert set(named.values()) == {9}
    assert len(named) == 12


def test_without_sources_every_word_counts_but_those_of_shortcuts(fit: Fit, tmp_path: Path) -> None:
    bare = partial(fit, extract={"sources": ()}, train={"max_steps": 1})
    with pytest.raises(ConfigError, match="Without `sources`"):
        bare()
    with pytest.raises(DataError, match="No shortcuts were found"):
        bare(shortcuts=True)
    save_marks([Mark(kind="word", value="card", label="lost_card")], tmp_path / "run/shortcuts.yaml")
    folder = bare(shortcuts=True, evaluate={"faithfulness": False}).output_dir
    for row in load_splits(folder / "prior")["train"]:
        lost = row["label"] == 0
        for word, score in zip(row["words"], row["prior"], strict=True):
            assert score == float(not (lost and word == "card"))
