"""Word dropout by the prior, on paper and against texts that never had the words."""

from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel

from hf_cap.errors import PriorError
from hf_cap.training.examples import drop_words, keep_probability
from tests.tiny import roberta_classifier, word_tokenizer
from tests.training.cases import batch_of, raw_rows, trainer

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
        {name: value[1:, :4] for name, value in inputs.items()},
        words[1:, :4],
        keep[1:, :2],
        pad=1,
        seed=7,
    )
    width = alone["input_ids"].shape[1]
    assert together["input_ids"][1, :width].tolist() == alone["input_ids"][0].tolist()
    others = [
        drop_words(inputs, words, keep, pad=1, seed=seed)["input_ids"].tolist() for seed in range(9)
    ]
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
        drawn.append(
            [inputs["input_ids"].tolist().index(row) for row in rows["input_ids"].tolist()]
        )
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
    read = word_tokenizer().batch_decode(
        [row["input_ids"] for row in added], skip_special_tokens=True
    )
    assert read == ["lost card", "renew loan", "fine for it"]
    assert [row["labels"] for row in added] == [0, 1, 2]
    assert [row["prior_weight"] for row in added] == [0.0] * 3
