"""The benchmark as a user runs it: cells, faults, restarts, several processes."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from datasets import load_dataset
from safetensors import SafetensorError

from benchmarks.study import __main__ as benchmark
from benchmarks.study.running import failures, matrix
from benchmarks.study.settings import BenchmarkSettings
from hf_cap.cli import main, parse_command
from hf_cap.cli.config import build
from hf_cap.utils import write_json
from tests.benchmark.rooms import TESTS, TEXTS, cell_files, flags, write_data
from tests.launching import accelerate_launch, environment

METHODS = ("none", "keywords", "shuffled", "oracle")


@pytest.fixture(scope="module")
def done(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished benchmark."""
    out = tmp_path_factory.mktemp("done") / "out"
    assert main(flags(room, out)) == 0
    return out


def cell(out: Path, method: str, seed: int = 0) -> dict[str, Any]:
    file = out / "cells" / "data" / "2_shot" / "draw_0" / method / f"seed_{seed}" / "cell.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_every_cell_has_its_numbers_and_how_they_were_made(done: Path) -> None:
    assert len(cell_files(done)) == len(METHODS) * 2
    found = cell(done, "keywords", 1)
    assert set(found["test_sets"]) == {"clean", "keyword_addition"}
    assert found["test_sets"]["clean"]["texts"] == 6
    assert -1 <= found["explanations"]["prior_alignment"] <= 1
    assert found["settings"]["training"]["learning_rate"] == 0.01
    assert found["versions"]["torch"]
    assert found["settings"]["cell"] == {
        "dataset": "data",
        "regime": "2_shot",
        "draw": 0,
        "method": "keywords",
        "seed": 1,
    }


def test_none_is_trained_without_alignment_and_the_others_with(done: Path) -> None:
    for method in METHODS:
        found = cell(done, method)
        parts = {name for entry in found["history"] for name in entry}
        assert found["settings"]["training"].get("alignment_weight") == (
            0 if method == "none" else None
        )
        assert "loss" in parts
        assert ("loss_align" in parts) == (method != "none")
        assert ("prior_alignment" in found["explanations"]) == (method != "none")


def test_the_methods_of_a_draw_train_on_the_same_texts(done: Path) -> None:
    kept = list((done / "data" / "data" / "2_shot" / "draw_0").glob("texts-*"))
    assert len(kept) == 1
    texts = load_dataset(str(kept[0]))["train"]["text"][:]
    assert len(texts) == len(set(texts)) == 6
    for file in (done / "data").rglob("priors/*"):
        assert load_dataset(str(file))["train"]["text"][:] == texts


def test_what_follows_from_the_cells_is_written(done: Path) -> None:
    rows = load_dataset("parquet", data_files=str(done / "results.parquet"))["train"]
    found = [
        row["value"]
        for row in rows
        if (row["method"], row["seed"], row["test_set"], row["measure"])
        == ("oracle", 1, "clean", "accuracy")
    ]
    assert found == [cell(done, "oracle", 1)["test_sets"]["clean"]["accuracy"]]
    summary = json.loads((done / "few_shot.json").read_text())["summary"]["data"]
    assert summary["best_method"] == "keywords"
    assert summary["best_control"] == "shuffled"
    for seed in (0, 1):
        assert cell(done, "none", seed)["settings"]["cell"]["seed"] == seed
    table = (done / "table.md").read_text()
    assert "| keywords | 2 |" in table
    assert "Accuracy: data, 2_shot, keyword_addition" in table
    page = (done / "table.html").read_text()
    assert '<th scope="row">keywords</th>' in page
    assert (done / "figures" / "robustness_by_attack.png").stat().st_size > 1000


def test_a_second_run_repeats_no_cell(room: Path, done: Path) -> None:
    before = cell_files(done)
    assert main(flags(room, done)) == 0
    assert cell_files(done) == before


def test_more_methods_add_cells_and_extract_nothing_again(room: Path, done: Path) -> None:
    before = cell_files(done)
    prior = next((done / "data").rglob("priors/keywords-*"))
    made = prior.stat().st_mtime_ns
    methods = ["none", "hybrid_max", "uniform", "random", "integrated_gradients"]
    assert main(flags(room, done, "--seeds", "0", "--methods", *methods)) == 0
    after = cell_files(done)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 4
    assert prior.stat().st_mtime_ns == made
    # of all models only the one that is explained is kept
    kept = [file.parent for file in (done / "models").rglob("model.safetensors")]
    assert [folder.name.split("-")[0] for folder in kept] == ["seed_0"]
    assert kept[0].parent.name == "none"


