"""Validate model, data and set-up before training."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from hf_cap.attribution import pad_token
from hf_cap.errors import AlignmentError, ConfigError, DataError, ModelError, PriorError
from hf_cap.schema import PRIOR
from hf_cap.training.collator import PRIOR_WEIGHT, TOKEN_WORDS

_logger = logging.getLogger(__name__)
_KINKS = (
    "The model has ReLU layers. A finite difference that steps over a kink differs from the exact gradient, "
    "by more than its size in small models; use `alignment_gradient='double_backward'` where it can run."
)
_ENCODE = (
    "Give the texts as they are (`text`, `label` and the prior), and the trainer tokenises them; or make the "
    "columns with `encode_dataset`; or train without alignment: `alignment_weight=0`."
)
_LOOK_AT = 64


def check_classifier(model: nn.Module) -> None:
    """Refuse a model that does not score the labels of a whole text.

    Raises:
        ModelError: fewer than two labels, several labels a text, or no pad token.
    """
    config: Any = getattr(model, "config", None)
    labels = getattr(config, "num_labels", 0)
    problem = getattr(config, "problem_type", None)
    if labels < 2 or problem in ("regression", "multi_label_classification"):
        raise ModelError(
            f"Alignment explains the one gold label of a text, but the model has num_labels={labels!r} and "
            f"problem_type={problem!r}. Load it with two labels or more and one label a text."
        )
    pad_token(model)


def check_encoded(dataset: Dataset) -> None:
    """Refuse to align with encoded texts that carry nothing to align with.

    Raises:
        DataError: the words are not aligned with the tokens.
        PriorError: no text has a prior.
    """
    if TOKEN_WORDS not in dataset.column_names:
        raise DataError(
            f"The training set is tokenised, but has no column {TOKEN_WORDS!r}, so nothing could be aligned; "
            f"it has {dataset.column_names}. {_ENCODE}"
        )
    weights = dataset[PRIOR_WEIGHT] if PRIOR_WEIGHT in dataset.column_names else ()
    if not any(weight > 0 for weight in weights):
        raise PriorError(
            f"None of the {len(dataset)} training texts has a prior of positive {PRIOR_WEIGHT!r}, so nothing "
            "could be aligned. Give the column of the priors as `prior_column` (to `encode_dataset` where it "
            "encoded the texts), look whether its priors are all null or zero, or train without alignment: "
            "`alignment_weight=0`."
        )


def check_batch(batch: Mapping[str, Any]) -> None:
    """Refuse a training batch that carries nothing to align with.

    Raises:
        DataError: the words are not aligned with the tokens.
    """
    if TOKEN_WORDS not in batch:
        raise DataError(
            f"A training batch has no {TOKEN_WORDS!r}, so nothing could be aligned; it has {list(batch)}. "
            f"{_ENCODE} A collator must keep its columns, as `CAPCollator` does."
        )


def choose_gradient(
    wanted: str, model: nn.Module, *, fsdp: bool, deepspeed: bool, mixed_precision: str = "no"
) -> str:
    """The gradient mode to use: `wanted`, or for `auto` the first that can run.

    Args:
        wanted: A gradient mode or `auto`.
        model: The model that is trained.
        fsdp: Whether FSDP spreads its weights.
        deepspeed: Whether DeepSpeed does.
        mixed_precision: What accelerate calls the precision of the passes.

    Raises:
        ConfigError: the mode that is wanted, or with `auto` each mode, cannot run here.
    """
    spread = "FSDP" if fsdp else "DeepSpeed" if deepspeed else None
    blocked = {
        "double_backward": _blocks_double_backward(spread),
        "finite_difference": _blocks_finite_difference(model, spread, mixed_precision),
    }
    modes = list(blocked) if wanted == "auto" else [wanted]
    for mode in modes:
        if blocked[mode] is None:
            if mode == "finite_difference" and any(isinstance(m, nn.ReLU) for m in model.modules()):
                _logger.warning(_KINKS)
            return mode
    reasons = "; ".join(f"{mode} cannot run: {blocked[mode]}" for mode in modes)
    raise ConfigError(f"`alignment_gradient={wanted!r}`: {reasons}.")


def _blocks_double_backward(spread: str | None) -> str | None:
    if spread:
        return (
            f"{spread} frees or reduces weights between the two backward passes. Use 'finite_difference', in "
            "float32"
        )
    return None


def _blocks_finite_difference(
    model: nn.Module, spread: str | None, mixed_precision: str
) -> str | None:
    if spread and mixed_precision != "no":  # autocast can be switched off, but not their casts
        return (
            f"{spread} makes the passes in {mixed_precision!r}, and a difference of nearly equal scores "
            "needs float32. Train without mixed precision: leave out `bf16`, and give accelerate "
            "`mixed_precision: 'no'`"
        )
    low = {p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype.itemsize < 4}
    if low:
        return (
            f"the model's weights are {sorted(map(str, low))!r}, and a difference of nearly equal "
            "scores needs float32. Load the model with `dtype='float32'` and train with `bf16=True`"
        )
    return None


def check_gradient(mode: str, model: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Compute one alignment gradient and refuse to go on if it is not finite or misses a layer.

    Args:
        mode: Gradient mode, for the messages.
        model: The bare model.
        loss: Computes the alignment loss of a few texts with priors.

    Raises:
        AlignmentError: the gradient cannot be computed, is not finite, or does not reach a layer.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    try:
        gradients = torch.autograd.grad(loss(), [p for _, p in named], allow_unused=True)
    except RuntimeError as error:
        raise AlignmentError(
            f"The gradient of the attribution cannot be computed by {mode!r}: {error}. "
            "`alignment_gradient='finite_difference'` needs only ordinary passes."
        ) from error
    found = {name: g for (name, _), g in zip(named, gradients, strict=True) if g is not None}
    bad = [name for name, g in found.items() if not torch.isfinite(g).all()]
    if bad:
        raise AlignmentError(
            f"The alignment gradient is not finite at {bad[:3]!r} ({len(bad)} of {len(found)} weights). Try "
            "`alignment_norm_floor=0.1`, and look at the prior of the first examples."
        )
    missed = _missed_layers(model, {name for name, g in found.items() if g.any()})
    if missed:
        raise AlignmentError(
            f"The alignment gradient does not reach {missed!r}. Something between these layers "
            "and the word embeddings cuts the graph, for instance a `detach()` or `no_grad()` in the "
            "model's forward pass."
        )


def _missed_layers(model: nn.Module, reached: set[str]) -> list[str]:
    """Layers (entries of a module list) that train and have no weight among `reached`."""
    missed = []
    for prefix, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for index, layer in enumerate(module):
                names = {
                    f"{prefix}.{index}.{name}"
                    for name, p in layer.named_parameters()
                    if p.requires_grad
                }
                if names and not names & reached:
                    missed.append(f"{prefix}.{index}")
    return missed


def probe_batch(dataset: Dataset, count: int = 4) -> list[dict[str, Any]]:
    """Of the first encoded rows, those on which a missing gradient would show.

    They are the longest whose prior counts and is not constant; there may be none.
    """
    usable = [
        row
        for row in dataset.select(range(min(_LOOK_AT, len(dataset))))
        if row[PRIOR_WEIGHT] > 0 and len(set(row[PRIOR])) > 1
    ]
    return sorted(usable, key=lambda row: -len(row[PRIOR]))[:count]
