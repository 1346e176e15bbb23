"""MiniLM with its trained weights: attribution, both gradients, every layer."""

from typing import Any

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_cap.attribution import TextBatch, path_points, path_scores
from hf_cap.embedded import ENCODER, resolve_model
from hf_cap.training.collator import CAPCollator, Priors, encode_dataset, take_priors
from hf_cap.training.gradient import double_backward, finite_difference
from tests.training.cases import LABEL2ID, raw_rows
from tests.training.test_gradient import gradients, loss_for, points_for, relative

pytestmark = pytest.mark.real


def minilm(side: str) -> tuple[Any, TextBatch, Priors]:
    """The classifier on the encoder, and a batch of texts of different lengths."""
    torch.manual_seed(0)
    folder = resolve_model(ENCODER)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = side
    rows = encode_dataset(raw_rows(5, seed=3, without=100).skip(1), tokenizer, LABEL2ID)
    inputs, priors = take_priors(CAPCollator(tokenizer)(list(rows)))
    assert priors is not None
    labels = inputs.pop("labels")
    return model, TextBatch(inputs, labels, priors.token_words), priors


@pytest.mark.compatibility("model family: MiniLM, trained weights")
@pytest.mark.parametrize("side", ["left", "right"])
def test_both_ways_agree_and_reach_every_layer(side: str) -> None:
    model, batch, priors = minilm(side)
    exact, found = (
        gradients(model, function(model, batch, points_for(batch), loss_for(priors))[0])
        for function in (double_backward, finite_difference)
    )
    assert relative(found, exact) < 1e-3
    for index in range(model.config.num_hidden_layers):
        layer = [g for name, g in exact.items() if f"encoder.layer.{index}." in name]
        assert any(bool(g.any()) for g in layer), index


@pytest.mark.compatibility("model family: MiniLM, trained weights")
def test_the_attribution_is_captums() -> None:
    model, batch, _ = minilm("right")
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    points = path_points("integrated_gradients", ids, mask, steps=8, rule="gauss_legendre")
    ours, _ = path_scores(model, batch, points)

    def gold(ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits.gather(1, labels[:, None])[:, 0]

    baseline = torch.where(batch.words >= 0, model.config.pad_token_id, ids)
    captum = LayerIntegratedGradients(gold, model.get_input_embeddings()).attribute(
        ids, baselines=baseline, additional_forward_args=(mask, batch.labels), n_steps=8
    )
    torch.testing.assert_close(ours, captum.sum(-1).float(), rtol=1e-4, atol=1e-5)
