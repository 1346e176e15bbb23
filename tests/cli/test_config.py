"""Configuration: precedence, types, unknown keys."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from hf_cap.cli.config import add_flags, build, merge, read_yaml, settings_of
from hf_cap.errors import ConfigError
from hf_cap.utils import documented, option, required


@documented
@dataclass(frozen=True)
class Job:
    """A job."""

    name: str = required("Name of the job.")
    rate: float = option(1e-3, "Step size, 100 % of it.")
    steps: int = option(10, "Number of steps.")
    dry: bool = option(False, "Do nothing.")
    how: Literal["mean", "max"] = option("mean", "Which way.")
    limit: int | None = option(None, "At most so many.")
    trackers: str | list[str] | None = option("none", "What to report to.")
    seeds: tuple[int, ...] = option((0,), "Seeds.")
    weights: Mapping[str, float] = option(help="Weights.", factory=dict)
    more: dict[str, Any] | str | None = option(None, "Settings of another library.")
    sizes: list[float] | None = option(None, "Sizes.")
    trials: tuple[Mapping[str, Any], ...] = option((), "Settings to try.")


SETTINGS = settings_of(Job)


def parse(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, SETTINGS)
    return vars(parser.parse_args(arguments))


def test_the_docstring_has_the_help_of_each_field() -> None:
    assert "rate: Step size, 100 % of it." in str(Job.__doc__)


def test_lists_and_mappings_of_a_file_stay_what_they_are() -> None:
    given = {"name": "a", "trackers": ["x", "y"], "more": {"cycles": 2}}
    assert {key: merge(SETTINGS, given)[key] for key in given} == given
    assert merge(SETTINGS, {"name": "a", "more": '{"cycles": 2}'})["more"] == '{"cycles": 2}'


def test_the_elements_of_an_optional_list_are_converted() -> None:
    assert merge(SETTINGS, {"name": "a", "sizes": ["1e-3", 2]})["sizes"] == [1e-3, 2.0]


def test_what_a_class_refuses_is_a_mistake_of_the_configuration() -> None:
    @dataclass
    class Foreign:
        rate: float = 1.0

        def __post_init__(self) -> None:
            raise ValueError("no such rate")

    with pytest.raises(ConfigError, match="no such rate"):
        build(Foreign, {"rate": 2.0})


def test_words_that_yaml_takes_for_truth_values_are_words(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: no\n")
    assert merge(SETTINGS, read_yaml(tmp_path / "c.yaml"))["name"] == "no"


def test_a_path_in_a_file_starts_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert merge(SETTINGS, {"name": "~/runs"})["name"] == "/home/me/runs"


def test_a_percent_sign_in_a_help_text_does_not_break_help() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, SETTINGS)
    assert "100 % of it. Default: 0.001." in parser.format_help()


def test_flags_win_over_yaml_and_yaml_over_defaults() -> None:
    values = merge(SETTINGS, {"name": "a", "steps": 3}, {"steps": 4}, parse("--steps", "5"))
    assert build(Job, values) == Job(name="a", steps=5)


def test_a_mapping_adds_to_those_of_earlier_layers() -> None:
    given = parse("--weights", "cap=2")
    values = merge(SETTINGS, {"name": "a", "weights": {"cap": 1, "lime": 3}}, given)
    assert values["weights"] == {"cap": 2.0, "lime": 3.0}


def test_a_flag_that_is_not_given_does_not_shadow_yaml() -> None:
    assert merge(SETTINGS, {"name": "a", "dry": True}, parse()) == {"name": "a", "dry": True}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--rate=2e-5"], {"rate": 2e-5}),
        (["--dry"], {"dry": True}),
        (["--dry", "false"], {"dry": False}),
        (["--limit", "none"], {"limit": None}),
        (["--limit", "7"], {"limit": 7}),
        (["--trackers", "none"], {"trackers": "none"}),
        (["--seeds", "1", "2"], {"seeds": (1, 2)}),
        (["--how", "max"], {"how": "max"}),
        (["--weights", "cap=2", "lime=0.5"], {"weights": {"cap": 2.0, "lime": 0.5}}),
    ],
)
def test_values_take_the_type_of_their_field(
    arguments: list[str], expected: dict[str, Any]
) -> None:
    assert merge(SETTINGS, {"name": "a"}, parse(*arguments)) == {"name": "a", **expected}


def test_dashes_are_underscores() -> None:
    @dataclass
    class Long:
        learning_rate: float = option(0.1, "")

    parser = argparse.ArgumentParser()
    settings = settings_of(Long)
    add_flags(parser, settings)
    given = vars(parser.parse_args(["--learning-rate", "3"]))
    assert merge(settings, given) == {"learning_rate": 3.0}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"stesp": 1}, "no setting `stesp`. Did you mean `steps`"),
        ({"zzzzz": 1}, "no setting `zzzzz`. `--help`"),
        ({"steps": "many"}, "`steps` takes a value of type int, got 'many'"),
        ({"steps": 2.5}, "`steps` takes a value of type int, got 2.5"),
        ({"dry": "perhaps"}, "`dry` takes a value of type bool, got 'perhaps'"),
        ({"how": "median"}, r"`how` must be one of 'mean', 'max', got 'median'"),
        ({"weights": ["cap"]}, "`weights` takes pairs `name=value`, got"),
        (
            {"trials": ["rate=1"]},
            "`trials` takes mappings .*, got 'rate=1'. Write them into a YAML",
        ),
        ({"trials": [{"rate": 1}, 2]}, "`trials` takes mappings .*, got 2"),
        ({"steps": None}, "`steps` needs a value"),
        ({}, "`name` is missing: Name of the job."),
    ],
)
def test_mistakes_are_named(layer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        merge(SETTINGS, layer)


def test_yaml_numbers_in_scientific_notation(tmp_path: Path) -> None:
    # YAML 1.1 reads 2e-5 as a string
    (tmp_path / "c.yaml").write_text("name: a\nrate: 2e-5\nsteps: 1e3\n")
    values = merge(SETTINGS, read_yaml(tmp_path / "c.yaml"))
    assert (values["rate"], values["steps"]) == (2e-5, 1000)


def test_a_recipe_is_found_among_the_installed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_yaml("recipes/study/demo.yaml")["dataset"] == ["embedded/library-desk"]
    (tmp_path / "recipes" / "benchmark").mkdir(parents=True)
    (tmp_path / "recipes" / "benchmark" / "demo.yaml").write_text("dataset: [mine]\n")
    assert read_yaml("recipes/study/demo.yaml") == {"dataset": ["mine"]}


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="must hold `key: value` lines, got list"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(tmp_path / "bad.yaml")
    (tmp_path / "empty.yaml").touch()
    assert read_yaml(tmp_path / "empty.yaml") == {}
