"""Weights of training examples, words that are left out of them, and attacked versions."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset
from torch import Tensor

from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.evaluation import AttackSettings
from hf_cap.evaluation.attacks import attack_dataset, prepare_attack
from hf_cap.training.examples import (
    VersionSampler,
    drop_words,
    example_weights,
    keep_probability,
    temperature_at,
    with_attacked,
)
from hf_cap.training.options import WeightingOptions
from hf_cap.training.trainer import CAPTrainer
from tests.tiny import roberta_classifier, word_tokenizer
from tests.training.cases import batch_of, config, exact_classifier, moved, raw_rows, summed_loss, trainer

# --- Weights, on losses whose weights are known on paper.

METHODS = ["loss_linupper", "loss_quadratic", "loss_extremes", "dro", "class_dro"]
E = math.e
LOSSES, LABELS = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("method", "h"),
    [
        ("loss_linupper", [0, 1, 1]), ("loss_quadratic", [0, 1, 0]), ("loss_extremes", [1, 0, 1]),
        ("dro", [0, 1, 2]), ("class_dro", [0, 1.5, 1.5]), ("none", [0, 0, 0]),
    ],
)  # fmt: skip
def test_weights_on_paper(method: Any, h: list[float]) -> None:
    total = sum(map(math.exp, h))
    expected = [3 * math.exp(one) / total for one in h]
    assert example_weights(method, LOSSES, LABELS, 1.0).tolist() == pytest.approx(expected)
    if method == "loss_linupper":
        assert [w / 3 for w in expected] == pytest.approx([0.155, 0.422, 0.422], abs=5e-4)
    nearly = example_weights(method, LOSSES, LABELS, 1e6)
    assert nearly.tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    equal = example_weights(method, torch.full((4,), 0.7), torch.tensor([0, 1, 1, 2]), 0.1)
    assert equal.tolist() == pytest.approx([1, 1, 1, 1])


def test_weights_of_dro_are_the_gradient_of_its_closed_form() -> None:
    losses = torch.tensor([0.2, 1.5, 0.1, 3.0], dtype=torch.float64, requires_grad=True)
    for temperature in (0.5, 2.0):
        value = temperature * ((losses / temperature).logsumexp(0) - math.log(4))
        (gradient,) = torch.autograd.grad(value, losses)
        found = example_weights("dro", losses.detach(), torch.zeros(4), temperature)
        torch.testing.assert_close(found / 4, gradient)
    worst = example_weights("dro", losses.detach(), torch.zeros(4), 1e-3)
    assert worst.tolist() == pytest.approx([0, 0, 0, 4])
    classes = example_weights("class_dro", losses.detach(), torch.tensor([0, 1, 0, 1]), 1e-3)
    assert classes.tolist() == pytest.approx([0, 2, 0, 2])  # the worst class, its texts alike


def test_weights_come_in_over_the_warm_up() -> None:
    options = WeightingOptions(example_weighting_temperature=2.0, example_weighting_warmup=0.5)
    assert [temperature_at(options, part) for part in (0.25, 0.5, 1.0)] == [4.0, 2.0, 2.0]
    start = example_weights("dro", LOSSES, LABELS, temperature_at(options, 0.0))
    assert start.tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def task(subject: Any) -> tuple[Tensor, Tensor]:
    """Loss of all training texts as one batch in training, and the gradient of the weights."""
    subject.model.train().zero_grad()
    loss = subject.compute_loss(subject.model, subject.data_collator(list(subject.train_dataset)))
    loss.backward()
    found = [p.grad for p in subject.model.parameters() if p.grad is not None]
    return loss.detach(), torch.cat([one.flatten() for one in found])


def test_weights_of_one_leave_loss_and_gradient_to_the_bit(tmp_path: Path) -> None:
    rows = raw_rows().add_column("sure", [1.0] * 16)
    plain = task(trainer(tmp_path, rows=rows))
    ones = task(trainer(tmp_path, rows=rows, example_weight_column="sure"))
    assert torch.equal(plain[0], ones[0])
    assert torch.equal(plain[1], ones[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_weight_of_two_is_a_text_given_twice(tmp_path: Path, smoothing: float) -> None:
    settings: dict[str, Any] = {
        "model": exact_classifier,
        "alignment_weight": 0.0,
        "label_smoothing_factor": smoothing,
    }
    given = [2.0 * (at % 2) for at in range(16)]  # 0, 2, 0, 2, ...: the mean over the texts of 2
    rows = raw_rows().add_column("sure", given)
    weighted = task(trainer(tmp_path, rows=rows, example_weight_column="sure", **settings))
    half = task(trainer(tmp_path, rows=raw_rows().select(range(1, 16, 2)), **settings))
    torch.testing.assert_close(weighted[0], half[0])
    torch.testing.assert_close(weighted[1], half[1])


def test_the_alignment_and_evaluation_know_no_weights(tmp_path: Path) -> None:
    rows = raw_rows().add_column("sure", [0.0] * 16)
    subject = trainer(tmp_path, rows=rows, example_weight_column="sure", alignment_weight=0.5)
    loss, _ = task(subject)
    plain = trainer(tmp_path, rows=rows, alignment_weight=0.5)
    aligned = 0.5 * plain.evaluate()["eval_loss_align"]
    assert float(loss) == pytest.approx(aligned, rel=1e-4)
    assert subject.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


@pytest.mark.parametrize("method", METHODS)
def test_weights_by_loss_change_training_and_fade_with_the_temperature(tmp_path: Path, method: str) -> None:
    run = partial(trainer, tmp_path, max_steps=2, alignment_weight=0.0)
    plain = moved(run())
    near = moved(run(example_weighting=method, example_weighting_temperature=1e9))
    far = moved(run(example_weighting=method, example_weighting_temperature=0.1))
    assert float((near - plain).abs().max()) < 1e-5
    assert float((far - plain).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"example_weighting": "focal"}, ConfigError, "example_weighting"),
        ({"example_weighting_temperature": 0.0}, ConfigError, "example_weighting_temperature"),
        ({"example_weighting_warmup": 1.5}, ConfigError, "example_weighting_warmup"),
        ({"example_weight_column": "sure"}, DataError, r"lacks \['sure'\]"),
        (
            {"example_weighting": "dro", "compute_loss_func": summed_loss},
            ConfigError,
            "got a `compute_loss_func`",
        ),
    ],
)
def test_what_cannot_be_weighted_is_an_error(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        trainer(tmp_path, **settings)


def test_weights_of_a_csv_file_are_numbers_and_empty_cells_count_as_one(tmp_path: Path) -> None:
    rows = raw_rows().add_column("sure", ["2", "", "0.5", *["1"] * 13])
    encoded = trainer(tmp_path, rows=rows, example_weight_column="sure").train_dataset
    assert encoded["example_weight"][:4] == [2.0, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("bad", [-1.0, math.nan, "much"])
def test_bad_weights_are_errors(tmp_path: Path, bad: Any) -> None:
    ones: list[Any] = ["1.0"] * 15 if isinstance(bad, str) else [1.0] * 15
    rows = raw_rows().add_column("sure", [ones[0], bad, *ones[1:]])
    with pytest.raises(DataError, match=rf"'sure', row 1: the weight of the text is {bad!r}"):
        trainer(tmp_path, rows=rows, example_weight_column="sure")


def test_weighting_that_cannot_work_is_an_error(tmp_path: Path) -> None:
    encoded = trainer(tmp_path).train_dataset  # without that column
    subject = trainer(tmp_path, rows=encoded, example_weight_column="sure")
    with pytest.raises(DataError, match="The batch has no 'example_weight'"):
        subject.train()
    model = roberta_classifier()
    model.config.problem_type = "regression"
    with pytest.raises(ConfigError, match="got problem_type='regression'"):
        trainer(tmp_path, model=lambda: model, alignment_weight=0.0, example_weighting="dro")
    assert not config(tmp_path).weighs_examples


# --- Word dropout by the prior, against texts that never had the words.

SCORES = torch.tensor([[0.8, 0.4, 0.1, 0.0, -0.3], [0.0, 0.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[True, True, True, True, True], [True, True, True, False, False]])


def test_the_probability_on_paper() -> None:
    keep = keep_probability(SCORES, MASK, dropout=0.9, saturation=0.5)
    expected = [1.0, 1.0, 0.1 + 0.9 * 0.25, 0.1, 0.1]
    torch.testing.assert_close(keep[0], torch.tensor(expected))
    assert keep[1].tolist() == [1.0] * 5  # a text without a prior stays as it is


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    tokenizer = word_tokenizer()
    encoded = tokenizer(["i need my card , please", "renew it"], padding=True, return_tensors="pt")
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    words = torch.tensor([[-1, 0, 1, 2, 3, 3, 4, -1], [-1, 0, 1, -1, -1, -1, -1, -1]])
    return inputs, words


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_word_that_is_left_out_was_never_there(side: str) -> None:
    inputs, words = batch()
    if side == "left":
        inputs = {name: value.flip(1) for name, value in inputs.items()}
        words = words.flip(1)
    keep = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0, 1.0]])
    found = drop_words(inputs, words, keep, pad=1, seed=3)
    texts = ["i need please", "renew"]
    expected = word_tokenizer()(texts, padding=True, return_tensors="pt")
    ids = expected["input_ids"]
    if side == "left":  # the tokens of the batch were turned round
        ids = torch.tensor([ids[0].tolist()[::-1], [*ids[1].tolist()[:3][::-1], 1, 1]])
    assert found["input_ids"].tolist() == ids.tolist()
    assert found["attention_mask"].tolist() == expected["attention_mask"].tolist()


def test_words_are_left_out_as_often_as_their_probability_says() -> None:
    inputs, words = batch()
    keep = torch.tensor([[1.0, 0.25, 1.0, 0.75, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    ids = inputs["input_ids"][0]
    seen = torch.zeros(8)
    for seed in range(2000):
        found = drop_words(inputs, words, keep, pad=1, seed=seed)["input_ids"]
        assert found[1].tolist()[:4] == inputs["input_ids"][1].tolist()[:4]
        seen += torch.isin(ids, found[0])
    torch.testing.assert_close(
        seen / 2000, torch.tensor([1, 1, 0.25, 1, 0.75, 0.75, 1, 1]), atol=0.03, rtol=0
    )


def test_what_is_left_out_depends_on_text_and_seed_alone() -> None:
    inputs, words = batch()
    keep = torch.full((2, 5), 0.5)
    together = drop_words(inputs, words, keep, pad=1, seed=7)
    alone = drop_words(
        {name: value[1:, :4] for name, value in inputs.items()}, words[1:, :4], keep[1:, :2], pad=1, seed=7
    )
    width = alone["input_ids"].shape[1]
    assert together["input_ids"][1, :width].tolist() == alone["input_ids"][0].tolist()
    others = [drop_words(inputs, words, keep, pad=1, seed=seed)["input_ids"].tolist() for seed in range(9)]
    assert len({str(one) for one in others}) > 3


def test_one_word_stays_at_least() -> None:
    inputs, words = batch()
    keep = torch.zeros(2, 7)  # more words than the texts have tokens for
    keep[0, 1] = 1e-6
    seen = set()
    for seed in range(40):
        found = drop_words(inputs, words, keep, pad=1, seed=seed)
        lengths = found["attention_mask"].sum(1).tolist()
        assert lengths[0] in (3, 4)  # a word may have two tokens
        assert lengths[1] == 3
        seen.add(int(found["input_ids"][1, 1]))
    assert seen == {int(token) for token in inputs["input_ids"][1, 1:3]}


def test_the_trainer_leaves_out_the_words_that_the_prior_gives_nothing(tmp_path: Path) -> None:
    rows = raw_rows(13, without=100).skip(1)
    rows = rows.map(lambda row: {"prior": [0.0] * (len(row["prior"]) - 1) + [1.0]})
    plain = trainer(tmp_path, rows=rows, alignment_weight=0.0)
    left_out = trainer(tmp_path, rows=rows, alignment_weight=0.0, word_dropout=1.0)
    last = rows.map(lambda row: {"text": row["text"].split()[-1], "prior": [1.0]})
    of_last_words = trainer(tmp_path, rows=last, alignment_weight=0.0)
    for one in (plain, left_out, of_last_words):
        one.train()
    weights = [dict(one.model.named_parameters()) for one in (plain, left_out, of_last_words)]
    for name, weight in weights[1].items():
        torch.testing.assert_close(weight, weights[2][name], rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(weights[0][n], weights[1][n], atol=1e-3) for n in weights[0])
    assert left_out.evaluate()["eval_loss"] != of_last_words.evaluate()["eval_loss"]


def test_dropout_needs_priors(tmp_path: Path) -> None:
    rows = raw_rows(4).remove_columns("prior")
    with pytest.raises(PriorError, match="no prior column"):
        trainer(tmp_path, rows=rows, alignment_weight=0.0, word_dropout=0.5)


def test_a_part_of_the_rows_is_aligned_and_another_on_the_next_step(tmp_path: Path) -> None:
    one = trainer(tmp_path, alignment_fraction=0.5)
    inputs, prior = batch_of(raw_rows(5, without=100))
    drawn = []
    for one.state.global_step in range(6):
        rows, chosen = one.aligned_rows(inputs, prior, True)
        assert len(rows["input_ids"]) == len(chosen.scores) == 3
        drawn.append([inputs["input_ids"].tolist().index(row) for row in rows["input_ids"].tolist()])
        for row, scores in zip(drawn[-1], chosen.scores, strict=True):
            assert torch.equal(prior.scores[row], scores)
    assert len({tuple(sorted(rows)) for rows in drawn}) > 1
    assert {row for rows in drawn for row in rows} == set(range(5))
    assert one.aligned_rows(inputs, prior, False)[1] is prior


def test_label_names_are_texts_without_a_prior(tmp_path: Path) -> None:
    names = ["lost_card", "renew_loan", "pay_fine"]
    rows = raw_rows(6).cast_column("label", ClassLabel(names=names))
    phrases = {"pay_fine": "fine for it"}
    model = partial(roberta_classifier, label2id={name: i for i, name in enumerate(names)})
    one = trainer(tmp_path, model=model, rows=rows, label_names_in="text", label_phrases=phrases)
    assert len(one.train_dataset) == 9
    added = [one.train_dataset[row] for row in range(6, 9)]
    read = word_tokenizer().batch_decode([row["input_ids"] for row in added], skip_special_tokens=True)
    assert read == ["lost card", "renew loan", "fine for it"]
    assert [row["labels"] for row in added] == [0, 1, 2]
    assert [row["prior_weight"] for row in added] == [0.0] * 3


# --- Attacked texts, drawn anew on each epoch or all of them.

NAMES = ClassLabel(names=["lost", "renew"])
TEXTS = ["my card is lost", "lost my card", "renew the loan", "please renew my book loan"]


def texts() -> Dataset:
    rows = {"text": TEXTS, "label": [0, 0, 1, 1], "prior": [[1.0] * 4, [1.0] * 3, None, [1.0] * 5]}
    return Dataset.from_dict(rows).cast_column("label", NAMES)


def versions(seed: int = 0, **settings: Any) -> Dataset:
    return attack_dataset(texts(), texts(), AttackSettings(seed=seed, **settings))


def test_attacked_rows_follow_the_texts_and_have_no_prior() -> None:
    both = with_attacked(texts(), [versions(0), versions(1)])
    assert both["text"][:4] == TEXTS
    assert both["text"][4:8] == versions(0)["text"][:]
    assert both["label"][:] == [0, 0, 1, 1] * 3
    assert both["prior"][:] == [*texts()["prior"][:], *[None] * 8]
    assert both["version_of"][:] == [None] * 4 + TEXTS * 2
    fixed = with_attacked(texts(), [versions(0)], fresh=False)
    assert fixed.column_names == ["text", "label", "prior"]
    assert len(fixed) == 8


def test_each_epoch_draws_one_version_of_each_text() -> None:
    sampler = VersionSampler([None, None, "a", "b", "a", "b", "a"], seed=3)
    assert len(sampler) == 4
    seen = []
    for epoch in range(30):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        assert rows == list(sampler)
        assert sorted(rows)[:2] == [0, 1]
        assert len(rows) == 4
        assert len({2, 4, 6} & {*rows}) == len({3, 5} & {*rows}) == 1
        seen.append(tuple(rows))
    assert {row for rows in seen for row in rows} == set(range(7))
    assert len(set(seen)) > 20
    assert list(VersionSampler([None] * 9, 0)) != list(range(9))


def test_a_training_draws_anew_on_each_epoch(tmp_path: Path) -> None:
    data = with_attacked(texts(), [versions(seed) for seed in range(6)])
    args = config(tmp_path, max_steps=-1, num_train_epochs=3, per_device_train_batch_size=8)
    subject = CAPTrainer(
        roberta_classifier(labels=2), args, train_dataset=data, processing_class=word_tokenizer()
    )
    epochs: list[int] = []
    loader = subject.get_train_dataloader()
    for epoch in range(2):
        loader.set_epoch(epoch)  # type: ignore[attr-defined]
        (batch,) = loader
        assert batch["input_ids"].shape[0] == 8
        assert "version_of" not in batch
        assert int((batch["prior_weight"] > 0).sum()) == 3  # of the four texts one has no prior
        epochs.append(int(batch["input_ids"].sum()))
    assert epochs[0] != epochs[1]
    assert subject.train().global_step == 3
    plain = trainer(tmp_path).get_train_dataloader()
    assert not isinstance(plain.sampler, VersionSampler)


def test_only_changed_versions_of_training_texts_are_taken() -> None:
    few = texts().select([1, 2])
    taken = with_attacked(few, [versions()])
    assert taken["version_of"][:] == [None, None, TEXTS[1], TEXTS[2]]
    kept = versions().map(lambda row: {"changed": row["original"] == TEXTS[2]})
    assert with_attacked(few, [kept])["version_of"][2:] == [TEXTS[2]]
    with pytest.raises(DataError, match="hf-cap attack --split train"):
        with_attacked(texts().select([0]), [versions().select([1])])
    for bad in (texts(), versions().cast_column("label", ClassLabel(names=["renew", "lost"]))):
        with pytest.raises(DataError, match="An attacked set needs the column 'original'"):
            with_attacked(texts(), [bad])


def test_the_halves_of_the_keywords_have_no_word_in_common() -> None:
    words: list[set[str]] = []
    for half in ("both", "first", "second"):
        found = prepare_attack(texts(), AttackSettings(keyword_half=half, keyword_texts=1))
        words.append({word for of_class in found.keywords for word in of_class})
    assert words[1] | words[2] == words[0]
    assert words[1]
    assert words[2]
    assert not words[1] & words[2]
