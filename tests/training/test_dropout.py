"""Word dropout by the prior, on paper and against texts that never had the words."""

import pytest
import torch

from hf_cap.training.dropout import drop_words, keep_probability
from tests.tiny import word_tokenizer

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
