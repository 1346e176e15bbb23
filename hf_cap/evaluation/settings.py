"""Settings of `evaluate_classifier`; torch-free, so that `hf-cap evaluate --help` is instant."""

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError
from ..explanation import AttributionMethod
from ..options import check_choices, check_range, documented, option
from ..schema import PRIOR
from ..words import WORD_PATTERN

SoftDistance = Literal["probability", "hellinger"]
"""How far soft erasure moves the output; `soft.DISTANCES` holds one function for each."""


@documented
@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What `evaluate_classifier` measures, and how."""

    faithfulness: bool = option(
        True,
        "Measure comprehensiveness and sufficiency; costs one attribution and a few passes a text.",
    )
    percentages: tuple[int, ...] = option(
        (1, 5, 10, 20, 50),
        "Sizes of the rationale in percent of the words, in (0, 100]; the metrics are the mean over them.",
    )
    soft: bool = option(False, "Measure Soft-NC and Soft-NS too.")
    soft_samples: int = option(4, "Random embedding masks a text for the soft metrics; at least 1.")
    soft_distance: SoftDistance = option(
        "probability",
        "What soft erasure moves: `probability` of the predicted class (arXiv 2305.10496) or the "
        "`hellinger` distance of the whole output (arXiv 2402.00794).",
    )
    prior_column: str = option(
        PRIOR,
        "Column with the prior for the alignment; rows without one (or a missing column) are left out.",
    )
    attribution_method: AttributionMethod = option(
        "integrated_gradients", "Attribution of the classifier that is evaluated."
    )
    attribution_steps: int = option(20, "Path points of Integrated Gradients; at least 1.")
    batch_size: int = option(32, "Texts a forward pass; changes the speed, not the result.")
    max_length: int | None = option(
        None, "Longest input in tokens; by default what tokenizer and model allow."
    )
    word_pattern: str = option(
        WORD_PATTERN, "Regular expression of a word; the one the prior was made with."
    )
    records: bool = option(
        False, "Keep one record a text (prediction, probabilities, attributions)."
    )
    seed: int = option(0, "Seed of the random masks of the soft metrics.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "soft_samples", "attribution_steps", "batch_size", at_least=1)
        if not self.percentages or not all(0 < percent <= 100 for percent in self.percentages):
            raise ConfigError(
                f"`percentages` must be whole numbers above 0 and at most 100, got {self.percentages!r}."
            )
