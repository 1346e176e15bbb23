"""A pytest plugin for transformers' own tests: puts `CAPTrainer` in the place of `Trainer`.

In a checkout of transformers of the installed version, with HF_CAP the folder of this project:

    PYTHONPATH=$HF_CAP/tests/training pytest -p as_trainer tests/trainer/test_trainer.py

Without arguments `CAPTrainer` would align by default and refuse models that are no text classifiers, so the
stand-in gives it the plain arguments that `Trainer` itself makes.
"""

from typing import Any

import transformers
from torch import nn
from transformers import TrainingArguments

from hf_cap.training.trainer import CAPTrainer


class StandIn(CAPTrainer):
    """`CAPTrainer` with the default arguments of `Trainer`."""

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *rest: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args or TrainingArguments("tmp_trainer"), *rest, **kwargs)


transformers.Trainer = StandIn  # type: ignore[misc]
