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


def relative(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    a = torch.cat([one[name].flatten() for name in one]).double()
    b = torch.cat([other[name].flatten() for name in one]).double()
    return float((a - b).norm() / b.norm())


@pytest.mark.compatibility("model family: {name}")
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_both_ways_agree_on_every_family_and_reach_every_layer(name: str, side: str) -> None:
    model = family(name)
    batch, priors = text_batch(padding_side=side)
    loss, points = loss_for(priors), points_for(batch)
    exact_value, exact_scores = double_backward(model, batch, points, loss)
    exact = gradients(model, exact_value)
    value, scores = finite_difference(model, batch, points, loss)
    torch.testing.assert_close(value, exact_value)
    torch.testing.assert_close(scores, exact_scores.detach(), rtol=1e-4, atol=1e-6)
    # of T5 with random weights the truncation is 1.6e-3; it falls with the square of the step
    assert relative(gradients(model, value), exact) < (2.5e-3 if name == "t5" else 1e-3)
    for prefix, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for index in range(len(module)):
                layer = [g for n, g in exact.items() if n.startswith(f"{prefix}.{index}.")]
                assert any(bool(g.any()) for g in layer), f"{prefix}.{index}"


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_the_gradient_is_the_slope_of_the_loss(name: str) -> None:
    model = family(name).double()
    batch, priors = text_batch()
    loss, points = loss_for(priors), points_for(batch)
    exact = gradients(model, double_backward(model, batch, points, loss)[0])
    generator = torch.Generator().manual_seed(1)
    # by PyTorch's rule (`padding_idx`) the pad row gets no gradient, though the baseline moves with it
    way = {
        n: torch.randn(p.shape, generator=generator, dtype=p.dtype) * (n != embedding_name(model))
        for n, p in model.named_parameters()
    }

    def moved(by: float) -> float:
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.add_(by * way[n])
        return float(double_backward(model, batch, points, loss)[0].detach())

    # RMSNorm computes in float32 whatever it is given, so the step cannot be smaller
    forth, back = moved(1e-4), moved(-2e-4)
    slope = sum(float((exact[n] * way[n]).sum()) for n in exact)
    assert slope == pytest.approx((forth - back) / 2e-4, rel=2e-3, abs=1e-5)


def embedding_name(model: nn.Module) -> str:
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    return next(name for name, p in model.named_parameters() if p is table)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_step_follows_the_scale_of_embeddings_and_loss(scale: float) -> None:
    model: Any = roberta_classifier()
    with torch.no_grad():
        for name, weight in model.roberta.embeddings.named_parameters():
            if "embeddings" in name:
                weight *= scale
        model.classifier.out_proj.weight *= scale
    batch, priors = text_batch()
    points = points_for(batch)

    def loss(scores: Tensor) -> Tensor:
        return loss_for(priors)(scores) * scale

    exact = gradients(model, double_backward(model, batch, points, loss)[0])
    assert (
        relative(gradients(model, finite_difference(model, batch, points, loss)[0]), exact) < 2e-3
    )


@pytest.mark.parametrize("mode", GRADIENTS)
def test_split_passes_and_the_mean_of_chosen_points_give_the_gradient(mode: str) -> None:
    model: Any = roberta_classifier()
    batch, priors = text_batch()
    loss = loss_for(priors)
    value, _ = GRADIENTS[mode](model, batch, points_for(batch, 3), loss)
    whole, parts = gradients(model, value), []
    for k in range(3):
        some, _ = GRADIENTS[mode](model, batch, points_for(batch, 3), loss, chosen=[k])
        torch.testing.assert_close(some, value)
        parts.append(gradients(model, some))
    split = GRADIENTS[mode](model, batch, points_for(batch, 3), loss, rows=8)[0]
    assert relative(gradients(model, split), whole) < 1e-3
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
    batch, priors = text_batch()
    points, loss = points_for(batch), loss_for(priors)
    exact = gradients(model, double_backward(model, batch, points, loss)[0])
    model.roberta.encoder.layer[0].output.register_forward_hook(
        lambda module, args, output: Once.apply(output)  # type: ignore[no-untyped-call]
    )
    assert (
        relative(gradients(model, finite_difference(model, batch, points, loss)[0]), exact) < 1e-3
    )
    assert relative(gradients(model, double_backward(model, batch, points, loss)[0]), exact) > 0.1


def test_the_table_holds_the_names_of_the_settings() -> None:
    assert {"auto", *GRADIENTS} == set(get_args(GradientMode))


def test_finite_difference_sees_the_kinks_of_relu_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = family("t5-encoder", feed_forward="relu").double()
    batch, priors = text_batch()
    loss = loss_for(priors)
    exact = gradients(model, double_backward(model, batch, points_for(batch), loss)[0])
    found = gradients(model, finite_difference(model, batch, points_for(batch), loss)[0])
    assert relative(found, exact) > 0.1
    choose_gradient("auto", model, sharded_by=None)
    assert not caplog.records
    choose_gradient("auto", model, sharded_by="FSDP")
    assert "ReLU" in caplog.text


@pytest.mark.parametrize("wanted", ["auto", "finite_difference"])
@pytest.mark.parametrize("spread", ["FSDP", "DeepSpeed"])
def test_spread_weights_need_passes_in_float32(spread: str, wanted: str) -> None:
    model = family("roberta")
    with pytest.raises(ConfigError, match=r"makes the passes in 'bf16'.*`mixed_precision: 'no'`"):
        choose_gradient(wanted, model, sharded_by=spread, mixed_precision="bf16")
    assert (
        choose_gradient(wanted, model, sharded_by=spread, mixed_precision="no")
        == "finite_difference"
    )
