"""The command line's frame: help without heavy imports, mistakes as one sentence."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from hf_cap.cli import COMMANDS, main, parse_command
from hf_cap.cli.config import settings_of


@pytest.mark.parametrize("arguments", [[], *[[name] for name in COMMANDS]], ids=str)
def test_help_needs_neither_torch_nor_transformers(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from hf_cap.cli import main\n"
        "try:\n    main([*sys.argv[1:], '--help'])\n"
        "except SystemExit:\n    pass\n"
        "loaded = {'torch', 'transformers', 'datasets', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage: hf-cap" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_has_a_help_text(name: str) -> None:
    module = import_module(f"hf_cap.cli.{COMMANDS[name].module}")
    assert not [s.name for s in settings_of(*module.SETTINGS).values() if not s.help]


def test_without_a_command_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(("rank", "told"), [(None, True), ("0", True), ("1", False)])
def test_of_launched_processes_the_first_speaks(
    rank: str | None, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    code = "import logging; from hf_cap.cli import main; main([]); logging.info('told')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ("told\n" if told else "")


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "no command `trian`. Did you mean `train`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fuse", "--datset", "x"], "no setting `datset`. Did you mean `dataset`?"),
        (["fuse", "stray"], "Cannot make sense of 'stray'"),
        (["fuse"], "`dataset` is missing"),
        (["fuse", "--config", "none.yaml"], "no configuration file 'none.yaml'"),
        (["train", "--learning_rat", "1"], "Did you mean `learning_rate`?"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_misspelt_yaml_key_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("dataset: x\nnormalization: l2\n")
    assert main(["fuse", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "Did you mean `normalisation`?" in capsys.readouterr().err


def test_training_arguments_are_settings_too() -> None:
    from hf_cap.cli import train

    values = parse_command(
        "train",
        train,
        ["--dataset", "d", "--output_dir", "o", "--weight-decay", "0.01", "--alignment_weight=0"],
    )
    assert values == {
        "dataset": "d",
        "output_dir": "o",
        "weight_decay": 0.01,
        "alignment_weight": 0.0,
    }


def test_all_help_shows_training_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help-all"]) == 0
    shown = capsys.readouterr().out
    assert "--warmup_steps" in shown
    assert "--alignment_weight" in shown


def test_env_prints_versions_and_no_paths(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    assert "transformers: 5." in shown
    assert "/" not in shown


def test_an_interrupt_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_cap.cli import env

    def interrupt(values: dict[str, object]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(env, "run", interrupt)
    assert main(["env"]) == 130
