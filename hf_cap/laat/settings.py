"""Settings for tables, without torch, so that `--help` is instant."""

import math
from dataclasses import dataclass
from typing import Literal

from hf_cap.errors import ConfigError
from hf_cap.utils import check_range, check_settings, documented, option, settings_class

TargetKind = Literal["classification", "regression"]
Scaling = Literal["min_max", "standard", "none"]

MISSING_VALUES = ("?", "NA", "NaN", "nan")


@settings_class
class TableOptions:
    """How a table is read."""

    table: str | None = option(
        None,
        "YAML file that describes the table: `target`, `question`, `classes`, `columns` (name: description) "
        "and `ignore`.",
    )
    target_kind: TargetKind = option("classification", "Whether the target is a class or a number.")
    ignore: tuple[str, ...] = option((), "Columns that are not features, such as an id.")
    missing_values: tuple[str, ...] = option(
        MISSING_VALUES, "Cells of a csv file that mean a missing value, beside empty ones."
    )
    max_levels: int = option(50, "Most levels that a categorical column may have.", at_least=1)
    class_order: tuple[str, ...] = option(
        (), "The classes from low to high, where they are ordered: the model is one of cumulative logits."
    )

    def __post_init__(self) -> None:
        check_settings(self)
        order = self.class_order
        if len(set(order)) < len(order) or (order and self.target_kind == "regression"):
            raise ConfigError(
                f"`class_order` names each class of a classification once, got {list(order)!r} for "
                f"target_kind={self.target_kind!r}."
            )


@settings_class
class TabularModelOptions:
    """The small model and its input."""

    architecture: Literal["logistic", "mlp"] = option(
        "logistic", "`logistic` regression (linear for a number), or `mlp` with hidden layers."
    )
    hidden_sizes: tuple[int, ...] = option((100,), "Units of each hidden layer of an `mlp`.")
    activation: Literal["relu", "gelu", "tanh"] = option("relu", "Activation of the hidden layers.")
    scaling: Scaling = option(
        "min_max",
        "Scale numbers to [0, 1] (`min_max`), or to mean 0 and standard deviation 1 (`standard`). Gradients "
        "of unscaled numbers depend on the unit, so alignment needs one of these.",
    )
    threshold_shrinkage: float = option(
        0.1,
        "With `class_order`: weight of the L1 norm of the differences between the weights of adjacent "
        "thresholds. The larger, the nearer to proportional odds; 0 leaves each its own weights.",
        at_least=0,
        below=math.inf,
    )
    scores: str | None = option(
        None,
        "Feature scores to align with: a folder that `hf-cap elicit` wrote, a Hub id, or a YAML or JSON file "
        "(class: {feature: score}). Without them the model is trained on the task alone.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if bad := [size for size in self.hidden_sizes if size < 1]:
            raise ConfigError(f"`hidden_sizes` must be at least 1, got {bad[0]!r}.")


@documented
@dataclass
class LAATOptions:
    """What is aligned with the feature scores."""

    attribution_scope: Literal["global", "local"] = option(
        "global", "Input gradients averaged over the batch (`global`), or per example (`local`)."
    )
    sharpen: bool = option(False, "Replace each score s by sign(s)·exp|s|: the strongest decide.")
    class_shares: tuple[float, ...] = option(
        (), "Known shares of the classes among all rows, in the order of the classes; they add up to 1."
    )
    class_shares_weight: float = option(
        0.0,
        "Weight of the divergence of the mean prediction (of a batch, in Python also of unlabelled rows) "
        "from `class_shares`; at least 0.",
    )

    def check_shares(self) -> None:
        """Raise `ConfigError` if the shares are none, or their weight is out of its range."""
        check_range(self, "class_shares_weight", at_least=0, below=math.inf)
        shares = self.class_shares
        known = bool(shares) and min(shares) >= 0 and math.isclose(sum(shares), 1, abs_tol=1e-3)
        if not known and (shares or self.class_shares_weight):
            raise ConfigError(f"`class_shares` must be at least 0 and add up to 1, got {list(shares)!r}.")


@settings_class
class ElicitOptions:
    """How the language model is asked for scores."""

    method: Literal["expectation", "chat"] = option(
        "expectation",
        "`expectation` reads the probability of each integer from -10 to 10 and takes the mean: no "
        "generation, deterministic. `chat` lets the model reason and answer, several times.",
    )
    chat: bool = option(
        True, "Put the question of `expectation` into the model's chat template, if it has one."
    )
    calibrate: bool = option(
        True,
        "For `expectation`: divide the probability of each integer by its geometric mean over all features, "
        "because a language model prefers some integers whatever the feature.",
    )
    estimates: int = option(5, "For `chat`: answers that are averaged.", at_least=1)
    attempts: int = option(3, "For `chat`: times that an answer without a score is asked again.", at_least=0)
    temperature: float = option(1.0, "For `chat`: sampling temperature; above 0.", above=0)
    max_new_tokens: int = option(512, "For `chat`: most tokens of an answer.", at_least=1)
    seed: int = option(0, "For `chat`: seed of the sampling.")
