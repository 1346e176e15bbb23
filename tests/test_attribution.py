"""Attributions against answers on paper, captum, and their own axioms."""

import math
from typing import get_args

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor, nn

from hf_cap.attribution import (
    METHODS,
    QUADRATURES,
    TARGETS,
    TextBatch,
    attribute_words,
    path_points,
    path_scores,
    pool_words,
    random_points,
    target_score,
)
from hf_cap.classifiers import evaluation_mode
from hf_cap.errors import ConfigError, ModelError
from hf_cap.schema import AttributionTarget, Quadrature
from tests.tiny import WordSum, roberta_classifier, word_tokenizer
from tests.training.cases import ENCODER_EMBEDDINGS, FAMILIES, family, text_batch


def random_sum() -> WordSum:
    model = WordSum(word_tokenizer(), {"card": (0.0, 0.0)})
    torch.nn.init.normal_(model.words.weight)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_model_is_weight_times_input(method: str) -> None:
    """The logits of this model are linear in the embeddings, so the answer is known on paper."""
    model = random_sum()
    ids, mask = (torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]))
    words, labels = torch.tensor([[-1, 0, 1, -1], [-1, 0, -1, -1]]), torch.tensor([1, 0])
    batch = TextBatch({"input_ids": ids, "attention_mask": mask}, labels, words)
    scores, _ = path_scores(model, batch, path_points(method, ids, mask, steps=3, seed=5))
    difference = model.words(ids) - model.words.weight[1]
    expected = difference[[0, 1], :, labels] * (words >= 0)
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [*FAMILIES, "t5-encoder"])
def test_every_family_agrees_with_captum(name: str, side: str) -> None:
    model = family(name)
    batch, _ = text_batch(padding_side=side)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    points = path_points("integrated_gradients", ids, mask, steps=8, rule="gauss_legendre")
    ours, _ = path_scores(model, batch, points, rows=10)

    def gold(ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        chosen: Tensor = model(input_ids=ids, attention_mask=mask)["logits"].gather(1, labels[:, None])
        return chosen[:, 0]

    baseline = torch.where(batch.words >= 0, 1, ids)
    layer = model.get_input_embeddings()  # type: ignore[operator]
    if name in ENCODER_EMBEDDINGS:
        layer = model.get_submodule(ENCODER_EMBEDDINGS[name])
    captum = LayerIntegratedGradients(gold, layer).attribute(
        ids, baselines=baseline, additional_forward_args=(mask, batch.labels), n_steps=8
    )
    torch.testing.assert_close(ours, captum.sum(-1).float(), rtol=1e-4, atol=1e-5)


def test_attribute_words_equals_captum_summed_over_the_tokens_of_each_word() -> None:
    model, tokenizer = roberta_classifier(), word_tokenizer()
    texts, targets = ["my card, please", "renew the book", "it"], [2, 0, 1]
    scores = attribute_words(model, tokenizer, texts, targets, batch_size=7, steps=9)
    assert [len(row) for row in scores] == [3, 3, 1]
    layer = LayerIntegratedGradients(lambda ids: model(input_ids=ids).logits, model.get_input_embeddings())
    encoded = tokenizer(texts[0], return_tensors="pt")["input_ids"]  # <s> my card , please </s>
    baseline = torch.tensor([[0, 1, 1, 1, 1, 2]])
    expected = layer.attribute(encoded, baselines=baseline, target=2, n_steps=9).sum(-1)[0]
    pooled = [expected[1], expected[2] + expected[3], expected[4]]
    assert scores[0] == pytest.approx([float(x) for x in pooled], rel=1e-4, abs=1e-5)


def test_attribute_words_does_not_depend_on_the_batch_and_leaves_the_model_as_it_was() -> None:
    model, tokenizer = roberta_classifier(hidden_dropout_prob=0.5).train(), word_tokenizer()
    texts, targets = ["my card", "renew the old book please", "it", "lost loan"], [0, 1, 2, 0]

    def explain(texts: list[str], targets: list[int]) -> list[list[float]]:
        return attribute_words(model, tokenizer, texts, targets, steps=4, method="expected_gradients")

    for text, target, together in zip(texts, targets, explain(texts, targets), strict=True):
        assert together == pytest.approx(explain([text], [target])[0], rel=1e-4, abs=1e-6)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks
    (cut,) = attribute_words(model, tokenizer, ["my card is lost"], [0], max_length=4, steps=2)
    assert cut[:2] != [0.0, 0.0]
    assert cut[2:] == [0.0, 0.0]


@pytest.mark.parametrize("rule", QUADRATURES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_quadratures_integrate_polynomials_of_their_degree(rule: str, steps: int) -> None:
    alpha, weights = QUADRATURES[rule](steps)
    degree = {"midpoint": 1, "gauss_legendre": 2 * steps - 1, "gauss_radau": 2 * steps - 2}[rule]
    for power in range(degree + 1):
        value = sum(q * a**power for a, q in zip(alpha, weights, strict=True))
        assert value == pytest.approx(1 / (power + 1))
    assert alpha == sorted(alpha)
    assert rule != "gauss_radau" or alpha[-1] == 1.0
    assert set(get_args(Quadrature)) == set(QUADRATURES)
    assert set(get_args(AttributionTarget)) == set(TARGETS)


def test_random_points_depend_on_the_text_alone_and_are_uniform() -> None:
    ids = torch.randint(5, 60, (500, 6), generator=torch.Generator().manual_seed(0))
    points = random_points(ids, torch.ones_like(ids), 2, seed=1)
    left = torch.cat([torch.ones(500, 2, dtype=torch.long), ids], 1)
    mask = (torch.arange(8) >= 2).long().expand(500, -1)
    assert torch.equal(random_points(left, mask, 2, seed=1), points)
    assert not torch.equal(random_points(ids, torch.ones_like(ids), 2, seed=2), points)
    assert bool((points[0] < 0.5).all())
    assert bool((points[1] >= 0.5).all())
    spread = (points * 2 % 1).sort(dim=1).values
    # Kolmogorov, p ~ 0.003
    assert float((spread - (torch.arange(500) + 0.5) / 500).abs().max()) < 0.08
    assert abs(float(torch.corrcoef(points)[0, 1])) < 0.15


def test_targets_and_the_sum_over_the_tokens_of_a_word() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
    assert float(target_score(logits, labels)) == 2.0
    assert float(target_score(logits, labels, "contrast")) == pytest.approx(2 - math.log(2))
    scores, words = torch.tensor([[9.0, 1.0, 2.0, 4.0, 9.0]]), torch.tensor([[-1, 0, 0, 2, -1]])
    assert pool_words(scores, words, 3).tolist() == [[3.0, 0.0, 4.0]]


def test_words_that_share_a_token_share_its_score() -> None:
    model, tokenizer = roberta_classifier(), word_tokenizer()
    text = "我想取消信用卡 card"
    (apart,) = attribute_words(model, tokenizer, [text], [0], method="input_x_gradient")
    (whole,) = attribute_words(
        model, tokenizer, [text], [0], method="input_x_gradient", word_pattern=r"(?:\S+)"
    )
    assert len(apart) == 4
    assert apart == pytest.approx([whole[0] / 3] * 3 + [whole[1]])


def test_evaluation_mode_puts_everything_back() -> None:
    model = roberta_classifier(hidden_dropout_prob=0.5).train()
    model.roberta.encoder.layer[0].eval()
    before = [m.training for m in model.modules()]
    ids = torch.tensor([[0, 5, 6, 2]])
    with evaluation_mode(model):
        assert torch.equal(model(ids).logits, model(ids).logits)
    assert [m.training for m in model.modules()] == before


def test_bad_choices_are_refused() -> None:
    ids = torch.ones(1, 2, dtype=torch.long)
    with pytest.raises(ConfigError, match="no attribution method 'lime'"):
        path_points("lime", ids, ids)
    with pytest.raises(ConfigError, match=r"no quadrature 'simpson'; there are .*'midpoint'"):
        path_points("integrated_gradients", ids, ids, rule="simpson")
    for method in ("integrated_gradients", "expected_gradients"):
        with pytest.raises(ConfigError, match="at least 1 step, got 0"):
            path_points(method, ids, ids, steps=0)
    with pytest.raises(ConfigError, match="no attribution target 'loss'"):
        target_score(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), "loss")


def test_what_cannot_be_explained_is_refused() -> None:
    model, ids = random_sum(), torch.tensor([[0, 5, 2]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch = TextBatch(inputs, torch.tensor([0]), ids - 1)
    points = path_points("input_x_gradient", ids, ids)
    model.config.pad_token_id = None
    with pytest.raises(ModelError, match="pad_token_id"):
        path_scores(model, batch, points)
    model.config.pad_token_id = 1
    model.get_input_embeddings = lambda: nn.Embedding(8, 3)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="get_input_embeddings"):
        path_scores(model, batch, points)
    with pytest.raises(ModelError, match="fast tokenizer"):
        attribute_words(roberta_classifier(), object(), ["a"], [0])  # type: ignore[arg-type]


def test_a_text_is_cut_at_what_the_model_takes_where_the_tokenizer_has_no_limit() -> None:
    model, tokenizer = roberta_classifier(), word_tokenizer()
    texts = ["my card " * 60, "i lost my card"]
    tokenizer.model_max_length = 78
    expected = attribute_words(model, tokenizer, texts, [0, 1], steps=2)
    tokenizer.model_max_length = int(1e30)
    assert attribute_words(model, tokenizer, texts, [0, 1], steps=2) == expected
    assert expected[0][75] != 0 == expected[0][76]