def test_tables_are_made_again_from_cells_alone(room: Path, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "cells", tmp_path / "cells")
    next(tmp_path.rglob("shuffled/seed_1/cell.json")).unlink()
    before = cell_files(tmp_path)
    assert main(flags(room, tmp_path, "--report_only", "true")) == 0
    assert cell_files(tmp_path) == before
    assert not (tmp_path / "data").exists()
    table = (tmp_path / "table.md").read_text()
    assert "| shuffled | 1 |" in table
    assert "| keywords | 2 |" in table


def test_scores_without_texts_save_the_extraction(
    room: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = next((done / "scores").rglob("keywords-*.parquet"))
    assert scores.parent.relative_to(done) == Path("scores/data/2_shot/draw_0")
    kept = load_dataset("parquet", data_files=str(scores))["train"]
    assert set(kept.column_names) == {"digest", "prior_keywords", "provenance"}
    told = str(kept[:])
    texts = [text for texts in TEXTS.values() for text in texts]
    assert not [text for text in texts if text in told or text.split()[-1] in told]

    def extract(*_: Any, **__: Any) -> None:
        raise AssertionError("extracted again")

    monkeypatch.setattr("benchmarks.study.priors.extract_priors", extract)
    for folder in ("cells", "scores"):
        shutil.copytree(done / folder, tmp_path / folder)
    few = ["--methods", "none", "keywords", "shuffled", "--seeds", "0", "1"]
    for method in ("keywords", "shuffled"):
        next(tmp_path.rglob(f"{method}/seed_1/cell.json")).unlink()
    assert main(flags(room, tmp_path, *few)) == 0
    for method in ("keywords", "shuffled"):
        again, before = cell(tmp_path, method, 1), cell(done, method, 1)
        assert again["history"][:-1] == before["history"][:-1] != []  # the last line tells the time
        assert again["explanations"] == before["explanations"]


def test_scores_of_other_texts_are_refused(
    room: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done / "scores", tmp_path / "scores")
    file = next((tmp_path / "scores").rglob("keywords-*.parquet"))
    kept = load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path / "cache"))["train"]
    kept.select([1, 0, *range(2, len(kept))]).to_parquet(str(file))
    few = ["--methods", "none", "keywords", "--seeds", "0"]
    assert main(flags(room, tmp_path, *few)) == 2
    message = capsys.readouterr().err
    assert "are of other texts than the 6 of this draw. Remove the file" in message
    assert list(cell_files(tmp_path)) == ["data/2_shot/draw_0/none/seed_0"]


def test_every_model_is_kept_on_request(room: Path, tmp_path: Path) -> None:
    few = ["--methods", "none", "oracle", "--seeds", "1", "--keep_models", "true"]
    assert main(flags(room, tmp_path, *few)) == 0
    kept = {file.parent.parent.name for file in tmp_path.rglob("model.safetensors")}
    assert kept == {"none", "oracle"}


