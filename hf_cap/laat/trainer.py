"""`LAATTrainer`: alignment training with another prior and another attribution than `CAPTrainer`."""

import math
from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import set_seed

from hf_cap.cards import changed_settings, write_card
from hf_cap.errors import ConfigError, DataError, ModelError
from hf_cap.laat import models
from hf_cap.laat.elicitation import CLASS, FEATURE, SCORE, FeatureScores
from hf_cap.laat.settings import LAATOptions, TabularModelOptions
from hf_cap.laat.table import EncodedTable, Preprocessor, TableSchema
from hf_cap.losses import unit
from hf_cap.schema import CONFIG_KEY
from hf_cap.training.config import CAPConfig
from hf_cap.training.trainer import AlignedTrainer
from hf_cap.utils import option, versions

EPOCHS, STEPS = 200, 5_000
"""How long a run is by default: so many passes through a small table, or so many steps where it is large."""
_LARGEST_SPREAD = 10.0
"""Standard deviation of an input beyond which its gradient depends on its unit more than on its worth."""


@dataclass
class LAATConfig(LAATOptions, CAPConfig):
    """Settings of [`LAATTrainer`]: those of `LAATOptions` and of `CAPConfig`.

    The paper's form of the alignment is the default: γ = 100 times the squared distance of unit vectors, as a
    mean over the features. A small model starts from nothing and trains in seconds: learning rate, epochs and
    batch differ from those of fine-tuning, twenty lines are logged, and no checkpoint is written. Settings
    about words, texts, paths and the kind of gradient have no meaning here.
    """

    alignment_weight: float = option(100.0, "Weight γ of the alignment term; at least 0.")
    alignment_loss: str = option(
        "mse_mean",
        "Distance between gradients and scores: the mean over the features of the squared distance of unit "
        "vectors, or another of `CAPConfig.alignment_loss`.",
    )
    learning_rate: float = option(1e-2, "Learning rate of AdamW.")
    adam_beta2: float = option(0.999, "Decay of Adam's mean of squared gradients, in [0, 1).")
    num_train_epochs: float = option(
        -1.0, f"Passes through the rows. -1: {EPOCHS}, or on a large table {STEPS:,} steps."
    )
    per_device_train_batch_size: int = option(64, "Rows per step.")
    per_device_eval_batch_size: int = option(1024, "Rows evaluated at a time.")
    logging_steps: float = option(0.05, "Steps per line of the log; below 1 a share of all steps.")
    save_strategy: str = option("no", "When to write a checkpoint, `steps` or `epoch`.")
    dataloader_pin_memory: bool = option(False, "Page-locked memory for copies to a GPU.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_shares()

    def epochs(self, rows: int) -> float:
        """Passes through a table of so many rows: `num_train_epochs`, or what the default comes to."""
        if self.num_train_epochs >= 0:
            return self.num_train_epochs
        batch: int = self.train_batch_size * self.world_size * self.gradient_accumulation_steps
        return min(EPOCHS, STEPS / math.ceil(rows / batch))


class LAATTrainer(AlignedTrainer):
    """Trains a tabular model so that its input gradients agree with feature scores.

        loss = task loss + γ · mean over the classes of distance(gradient of its score, its feature scores)

    Args:
        args: A `LAATConfig`; `alignment_weight=0` trains on the task alone.
        scores: Feature scores, needed where the weight is not 0. Features without a score are left free.
        train_dataset: An `EncodedTable`.
        unlabelled: Inputs `(rows, features)` whose mean prediction is held to `class_shares`; by default
            those of each batch.

    Raises:
        ConfigError: there are no scores to align with.
        DataError: an input is not scaled.
        ModelError: the model is not a tabular one.
        PriorError: the scores do not fit the table.
    """

    train_dataset: Any

    def __init__(
        self,
        model: models.TabularModel,
        args: LAATConfig,
        scores: FeatureScores | None = None,
        train_dataset: EncodedTable | None = None,
        unlabelled: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, models.TabularModel):
            raise ModelError(
                f"LAATTrainer trains a TabularModel, got {type(model).__name__}; use CAPTrainer for texts."
            )
        if train_dataset is not None:
            args = copy(args)  # the configuration may serve another table next
            args.num_train_epochs = args.epochs(len(train_dataset))
        classes = model.config.preprocessor.schema.classes
        if args.class_shares_weight and len(args.class_shares) != len(classes):
            raise ConfigError(
                f"`class_shares` has {len(args.class_shares)} shares for the classes {list(classes)!r}; give "
                "one per class."
            )
        super().__init__(model, args, train_dataset=train_dataset, **kwargs)
        self.unlabelled = unlabelled
        self.scores = scores
        self.prior: list[Tensor] = []
        """The scores and which are known, each `(outputs, features)`; empty without alignment."""
        if args.alignment_weight:
            self.check_alignment()

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """L = L_task + γ · d(input gradient of each output, its feature scores) + the loss of the shares."""
        loss, outputs = self.aligned_loss(model, inputs, num_items_in_batch)
        weight = self.args.class_shares_weight
        if weight and model.training:
            rows = self.unlabelled
            logits = outputs.logits if rows is None else model(features=rows.to(loss.device)).logits
            loss = loss + weight * models.share_divergence(logits, torch.tensor(self.args.class_shares))
        return (loss, outputs) if return_outputs else loss

    def aligned_loss(
        self, model: nn.Module, inputs: dict[str, Any], count: Tensor | int | None
    ) -> tuple[Tensor, Any]:
        """The task loss, with the alignment where there are scores, and the model's outputs."""
        gamma = self.beta(model.training)
        if not (gamma and self.prior and "labels" in inputs):
            found: tuple[Tensor, Any] = super().compute_loss(model, inputs, True, count)
            return found
        features = inputs["features"].detach().requires_grad_()
        inputs = {**inputs, "features": features}
        with torch.enable_grad():  # evaluation runs under no_grad, yet an attribution is a gradient
            loss, outputs = super().compute_loss(model, inputs, True, count)
            align_loss, cosine = self.align(outputs.logits, features, model.training)
        self.record(model.training, inputs, loss, align_loss, cosine, torch.ones_like(cosine))
        return loss + gamma * align_loss, outputs

    def align(self, logits: Tensor, features: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        """Distance between input gradients and feature scores, and their cosines `(n,)` in [-1, 1]."""
        prior, known = self.prior
        scored = known.any(1)
        attribution = models.input_gradients(logits, features, differentiable=training)[:, scored]
        if self.args.attribution_scope == "global":
            attribution = attribution.mean(0, keepdim=True)
        repeats, attribution = len(attribution), attribution.flatten(0, 1)
        prior, known = (rows[scored].repeat(repeats, 1) for rows in (prior, known))
        weight = attribution.new_ones(len(attribution))
        loss = self.distance(attribution, prior, known, weight)
        cosine = (unit(attribution.detach(), known) * unit(prior, known)).sum(-1)
        return loss if training else loss.detach(), cosine

    def check_alignment(self) -> None:
        """Validate settings, scores and table before training; the errors are those of the class."""
        super().check_alignment()
        args, schema = self.args, self.model.config.preprocessor.schema
        if self.scores is None:
            raise ConfigError(
                f"alignment_weight={args.alignment_weight!r} needs feature scores: give `scores` made by "
                "`hf-cap elicit`, or set `alignment_weight=0`."
            )
        if isinstance(self.train_dataset, EncodedTable):
            spreads = self.train_dataset.features.std(0, correction=0) > _LARGEST_SPREAD
            if wide := [schema.feature_names[index] for index in spreads.nonzero().flatten()]:
                raise DataError(
                    f"The inputs {wide[:5]!r} are not scaled (standard deviation above "
                    f"{_LARGEST_SPREAD:g}). Use `scaling='min_max'` or 'standard'."
                )
        values, known = self.scores.matrix(schema.outputs, schema.feature_names)
        values = np.sign(values) * np.exp(np.abs(values)) if args.sharpen else values
        self.prior = [
            torch.tensor(values, dtype=torch.float32, device=args.device),
            torch.tensor(known, device=args.device),
        ]
        # travels with the weights, so that the model is later explained as it was aligned
        scope = {"method": "input_gradient", "scope": args.attribution_scope}
        self.model.config.update({CONFIG_KEY: scope})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of the model into the output folder. Arguments: those of `Trainer` by name."""
        if self.is_world_process_zero():
            folder = str(self.args.output_dir)
            facts = models.tabular_facts(
                tabular_record(self, dataset=kwargs.get("dataset")),
                config=self.model.config,
                name=kwargs.get("model_name") or Path(folder).name,
                repo_id=getattr(self, "hub_model_id", None),
                license=kwargs.get("license"),
            )
            write_card(folder, facts)


def tabular_trainer(
    frame: pd.DataFrame,
    schema: TableSchema,
    config: LAATConfig,
    *,
    options: TabularModelOptions | None = None,
    scores: FeatureScores | None = None,
    eval_frame: pd.DataFrame | None = None,
    unlabelled: pd.DataFrame | None = None,
) -> LAATTrainer:
    """A trainer of a fresh model, seeded by `config.seed`.

    Args:
        config: How to train; without `scores`, the alignment is off whatever its weight.
        options: The model and the scaling of its inputs.
        scores: Feature scores to align with.
        unlabelled: Rows to learn the scaling from, and to hold to `class_shares`, where the training rows
            are too few; their target counts for regression only.

    Raises:
        DataError: rows do not fit the schema, or are not scaled.
        PriorError: the scores do not fit the schema.
    """
    options = options or TabularModelOptions()
    if scores is None:
        config = copy(config)  # the caller's may serve a run with scores next
        config.alignment_weight = 0.0
    set_seed(config.seed)
    fitted_on = frame if unlabelled is None else unlabelled
    preprocessor = Preprocessor.fit(fitted_on, schema, options.scaling)
    return LAATTrainer(
        models.TabularModel(models.TabularConfig.of(preprocessor, options)),
        config,
        scores,
        train_dataset=EncodedTable(frame, preprocessor),
        unlabelled=None if unlabelled is None else torch.from_numpy(preprocessor.features(unlabelled)),
        eval_dataset=None if eval_frame is None else EncodedTable(eval_frame, preprocessor),
    )


def tabular_record(trainer: LAATTrainer, *, dataset: str | None = None) -> dict[str, Any]:
    """The record of a run as `run.json` has it, after training on the table `dataset`.

    `features` has, for each output and feature, the elicited `score` (`None` where there is none) and the
    `attribution`, the mean input gradient over the training rows.
    """
    args, scores, rows = trainer.args, trainer.scores, trainer.train_dataset
    schema = trainer.model.config.preprocessor.schema
    names = [item.name for item in fields(args) if item.name.startswith("alignment_")]
    elicited = scores.values if scores else {}
    gradients = models.attribute_features(trainer.model, rows).tolist()
    return {
        "seed": args.seed,
        "settings": changed_settings(args),
        "alignment": {n: getattr(args, n) for n in (*names, "attribution_scope", "sharpen")},
        "data": {"dataset": dataset, "rows": len(rows), "labels": list(schema.outputs)},
        "scores": dict(scores.provenance) if scores else None,
        "features": [
            {CLASS: output, FEATURE: name, SCORE: elicited.get((output, name)), "attribution": one}
            for output, row in zip(schema.outputs, gradients, strict=True)
            for name, one in zip(schema.feature_names, row, strict=True)
        ],
        "history": trainer.history,
        "versions": versions(),
    }
