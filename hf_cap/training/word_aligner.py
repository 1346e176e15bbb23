"""The alignment of one batch of texts: word attributions of the gold label against priors."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..attribution import (
    Explained,
    Path,
    common_attention,
    math_attention,
    on_path,
    only_path,
    path_points,
    path_scores,
    pool_words,
    target_score,
)
from ..types import PerExample, TokenScores
from .aligned_trainer import Alignment
from .data import Priors
from .gradient import GRADIENTS, Plan, TokenLoss
from .losses import alignment_loss, unit
from .settings import AlignmentOptions


@dataclass
class WordAligner:
    """An `Aligner` of word attributions."""

    explained: Explained
    """The bare classifier and its batch. A second pass through DistributedDataParallel would mark its weights
    ready twice, and a compiled pass has no second derivative; the gradients meet in one backward."""
    priors: Priors
    loss: TokenLoss
    plan: Plan
    mode: str | None
    """Gradient mode; `None` in evaluation, where the value is enough."""
    shares: bool = False
    """The path ends at the text itself, and the task's pass serves as that point."""
    _seen: list[Path] = field(default_factory=list)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Records the task's pass as a point of the path, where it serves as one."""
        if not self.shares:
            yield
            return
        model, words = self.explained.model, self.explained.words
        with common_attention(model), math_attention(), on_path(model, words) as self._seen:
            yield

    def __call__(self, outputs: Any) -> Alignment:
        """Alignment loss of the batch, with its gradient in training."""
        weight = self.priors.weight
        if self.mode is None and not weight.any():  # nothing is explained where nothing is compared
            return Alignment(weight.new_zeros(()), torch.zeros_like(weight), weight)
        if self.mode is None:
            scores, _ = path_scores(self.explained, self.plan.points, rows=self.plan.rows)
            value = self.loss(scores).detach()
        else:
            plan, shared = self.plan, None
            if self.shares:
                score = target_score(
                    outputs["logits"], self.explained.labels, self.explained.target
                )
                plan, shared = plan.share(score, only_path(self._seen, self.explained.model))
            value, scores = GRADIENTS[self.mode](self.explained, plan, self.loss, shared)
        return Alignment(value, cosine(scores, self.priors), weight)


def make_plan(
    options: AlignmentOptions, explained: Explained, *, seed: int, recompute: bool = False
) -> Plan:
    """Path points of a batch; drawn ones depend on the seed and the texts alone."""
    ids = explained.inputs["input_ids"]
    points = path_points(
        options.attribution_method,
        ids,
        explained.inputs.get("attention_mask", torch.ones_like(ids)),
        steps=options.attribution_steps,
        rule=options.attribution_quadrature,
        seed=seed,
    )
    chosen, count = None, options.attribution_backward_steps
    if count:
        chosen = tuple(sorted(random.Random(seed).sample(range(len(points[1])), count)))
    return Plan(
        points,
        chosen,
        rows=options.attribution_rows or None,
        recompute=recompute,
        step=options.finite_difference_step,
    )


def ends_at_text(options: AlignmentOptions) -> bool:
    """Whether the last point of the path is the text itself."""
    return options.attribution_method == "input_x_gradient" or (
        options.attribution_method == "integrated_gradients"
        and options.attribution_quadrature == "gauss_radau"
    )


def token_loss(options: AlignmentOptions, priors: Priors) -> TokenLoss:
    """The alignment loss of a batch as a function of its token scores."""

    def loss(token_scores: Tensor) -> Tensor:
        return alignment_loss(
            options.alignment_loss,
            pool_words(token_scores, priors.token_words, priors.scores.shape[1]),
            priors.scores,
            priors.mask,
            priors.weight,
            reduction=options.alignment_reduction,
            floor=options.alignment_norm_floor,
        )

    return loss


def cosine(token_scores: TokenScores, priors: Priors) -> PerExample:
    """Cosine of word attributions and prior, in [-1, 1]; 0 without a prior."""
    words = pool_words(token_scores.detach(), priors.token_words, priors.scores.shape[1])
    return (unit(words, priors.mask) * unit(priors.scores, priors.mask)).sum(-1)
