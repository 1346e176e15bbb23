"""How a classifier's words are attributed, kept in its configuration so that it travels with the weights.

Training writes it, and whoever explains the model later reads it; plain `transformers` ignores it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from .words import WORD_PATTERN

AttributionMethod = Literal["integrated_gradients", "expected_gradients", "input_x_gradient"]
Quadrature = Literal["midpoint", "gauss_legendre", "gauss_radau"]
AttributionTarget = Literal["gold", "contrast"]

CONFIG_KEY = "hf_cap"
"""Entry of `config.json`."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Arguments of `attribute_words` that belong to a model. Their meaning is told there."""

    method: str = "integrated_gradients"
    rule: str = "midpoint"
    target: str = "gold"
    word_pattern: str = WORD_PATTERN
    max_length: int | None = None

    @classmethod
    def of_alignment(cls, options: Mapping[str, Any]) -> "Explanation":
        """The attribution that an alignment used, from its settings (names as in `AlignmentOptions`)."""
        named = {
            "method": options.get("attribution_method"),
            "rule": options.get("attribution_quadrature"),
            "target": options.get("attribution_target"),
            "word_pattern": options.get("word_pattern"),
            "max_length": options.get("max_length"),
        }
        return cls(**{name: value for name, value in named.items() if value is not None})

    @classmethod
    def read(cls, config: Any) -> "Explanation":
        """What is stored in a model's configuration, the defaults where nothing is."""
        stored = getattr(config, CONFIG_KEY, None) or {}
        return cls(**{f.name: stored[f.name] for f in fields(cls) if f.name in stored})

    def entry(self) -> dict[str, dict[str, Any]]:
        """What to add to a model's configuration."""
        return {CONFIG_KEY: asdict(self)}
