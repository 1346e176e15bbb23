"""The command line's frame: settings from words and YAML, mistakes, help, completion, exit status."""

import json
import logging
import os
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import pytest
from safetensors import SafetensorError

from hf_cap import __version__
from hf_cap.cli import COMMANDS, load_command, main
from hf_cap.cli.core import Command, Group, Result, Values, command_line, free_folder, parse
from hf_cap.errors import ConfigError
from hf_cap.progress import progress
from hf_cap.utils import option, required

Output = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Cap:
    """Settings of a source."""

    n: int = option(100, "Perturbations, 100% of them.")
    replacement: str = option("...", "What stands for a word.")
    learned: int = 0


@dataclass(frozen=True)
class Job:
    """A job."""

    name: str = required("Name of the job.")
    rate: float = option(1e-3, "Step size, 100 % of it.")
    dry: bool = option(False, "Do nothing.")
    method: Literal["mean", "max"] = option("mean", "Which way.")
    limit: int | None = option(None, "Most of them.")
    seeds: tuple[int, ...] = option((0,), "Seeds.")
    weights: dict[str, float] = option(help="Weights.", factory=dict)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError("no such rate")


def job(*words: str) -> Values:
    """The settings that are given to a command with two groups of the same fields."""
    settings: list[type | Group] = [Job, Group("cap", Cap), Group("lime", Cap)]
    return parse("job", Command("--name a", settings, Result, more="train."), words) or Values()


def file(folder: Path, text: str, name: str = "a.yaml") -> list[str]:
    (folder / name).write_text(text)
    return ["--config", str(folder / name)]


def test_groups_have_settings_of_their_own() -> None:
    given = job("--name", "a", "--cap.n", "50", "--lime.replacement", "")
    assert given == {"name": "a", "cap.n": 50, "lime.replacement": ""}
    assert given.build(Cap, "cap") == Cap(n=50)
    assert given.group("lime") == {"replacement": ""}
    with pytest.raises(ConfigError, match="no such rate"):
        Values(name="a", rate=-1.0).build(Job)


