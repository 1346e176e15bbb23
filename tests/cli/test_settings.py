"""How words and YAML become settings: precedence, groups, types, mistakes, help, completion."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from hf_cap.cli import COMMANDS, load_command, main
from hf_cap.cli.core import Command, Group, Result, Values, parse
from hf_cap.errors import ConfigError
from hf_cap.utils import option, required


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
    with pytest.raises(ConfigError, match=r"no setting `cap.learned`"):
        job("--cap.learned", "1")


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
        (["--rate=2e-5"], {"rate": 2e-5}),
        (["--dry"], {"dry": True}),
        (["--dry", "no"], {"dry": False}),
        (["--limit", "none"], {"limit": None}),
        (["--limit", "1e3"], {"limit": 1000}),
        (["--limit", "1", "--limit", "7"], {"limit": 7}),
        (["--seeds", "1", "2"], {"seeds": (1, 2)}),
        (["--seeds"], {"seeds": ()}),
        (["--method", "max"], {"method": "max"}),
        (["--weights", "cap=2", "lime=0.5"], {"weights": {"cap": 2.0, "lime": 0.5}}),
        (["--name=none"], {"name": "none"}),
        (["--name=--x"], {"name": "--x"}),
        (["--train.weight-decay", "0.1"], {"train.weight_decay": 0.1}),
        (["--train.bf16"], {"train.bf16": True}),
        (["--train.save_strategy", "no"], {"train.save_strategy": "no"}),
        (["--train.report_to", "none"], {"train.report_to": "none"}),
    ],
)
def test_words_become_values(words: list[str], expected: dict[str, Any]) -> None:
    assert job("--name", "a", *words) == {"name": "a", **expected}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate: 1e-1", {"rate": 0.1}),
        ("limit: 1e3", {"limit": 1000}),
        ("limit:", {"limit": None}),
        ("dry: yes", {"dry": True}),
        ("name: no", {"name": "no"}),
        ("name: 12:30", {"name": "12:30"}),
        ("name: 01", {"name": "01"}),
        ("seeds: [1, 2]", {"seeds": (1, 2)}),
        ("seeds: []", {"seeds": ()}),
        ("weights: {a: 1}", {"weights": {"a": 1.0}}),
        ("train: {report_to: [x, y], seed: 3}", {"train.report_to": ["x", "y"], "train.seed": 3}),
        ("train.lr_scheduler_kwargs: {n: 2}", {"train.lr_scheduler_kwargs": {"n": 2}}),
    ],
)
def test_yaml_means_what_the_field_says(
    tmp_path: Path, text: str, expected: dict[str, Any]
) -> None:
    named = [] if "name" in expected else ["--name", "a"]
    assert job(*named, *file(tmp_path, text)) == {"name": "a", **expected}


def test_a_path_starts_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert job("--name", "~/runs")["name"] == "/home/me/runs"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rtae", "1"], "no setting `rtae`. Did you mean `rate`"),
        (["--replacement", "x"], "Did you mean `cap.replacement`"),
        (["--zzzzz", "1"], "no setting `zzzzz`. `--help`"),
        (["--train.lerning_rate", "1"], "Did you mean `train.learning_rate`"),
        (["--train.seed", "x"], "`--train.seed` takes a whole number, got 'x'"),
        (["--limit", "many"], "`--limit` takes a whole number, got 'many'"),
        (["--limit", "2.5"], "`--limit` takes a whole number, got '2.5'"),
        (["--dry", "perhaps"], "`--dry` takes true or false, got 'perhaps'"),
        (["--method", "median"], "`--method` takes one of mean, max, got 'median'"),
        (["--weights", "cap"], "`--weights` takes pairs name=value, got 'cap'"),
        (["--cap.n"], "`--cap.n` takes a whole number, got nothing"),
        (["stray"], "Cannot make sense of 'stray'"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        job(*words, "--name", "a")
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
    ],
)
def test_mistakes_in_a_file_name_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job("--name", "a", *file(tmp_path, text))
    with pytest.raises(ConfigError, match=r"none.yaml': No such file"):
        job("--config", "none.yaml")


def test_what_a_class_refuses_is_a_mistake_of_the_user() -> None:
    with pytest.raises(ConfigError, match="no such rate"):
        Values(name="a", rate=-1.0).build(Job)


def test_a_recipe_is_found_among_the_installed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = "recipes/hwu64/embedded/fuse.yaml"
    fuse = load_command("fuse")
    assert (parse("fuse", fuse, ["--config", recipe]) or Values())["method"] == "mean"
    Path(recipe).parent.mkdir(parents=True)
    Path(recipe).write_text("dataset: mine\noutput_dir: o")
    assert parse("fuse", fuse, ["--config", recipe]) == {"dataset": "mine", "output_dir": "o"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    example = load_command(name).example
    assert f"Example: hf-cap {name} {example.split()[0]}" in shown
    assert "--config" in shown
    assert parse(name, load_command(name), example.split())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_groups(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert "--cap.replacement" in script
    assert "--alignment_weight" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("words", [[], *[[name] for name in COMMANDS]], ids=str)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from hf_cap.cli import main; main([*sys.argv[1:], '--help'])\n"
        "loaded = {'torch', 'transformers', 'datasets', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
