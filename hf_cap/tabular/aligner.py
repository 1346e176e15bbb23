"""The alignment of one batch of rows: input gradients against feature scores."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..training.aligned_trainer import Alignment
from ..training.losses import alignment_loss, unit
from .attribution import input_gradients, scoped
from .config import LAATConfig
from .schema import TableSchema
from .scores import FeatureScores, sharpened


@dataclass(frozen=True)
class ScoreRows:
    """The feature scores of the outputs that have any."""

    outputs: Tensor
    """Index of each row's output, `(rows,)`."""
    scores: Float[Tensor, "rows features"]
    known: Bool[Tensor, "rows features"]
    """False for a feature without a score: it is left free."""

    @classmethod
    def of(
        cls, scores: FeatureScores, schema: TableSchema, *, sharpen: bool, device: torch.device
    ) -> "ScoreRows":
        """The scores for a table.

        Raises:
            PriorError: they do not fit its classes and features.
        """
        values, known = scores.matrix(schema.outputs, schema.feature_names)
        if sharpen:
            values = sharpened(values)
        (scored,) = np.nonzero(known.any(1))
        return cls(
            torch.tensor(scored, device=device),
            torch.tensor(values[scored], dtype=torch.float32, device=device),
            torch.tensor(known[scored], device=device),
        )


@dataclass(frozen=True)
class InputGradientAligner:
    """An `Aligner` of input gradients."""

    features: Float[Tensor, "batch features"]
    """The batch; requires a gradient."""
    rows: ScoreRows
    options: LAATConfig
    training: bool

    def sharing(self) -> AbstractContextManager[object]:
        """Gradients on during the task's pass, which evaluation makes without."""
        return torch.enable_grad()

    def __call__(self, outputs: Any) -> Alignment:
        """Alignment loss of the batch, with its gradient in training."""
        gradients = input_gradients(
            outputs.logits, self.features, self.rows.outputs, differentiable=self.training
        )
        attribution = scoped(gradients, self.options.attribution_scope)
        repeats = len(attribution) // len(self.rows.outputs)
        prior, known = self.rows.scores.repeat(repeats, 1), self.rows.known.repeat(repeats, 1)
        weight = attribution.new_ones(len(attribution))
        loss = alignment_loss(
            self.options.alignment_loss,
            attribution,
            prior,
            known,
            weight,
            reduction=self.options.alignment_reduction,
            floor=self.options.alignment_norm_floor,
        )
        cosine = (unit(attribution.detach(), known) * unit(prior, known)).sum(-1)
        return Alignment(loss if self.training else loss.detach(), cosine, weight)
