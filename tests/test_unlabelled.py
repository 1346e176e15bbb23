"""Texts without labels: prototypes known on paper, and the head that they refine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from torch import Tensor

from hf_cap.classifiers import add_adapters, new_classifier
from hf_cap.errors import ConfigError
from hf_cap.refit import expectation_maximisation, refine_head
from tests.test_sentence_encoder import LABELS, sentence_encoder
from tests.tiny import WORDS, roberta_classifier, word_tokenizer

TEXTS = [f"{one} {other}" for one, other in zip(WORDS, reversed(WORDS), strict=True)]


def unit(*rows: tuple[float, ...]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=-1)


def test_texts_of_separate_clouds_go_to_their_own_label() -> None:
    texts = unit(*[(0.6, 0.0, 0.8)] * 10, *[(0.0, -0.6, 0.8)] * 5)
    known = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    found = expectation_maximisation(known, texts, scale=1000.0, share=0.5)
    # 0.5 times ten texts, and five, beside one that is known
    assert torch.allclose(found, unit((1 + 5 * 0.6, 0, 5 * 0.8), (0, -1 - 2.5 * 0.6, 2.5 * 0.8)))


def test_a_text_between_two_labels_counts_half_for_each() -> None:
    found = expectation_maximisation(torch.eye(2), unit((1.0, 1.0)), share=1.0, rounds=1)
    half = 0.5 / 2**0.5
    assert torch.allclose(found, unit((1 + half, half), (half, 1 + half)))


def test_a_cloud_pulls_its_label_to_where_it_is() -> None:
    torch.manual_seed(0)
    centres = unit((1.0, 0.6, 0.0), (0.0, 0.6, 1.0))
    texts = torch.nn.functional.normalize(
        centres.repeat_interleave(200, 0) + 0.1 * torch.randn(400, 3), dim=-1
    )
    known = 2 * unit((1.0, 0.0, 0.3), (0.3, 0.0, 1.0))
    found = expectation_maximisation(known, texts)
    assert ((found * centres).sum(1) > 0.99).all()
    order = torch.randperm(400)
    assert torch.allclose(expectation_maximisation(known, texts[order]), found, atol=1e-5)


def test_without_texts_the_prototypes_are_what_is_known() -> None:
    known = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    found = expectation_maximisation(known, torch.empty(0, 2))
    assert torch.allclose(found, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))


def classifier(folder: Path) -> Any:
    return new_classifier(str(sentence_encoder(folder / "encoder")), LABELS)


def test_the_head_becomes_the_prototypes_of_the_embeddings(tmp_path: Path) -> None:
    model, tokenizer, _ = classifier(tmp_path)
    with torch.no_grad():
        model.head.weight.mul_(torch.tensor([[0.5], [1.0], [4.0]]))
        model.head.bias.fill_(1.0)
    start, scale = model.head.weight.detach().clone(), model.head.scale.item()
    refine_head(model, tokenizer, [])
    assert torch.equal(model.head.weight, start)
    assert model.head.bias.tolist() == [1.0] * 3
    refine_head(model, tokenizer, TEXTS)
    embeddings = SentenceTransformer(str(tmp_path / "encoder"), device="cpu").encode(TEXTS)
    rows = torch.nn.functional.normalize(start, dim=-1)
    for _ in range(20):
        parts = (16 * torch.tensor(embeddings) @ rows.T).softmax(1)
        moved = 2 * torch.nn.functional.normalize(start, dim=-1)
        for part, embedding in zip(parts, torch.tensor(embeddings), strict=True):
            moved = moved + 0.3 * part[:, None] * embedding
        rows = torch.nn.functional.normalize(moved, dim=-1)
    torch.testing.assert_close(model.head.weight.detach(), rows, rtol=1e-4, atol=1e-5)
    assert (rows - torch.nn.functional.normalize(start, dim=-1)).abs().max() > 0.01
    assert model.head.bias.tolist() == [0.0] * 3
    assert model.head.scale.item() == scale


def test_the_head_beside_adapters_is_refined_and_saved(tmp_path: Path) -> None:
    model, tokenizer, fresh = classifier(tmp_path)
    plain, *_ = new_classifier(str(tmp_path / "encoder"), LABELS)
    refine_head(plain, tokenizer, TEXTS)
    adapted = add_adapters(model, LoraConfig(r=2, target_modules=["query"]), fresh)
    refine_head(adapted, tokenizer, TEXTS)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged.head.weight, plain.head.weight)  # type: ignore[union-attr]


def test_another_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="`head='sequence'`"):
        refine_head(roberta_classifier(), word_tokenizer(), TEXTS)
