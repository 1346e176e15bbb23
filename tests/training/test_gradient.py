"""The two ways to the gradient of the alignment loss: right, alike, and reaching every layer."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from hf_cap.attribution import Points, TextBatch, path_points, pool_words
from hf_cap.errors import ConfigError
from hf_cap.losses import LOSSES, alignment_loss
from hf_cap.training.collator import Priors
from hf_cap.training.gradient import double_backward, finite_difference
from hf_cap.training.options import GradientMode
from hf_cap.training.validation import choose_gradient
from tests.tiny import roberta_classifier
from tests.training.cases import FAMILIES, family, text_batch

GRADIENTS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "double_backward": double_backward,
    "finite_difference": finite_difference,
}
ALL_FAMILIES = [*FAMILIES, "t5-encoder"]


def points_for(batch: TextBatch, steps: int = 2) -> Points:
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    return path_points("integrated_gradients", ids, mask, steps=steps)


def loss_for(priors: Priors) -> Callable[[Tensor], Tensor]:
    def loss(token_scores: Tensor) -> Tensor:
        words = pool_words(token_scores, priors.token_words, priors.scores.shape[1])
        return alignment_loss(LOSSES["mse"], words, priors.scores, priors.mask, priors.weight)

    return loss


def gradients(model: nn.Module, value: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(named.items(), found, strict=True)
    }


def by(
    mode: str, model: nn.Module, *, side: str = "right", scale: float = 1.0, steps: int = 2, **options: Any
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, token scores and gradient of a batch by one of the two ways."""
    batch, priors = text_batch(padding_side=side)
    loss = loss_for(priors)
    function, points = GRADIENTS[mode], points_for(batch, steps)
    value, scores = function(model, batch, points, lambda found: loss(found) * scale, **options)
    return value, scores, gradients(model, value)


def relative(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    a = torch.cat([one[name].flatten() for name in one]).double()
    b = torch.cat([other[name].flatten() for name in one]).double()
    return float((a - b).norm() / b.norm())


@pytest.mark.compatibility("model family: {name}")
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_both_ways_agree_on_every_family_and_reach_every_layer(name: str, side: str) -> None:
    model = family(name)
    exact_value, exact_scores, exact = by("double_backward", model, side=side)
    value, scores, found = by("finite_difference", model, side=side)
    torch.testing.assert_close(value, exact_value)
    torch.testing.assert_close(scores, exact_scores.detach(), rtol=1e-4, atol=1e-6)
    # of T5 with random weights the truncation is 1.6e-3; it falls with the square of the step
    assert relative(found, exact) < (2.5e-3 if name == "t5" else 1e-3)
    for prefix, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for index in range(len(module)):
                layer = [g for n, g in exact.items() if n.startswith(f"{prefix}.{index}.")]
                assert any(bool(g.any()) for g in layer), f"{prefix}.{index}"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_step_follows_the_scale_of_embeddings_and_loss(scale: float) -> None:
    model: Any = roberta_classifier()
    with torch.no_grad():
        for name, weight in model.roberta.embeddings.named_parameters():
            if "embeddings" in name:
                weight *= scale
        model.classifier.out_proj.weight *= scale
    exact, found = (by(mode, model, scale=scale)[2] for mode in GRADIENTS)
    assert relative(found, exact) < 2e-3


@pytest.mark.parametrize("mode", GRADIENTS)
def test_split_passes_and_the_mean_of_chosen_points_give_the_gradient(mode: str) -> None:
    model = roberta_classifier()
    value, _, whole = by(mode, model, steps=3)
    assert relative(by(mode, model, steps=3, rows=8)[2], whole) < 1e-3
    parts = []
    for k in range(3):
        some, _, part = by(mode, model, steps=3, chosen=[k])
        torch.testing.assert_close(some, value)
        parts.append(part)
    mean = {name: torch.stack([part[name] for part in parts]).mean(0) for name in whole}
    assert relative(mean, whole) < 2e-3
    assert relative(parts[0], whole) > 0.01


def test_finite_difference_needs_no_second_derivative() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad

    model: Any = roberta_classifier()
    exact = by("double_backward", model)[2]
    model.roberta.encoder.layer[0].output.register_forward_hook(
        lambda module, args, output: Once.apply(output)  # type: ignore[no-untyped-call]
    )
    assert relative(by("finite_difference", model)[2], exact) < 1e-3
    assert relative(by("double_backward", model)[2], exact) > 0.1


def test_finite_difference_sees_the_kinks_of_relu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = family("t5-encoder", feed_forward="relu").double()
    exact, found = (by(mode, model)[2] for mode in GRADIENTS)
    assert relative(found, exact) > 0.1
    choose_gradient("auto", model)
    assert not caplog.records
    choose_gradient("auto", model, sharded_by="FSDP")
    assert "ReLU" in caplog.text


@pytest.mark.parametrize("wanted", ["auto", "finite_difference"])
def test_sharded_weights_need_passes_in_float32(wanted: str) -> None:
    assert {"auto", *GRADIENTS} == set(get_args(GradientMode))
    model = family("roberta")
    with pytest.raises(ConfigError, match=r"makes the passes in 'bf16'.*`mixed_precision: 'no'`"):
        choose_gradient(wanted, model, sharded_by="FSDP", mixed_precision="bf16")
    assert choose_gradient(wanted, model, sharded_by="FSDP") == "finite_difference"
    for mode in GRADIENTS:
        assert choose_gradient(mode, model, mixed_precision="bf16") == mode
