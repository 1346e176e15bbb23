"""Configuration of `CAPTrainer`, and what its evaluation measures by default."""

import logging
import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score
from transformers import EvalPrediction, TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_cap.errors import ConfigError
from hf_cap.labels import ClassifierOptions
from hf_cap.losses import find_loss
from hf_cap.training.options import AlignmentOptions, WeightingOptions
from hf_cap.utils import check_range, option

_logger = logging.getLogger(__name__)

FEW_TEXTS = {"per_device_train_batch_size": 16, "warmup_steps": 0.1, "weight_decay": 0.01}
FEWEST_STEPS = 500
STEPS_FROM_NAMES = 20
"""Times the square root of the texts: about the steps of the studies, which were chosen on other draws."""


@dataclass
class CAPConfig(ClassifierOptions, WeightingOptions, AlignmentOptions, TrainingArguments):
    """Settings of [`CAPTrainer`]: of the alignment, of the classifier, and `TrainingArguments`.

    They are those of `AlignmentOptions`, `WeightingOptions`, `ClassifierOptions` and
    `transformers.TrainingArguments`. Of the last one default is changed: `adam_beta2`, as alignment now and
    then breaks with a longer memory of squared gradients.

    Raises:
        ConfigError: a setting is out of range, or cannot work with differentiated attributions.
    """

    adam_beta2: float = option(0.98, "Decay of Adam's mean of squared gradients, in [0, 1).")

    def __post_init__(self) -> None:
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            # `Trainer` takes only names that end in "loss" for losses
            name = self.metric_for_best_model.removeprefix("eval_")
            self.greater_is_better = False if name in ("loss_task", "loss_align") else None
        # A hyperparameter search casts each value to the type of the old one, 0.3 to the integer 0.
        self.alignment_weight = float(self.alignment_weight)
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.check()
        check_range(self, "encoder_kept", above=0, at_most=1)
        self.check_weighting()
        find_loss(self.alignment_loss)
        self.check_set_up()

    def check_set_up(self) -> None:
        """Raise `ConfigError` where each save would be uploaded, or attributions cannot be differentiated."""
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise ConfigError(
                f"`hub_strategy={HubStrategy(self.hub_strategy).value!r}` uploads all of the output folder "
                "at each save; set `hub_strategy='end'`, or call `push_to_hub()` after training."
            )
        kwargs = self.activation_checkpointing_kwargs
        reentrant = isinstance(kwargs, dict) and kwargs.get("use_reentrant")
        static = self.ddp_static_graph
        fp16 = self.mixed_precision == "fp16"  # by `fp16` or by accelerate's configuration
        problems = {
            "Reentrant gradient checkpointing cannot differentiate an attribution; leave out "
            "`use_reentrant`.": reentrant,
            "`ddp_static_graph=True` gives wrong gradients of attributions; leave it out.": static,
            "Mixed precision 'fp16' scales the loss, which overflows in the gradient of an attribution; use "
            "`bf16=True` or neither, also in accelerate's configuration.": fp16,
            f"DataParallel over {self.n_gpu} GPUs cannot differentiate attributions; start the program with "
            "`accelerate launch`, or show it one GPU by `CUDA_VISIBLE_DEVICES=0`.": self.n_gpu > 1,
        }
        for problem, found in problems.items():
            if found and self.alignment_weight:
                raise ConfigError(problem)


def set_for_few_texts(
    config: CAPConfig, given: Container[str], rows: int, *, small: bool, sentence: bool = False
) -> dict[str, Any]:
    """Set what was not given to what trains on few texts as well, and log and return it.

    The three epochs at 5e-5 of `Trainer` are for many texts: these are at least three epochs and 500 steps,
    and small models (MiniLM, adapters) learn at 3e-4. The head of a sentence encoder does not begin at
    random, and needs 20 · √texts steps.
    """
    chosen: dict[str, Any] = {name: v for name, v in FEW_TEXTS.items() if name not in given}
    if "learning_rate" not in given:
        chosen["learning_rate"] = 3e-4 if small else 5e-5
    for name, value in chosen.items():
        setattr(config, name, value)
    if "num_train_epochs" not in given and "max_steps" not in given:
        batch = config.train_batch_size * config.world_size * config.gradient_accumulation_steps
        steps = STEPS_FROM_NAMES * math.sqrt(rows) if sentence else FEWEST_STEPS
        chosen["num_train_epochs"] = max(3, math.ceil(steps / math.ceil(rows / batch)))
        config.num_train_epochs = chosen["num_train_epochs"]
    if chosen:
        shown = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
        _logger.info("Not given, and chosen for %d texts: %s.", rows, shown)
    return chosen


DEFAULT_METRICS = ("accuracy", "macro_f1")
PARTS = ("loss_task", "loss_align", "align_cosine")
"""What an aligned training measures beside its loss."""


def accuracy_and_macro_f1(prediction: EvalPrediction) -> dict[str, float]:
    """Share of texts with the right label, and the mean over the labels of F1; both in [0, 1]."""
    logits, true = prediction.predictions, np.asarray(prediction.label_ids)
    # an encoder-decoder returns hidden states too, after its logits
    predicted = np.asarray(logits[0] if isinstance(logits, tuple) else logits).argmax(-1)
    macro = f1_score(true, predicted, average="macro", zero_division=0)
    return {"accuracy": float(accuracy_score(true, predicted)), "macro_f1": float(macro)}
