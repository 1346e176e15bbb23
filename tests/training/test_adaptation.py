"""Adapting a language model: the loss is the scorer's own, and what is saved is what was learnt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hf_cap.errors import ConfigError, DataError
from hf_cap.lm.base import Query
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.training.adaptation import (
    Adaptation,
    AdaptationSettings,
    AnswerCollator,
    SharedBeginnings,
    adapt_language_model,
    answer_loss,
    read_queries,
)
from tests.tiny import byte_tokenizer, llama

HEADS = ("Name the category.\n\n", "Name the category.\nfine: pay\n\n")
TEXTS = ["my card is lost", "renew it", "lost card", "i must pay a fine", "renew my loan", "pay"]
ANSWERS = [" card", " loan", " card", " fine", " loan", " fine"]
QUERIES = [
    Query(HEADS[row % 2], f"Message: {text}\nCategory:", answer)
    for row, (text, answer) in enumerate(zip(TEXTS, ANSWERS, strict=True))
]
TOKENIZER = byte_tokenizer()
QUICK: dict[str, Any] = {"batch_size": 6, "learning_rate": 5e-3, "warmup": 0.0}


def mean_loss(model: PreTrainedModel, queries: Sequence[Query] = QUERIES) -> float:
    """What the loss should be, by the scorer."""
    scored = LocalLanguageModel(model, TOKENIZER).log_probs(queries)
    return -sum(one.total for one in scored) / len(queries)


def adapted(folder: Path, *, queries: Sequence[Query] = QUERIES, **settings: Any) -> Adaptation:
    return adapt_language_model(
        llama(), TOKENIZER, queries, folder, AdaptationSettings(**{**QUICK, **settings})
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Adaptation:
    return adapted(tmp_path_factory.mktemp("adapted"), max_steps=12, rank=4)


def loss_and_gradient(packed: bool, queries: Sequence[Query]) -> tuple[float, torch.Tensor]:
    model = llama().requires_grad_(True)
    batch = AnswerCollator(packed)(read_queries(TOKENIZER, queries))
    names = [name for name in ("input_ids", "position_ids", "attention_mask") if name in batch]
    logits = model(**{name: batch[name] for name in names}).logits[:, batch["columns"]]
    loss = answer_loss(logits, batch)
    loss.backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return loss.item(), torch.cat(gradients)


@pytest.mark.parametrize("queries", [QUERIES, [*QUERIES, QUERIES[0]], QUERIES[:1]], ids=len)
def test_one_sequence_gives_loss_and_gradient_of_separate_prompts(queries: list[Query]) -> None:
    whole, rows = loss_and_gradient(True, queries), loss_and_gradient(False, queries)
    assert whole[0] == pytest.approx(rows[0], abs=1e-5)
    assert whole[0] == pytest.approx(mean_loss(llama(), queries), abs=1e-4)
    torch.testing.assert_close(whole[1], rows[1], atol=1e-5, rtol=1e-4)


def test_what_prompts_share_is_in_the_sequence_once() -> None:
    rows = read_queries(TOKENIZER, QUERIES)
    batch = AnswerCollator(packed=True)(rows)
    separate = sum(len(row.ids) - 1 for row in rows)
    assert batch["input_ids"].shape[1] < separate - 4 * len(HEADS[0])
    assert batch["counts"].sum() == pytest.approx(sum(map(len, ANSWERS)) / len(ANSWERS))


def test_the_loss_begins_at_the_score_and_falls(made: Adaptation) -> None:
    assert made.losses[0] == pytest.approx(mean_loss(llama()), abs=1e-3)
    assert made.losses[-1] < made.losses[0] / 2
    assert made.steps == 12 == len(made.losses)


def test_the_merged_model_is_the_model_with_its_adapters(made: Adaptation) -> None:
    merged = AutoModelForCausalLM.from_pretrained(made.model)
    apart = PeftModel.from_pretrained(llama(), str(made.adapter))
    ids = torch.tensor([read_queries(TOKENIZER, QUERIES)[0].ids])
    torch.testing.assert_close(merged(ids).logits, apart(ids).logits, atol=1e-4, rtol=1e-4)
    assert mean_loss(merged) < mean_loss(llama()) / 2
    assert sum(weight.numel() for weight in load_file(made.adapter / "adapter_model.safetensors").values()) == made.trained_weights  # fmt: skip # noqa: E501
    files = [file.name for folder in (made.model, made.adapter) for file in folder.iterdir()]
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]


def test_the_score_store_takes_it_for_another_model(made: Adaptation, tmp_path: Path) -> None:
    # under the same name, as where a folder is adapted anew
    models = [llama(), AutoModelForCausalLM.from_pretrained(made.model)]
    scorers = [
        CachedLanguageModel(
            LocalLanguageModel(model, TOKENIZER, name="m"), tmp_path / "scores.sqlite"
        )
        for model in models
    ]
    before, after = ([one.total for one in scorer.log_probs(QUERIES)] for scorer in scorers)
    assert scorers[0].fingerprint != scorers[1].fingerprint
    assert all(later > earlier for earlier, later in zip(before, after, strict=True))


def test_equal_seeds_give_equal_weights(made: Adaptation, tmp_path: Path) -> None:
    again = adapted(tmp_path / "again", max_steps=12, rank=4)
    saving = adapted(tmp_path / "saving", max_steps=12, rank=4, gradient_checkpointing=True)
    other = adapted(tmp_path / "other", max_steps=12, rank=4, seed=1)
    first = load_file(made.model / "model.safetensors")
    for name, weight in load_file(again.model / "model.safetensors").items():
        assert torch.equal(weight, first[name])
    for name, weight in load_file(saving.model / "model.safetensors").items():
        torch.testing.assert_close(weight, first[name], atol=1e-5, rtol=1e-4)
    differing = load_file(other.model / "model.safetensors")
    assert not all(torch.equal(differing[name], first[name]) for name in first)


def test_a_model_that_takes_no_packed_sequence_is_trained_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Adaptation
) -> None:
    monkeypatch.setattr("hf_cap.training.adaptation.packs_soundly", lambda model: False)
    rows = adapted(tmp_path, max_steps=12, rank=4)
    assert rows.losses == pytest.approx(made.losses, abs=1e-2)


def test_only_the_named_layers_get_adapters(tmp_path: Path) -> None:
    found = adapted(tmp_path, max_steps=1, target_modules=("q_proj", "v_proj"))
    names = {name.split(".")[-3] for name in load_file(found.adapter / "adapter_model.safetensors")}
    assert names == {"q_proj", "v_proj"}
    assert AutoTokenizer.from_pretrained(found.model).chat_template == TOKENIZER.chat_template


def test_batches_are_of_one_beginning_where_they_can() -> None:
    groups = ["a"] * 10 + ["b"] * 7
    sampler = SharedBeginnings(groups, 4, seed=0)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(17))
    assert len(sampler) == 17
    assert first != second
    assert list(SharedBeginnings(groups, 4, seed=0)) == first
    batches = [first[start : start + 4] for start in range(0, 12, 4)]
    assert all(len({groups[index] for index in batch}) == 1 for batch in batches)


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot put adapters on the layers \['nowhere'\]"):
        adapted(tmp_path, target_modules=("nowhere",))
    with pytest.raises(DataError, match="no text to adapt"):
        adapted(tmp_path, queries=[])
    bad: dict[str, Any] = {"rank": 0, "learning_rate": 0.0, "dropout": 1.0, "warmup": -0.1}
    for name, value in bad.items():
        with pytest.raises(ConfigError, match=f"`{name}` must be"):
            AdaptationSettings(**{name: value})
    assert not (tmp_path / "model").exists()
