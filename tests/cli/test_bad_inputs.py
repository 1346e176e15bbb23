"""Hundreds of bad inputs, drawn from a seed: each ends in one sentence, before any compute."""

import os
import random
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import torch
from transformers import PreTrainedModel, Trainer

import hf_cap.workflow  # noqa: F401  # before the fork
from hf_cap.cli import COMMANDS, load_command, main
from hf_cap.export import save_delta
from tests.cli.bad_inputs import EACH, GOOD, KINDS, Case

COMPUTE, SECONDS = 77, 60
WITHOUT_COMPUTE = "fuse audit attack whole report push priors scores metric space env".split()


def _stop(*_: Any, **__: Any) -> None:
    os._exit(COMPUTE)


def in_child(words: list[str], error: Path) -> int:
    """The exit status of a command in a forked process that ends where compute would begin."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        signal.alarm(SECONDS)
        os.dup2(os.open(error, os.O_CREAT | os.O_WRONLY), 2)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        warnings.simplefilter("ignore")
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        torch.set_num_threads(1)
        for owner, name in ((PreTrainedModel, "from_pretrained"), (Trainer, "train")):
            setattr(owner, name, _stop)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            status = main(words)
    finally:
        if sys.exc_info()[0]:
            traceback.print_exc()
        os._exit(status)


def content() -> dict[str, bytes]:
    """What the current folder holds."""
    return {str(f): f.read_bytes() if f.is_file() else b"" for f in Path().rglob("*")}


@pytest.fixture
def fresh(
    room: Path, prior: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """Makes the current folder a new one of good inputs."""
    for name in COMMANDS:
        load_command(name)
    delta = tmp_path / "delta"
    save_delta(str(model), str(room / "encoder"), delta)

    def make() -> None:
        os.chdir(tmp_path)
        shutil.rmtree("case", ignore_errors=True)
        for folder in (room / "data", room / "attacked", prior, model, delta):
            shutil.copytree(folder, Path("case", folder.name))
        for name in ("table.csv", "verdicts.csv", "scores.json"):
            shutil.copy(room / name, "case")
        os.chdir("case")

    monkeypatch.setenv("HF_CAP_CACHE", str(tmp_path / "cache"))
    before = Path.cwd()
    yield make
    os.chdir(before)


@pytest.mark.parametrize("command", GOOD)
def test_good_input_succeeds_or_reaches_compute(
    command: str, room: Path, tmp_path: Path, fresh: Callable[[], None]
) -> None:
    fresh()
    words = Case(0, random.Random(0), room).good(command)
    status, error = in_child(words, tmp_path / "error"), (tmp_path / "error").read_text()
    assert status == (0 if command in WITHOUT_COMPUTE else COMPUTE), error
    assert status or command == "env" or [*Path("out").iterdir()]


def test_every_command_is_drawn() -> None:
    assert {line.split()[0] for line in GOOD.values()} == {*COMMANDS}


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_ends_in_one_sentence(
    kind: str, room: Path, tmp_path: Path, fresh: Callable[[], None]
) -> None:
    wrong = []
    for seed in range(EACH[kind]):
        fresh()
        words = KINDS[kind](Case(seed, random.Random(f"{kind}{seed}"), room))
        before, file = content(), tmp_path / f"error{seed}"
        status, error = in_child(words, file), file.read_text()
        lines = error.splitlines()
        said = [line for line in lines if line.startswith("hf-cap: ")]
        changed = sorted({*before.items()} ^ {*content().items()})
        if status != 2 or said != lines[-1:] or "Traceback" in error or changed:
            wrong.append(
                f"{seed} {words}: status {status}, changed {[n for n, _ in changed]}\n{error[-1500:]}"
            )
    assert not wrong, f"{len(wrong)} of {EACH[kind]}:\n" + "\n".join(wrong)
