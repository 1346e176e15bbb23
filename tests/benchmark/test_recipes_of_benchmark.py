"""The recipes of the benchmark hold only settings that their stages have, and refuse what they cannot."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import __main__ as benchmark
from benchmarks.study.bench import Bench
from benchmarks.study.settings import BenchmarkSettings
from hf_cap.cli import parse_command
from hf_cap.cli.config import build
from hf_cap.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "recipes" / "benchmark"
RECIPES = [FOLDER / f"{name}.yaml" for name in ("hwu64", "banking77", "clinc150", "demo", "paper")]


def opened(recipe: Path, *flags: str) -> Bench:
    values: dict[str, Any] | None = parse_command(
        "benchmark", benchmark, ["--config", str(recipe), *flags]
    )
    return benchmark.open_bench(build(BenchmarkSettings, values or {}))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_setting_of_a_recipe_is_one_of_its_stage(recipe: Path) -> None:
    settings = opened(recipe).settings
    tried = (*settings.candidates, *settings.baseline_candidates)
    assert isinstance(settings.training["learning_rate"], float)
    assert all(isinstance(one.get("learning_rate", 0.0), float) for one in tried)


def test_a_flag_changes_one_entry_of_the_recipe() -> None:
    before, after = opened(RECIPES[0]), opened(RECIPES[0], "--training", "learning_rate=1e-2")
    assert after.settings.training == {**before.settings.training, "learning_rate": 0.01}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--training", "learning_rat=1"], "learning_rate"),
        (["--training", "seed=1"], "the benchmark itself sets"),
        (["--extraction", "sign=signed"], "the benchmark itself sets"),
        (["--evaluation", "attribution_steps=many"], "attribution_steps"),
        (["--dataset", "a/x", "b/x"], "one name"),
        (["--draws", "0"], "`draws` must be at least 1"),
        (["--methods", "none", "lmie"], "no prior source 'lmie'"),
        (["--hybrid", "cap", "chanel"], "no prior source 'chanel'"),
        (["--control_of", "shuffled"], "has no scores to shuffle"),
        (["--control_of", "none"], "has no scores to shuffle"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_work(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(RECIPES[0], *flags)
