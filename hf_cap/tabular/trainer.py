"""`LAATTrainer`: alignment training with another prior and another attribution than `CAPTrainer`."""

from copy import copy
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError, DataError, ModelError
from ..explanation import CONFIG_KEY
from ..training.aligned_trainer import AlignedTrainer, Aligner
from .aligner import InputGradientAligner, ScoreRows
from .card import trainer_facts, write_student_card
from .config import LAATConfig
from .data import FEATURES, LABELS, EncodedTable, collate
from .scores import FeatureScores
from .students import TabularStudent

_LARGEST_SPREAD = 10.0
"""Standard deviation of an input beyond which its gradient says more of its unit than of its worth."""


class LAATTrainer(AlignedTrainer):
    """Trains a tabular student so that its input gradients agree with feature scores.

        loss = task loss + γ · mean over the classes of distance(gradient of its score, its feature scores)

    It logs what `CAPTrainer` logs. Resuming, accumulation, evaluation and publishing are the trainer's own.

    Args:
        model: The student.
        args: A `LAATConfig`; `alignment_weight=0` trains on the task alone.
        scores: Feature scores, needed where the weight is not 0. Features without a score are left free.
        train_dataset: An `EncodedTable`.
        kwargs: All else that `Trainer` takes.

    Raises:
        ConfigError: there are no scores to align with.
        DataError: an input is not scaled.
        ModelError: the model is no tabular student.
        PriorError: the scores do not fit the table.
    """

    alignment: LAATConfig
    train_dataset: Any

    def __init__(
        self,
        model: TabularStudent,
        args: LAATConfig,
        scores: FeatureScores | None = None,
        train_dataset: EncodedTable | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, TabularStudent):
            raise ModelError(
                f"LAATTrainer trains a TabularStudent, got {type(model).__name__}. For texts there is "
                "CAPTrainer."
            )
        if train_dataset is not None:
            args = copy(args)  # the configuration may serve another table next
            args.num_train_epochs = args.epochs(len(train_dataset))
        super().__init__(
            model, args, train_dataset=train_dataset, **{"data_collator": collate, **kwargs}
        )
        self.scores = scores
        self._rows = self._score_rows(model) if args.alignment_weight else None

    def aligner(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[dict[str, Any], Aligner | None]:
        """The student's inputs, and the alignment of their gradients."""
        if self._rows is None or LABELS not in inputs:
            return inputs, None
        features = inputs[FEATURES].detach().requires_grad_()
        aligner = InputGradientAligner(features, self._rows, self.alignment, model.training)
        return {**inputs, FEATURES: features}, aligner

    def _score_rows(self, model: TabularStudent) -> ScoreRows:
        """The scores as tensors, after refusing what cannot be aligned."""
        args, schema = self.alignment, model.config.preprocessor.schema
        if self.scores is None:
            raise ConfigError(
                f"alignment_weight={args.alignment_weight!r} needs feature scores: make them with "
                "`hf-cap elicit` and give them as `scores`, or set `alignment_weight=0`."
            )
        if args.n_gpu > 1:
            raise ConfigError(
                f"DataParallel over {args.n_gpu} GPUs cannot differentiate attributions, and a small model "
                "needs one device at most. Show it one by `CUDA_VISIBLE_DEVICES=0`."
            )
        if isinstance(self.train_dataset, EncodedTable):
            check_scaled(self.train_dataset, schema.feature_names)
        # travels with the weights, so that the model is later explained as it was aligned
        scope = args.attribution_scope
        model.config.update({CONFIG_KEY: {"method": "input_gradient", "scope": scope}})
        return ScoreRows.of(self.scores, schema, sharpen=args.sharpen, device=args.device)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of the student into the output folder. Arguments: those of `Trainer` by name."""
        if self.is_world_process_zero():
            facts = trainer_facts(self, self.scores, **kwargs)
            write_student_card(Path(str(self.args.output_dir)), facts)


def check_scaled(table: EncodedTable, names: list[str]) -> None:
    """Refuse inputs whose gradients would tell the unit of a feature, not its worth.

    Raises:
        DataError: the standard deviation of an input is above 10.
    """
    spreads = table.features.std(0, correction=0)
    wide = [
        name
        for name, spread in zip(names, spreads.tolist(), strict=True)
        if spread > _LARGEST_SPREAD
    ]
    if wide:
        raise DataError(
            f"The inputs {wide[:5]!r} are not scaled (standard deviation above {_LARGEST_SPREAD:g}), so that "
            "their gradients depend on the unit. Use `scaling='min_max'` or 'standard'."
        )
