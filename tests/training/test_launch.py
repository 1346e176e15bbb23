"""Several processes give the weights of one, and every launch recipe is one that accelerate reads."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from tests.training.cases import farthest, trainer, weights

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_read_by_accelerate(recipe: Path) -> None:
    config = load_config_from_file(str(recipe))
    kinds = {"fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED", "ddp": "MULTI_GPU"}
    assert str(config.distributed_type).split(".")[-1] == kinds.get(recipe.stem, "NO")
    assert config.num_processes == (2 if recipe.stem in kinds else 1)


def test_the_recipes_are_the_set_ups_that_are_promised() -> None:
    assert [path.stem for path in RECIPES] == ["cpu", "ddp", "fsdp2", "one_gpu", "zero2", "zero3"]


@pytest.mark.slow
@pytest.mark.compatibility("DistributedDataParallel, 2 processes, gloo")
@pytest.mark.parametrize(
    "settings",
    [
        ["attribution_method=expected_gradients"],
        ["attribution_method=input_x_gradient"],
        ["alignment_gradient=finite_difference"],
    ],
    ids=lambda settings: settings[0].split("=")[1],
)
def test_two_processes_equal_one(tmp_path: Path, settings: list[str]) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        "-m", "tests.training.ddp_run", str(tmp_path), "per_device_train_batch_size=2", *settings,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stderr[-3000:]
    options: dict[str, Any] = dict(setting.split("=") for setting in settings)
    one = trainer(tmp_path / "one", max_steps=2, seed=7, per_device_train_batch_size=4, **options)
    one.train()
    two = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert farthest(two, weights(one.model)) < (1e-3 if "alignment_gradient" in options else 2e-5)


@pytest.mark.slow
@pytest.mark.compatibility("FSDP2, 2 processes, gloo", mode="finite_difference")
def test_fsdp2_gives_the_gradient_of_the_bare_model() -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        "-m", "tests.training.fsdp_run",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stderr[-3000:]