def test_other_settings_are_refused_by_name_and_redone_on_request(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--methods", "none", "--seeds", "0"]
    assert main(flags(room, tmp_path, *few)) == 0
    before = cell_files(tmp_path)
    other = [*few, "--training", "learning_rate=2e-3"]
    assert main(flags(room, tmp_path, *other)) == 2
    assert "training.learning_rate was 0.01, is 0.002" in capsys.readouterr().err
    assert cell_files(tmp_path) == before
    assert main(flags(room, tmp_path, *other, "--redo_changed", "true")) == 0
    assert cell(tmp_path, "none")["settings"]["training"]["learning_rate"] == 0.002


def test_a_data_set_with_unseen_labels_stops_no_other(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_data(tmp_path / "bad", {**TESTS, "open_account": ["open a new account"]})
    out = tmp_path / "out"
    few = ["--methods", "none", "oracle", "--seeds", "0"]
    assert main(flags(room, out, *few, data=[bad, room / "data"])) == 2
    message = capsys.readouterr().err
    assert "2 cells failed" in message
    assert "'open_account' is not in the label space" in message
    assert len(cell_files(out)) == 2
    assert all(name.startswith("data/") for name in cell_files(out))


def test_a_file_that_is_no_json_stops_no_other_data_set(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_data(tmp_path / "bad")
    (bad / "test.jsonl").write_text('{"text": "lost the card", "label": "lost_card"}\n{"text": \n')
    out = tmp_path / "out"
    few = ["--methods", "none", "--seeds", "0"]
    assert main(flags(room, out, *few, data=[bad, room / "data"])) == 2
    message = capsys.readouterr().err
    assert "1 cells failed" in message
    assert "test.jsonl" in message
    assert list(cell_files(out)) == ["data/2_shot/draw_0/none/seed_0"]


def test_an_attack_that_changes_nothing_is_told_and_left_out(room: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "plain", {label: ["it is"] for label in TESTS})
    kinds = ["keyword_replacement", "keyword_addition"]
    few = ["--methods", "none", "--seeds", "0", "--attacks", *kinds]
    out = tmp_path / "out"
    assert main(flags(room, out, *few, data=[data])) == 0
    numbers = json.loads(next(out.rglob("cell.json")).read_text())
    assert set(numbers["test_sets"]) == {"clean", "keyword_addition"}
    assert "changes nothing" in numbers["missing"]["keyword_replacement"]
    assert "changes nothing" in (out / "table.md").read_text()


def test_a_full_disk_fails_one_cell_and_the_next_run_mends_it(
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(target: Path, value: Any) -> None:
        if "oracle" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_json(target, value)

    monkeypatch.setattr("benchmarks.study.cells.write_json", full)
    few = ["--methods", "none", "oracle", "--seeds", "0", "1"]
    assert main(flags(room, tmp_path, *few)) == 2
    assert "2 x OSError: [Errno 28] No space left on device" in capsys.readouterr().err
    before = cell_files(tmp_path)
    assert len(before) == 2
    monkeypatch.undo()
    assert main(flags(room, tmp_path, *few)) == 0
    after = cell_files(tmp_path)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before


def test_a_model_that_cannot_be_saved_costs_no_numbers(
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("benchmarks.study.students.Student.save", full)
    few = ["--methods", "none", "--seeds", "0", "--keep_models", "true"]
    assert main(flags(room, tmp_path, *few)) == 2
    assert "1 x SafetensorError: I/O error: No space left on device" in capsys.readouterr().err
    assert cell(tmp_path, "none")["test_sets"]["clean"]["texts"] == 6


def test_results_of_before_are_none_where_the_process_that_redoes_them_died(
    room: Path, tmp_path: Path
) -> None:
    few = ["--methods", "none", "--seeds", "0"]
    assert main(flags(room, tmp_path, *few)) == 0
    words = [*few, "--redo_changed", "true"]
    for more, died in (([], False), (["--training", "learning_rate=2e-3"], True)):
        values = parse_command("benchmark", benchmark, flags(room, tmp_path, *words, *more)[1:])
        bench = benchmark.open_bench(build(BenchmarkSettings, values or {}))
        found = failures(bench, matrix(bench), {})
        assert [("its process ended" in reason) for reason in found.values()] == [True] * died


def test_seeds_that_are_added_later_explain_the_same_classifier(room: Path, tmp_path: Path) -> None:
    few = ["--methods", "none", "integrated_gradients"]
    for seeds in (["1"], ["0"], ["0", "1"]):
        assert main(flags(room, tmp_path, *few, "--seeds", *seeds)) == 0
    assert len(list((tmp_path / "data").rglob("priors/integrated_gradients-*"))) == 1
    assert len(list(tmp_path.rglob("model.safetensors"))) == 1
    assert "| integrated_gradients | 2 |" in (tmp_path / "table.md").read_text()


def test_accuracy_on_the_texts_that_an_attack_changed(room: Path, tmp_path: Path) -> None:
    tests = {"lost_card": ["is it"], "renew_loan": ["renew it"], "pay_fine": ["it is"]}
    data = write_data(tmp_path / "some", tests)
    kinds = ["keyword_replacement", "keyword_addition"]
    out = tmp_path / "out"
    few = ["--methods", "none", "oracle", "--seeds", "0", "1", "--attacks", *kinds]
    assert main(flags(room, out, *few, data=[data])) == 0
    numbers = json.loads(next(out.rglob("cell.json")).read_text())["test_sets"]
    assert "changed" not in numbers["clean"]
    assert numbers["keyword_addition"]["changed"] == 3
    assert "accuracy_changed" not in numbers["keyword_addition"]
    replaced = numbers["keyword_replacement"]
    assert replaced["changed"] == 1
    # of a single text: the other two are as they were, and predicted as before
    right = 3 * numbers["clean"]["accuracy"] - 3 * replaced["accuracy"]
    assert replaced["accuracy_changed"] in (0.0, 1.0)
    assert right in (-1.0, 0.0, 1.0)
    table = (out / "table.md").read_text()
    assert "| keyword_replacement | 1 of 3 |" in table
    assert "changed: some, 2_shot, keyword_replacement" in table
    assert "changed: some, 2_shot, keyword_addition" not in table


@pytest.mark.slow
def test_a_killed_run_goes_on_and_repeats_no_finished_cell(room: Path, tmp_path: Path) -> None:
    few = ["--methods", "none", "keywords", "oracle", "--training", "num_train_epochs=40"]
    words = flags(room, tmp_path, *few, "--seeds", "0", "1", "2")
    process = subprocess.Popen([sys.executable, "-m", "hf_cap", *words], env=os.environ)
    deadline = time.monotonic() + 200
    while len(cell_files(tmp_path)) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = cell_files(tmp_path)
    assert 1 <= len(before) < 9
    assert main(words) == 0
    after = cell_files(tmp_path)
    assert len(after) == 9
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_with_the_run_its_jobs_end(room: Path, tmp_path: Path) -> None:
    longer = ["--training", "num_train_epochs=400", "--jobs", "2"]
    words = flags(room, tmp_path, *longer)
    process = subprocess.Popen([sys.executable, "-m", "hf_cap", *words], env=os.environ)
    deadline = time.monotonic() + 200
    jobs: list[psutil.Process] = []
    # a job that has claimed a cell is past its start
    while time.monotonic() < deadline and not any((tmp_path / ".locks").glob("*")):
        time.sleep(0.05)
        jobs = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait()
    assert jobs
    assert not psutil.wait_procs(jobs, timeout=30)[1]


def test_words_are_the_same_in_every_stage(room: Path, tmp_path: Path) -> None:
    few = ["--seeds", "0", "--methods", "none", "keywords", "oracle"]
    assert main(flags(room, tmp_path, *few, "--word_pattern", r"\S+|\s+")) == 0
    assert {file.split("/")[3] for file in cell_files(tmp_path)} == {"none", "keywords", "oracle"}
    for method in ("none", "keywords", "oracle"):
        found = cell(tmp_path, method)
        assert found["settings"]["data"]["word_pattern"] == r"\S+|\s+"
        assert found["explanations"]["oracle_alignment"] is not None
    made = next((tmp_path / "data").rglob("priors/keywords-*"))
    assert " " in load_dataset(str(made))["train"]["words"][0]


@pytest.mark.slow
def test_two_jobs_share_the_cells_and_find_the_same(
    room: Path, done: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(room, tmp_path, "--jobs", "2")) == 0
    said = capfd.readouterr().err
    told = [line for line in said.splitlines() if ": clean" in line]
    assert {line.split()[0] for line in told} == {"[0]", "[1]"}
    for name in cell_files(tmp_path):
        assert sum(f" {name}: clean" in line for line in told) == 1
    assert len(cell_files(tmp_path)) == len(METHODS) * 2
    for method in METHODS:
        assert cell(tmp_path, method)["test_sets"] == cell(done, method)["test_sets"]


@pytest.mark.slow
def test_launched_processes_share_the_cells_and_find_the_same(
    room: Path, done: Path, tmp_path: Path
) -> None:
    words = ["-m", "hf_cap", *flags(room, tmp_path)]
    ran = subprocess.run(
        [*accelerate_launch(2), *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    told = [line.split(": clean")[0] for line in ran.stderr.splitlines() if ": clean" in line]
    assert sorted(told) == sorted(cell_files(tmp_path))
    assert len(told) == len(METHODS) * 2
    for method in METHODS:
        assert cell(tmp_path, method)["test_sets"] == cell(done, method)["test_sets"]
