"""What a CPU cannot run: flash attention, and the launch recipes' set-ups on real accelerators."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import roberta_classifier
from tests.training.cases import moved, trainer
from tests.training.test_launch import two_against_one

MODES = ["double_backward", "finite_difference"]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def end_of(folder: Path, attention: str = "sdpa", **settings: Any) -> torch.Tensor:
    """How the weights move in two steps on a GPU."""
    model = partial(roberta_classifier, attn_implementation=attention)
    return moved(trainer(folder, model=model, use_cpu=False, max_steps=2, **settings))


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.compatibility("GPU, float32: one process")
@pytest.mark.parametrize("mode", MODES)
def test_float32_moves_as_on_a_cpu(tmp_path: Path, mode: str) -> None:
    expected = moved(trainer(tmp_path, max_steps=2))
    assert relative(end_of(tmp_path, alignment_gradient=mode), expected) < 1e-2


@pytest.mark.compatibility("GPU, bfloat16 autocast")
@pytest.mark.parametrize("mode", MODES)
def test_bf16_moves_as_float32(tmp_path: Path, mode: str) -> None:
    exact = end_of(tmp_path)
    assert relative(end_of(tmp_path, alignment_gradient=mode, bf16=True), exact) < 0.1


@pytest.mark.compatibility("GPU, flash attention")
@pytest.mark.parametrize("mode", MODES)
def test_flash_attention_moves_as_sdpa(tmp_path: Path, mode: str) -> None:
    if importlib.util.find_spec("flash_attn") is None:
        pytest.skip("flash_attn is not installed")
    exact = end_of(tmp_path, bf16=True)
    flash = end_of(tmp_path, "flash_attention_2", alignment_gradient=mode, bf16=True)
    assert relative(flash, exact) < 0.1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.compatibility("GPU, FSDP2", mode="finite_difference")
def test_fsdp2_on_gpus_equals_one_process(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"alignment_gradient": "finite_difference"}
    assert two_against_one(tmp_path, "--gpu", "--fsdp", **settings) < 1e-2
