"""Validate model, data and set-up before training."""

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from hf_cap.attribution import pad_token
from hf_cap.errors import (
    AlignmentError,
    ConfigError,
    DataError,
    MissingExtra,
    ModelError,
    PriorError,
)
from hf_cap.schema import PRIOR
from hf_cap.training.collator import PRIOR_WEIGHT, TOKEN_WORDS
from hf_cap.training.config import DEFAULT_METRICS, PARTS
from hf_cap.training.folder import find_checkpoint
from hf_cap.training.options import WeightingOptions
from hf_cap.utils import check_range, check_recordable

_logger = logging.getLogger(__name__)
OTHER_PROBLEMS = ("regression", "multi_label_classification")


SEEDS = 2**32
"""Number of seeds that numpy takes: those from 0 on."""


def check_start(config: TrainingArguments, settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for what would fail or be lost once the training has begun.

    Such are launched processes that would each train alone, a training that would publish, settings that
    `run.json` cannot hold, a checkpoint that cannot be loaded and (`MissingExtra`) a tracker that is missing.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > config.world_size:
        raise ConfigError(
            f"Each of the {launched} launched processes would write a model of its own to "
            f"{config.output_dir!r}; give `--use_cpu true`, and they train one together."
        )
    if config.hub_token or config.push_to_hub:
        raise ConfigError(
            "Training publishes nothing and takes no token: leave out `push_to_hub` and `hub_token`; "
            f"`hf-cap push model --folder {config.output_dir} --repo_id USER/NAME` lists what goes to the "
            "Hub, and `--push` uploads it with the token in HF_TOKEN."
        )
    check_recordable(settings)
    check_range(config, "learning_rate", at_least=0, below=math.inf)
    check_range(config, "per_device_train_batch_size", "per_device_eval_batch_size", at_least=1)
    check_range(config, "gradient_accumulation_steps", at_least=1)
    amounts = ("weight_decay", "warmup_steps", "dataloader_num_workers")
    check_range(config, *amounts, at_least=0, below=math.inf)
    default = type(config).num_train_epochs  # of tables below 0: as many as their rows need
    check_range(config, "num_train_epochs", at_least=min(0.0, default), below=math.inf)
    check_range(config, "label_smoothing_factor", at_least=0, below=1)
    check_range(config, "seed", "data_seed", at_least=0, below=SEEDS)
    if config.resume_from_checkpoint != "last":
        find_checkpoint(config)
    aligned = getattr(config, "alignment_weight", 0) > 0
    metrics = ("loss", *DEFAULT_METRICS, *(PARTS if aligned else ()))
    if (wanted := _best_metric(config)) not in metrics:
        raise ConfigError(f"`metric_for_best_model` must be one of {metrics}, got {wanted!r}.")
    try:
        for tracker in get_reporting_integration_callbacks(config.report_to):
            tracker()
    except ValueError as error:
        raise ConfigError(f"`report_to`: {error}") from error
    except (ImportError, RuntimeError) as error:
        raise MissingExtra(f"`report_to`: {error} Or give `--report_to none`.") from error


def check_weighted(
    options: WeightingOptions, problem: str | None, compute_loss_func: object
) -> None:
    """Raise `ConfigError` where examples are to be weighted whose losses are not known."""
    other = problem in OTHER_PROBLEMS
    if options.weighs_examples and (compute_loss_func or other):
        own = "a `compute_loss_func`" if compute_loss_func else f"problem_type={problem!r}"
        raise ConfigError(
            f"Example weights need the cross-entropy of one label per example, got {own}; leave out "
            "`example_weighting` and `example_weight_column`."
        )


def _best_metric(config: TrainingArguments) -> str:
    """Name of the metric that chooses the best model, without a prefix."""
    return (config.metric_for_best_model or "loss").removeprefix("eval_")


def check_best(config: TrainingArguments, measures: bool) -> None:
    """Raise `ConfigError` where the best model is chosen by a default metric that is not measured."""
    if (wanted := _best_metric(config)) in DEFAULT_METRICS and not measures:
        raise ConfigError(
            f"`metric_for_best_model` is {wanted!r}, which only classes have; take 'loss', or give "
            "`compute_metrics`."
        )


def check_classifier(model: nn.Module) -> None:
    """Raise `ModelError` for a model without a pad token, or that does not choose one of several labels."""
    config: Any = getattr(model, "config", None)
    labels = getattr(config, "num_labels", 0)
    problem = getattr(config, "problem_type", None)
    if labels < 2 or problem in OTHER_PROBLEMS:
        raise ModelError(
            f"Alignment needs a classifier with one gold label per text, got num_labels={labels!r} and "
            f"problem_type={problem!r}; load it with at least two labels and one label per text."
        )
    pad_token(model)


def check_aligned(columns: Iterable[str], what: str) -> None:
    """Raise `DataError` for encoded texts whose words are not aligned with their tokens."""
    if TOKEN_WORDS not in columns:
        raise DataError(
            f"The {what} has {list(columns)}, but no {TOKEN_WORDS!r} to align; give raw texts, or encode "
            "them by `encode_dataset` for a collator that keeps all columns, as `CAPCollator` does."
        )


def choose_gradient(
    wanted: str, model: nn.Module, *, sharded_by: str | None = None, mixed_precision: str = "no"
) -> str:
    """The gradient mode to use: `wanted`, or for `auto` the first that can run.

    `sharded_by` is what spreads the weights over processes, if anything, and `mixed_precision` what
    accelerate calls the precision of the passes. Where no mode can run, a `ConfigError` says why.
    """
    low = {p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype.itemsize < 4}
    blocked: dict[str, str] = {}
    if sharded_by:
        blocked["double_backward"] = (
            f"{sharded_by} frees or reduces weights between two backward passes"
        )
    if sharded_by and mixed_precision != "no":  # autocast can be switched off, but not their casts
        blocked["finite_difference"] = (
            f"{sharded_by} makes the passes in {mixed_precision!r}, not in float32; leave out `bf16`, and "
            "give accelerate `mixed_precision: 'no'`"
        )
    elif low:
        blocked["finite_difference"] = (
            f"the weights are {sorted(map(str, low))!r}, not float32; load them as `dtype='float32'`"
        )
    modes = ["double_backward", "finite_difference"] if wanted == "auto" else [wanted]
    mode = next((mode for mode in modes if mode not in blocked), None)
    if mode is None:
        reasons = "; ".join(f"{mode} cannot run: {blocked[mode]}" for mode in modes)
        raise ConfigError(f"`alignment_gradient={wanted!r}`: {reasons}.")
    if mode == "finite_difference" and any(isinstance(m, nn.ReLU) for m in model.modules()):
        _logger.warning(
            "With ReLU layers finite differences differ from the exact gradient; use `double_backward` where "
            "it can run."
        )
    return mode


def check_gradient(mode: str, model: nn.Module, align: Callable[[], tuple[Tensor, Any]]) -> None:
    """Raise `AlignmentError` where the gradient of `align` misses a layer, is not finite or cannot be."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        gradients = torch.autograd.grad(align()[0], list(named.values()), allow_unused=True)
    except RuntimeError as error:
        raise AlignmentError(
            f"The gradient of the attribution cannot be computed by {mode!r}: {error}. 'finite_difference' "
            "needs only ordinary passes."
        ) from error
    found = {name: g for name, g in zip(named, gradients, strict=True) if g is not None}
    if bad := [name for name, g in found.items() if not torch.isfinite(g).all()]:
        raise AlignmentError(
            f"The alignment gradient is not finite at {bad[:3]!r} ({len(bad)} of {len(found)} weights); try "
            "`alignment_norm_floor=0.1`, and look at the prior of the first examples."
        )
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    layers = [f"{name}.{index}" for name, entries in lists.items() for index in range(len(entries))]
    reached = [name for name, g in found.items() if g.any()]
    missed = [layer for layer in layers if _inside(named, layer) and not _inside(reached, layer)]
    if missed:
        raise AlignmentError(
            f"The alignment gradient does not reach {missed!r}; something between these layers and the word "
            "embeddings cuts the graph, such as a `detach()` or `no_grad()` in the model's forward pass."
        )


def _inside(names: Iterable[str], layer: str) -> bool:
    return any(name.startswith(f"{layer}.") for name in names)


def probe_batch(dataset: Dataset, count: int = 4) -> list[dict[str, Any]]:
    """Of the first encoded rows, the longest whose prior counts and is not constant.

    Raises:
        DataError: the words are not aligned with the tokens.
        PriorError: no text has a prior.
    """
    check_aligned(dataset.column_names, "training set")
    weights = dataset[PRIOR_WEIGHT] if PRIOR_WEIGHT in dataset.column_names else ()
    if not any(weight > 0 for weight in weights):
        raise PriorError(
            f"None of the {len(dataset)} training texts has a prior that is not null or zero; name the "
            "column of the priors as `prior_column` (of `encode_dataset` where that encoded the texts), or "
            "set `alignment_weight=0`."
        )
    rows = dataset.select(range(min(64, len(dataset))))
    usable = [row for row in rows if row[PRIOR_WEIGHT] > 0 and len(set(row[PRIOR])) > 1]
    return sorted(usable, key=lambda row: -len(row[PRIOR]))[:count]
