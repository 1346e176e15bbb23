"""Where priors come from: sources, extraction, fusion, controls, audit. Names are imported lazily."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_cap.priors.audit import audit_dataset
    from hf_cap.priors.base import (
        LEARNED,
        SOURCES,
        Row,
        Source,
        SourceResult,
        register_source,
        source_class,
    )
    from hf_cap.priors.cap import CAPPrior
    from hf_cap.priors.channel import ChannelPrior
    from hf_cap.priors.classifier import (
        ClassifierSource,
        IntegratedGradientsPrior,
        OcclusionPrior,
    )
    from hf_cap.priors.extract import ExtractionSettings, extract_priors
    from hf_cap.priors.fusion import PriorFusion, fuse_priors
    from hf_cap.priors.keywords import (
        KeywordsPrior,
        RationalePrior,
        WordLengthPrior,
        with_control,
    )
    from hf_cap.priors.language_model import LanguageModelSource
    from hf_cap.priors.lime import LimePrior
    from hf_cap.priors.llm_gradient import LLMGradientPrior
    from hf_cap.priors.shap import ShapPrior
    from hf_cap.priors.summary import ExtractionSummary

__all__ = [
    "LEARNED", "SOURCES", "CAPPrior", "ChannelPrior", "ClassifierSource",
    "ExtractionSettings", "ExtractionSummary", "IntegratedGradientsPrior",
    "KeywordsPrior", "LLMGradientPrior", "LanguageModelSource", "LimePrior", "OcclusionPrior",
    "PriorFusion", "RationalePrior", "Row", "ShapPrior", "Source", "SourceResult", "WordLengthPrior",
    "audit_dataset", "extract_priors", "fuse_priors", "register_source",
    "source_class", "with_control",
]  # fmt: skip

_MODULES = {
    "audit": ("audit_dataset",),
    "base": (
        "LEARNED", "SOURCES", "Row", "Source", "SourceResult", "register_source", "source_class",
    ),
    "cap": ("CAPPrior",),
    "channel": ("ChannelPrior",),
    "classifier": (
        "ClassifierSource", "IntegratedGradientsPrior", "OcclusionPrior",
    ),
    "extract": ("ExtractionSettings", "extract_priors"),
    "fusion": ("PriorFusion", "fuse_priors"),
    "keywords": ("KeywordsPrior", "RationalePrior", "WordLengthPrior", "with_control"),
    "language_model": ("LanguageModelSource",),
    "lime": ("LimePrior",),
    "llm_gradient": ("LLMGradientPrior",),
    "shap": ("ShapPrior",),
    "summary": ("ExtractionSummary",),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"hf_cap.priors.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
