"""Settings of the alignment term. Imports no torch, so that `--help` is instant."""

import math
from dataclasses import dataclass
from typing import Literal

from hf_cap.schema import AttributionMethod, AttributionTarget, Quadrature
from hf_cap.utils import check_choices, check_range, documented, option
from hf_cap.words import WORD_PATTERN, check_pattern

GradientMode = Literal["auto", "double_backward", "finite_difference"]
Schedule = Literal["constant", "warmup", "cosine"]
ExampleWeighting = Literal["none", "loss_linupper", "loss_quadratic", "loss_extremes", "dro", "class_dro"]


@documented
@dataclass
class AlignmentOptions:
    """What the alignment term is, how its gradient is computed, and how much it may cost."""

    alignment_weight: float = option(
        0.1, "Weight β of the alignment term; at least 0. At 0 the trainer is the plain `Trainer`."
    )
    alignment_loss: str = option(
        "mse",
        "Distance between attribution and prior: squared distance of unit vectors (`mse`) or its mean over "
        "the words (`mse_mean`), 1 - cosine (`cosine`), Kullback-Leibler divergence (`kl`), agreement on "
        "the order of each pair of words (`order`), or a function of your own as `module:function`.",
    )
    alignment_norm_floor: float = option(
        0.0,
        "Attributions are divided by sqrt(norm² + floor²), in logits, which bounds the gradient by 1/floor "
        "on texts whose words hardly move the logit.",
    )
    alignment_fraction: float = option(
        1.0,
        "Part of the rows of each batch that are aligned, drawn anew on each step, in (0, 1]; the cost of "
        "alignment goes down with it.",
    )
    alignment_schedule: Schedule = option(
        "constant", "Course of the weight: constant, rising over the warm-up, or a cosine down to 0."
    )
    alignment_warmup: float = option(
        0.1, "Part of the steps over which the schedule `warmup` rises; above 0, at most 1."
    )
    alignment_gradient: GradientMode = option(
        "auto",
        "`double_backward` is exact and faster; `finite_difference` needs only ordinary passes, so it also "
        "runs with FSDP2 and DeepSpeed, without mixed precision. `auto` takes the first where it can run.",
    )
    finite_difference_step: float = option(
        8e-3, "Length of a finite-difference step, as a part of the norm of the embeddings there."
    )
    attribution_method: AttributionMethod = option(
        "integrated_gradients",
        "Integrated Gradients, the same at random points of the path (`expected_gradients`), or at the text "
        "itself (`input_x_gradient`).",
    )
    attribution_steps: int = option(
        1, "Points of the path, K; at least 1. Each costs a forward and a double backward pass."
    )
    attribution_quadrature: Quadrature = option(
        "midpoint", "Where the points of Integrated Gradients lie. `gauss_radau` ends at the text."
    )
    attribution_target: AttributionTarget = option(
        "gold", "What is attributed: the gold label's logit, or its `contrast` with the other labels."
    )
    attribution_backward_steps: int = option(
        0,
        "Of the K points, how many (drawn anew on each step) carry the second derivative; the others cost a "
        "third, and the gradient stays unbiased. 0 means all.",
    )
    attribution_rows: int = option(
        0, "Most path points (examples times steps) in one pass, to bound memory; 0 means all."
    )
    word_dropout: float = option(
        0.0,
        "Highest probability that a word is left out of a training text, that of words with a prior of 0; in "
        "[0, 1]. It works with and without alignment, at no cost.",
    )
    word_dropout_saturation: float = option(
        0.3, "Part of a text's highest prior score from which on a word always stays, in (0, 1]."
    )
    word_pattern: str = option(
        WORD_PATTERN, "Regular expression of a word; the one that the priors were made with."
    )
    max_length: int | None = option(None, "Tokens that a text is cut at; the model's own limit by default.")
    prior_column: str | None = option(
        None, "Column that holds the priors; by default `prior`, else the only `prior_<source>`."
    )
    prior_weight_column: str | None = option(
        None, "Column with a weight of at least 0 for each prior; 1 by default."
    )

    @property
    def reads_priors(self) -> bool:
        """Whether training needs priors."""
        return bool(self.alignment_weight or self.word_dropout)

    def check(self) -> None:
        """Raise `ConfigError` if a number is out of its range, or a choice is not among its names."""
        check_choices(self)
        check_pattern(self.word_pattern)
        check_range(self, "alignment_weight", "alignment_norm_floor", at_least=0, below=math.inf)
        check_range(self, "attribution_rows", at_least=0)
        check_range(self, "attribution_steps", "max_length", at_least=1)
        check_range(self, "word_dropout", at_least=0, at_most=1)
        check_range(self, "alignment_fraction", "word_dropout_saturation", above=0, at_most=1)
        most = self.attribution_steps
        check_range(self, "attribution_backward_steps", at_least=0, at_most=most)
        check_range(self, "finite_difference_step", above=0)
        check_range(self, "alignment_warmup", above=0, at_most=1)


@documented
@dataclass
class WeightingOptions:
    """How much each example counts in the task loss of training. The alignment loss stays as it is."""

    example_weight_column: str | None = option(
        None,
        "Column with a finite weight of at least 0 for each text; a null counts as 1. The sum of the "
        "weighted losses is divided by the number of texts: weights of mean 1 keep the size of a step.",
    )
    example_weighting: ExampleWeighting = option(
        "none",
        "Weights by the losses of a batch (all processes; each micro-batch by itself): full weight above the "
        "middle loss (`loss_linupper`), at the middle (`loss_quadratic`) or at both ends (`loss_extremes`); "
        "the worst case over texts (`dro`) or classes (`class_dro`).",
    )
    example_weighting_temperature: float = option(
        1.0, "The larger, the more equal the weights; for `dro` and `class_dro` in nats. Above 0."
    )
    example_weighting_warmup: float = option(
        0.0, "Part of the steps over which weights by loss come in, from equal ones; in [0, 1]."
    )

    @property
    def weighs_examples(self) -> bool:
        """Whether examples count differently."""
        return self.example_weighting != "none" or self.example_weight_column is not None

    def check_weighting(self) -> None:
        """Raise `ConfigError` if a number is out of its range."""
        check_range(self, "example_weighting_temperature", above=0, below=math.inf)
        check_range(self, "example_weighting_warmup", at_least=0, at_most=1)


@documented
@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """How much of each encoder layer is taken out, and by which importance."""

    heads: float = option(
        0.0,
        "Part of the attention heads to take out of each layer, in [0, 1). The folder then loads with hf_cap "
        "alone (`hf-cap export` writes it as ONNX for others).",
    )
    units: float = option(0.5, "Part of the feed-forward units to take out of each layer, in [0, 1).")
    score: Literal["first_order", "magnitude"] = option(
        "first_order",
        "Importance: the sum of |weight * gradient| of the loss on the texts, or of |weight| without texts.",
    )
    alignment: float = option(
        0.0,
        "Weight of the importance for the alignment loss, beside 1 for the task; at least 0. Needs priors.",
    )
    batches: int = option(16, "Batches of 16 texts that the importance is measured on, at most.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "heads", "units", at_least=0, below=1)
        check_range(self, "alignment", at_least=0, below=math.inf)
        check_range(self, "batches", at_least=1)


def weight_at(options: AlignmentOptions, step: int, max_steps: int) -> float:
    """Weight β of the alignment term on an optimizer step, after its schedule."""
    progress = step / max(max_steps, 1)
    factors: dict[Schedule, float] = {
        "constant": 1.0,
        "warmup": min(1.0, progress / options.alignment_warmup),
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
    }
    return options.alignment_weight * factors[options.alignment_schedule]
