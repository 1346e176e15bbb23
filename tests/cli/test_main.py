"""The command line's frame: exit status, logging, errors, the flags of every command."""

import json
import logging
import sqlite3
import subprocess
import sys
from typing import Any

import pytest

from hf_cap import __version__
from hf_cap.cli import load_command, main
from hf_cap.cli.core import Result


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "commands:\n  fit" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-cap {__version__}\n"


@pytest.mark.parametrize(("rank", "logged"), [(None, True), ("0", True), ("1", False)])
def test_of_launched_processes_the_first_logs(
    rank: str | None, logged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    code = "import logging; from hf_cap.cli import main; main([]); logging.info('logged')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ("logged\n" if logged else "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "no command `trian`. Did you mean `train`?"),
        (["--versoin"], "Did you mean `version`?"),
        (["--completion", "basch"], "no shell `basch`. Did you mean `bash`?"),
        (["--completion"], "needs a shell: bash, zsh"),
        (["fuse", "--datset", "x"], "no setting `datset`. Did you mean `dataset`?"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_env_prints_versions_and_no_paths(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    assert "transformers: 5." in shown
    assert "/" not in shown
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["transformers"].startswith("5.")


def test_quiet_silences_the_log_and_not_the_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[dict[str, Any]] = []

    def run(values: dict[str, Any]) -> Result:
        given.append(values)
        return Result({"accuracy": 0.5, "folders": ["a"]})

    monkeypatch.setattr(load_command("env"), "run", run)
    monkeypatch.setattr(load_command("env"), "progress", "progress")
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    assert main(["env", "-q"]) == 0
    assert logging.getLogger().level == logging.WARNING
    assert given == [{"progress": False}]
    assert capsys.readouterr().out == "accuracy: 0.5000\n"


def full_disk() -> sqlite3.OperationalError:
    """The very error of SQLite on a full disk."""
    store = sqlite3.connect(":memory:")
    store.execute("CREATE TABLE t (x)")
    store.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as caught:
        store.execute("INSERT INTO t VALUES (zeroblob(100000))")
    store.close()
    return caught.value


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "run the same command again"),
        (OSError(28, "No space left on device"), 1, "The disk is full"),
        (full_disk(), 1, "The disk is full"),
    ],
    ids=str,
)
def test_an_interrupt_and_a_full_disk_have_a_status(
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(values: dict[str, Any]) -> None:
        raise error

    monkeypatch.setattr(load_command("env"), "run", run)
    assert main(["env"]) == status
    assert message in capsys.readouterr().err
