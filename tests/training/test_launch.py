"""Several processes give the weights of one, and every launch recipe is one that accelerate reads."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from tests.launching import ROOT, environment
from tests.tiny import roberta_classifier
from tests.training import cases

RECIPES = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_read_by_accelerate(recipe: Path) -> None:
    config = load_config_from_file(str(recipe))
    kinds = {"fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED", "ddp": "MULTI_GPU"}
    assert str(config.distributed_type).split(".")[-1] == kinds.get(recipe.stem, "NO")
    assert config.num_processes == (2 if recipe.stem in kinds else 1)
    assert [path.stem for path in RECIPES] == ["cpu", "ddp", "fsdp2", "one_gpu", "zero2", "zero3"]


def launched(*arguments: str, gpu: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `tests.training.launched` in two processes."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        "-m", "tests.training.launched", *arguments,
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=ROOT, env=environment(gpu=gpu), capture_output=True, text=True, timeout=280
    )


def two_against_one(folder: Path, *flags: str, one: dict[str, Any] | None = None, **settings: Any) -> float:
    """Largest difference between the weights of two processes and of one, after two steps.

    Args:
        folder: To write into.
        flags: Of `tests.training.launched`.
        one: Settings that differ for the one process.
        settings: Of both.
    """
    given = {"per_device_train_batch_size": 2, **settings}
    program = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    run = launched(str(folder), *flags, *program, gpu="--gpu" in flags)
    assert run.returncode == 0, run.stderr[-3000:]
    alone = {**settings, "per_device_train_batch_size": 4, **(one or {})}
    kind = flags[flags.index("--exact") + 1] if "--exact" in flags else ""
    model = partial(cases.exact_classifier, kind) if kind else roberta_classifier
    loss = cases.summed_loss if "--summed" in flags else None
    make = partial(cases.trainer, model=model, compute_loss_func=loss)
    settings = {"max_steps": 2, "seed": 7, **alone}
    subject = (cases.sparse_trainer if "--sparse" in flags else make)(folder / "one", **settings)
    before = cases.weights(subject.model)
    subject.train()
    assert cases.farthest(cases.weights(subject.model), before) > 1e-2
    two = torch.load(folder / "w.pt", weights_only=True, map_location="cpu")
    return cases.farthest(two, cases.weights(subject.model))


@pytest.mark.slow
@pytest.mark.compatibility("DistributedDataParallel, 2 processes, gloo: {kind}")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("roberta", {"attribution_method": "expected_gradients"}),
        ("roberta", {"alignment_gradient": "finite_difference"}),
        ("roberta", {"example_weighting": "class_dro"}),
        ("roberta", {"example_weighting": "loss_linupper", "example_weight_column": "weight"}),
        ("sentence", {"attribution_method": "expected_gradients"}),
    ],
    ids=["expected_gradients", "finite_difference", "class_dro", "weights", "sentence"],
)
def test_two_processes_equal_one(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    assert two_against_one(tmp_path, "--exact", kind, **settings) < 1e-10


def test_two_processes_tune_the_same_layers_as_one(tmp_path: Path) -> None:
    assert two_against_one(tmp_path, "--sparse", max_steps=3) < 1e-10


@pytest.mark.slow
@pytest.mark.compatibility("average_tokens_across_devices, 2 processes, accumulation")
def test_a_task_loss_averaged_across_devices(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"gradient_accumulation_steps": 2, "average_tokens_across_devices": True}
    assert two_against_one(tmp_path, "--summed", "--exact", "roberta", **settings) < 1e-10


@pytest.mark.slow
@pytest.mark.compatibility("FSDP2, 2 processes, gloo: CAPTrainer", mode="finite_difference")
def test_fsdp2_equals_one_process(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"gradient_accumulation_steps": 2, "alignment_gradient": "finite_difference"}
    assert two_against_one(tmp_path, "--fsdp", "--exact", "roberta", **settings) < 1e-10


@pytest.mark.slow
def test_fsdp2_in_mixed_precision_is_refused(tmp_path: Path) -> None:
    run = launched(str(tmp_path), "--fsdp", "bf16=true")
    assert run.returncode != 0
    assert "FSDP makes the passes in 'bf16'" in run.stderr
    assert not (tmp_path / "w.pt").exists()


@pytest.mark.slow
@pytest.mark.compatibility("DeepSpeed ZeRO stage {stage}, 2 processes, gloo", mode="finite_difference")
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_equals_one_process(tmp_path: Path, stage: int) -> None:
    """`make test-deepspeed` installs what this needs."""
    pytest.importorskip("deepspeed")
    zero = {
        "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True},
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }
    settings: dict[str, Any] = {"deepspeed": zero, "alignment_gradient": "finite_difference"}
    assert two_against_one(tmp_path, one={"deepspeed": None}, **settings) < 1e-3
