"""Make a trained classifier smaller: which attention heads and feed-forward units matter least."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from datasets import ClassLabel, Dataset
from jaxtyping import Float
from torch import Tensor, nn
from transformers import set_seed

from hf_cap.classifiers import TextClassifier, evaluation_mode
from hf_cap.errors import ConfigError, PriorError
from hf_cap.labels import class_names
from hf_cap.progress import progress
from hf_cap.schema import LABEL, TEXT
from hf_cap.sentence_encoder import encoder_layers, keep
from hf_cap.training.collator import take_priors
from hf_cap.training.config import CAPConfig
from hf_cap.training.options import PruneOptions
from hf_cap.training.trainer import CAPTrainer

Term = Literal["task", "alignment"]


@dataclass(frozen=True)
class Importance:
    """How much each head and each unit matters, at least 0; of its kind the mean is 1.

    Sums of several importances are made by `+` and `*`: `task + 0.5 * alignment`.
    """

    heads: Float[Tensor, "layers heads"]
    units: Float[Tensor, "layers units"]

    def __add__(self, other: "Importance") -> "Importance":
        return Importance(self.heads + other.heads, self.units + other.units)

    def __rmul__(self, weight: float) -> "Importance":
        return Importance(weight * self.heads, weight * self.units)


def first_order(trainer: CAPTrainer, term: Term = "task", batches: int = 16) -> Importance:
    """Σ |w · ∂L/∂w| over the weights of each structure, as a mean over batches of the training set.

    A structure is what goes with it: of a head its rows of query, key and value and its columns of the
    output, of a unit its row and its column. With LoRA adapters the gradient of the weight is LoRAPrune's
    estimate (Zhang et al. 2024, arXiv 2305.18403); weights without adapter then do not count.

    Args:
        trainer: With the model, and texts with priors for the term `alignment`.
        term: L is the loss of the task, or the alignment loss, by whose gradient that stays which lets the
            words of the prior count.
        batches: Batches to take, at most.
    """
    model, parts = trainer.model, []
    model.train()
    loader = trainer.get_train_dataloader()
    with progress(min(batches, len(loader)), "batches", f"Importance for the {term}") as work:
        for batch in islice(loader, batches):
            model.zero_grad()
            with evaluation_mode(model):
                _loss(trainer, term, batch).backward()
            parts.append(_over_structures(model, gradient=True))
            work.update()
    model.zero_grad()
    heads, units = (torch.stack(kind).mean(0) for kind in zip(*parts, strict=True))
    if not (heads.any() or units.any()):
        raise ConfigError(
            "No weight of a head or a unit has a gradient; train all weights, or adapters on query, value "
            "and the dense layers."
        )
    return _scaled(heads, units)


def _loss(trainer: CAPTrainer, term: Term, batch: Any) -> Tensor:
    inputs, prior = take_priors(trainer._prepare_inputs(batch))
    model = trainer.model
    model.training = True  # the alignment loss has a gradient in training alone
    if term == "task":
        loss: Tensor = model(**inputs).loss
        return loss
    if prior is None or not prior.weight.any():
        raise PriorError(
            "The term `alignment` needs texts with priors, got a batch without; give the data set "
            "that `hf-cap fuse` wrote, and an `alignment_weight` above 0."
        )
    return trainer.align(model, inputs, prior)[0]


def magnitude(model: nn.Module) -> Importance:
    """Σ |w| over the weights of each structure: the score of PST (Li et al. 2022) that needs no data."""
    return _scaled(*_over_structures(model, gradient=False))


def prune(model: nn.Module, importance: Importance, *, heads: float = 0, units: float = 0) -> None:
    """Take the least important `heads` and `units`, parts in [0, 1), out of each layer of merged weights."""
    keep(model, _best(importance.heads, heads), _best(importance.units, units))


def _best(scores: Tensor, part: float) -> list[Tensor]:
    count = max(1, round(scores.shape[1] * (1 - part)))
    return [row.topk(count).indices.sort().values for row in scores]


def _scaled(heads: Tensor, units: Tensor) -> Importance:
    return Importance(*(kind / kind.mean().clamp_min(1e-30) for kind in (heads, units)))


def _over_structures(model: nn.Module, gradient: bool) -> tuple[Tensor, Tensor]:
    heads, units = [], []
    for layer in encoder_layers(model):
        own, size = layer.attention, layer.attention.attention_head_size
        rows = sum(_sums(linear, 1, gradient) for linear in (own.query, own.key, own.value))
        columns = _sums(layer.mixed, 0, gradient)
        heads.append((rows + columns).view(-1, size).sum(1))
        units.append(_sums(layer.up, 1, gradient) + _sums(layer.down, 0, gradient))
    return torch.stack(heads), torch.stack(units)


@torch.no_grad()
def _sums(linear: Any, dim: int, gradient: bool) -> Tensor:
    """Σ |w| or Σ |w · g| over the inputs (1, biases included) or the outputs (0) of a layer."""
    weight, slope = weight_and_gradient(linear)
    total = (weight * slope if gradient else weight).abs().sum(dim)
    if dim == 1 and (bias := linear.bias) is not None:
        slope = bias.grad if bias.grad is not None else torch.zeros_like(bias)
        total += (bias * slope if gradient else bias).abs()
    return total.cpu()


def weight_and_gradient(linear: Any) -> tuple[Tensor, Tensor]:
    """The weight `(outputs, inputs)` of a layer and its gradient; 0 where it is not trained.

    With a LoRA adapter W + s B A the gradient is s (∂B A + B ∂A − ∂B ∂A): what a step of length 1 takes off.
    """
    if not hasattr(linear, "lora_A"):
        slope = linear.weight.grad
        return linear.weight, torch.zeros_like(linear.weight) if slope is None else slope
    (name,) = linear.active_adapters
    a, b = linear.lora_A[name].weight, linear.lora_B[name].weight
    slope = linear.scaling[name] * (b.grad @ a + b @ a.grad - b.grad @ a.grad)
    return linear.get_base_layer().weight + linear.get_delta_weight(name), slope


def prune_classifier(
    model: Any, tokenizer: Any, dataset: Dataset, options: PruneOptions, general: Sequence[str] = ()
) -> None:
    """Take the least important heads and units out of a classifier, in place.

    Args:
        model: The classifier, adapters merged.
        dataset: Labelled texts of its task, with priors if `options.alignment` is above 0.
        options: How much is taken out, and by which importance.
        general: Other texts, whose importance is added to that of the task's, as D-Pruner does (Zhang et al.
            2024, arXiv 2405.06275). Their labels are the classifier's own answers.
    """
    if options.score == "magnitude":
        return prune(model, magnitude(model), heads=options.heads, units=options.units)
    trainer = _trainer(model, tokenizer, dataset, options)
    total = first_order(trainer, "task", options.batches)
    if options.alignment:
        set_seed(trainer.args.seed)  # for the same batches
        total += options.alignment * first_order(trainer, "alignment", options.batches)
    if general:
        labels = ClassLabel(names=class_names(model.config))
        answers = TextClassifier(model, tokenizer).logits(general).argmax(-1).tolist()
        texts = Dataset.from_dict({TEXT: list(general), LABEL: answers}).cast_column(LABEL, labels)
        trainer = _trainer(model, tokenizer, texts, replace(options, alignment=0))
        total += first_order(trainer, "task", options.batches)
    return prune(model, total, heads=options.heads, units=options.units)


def _trainer(model: Any, tokenizer: Any, dataset: Dataset, options: PruneOptions) -> CAPTrainer:
    with TemporaryDirectory() as scratch:
        config = CAPConfig(
            scratch, alignment_weight=options.alignment, per_device_train_batch_size=16,
            report_to="none", disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        return CAPTrainer(model, config, train_dataset=dataset, processing_class=tokenizer)
