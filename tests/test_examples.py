"""The scripts in examples/ run."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from hf_cap import CAPPrior
from tests.priors.conftest import labelled
from tests.tiny import byte_tokenizer, llama, save, word_tokenizer

pytest.importorskip("trl")
DATA = labelled(["my card is lost", "renew my loan"] * 2, [0, 1] * 2, ["lost", "renew"])


# trl 1.16 still uses the former names of activation checkpointing, which transformers 5.23 deprecates
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.slow
def test_a_language_model_is_adapted_with_the_prompts_of_cap(tmp_path: Path) -> None:
    from examples.adapt_language_model import adapt, prompts_and_answers

    place = save(llama(), tmp_path / "llama")
    losses = adapt(DATA, place, tmp_path / "out", num_train_epochs=8, learning_rate=0.05)
    assert losses[-1] < losses[0]
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    before = llama().state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert not made.state_dict()["model.layers.0.mlp.up_proj.weight"].equal(before)

    prior = CAPPrior.from_dataset(DATA, model=(llama(), byte_tokenizer()), chat=False, demonstrations=0)
    pairs = prompts_and_answers(prior, DATA)
    assert [answer.strip() for answer in pairs["completion"]] == ["lost", "renew"] * 2
    assert all(text in prompt for text, prompt in zip(DATA["text"], pairs["prompt"], strict=True))


def test_token_weights_on_paper() -> None:
    from examples.adapt_language_model import token_weights

    before = -torch.tensor([[0.5, 0.25, 1.0], [0.75, 0.9, 0.1]]).log()
    now = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    kinds = {"uniform": [1.0, 1.0, 1.0], "reference": [1.0, 1.5, 0.5]}  # 1 - p is 0.5, 0.75, 0.25
    for kind, expected in kinds.items():
        found = token_weights(kind, now, before, mask)
        assert found[mask].tolist() == pytest.approx(expected)
        assert not found[~mask].any()
    importance = torch.tensor([[1.0, 0.25, 1.0], [0.75, 1.0, 1.0]])
    by_prior = token_weights("prior", now, before, mask, importance)[mask].tolist()
    assert by_prior == pytest.approx([1.5, 0.375, 1.125])
    odds = [2 * 2.718281828**-0.1, 4 * 2.718281828**-0.2, 2.718281828**-0.4 / 0.75]
    excess = token_weights("excess", now, before, mask)[mask].tolist()
    assert excess == pytest.approx([3 * one / sum(odds) for one in odds], rel=1e-5)


def test_tokens_matter_by_the_prior_of_their_words() -> None:
    from examples.adapt_language_model import token_importance

    tokenizer = word_tokenizer()
    data = Dataset.from_dict({"text": ["my card lost", "my loan"], "prior": [[1.0, 4.0, -1.0], [2.0, 2.0]]})
    found = token_importance(data, ["renew"], tokenizer)
    words = tokenizer.convert_tokens_to_ids(["my", "card", "lost", "loan", "renew", "book"])
    assert found[words].tolist() == pytest.approx([(0.25 + 1) / 2, 1, 0, 1, 1, 0])


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.slow
def test_uniform_weights_are_the_plain_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import examples.adapt_language_model as example

    place = save(llama(), tmp_path / "llama")
    data = DATA.add_column("prior", [[0.0, 1.0, 0.0, 4.0], [2.0, 0.0, -1.0]] * 2)

    def losses(weights: str) -> list[float]:
        options = {"num_train_epochs": 4, "learning_rate": 0.05, "gradient_accumulation_steps": 2}
        options |= {"per_device_train_batch_size": 2}
        return example.adapt(data, place, tmp_path / "out", weights, **options)

    plain, reference = losses("uniform"), losses("reference")
    assert reference != pytest.approx(plain, abs=1e-6)
    of_texts = losses("prior")
    assert of_texts[-1] < of_texts[0] != pytest.approx(plain[0], abs=1e-3)
    real = example.token_weights
    monkeypatch.setattr(example, "token_weights", lambda _, *rest: real("uniform", *rest))
    assert losses("excess") == pytest.approx(plain, abs=1e-6)
