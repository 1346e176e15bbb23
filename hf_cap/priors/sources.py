"""The table of prior sources. A new source is one file and one line here.

The table imports nothing: a source, and the model library it needs, is loaded when it is asked for.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self, cast

from datasets import Dataset

from ..errors import ConfigError


class Source(Protocol):
    """A prior source: a frozen dataclass that is a function for `Dataset.map(batched=True)`.

    Its fields are settings only: `Dataset.map` hashes them into its cache key.
    """

    name: ClassVar[str]
    """Name of the source; its prior is the column `prior_<name>`."""

    @classmethod
    def from_dataset(cls, dataset: Dataset, **options: Any) -> Self:
        """A source that has learnt from a training split what it must know, such as the label space."""

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The batch with `words`, `prior_<name>`, diagnostics `<name>_<what>` and `provenance`."""


SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "cap": "cap:CAPPrior",
        "channel": "channel:ChannelPrior",
        "integrated_gradients": "integrated_gradients:IntegratedGradientsPrior",
        "keywords": "keywords:KeywordsPrior",
        "lime": "lime:LimePrior",
        "llm_gradient": "llm_gradient:LLMGradientPrior",
        "occlusion": "occlusion:OcclusionPrior",
        "rationale": "rationale:RationalePrior",
        "shap": "shap:ShapPrior",
        "word_length": "word_length:WordLengthPrior",
    }
)
"""Name of a source to its module in this package and its class."""


def source_class(name: str) -> type[Source]:
    """The class of a source.

    Raises:
        ConfigError: there is no such source.
    """
    if name not in SOURCES:
        raise ConfigError(f"There is no prior source {name!r}; there are {sorted(SOURCES)}.")
    module, _, attribute = SOURCES[name].partition(":")
    return cast(type[Source], getattr(import_module(f".{module}", __package__), attribute))