def test_flags_win_over_yaml_and_later_files_over_earlier_ones(tmp_path: Path) -> None:
    first = file(tmp_path, "name: a\ncap: {n: 1, replacement: x}\nweights: {cap: 1, lime: 3}\n")
    second = file(tmp_path, "cap.n: 2\nweights: {lime: 4}", "b.yaml")
    both = job(*first, *second)
    assert (both["cap.n"], both["cap.replacement"], both["weights"]) == (2, "x", {"lime": 4.0})
    assert job(*second, *first)["cap.n"] == 1
    flags = job("--cap.n", "9", "--weights", "cap=2", *first, *second)
    assert (flags["cap.n"], flags["weights"]) == (9, {"cap": 2.0})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--rate=2e-5", {"rate": 2e-5}),
        ("--dry", {"dry": True}),
        ("--dry no", {"dry": False}),
        ("--limit none", {"limit": None}),
        ("--limit 1 --limit 1e3", {"limit": 1000}),
        ("--limit 9007199254740993", {"limit": 2**53 + 1}),
        ("--seeds 1 2", {"seeds": (1, 2)}),
        ("--seeds", {"seeds": ()}),
        ("--method max", {"method": "max"}),
        ("--weights cap=2 lime=0.5", {"weights": {"cap": 2.0, "lime": 0.5}}),
        ("--name=none", {"name": "none"}),
        ("--name=--x", {"name": "--x"}),
        ("--name ~/runs", {"name": "/home/me/runs"}),
        ("--train.weight-decay 0.1", {"train.weight_decay": 0.1}),
        ("--train.bf16", {"train.bf16": True}),
        ("--train.save_strategy no", {"train.save_strategy": "no"}),
        ("--train.report_to none", {"train.report_to": "none"}),
    ],
)
def test_words_become_values(words: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert job("--name", "a", *words.split()) == {"name": "a", **expected}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate: 1e-1", {"rate": 0.1}),
        ("limit:", {"limit": None}),
        ("dry: yes", {"dry": True}),
        ("name: no", {"name": "no"}),
        ("name: 12:30", {"name": "12:30"}),
        ("name: 01", {"name": "01"}),
        ("name: No", {"name": "No"}),
        ("seeds: [1, 2]", {"seeds": (1, 2)}),
        ("seeds: []", {"seeds": ()}),
        ("weights: {a: 1}", {"weights": {"a": 1.0}}),
        ("train: {report_to: [x, y], seed: 3}", {"train.report_to": ["x", "y"], "train.seed": 3}),
        (
            "train.lr_scheduler_kwargs: {n: 2, a: [on, off, No], t: 12:30, d: 2026-01-02, e: 1e-1}",
            {
                "train.lr_scheduler_kwargs": {
                    "n": 2, "a": ["on", "off", "No"], "t": "12:30", "d": "2026-01-02", "e": 0.1,
                }
            },
        ),
    ],
)  # fmt: skip
def test_yaml_means_what_the_field_says(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    named = [] if "name" in expected else ["--name", "a"]
    assert job(*named, *file(tmp_path, text)) == {"name": "a", **expected}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rtae 1", "no setting `rtae`. Did you mean `rate`"),
        ("--cap.learned 1", "no setting `cap.learned`"),
        ("--replacement x", "Did you mean `cap.replacement`"),
        ("--zzzzz 1", "no setting `zzzzz`. `--help`"),
        ("--train.lerning_rate 1", "Did you mean `train.learning_rate`"),
        ("--train.seed x", "`--train.seed` takes a whole number, got 'x'"),
        ("--limit 2.5", "`--limit` takes a whole number, got '2.5'"),
        ("--rate 1 2", "`--rate` takes a number, got '1' '2'"),
        ("--dry perhaps", "`--dry` takes true or false, got 'perhaps'"),
        ("--method median", "`--method` takes one of mean, max, got 'median'"),
        ("--weights cap", "`--weights` takes pairs name=value, got 'cap'"),
        ("--cap.n", "`--cap.n` takes a whole number, got nothing"),
        ("stray", "Cannot make sense of 'stray'"),
        ("--config none.yaml", r"none.yaml': No such file"),
    ],
)
def test_mistakes_are_one_sentence(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        job(*words.split(), "--name", "a")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="`--name` is missing"):
        job()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cap: {replacment: x}", "`cap.replacment` .in '.*a.yaml'.. Did you mean `cap.replacement"),
        ("limit: many", "`--limit` .in '.*a.yaml'. takes a whole number, got 'many'"),
        ("rate:", "`--rate` .* takes a number, got ''"),
        ("rate: {a: 1}", "`--rate` .* takes a number, got {'a': '1'}"),
        ("- a", "must hold `name: value` lines"),
        ("a: [", "not valid YAML"),
        ("limit: 1\nlimit: 2", "'limit' occurs twice below line 1"),
    ],
)
def test_mistakes_in_a_file_name_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job("--name", "a", *file(tmp_path, text))


def test_a_recipe_is_found_among_the_installed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = "recipes/hwu64/embedded/fuse.yaml"
    fuse = load_command("fuse")
    assert (parse("fuse", fuse, ["--config", recipe]) or Values())["method"] == "mean"
    Path(recipe).parent.mkdir(parents=True)
    Path(recipe).write_text("dataset: mine\noutput_dir: o")
    assert parse("fuse", fuse, ["--config", recipe]) == {"dataset": "mine", "output_dir": "o"}


# --- Commands.


def test_help_and_examples_of_all_commands(capsys: Output) -> None:
    assert main([]) == 0
    assert "commands:\n  fit" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-cap {__version__}\n"
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        shown, example = capsys.readouterr().out, load_command(name).example
        assert f"Example: hf-cap {name} {example.split()[0]}" in shown
        assert "--config" in shown
        assert parse(name, load_command(name), example.split())


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from hf_cap.cli import COMMANDS, main\n"
        "[main([*words, '--help']) for words in ([], *([name] for name in COMMANDS))]\n"
        "loaded = {'torch', 'transformers', 'datasets', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_groups(shell: str, capsys: Output) -> None:
    assert main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert "--cap.replacement" in script
    assert "--alignment_weight" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "no command `trian`. Did you mean `train`?"),
        ("--versoin", "Did you mean `version`?"),
        ("--completion basch", "no shell `basch`. Did you mean `bash`?"),
        ("--completion", "needs a shell: bash, zsh"),
        ("fuse --datset x", "no setting `datset`. Did you mean `dataset`?"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(words: str, message: str, capsys: Output) -> None:
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


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


def test_env_prints_versions_and_no_paths(capsys: Output) -> None:
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    assert "transformers: 5." in shown
    assert "/" not in shown
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["transformers"].startswith("5.")


def test_quiet_silences_the_log_and_not_the_result(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hf_cap.progress._FIRST", 0.0)
    monkeypatch.setattr("hf_cap.progress._LONG", 0.0)

    def run(values: Values) -> Result:
        with progress(4, "texts", "cap") as work:
            work.update()
        return Result({"accuracy": 0.5, "folders": ["a"]}, then="hf-cap report runs/a")

    monkeypatch.setattr(load_command("env"), "run", run)
    for level, quiet in ((logging.INFO, []), (logging.WARNING, ["-q"])):
        monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
        assert main(["env", *quiet]) == 0
        assert logging.getLogger().level == level
        out, err = capsys.readouterr()
        assert out == "accuracy: 0.5000\n"
        assert ("Next: hf-cap report runs/a\n" in err) is not bool(quiet)
        told = [m for m in caplog.messages if m.startswith("cap: 4 texts")]
        assert len(told) == 1  # of the run that was not quiet


def test_the_next_command_names_no_folder_that_is_there(tmp_path: Path) -> None:
    wanted = tmp_path / "model"
    for expected in ("model", "model-2", "model-3"):
        assert free_folder(wanted) == str(tmp_path / expected)
        (tmp_path / expected).mkdir()


def test_a_recorded_command_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["hf-cap", "extract", "--lm.api_key_env", "hf_" + "A1" * 17, "--dataset", "my data"]
    monkeypatch.setattr(sys, "argv", words)
    assert command_line() == "hf-cap extract --lm.api_key_env *** --dataset 'my data'"


def test_nothing_steers_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    steering = "a\x1b[31mb\r\x07\x9b2J\u202e\ud800"
    seen = "a\ufffd[31mb\ufffd\ufffd\ufffd2J\ufffd\ufffd"

    def run(values: Values) -> Result:
        logging.getLogger("hf_cap.hub").warning("Wrote %s\nand\tÜ", steering)
        if failing:
            raise ConfigError(f"no label {steering}")
        return Result({}, f"label {steering}")

    failing = False
    monkeypatch.setattr(load_command("env"), "run", run)
    monkeypatch.setattr(logging.root, "handlers", [])
    assert main(["env"]) == 0
    assert capsys.readouterr() == (f"label {seen}\n", f"Wrote {seen}\nand     Ü\n")
    failing = True
    assert main(["env", "-q"]) == 2
    assert capsys.readouterr().err.endswith(f"hf-cap: no label {seen}\n")


def full_disk() -> sqlite3.OperationalError:
    """The very error of SQLite on a full disk."""
    store = sqlite3.connect(":memory:")
    store.execute("CREATE TABLE t (x)")
    store.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as caught:
        store.execute("INSERT INTO t VALUES (zeroblob(100000))")
    store.close()
    return caught.value


def raised_by(quoting: Exception, cause: OSError) -> Exception:
    """An error of a library that handles another."""
    quoting.__context__ = cause
    return quoting


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "run the same command again"),
        (OSError(28, "No space left on device"), 1, "The disk is full"),
        (OSError(27, "File too large"), 1, "The disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 1, "disk is full"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected"), 1, "disk is full"),
        (raised_by(RuntimeError("cannot go on"), OSError(28, "No space")), 1, "disk is full"),
        (full_disk(), 1, "The disk is full"),
        (PermissionError(13, "Permission denied", "/a"), 1, "denied: '/a'); change its rights"),
        (OSError(30, "Read-only file system", "/a"), 1, "system: '/a'); change its rights"),
        (Exception("Permission denied (os error 13)"), 1, "change its rights"),
        (NotADirectoryError(20, "Not a directory", "/a/b"), 1, "Not a directory: '/a/b'."),
    ],
    ids=str,
)
def test_an_interrupt_and_a_bad_disk_have_a_status(
    error: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(load_command("env"), "run", Mock(side_effect=error))
    assert main(["env"]) == status
    assert message in capsys.readouterr().err


def test_an_unexpected_error_is_shown_whole_and_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def run(values: Values) -> None:
        told = "label \x1b[31mred\x1b]0;title\x07, key hf_" + "A1" * 17
        raise raised_by(KeyError(told), FileNotFoundError(2, f"No such file\r: {told}"))

    monkeypatch.setattr(load_command("env"), "run", run)
    assert main(["env"]) == 1
    error = capsys.readouterr().err
    assert "in run\n" in error
    assert "KeyError: 'label \\x1b[31mred" in error
    assert "No such file\ufffd: label \ufffd[31mred\ufffd]0;title\ufffd, key ***" in error
    assert not {"\x1b", "\x07", "\r"} & set(error)
    assert "A1A1" not in error
    last = error.splitlines()[-1]
    assert last.startswith("hf-cap: an unexpected KeyError, which is a mistake of hf_cap. Please")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["--help", "train --help"])
def test_a_reader_that_has_enough_is_no_error(words: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "hf_cap", *words.split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(line, stdout=writer, stderr=-1, env=environment, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
