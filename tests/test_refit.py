"""The head that is fitted anew after training, against scikit-learn and answers on paper."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from hf_cap import refit
from hf_cap.classifiers import add_adapters, new_classifier
from hf_cap.errors import ConfigError
from hf_cap.schema import LABEL, PRIOR, TEXT
from hf_cap.sentence_encoder import CosineHead
from hf_cap.training.callbacks import VERSIONS, FinishClassifier
from hf_cap.training.config import CAPConfig
from hf_cap.training.trainer import CAPTrainer
from tests.test_sentence_encoder import LABELS, sentence_encoder
from tests.tiny import WORDS, roberta_classifier, word_tokenizer

NAMES = ["renew loan", "lost card", "pay fine"]


def unit(count: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 5), dim=-1)


def headed(labels: int) -> Any:
    torch.manual_seed(0)
    names = dict(enumerate("abcdef"[:labels]))
    return SimpleNamespace(head=CosineHead(5, labels), config=SimpleNamespace(id2label=names))


def test_the_head_points_to_where_the_penalised_loss_is_least() -> None:
    model, embeddings, labels = headed(3), unit(30), torch.arange(30) % 3
    weights = torch.rand(30) + 0.1
    refit.refit_head(model, embeddings, labels, weights)
    head = model.head
    assert head.scale.item() == 16.0
    assert head.weight.norm(dim=1).mean().item() == pytest.approx(1.0)
    rows, bias = head.weight.detach(), head.bias.detach() / 16

    def penalised(length: Tensor, rows: Tensor) -> Tensor:
        logits = length * (embeddings @ rows.T + bias)
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return (weights * losses).sum() * 10 + (length * rows).square().sum() / 2

    length = min(torch.linspace(0.1, 30, 3_000), key=lambda one: penalised(one, rows).item())
    (gradient,) = torch.autograd.grad(penalised(length, rows.requires_grad_()), rows)
    assert gradient.abs().max() < 0.02 * length


def test_two_labels_get_the_predictions_of_scikit_learn() -> None:
    model, embeddings, labels = headed(2), unit(12), torch.arange(12) % 2
    refit.refit_head(model, embeddings, labels)
    peer = LogisticRegression(C=10).fit(embeddings.numpy(), labels.numpy())
    logits = model.head(embeddings).detach().numpy()
    expected = peer.decision_function(embeddings.numpy())
    stretch = 16 / (np.linalg.norm(peer.coef_) / 2)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], stretch * expected, rtol=1e-3, atol=1e-3)


def test_a_label_without_any_text_is_named() -> None:
    with pytest.raises(ConfigError, match=r"none of \['b'\].*label_names_in='head'"):
        refit.refit_head(headed(3), unit(4), torch.tensor([0, 2, 2, 0]))


# --- in training


def rows(prior: float | None = None) -> Dataset:
    """Six texts of four words, whose first word has the score `prior` and the others 1."""
    data: dict[str, Any] = {TEXT: [" ".join(WORDS[i : i + 4]) for i in range(6)], LABEL: [0, 1, 2, 0, 1, 2]}
    if prior is not None:
        data[PRIOR] = [[prior, 1.0, 1.0, 1.0] for _ in data[TEXT]]
    return Dataset.from_dict(data).cast_column(LABEL, ClassLabel(names=NAMES))


def trainer(folder: Path, data: Dataset, **settings: Any) -> Any:
    encoder = folder / "encoder"
    if not encoder.exists():
        sentence_encoder(encoder)
    config = CAPConfig(
        str(folder / "run"), alignment_weight=0.0, max_steps=3, learning_rate=1e-2, report_to="none",
        per_device_train_batch_size=3, save_strategy="no", disable_tqdm=True,
        dataloader_pin_memory=False, **settings,
    )  # fmt: skip
    return CAPTrainer(str(encoder), config, train_dataset=data)


def trained(folder: Path, data: Dataset, **settings: Any) -> Any:
    subject = trainer(folder, data, **settings)
    subject.train()
    return subject.model.eval()


def embedded(model: Any, texts: list[str]) -> np.ndarray:
    """One by one, so that no text is padded."""
    with torch.no_grad():
        found = [model.embed(**word_tokenizer()(text, return_tensors="pt")) for text in texts]
    return torch.cat(found).numpy()


def probabilities(model: Any, texts: list[str]) -> np.ndarray:
    with torch.no_grad():
        logits = model.head(torch.from_numpy(embedded(model, texts)))
    found: np.ndarray = logits.softmax(-1).numpy()
    return found


def by_hand(folder: Path, model: Any, texts: list[str], labels: list[int]) -> np.ndarray:
    """Two thirds back to the start, then scikit-learn on texts and label names; of the texts of `rows`."""
    before = dict(trainer(folder, rows()).model.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith("head"):
                weight.copy_((2 * before[name] + weight) / 3)
    known = embedded(model, [*texts, *NAMES])
    peer = LogisticRegression(C=10, max_iter=2000).fit(known, [*labels, 0, 1, 2])
    length = np.linalg.norm(peer.coef_, axis=1).mean()
    found = peer.decision_function(embedded(model, rows()[TEXT][:]))
    logits = torch.from_numpy(model.head.scale.item() / length * found)
    probabilities: np.ndarray = logits.softmax(-1).numpy()
    return probabilities


def test_training_ends_with_the_mean_encoder_and_a_new_head(tmp_path: Path) -> None:
    data = rows()
    texts, labels = data[TEXT][:], data[LABEL][:]
    expected = by_hand(tmp_path, trained(tmp_path, data), texts, labels)
    found = probabilities(trained(tmp_path, data, refit_head=True), texts)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_with_word_dropout_the_head_reads_what_training_read(tmp_path: Path) -> None:
    data = rows(prior=0.0)
    read = [text.partition(" ")[2] for text in data[TEXT]]  # without its first word
    plain = trained(tmp_path, data, word_dropout=1.0)
    expected = by_hand(tmp_path, plain, read, data[LABEL][:])
    found = probabilities(trained(tmp_path, data, word_dropout=1.0, refit_head=True), rows()[TEXT][:])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert VERSIONS > 1


def test_a_part_of_the_encoder_stays_and_the_head_whole(tmp_path: Path) -> None:
    before = dict(trainer(tmp_path, rows()).model.named_parameters())
    plain, averaged = (
        dict(trained(tmp_path, rows(), encoder_kept=part).named_parameters()) for part in (None, 0.25)
    )
    for name, weight in plain.items():
        expected = weight if name.startswith("head") else before[name] + (weight - before[name]) / 4
        torch.testing.assert_close(averaged[name], expected)


def test_a_text_of_weight_zero_does_not_count(tmp_path: Path) -> None:
    data, settings = rows(), {"refit_head": True, "example_weight_column": "weight"}
    weighted = data.add_column("weight", [1.0] * 5 + [0.0])
    subject = trainer(tmp_path, weighted, **settings)
    finish = FinishClassifier(subject)
    _, labels, weights = finish.known_texts(subject.model, subject.processing_class)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert weights.tolist() == [1.0] * 5 + [0.0] + [1.0] * 3


def test_label_names_that_the_head_is_not_told_are_no_texts(tmp_path: Path) -> None:
    subject = trainer(tmp_path, rows(), refit_head=True, label_names_in="none")
    _, labels, _ = FinishClassifier(subject).known_texts(subject.model, subject.processing_class)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_what_cannot_be_refitted_is_refused_before_training(tmp_path: Path) -> None:
    config = CAPConfig(str(tmp_path), refit_head=True, alignment_weight=0.0, report_to="none")
    with pytest.raises(ConfigError, match=r"`refit_head` changes.*`head='sequence'`"):
        CAPTrainer(roberta_classifier(), config, train_dataset=rows(), processing_class=word_tokenizer())
    encoder = str(sentence_encoder(tmp_path / "encoder"))
    with pytest.raises(ConfigError, match="`encoder_kept` must be more than 0 and at most 1"):
        CAPConfig(str(tmp_path), encoder_kept=0)
    adapters = LoraConfig(r=2, target_modules=["query"])
    with pytest.raises(ConfigError, match="adapters leave it"):
        CAPTrainer(encoder, config, train_dataset=rows(), peft_config=adapters)


# --- texts without labels


TEXTS = [f"{one} {other}" for one, other in zip(WORDS, reversed(WORDS), strict=True)]


def unit_rows(*rows: tuple[float, ...]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=-1)


def test_texts_of_separate_clouds_go_to_their_own_label() -> None:
    texts = unit_rows(*[(0.6, 0.0, 0.8)] * 10, *[(0.0, -0.6, 0.8)] * 5)
    known = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    found = refit.expectation_maximisation(known, texts, scale=1000.0, share=0.5)
    assert torch.equal(refit.expectation_maximisation(2 * known, torch.empty(0, 3)), known)
    # 0.5 times ten texts, and five, beside one that is known
    assert torch.allclose(found, unit_rows((1 + 5 * 0.6, 0, 5 * 0.8), (0, -1 - 2.5 * 0.6, 2.5 * 0.8)))


def classifier(folder: Path) -> Any:
    return new_classifier(str(sentence_encoder(folder / "encoder")), LABELS)


def test_the_head_becomes_the_prototypes_of_the_embeddings(tmp_path: Path) -> None:
    model, tokenizer, _ = classifier(tmp_path)
    with torch.no_grad():
        model.head.weight.mul_(torch.tensor([[0.5], [1.0], [4.0]]))
        model.head.bias.fill_(1.0)
    start, scale = model.head.weight.detach().clone(), model.head.scale.item()
    refit.refine_head(model, tokenizer, [])
    assert torch.equal(model.head.weight, start)
    assert model.head.bias.tolist() == [1.0] * 3
    refit.refine_head(model, tokenizer, TEXTS)
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
    refit.refine_head(plain, tokenizer, TEXTS)
    adapted = add_adapters(model, LoraConfig(r=2, target_modules=["query"]), fresh)
    refit.refine_head(adapted, tokenizer, TEXTS)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged.head.weight, plain.head.weight)  # type: ignore[union-attr]


def test_another_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="`head='sequence'`"):
        refit.refine_head(roberta_classifier(), word_tokenizer(), TEXTS)
