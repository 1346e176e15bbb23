"""Sparse tuning trains the adapters of the drawn layers alone, and learns which layers matter."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from hf_cap.errors import ConfigError
from hf_cap.training.sparse_tuning import ImportanceCallback, updated
from hf_cap.training.trainer import CAPTrainer
from tests.tiny import roberta_classifier
from tests.training.cases import trainer

peft = pytest.importorskip("peft")


class Watch(TrainerCallback):
    """Keeps the trained weights before each step, and what was drawn."""

    def __init__(self) -> None:
        self.seen, self.drawn = [], []  # type: ignore[var-annotated]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self.seen.append({n: p.detach().clone() for n, p in model.named_parameters()})
        self.drawn.append({n for n, p in model.named_parameters() if p.requires_grad})


def run(folder: Path, layers: int = 4, **settings: Any) -> tuple[CAPTrainer, ImportanceCallback, Watch]:
    subject = trainer(
        folder, model=partial(roberta_classifier, layers=layers), optim="adamw_torch", weight_decay=0.1,
        max_steps=5, learning_rate=0.01,
        peft_config=peft.LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS"),
    )  # fmt: skip
    sparse = ImportanceCallback(subject.train_dataset, subject.data_collator, **settings)
    subject.add_callback(sparse)
    subject.add_callback(watch := Watch())
    return subject, sparse, watch


def layer_of(name: str) -> str:
    return name.split(".layer.")[1][0]


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_frozen_layers_stay_to_the_bit(tmp_path: Path) -> None:
    subject, sparse, watch = run(tmp_path, every=2, rows=4)
    subject.train()
    assert [name.split(".")[-1] for name in sparse.layers] == ["0", "1", "2", "3"]
    assert all(len(modules) == 2 for modules in sparse.layers.values())
    ends = [*watch.seen[1:], {n: p.detach() for n, p in subject.model.named_parameters()}]
    seen = set()
    for before, after, drawn in zip(watch.seen, ends, watch.drawn, strict=True):
        moved = changed(before, after)
        adapters = {name for name in moved if "lora_" in name}
        (layer,) = {layer_of(name) for name in drawn if "lora_" in name}  # a quarter of four layers
        assert {layer_of(name) for name in adapters} == {layer}
        assert any("classifier" in name for name in moved)  # the head is trained on each step
        seen.add(layer)
    assert len(seen) > 1
    assert sparse.importance.abs().max() > 0
    scales = {m.scaling["default"] for own in sparse.layers.values() for m in own}
    assert len(scales) == 1  # weakened ones are as before
    assert all(p.requires_grad for n, p in subject.model.named_parameters() if "lora_" in n)


def test_all_processes_draw_the_same_by_seed_and_step(tmp_path: Path) -> None:
    _, one, _ = run(tmp_path)
    _, other, _ = run(tmp_path)
    scores = torch.zeros(8)
    for step in range(4):
        assert torch.equal(one._draw(scores, 2, (0, step)), other._draw(scores, 2, (0, step)))
    draws = torch.stack([one._draw(scores, 2, (0, step)) for step in range(200)]).float()
    assert draws.sum(1).tolist() == [2.0] * 200
    assert draws.mean(0).min() > 0.12  # a quarter each
    certain = torch.tensor([-30.0, 3.0, -30.0, 3.0])
    assert one._draw(certain, 2, (0, 1)).tolist() == [False, True, False, True]


def test_a_layer_whose_weakening_raises_the_loss_gains() -> None:
    weak = torch.tensor([[True, False, False], [False, True, False], [False, False, False]])
    losses = torch.tensor([2.0, 0.5, 0.5])
    rewards = (-losses).exp() - (-losses).exp().mean()
    found = updated(torch.zeros(3), weak, losses)
    expected = [-10 * 0.25 * float(rewards[0]), -10 * 0.25 * float(rewards[1]), 0.0]
    assert found.tolist() == pytest.approx(expected)
    assert found[0] > 0 > found[1]
    assert updated(found, weak, torch.ones(3)).tolist() == pytest.approx(found.tolist())


def test_what_cannot_be_tuned_sparsely_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        run(tmp_path, fraction=0.0)
    subject, _, _ = run(tmp_path, layers=1)
    with pytest.raises(ConfigError, match="two layers or more"):
        subject.train()
