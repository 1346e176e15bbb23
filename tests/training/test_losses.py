"""Distances on cases with an answer on paper, and what they must not depend on."""

import math

import pytest
import torch

from hf_cap.errors import ConfigError
from hf_cap.losses import LOSSES, alignment_loss, find_loss, register_loss
from tests.training.cases import absolute

PRIOR = torch.tensor([[3.0, 4.0, 0.0]])
ALL = torch.ones(1, 3, dtype=torch.bool)
OPPOSITE = {"mse": 4.0, "mse_mean": 4 / 3, "cosine": 2.0}


@pytest.mark.parametrize(("name", "value"), OPPOSITE.items())
def test_agreement_up_to_scale_is_the_least_and_opposite_signs_the_most(name: str, value: float) -> None:
    assert float(LOSSES[name](7 * PRIOR, PRIOR, ALL, 0.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(LOSSES[name](-PRIOR, PRIOR, ALL, 0.0)) == pytest.approx(value)


def test_divergence_on_paper() -> None:
    attribution, prior = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    p = math.exp(math.sqrt(2)) / (1 + math.exp(math.sqrt(2)))
    expected = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
    value = LOSSES["kl"](attribution, prior, ALL[:, :2], 0.0)
    assert float(value) == pytest.approx(expected)
    assert float(LOSSES["kl"](7 * PRIOR, PRIOR, ALL, 0.0)) == pytest.approx(0.0, abs=1e-6)


def test_order_on_paper() -> None:
    loss, prior, both = LOSSES["order"], torch.tensor([[1.0, 0.0]]), ALL[:, :2]
    assert float(loss(torch.tensor([[5.0, 5.0]]), prior, both, 0.0)) == pytest.approx(math.log(2))
    right = float(loss(torch.tensor([[1.0, -1.0]]), prior, both, 0.0))
    assert right == pytest.approx(math.log1p(math.exp(-math.sqrt(2))))
    assert float(loss(prior, torch.tensor([[2.0, 2.0]]), both, 0.0)) == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_masked_words_do_not_matter(name: str) -> None:
    attribution = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    prior = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True, True, True, False, False]] * 4)
    whole = LOSSES[name](attribution, prior, mask, 0.0)
    cut = LOSSES[name](attribution[:, :3], prior[:, :3], mask[:, :3], 0.0)
    torch.testing.assert_close(whole, cut)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("zero", ["attribution", "prior", "mask"])
def test_nothing_is_infinite_where_a_side_is_zero(name: str, zero: str) -> None:
    sides = {"attribution": torch.randn(2, 3), "prior": torch.randn(2, 3), "mask": torch.ones(2, 3) > 0}
    sides[zero] = torch.zeros_like(sides[zero])
    attribution = sides["attribution"].requires_grad_()
    loss = LOSSES[name](attribution, sides["prior"], sides["mask"], 0.0)
    (gradient,) = torch.autograd.grad(loss.sum(), attribution)
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient).all())


def test_the_floor_bounds_the_gradient() -> None:
    tiny = (1e-6 * torch.tensor([[0.3, -0.2, 0.9]])).requires_grad_()

    def steepness(floor: float) -> float:
        loss = LOSSES["mse"](tiny, PRIOR, ALL, floor).sum()
        return float(torch.autograd.grad(loss, tiny)[0].norm())

    assert steepness(0.0) > 1e5
    assert steepness(0.5) <= 2 / 0.5 + 1e-3


def test_the_batch_mean_counts_examples_without_a_prior() -> None:
    attribution = torch.cat([-PRIOR, PRIOR])
    value = alignment_loss(
        LOSSES["mse"], attribution, PRIOR.expand(2, -1), ALL.expand(2, -1), torch.tensor([0.5, 0.0])
    )
    assert float(value) == pytest.approx(0.5 * 4.0 / 2)


def test_a_loss_of_ones_own_is_found_by_its_place_and_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_cap.losses.LOSSES", dict(LOSSES))
    register_loss("absolute", absolute)
    for name in ("tests.training.cases:absolute", "absolute"):
        assert find_loss(name)(2 * PRIOR, PRIOR, ALL, 0.0).tolist() == [7.0]
    with pytest.raises(ConfigError, match="a loss 'absolute' already"):
        register_loss("absolute", absolute)
    with pytest.raises(ConfigError, match=r"no `alignment_loss` 'l1'; there are \['absolute', "):
        find_loss("l1")
    with pytest.raises(ConfigError, match="cannot be loaded as `module:name`"):
        find_loss("tests.training.cases:nothing")
