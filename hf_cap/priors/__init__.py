"""Where priors come from: sources, extraction, fusion, controls, audit. Names are imported lazily."""

from typing import TYPE_CHECKING

from hf_cap.utils import lazy_exports

if TYPE_CHECKING:
    from hf_cap.priors.audit import audit_dataset as audit_dataset
    from hf_cap.priors.base import LEARNED as LEARNED
    from hf_cap.priors.base import SOURCES as SOURCES
    from hf_cap.priors.base import AuditSettings as AuditSettings
    from hf_cap.priors.base import ExtractionSettings as ExtractionSettings
    from hf_cap.priors.base import Row as Row
    from hf_cap.priors.base import Source as Source
    from hf_cap.priors.base import SourceResult as SourceResult
    from hf_cap.priors.base import register_source as register_source
    from hf_cap.priors.base import source_class as source_class
    from hf_cap.priors.cap import CAPPrior as CAPPrior
    from hf_cap.priors.channel import ChannelPrior as ChannelPrior
    from hf_cap.priors.channel import LexiconPrior as LexiconPrior
    from hf_cap.priors.classifier import ClassifierSource as ClassifierSource
    from hf_cap.priors.classifier import IntegratedGradientsPrior as IntegratedGradientsPrior
    from hf_cap.priors.classifier import LimePrior as LimePrior
    from hf_cap.priors.classifier import OcclusionPrior as OcclusionPrior
    from hf_cap.priors.classifier import ShapPrior as ShapPrior
    from hf_cap.priors.extract import ExtractionSummary as ExtractionSummary
    from hf_cap.priors.extract import Selection as Selection
    from hf_cap.priors.extract import extract_priors as extract_priors
    from hf_cap.priors.extract import select_texts as select_texts
    from hf_cap.priors.fusion import PriorFusion as PriorFusion
    from hf_cap.priors.fusion import fuse_priors as fuse_priors
    from hf_cap.priors.keywords import KeywordsPrior as KeywordsPrior
    from hf_cap.priors.keywords import RationalePrior as RationalePrior
    from hf_cap.priors.keywords import WordLengthPrior as WordLengthPrior
    from hf_cap.priors.keywords import with_control as with_control
    from hf_cap.priors.language_model import LanguageModelSource as LanguageModelSource
    from hf_cap.priors.rivals import LLMGradientPrior as LLMGradientPrior
    from hf_cap.priors.rivals import ReAGentPrior as ReAGentPrior

_EXPORTS, __getattr__, __dir__ = lazy_exports(__name__, __file__)
__all__ = sorted(_EXPORTS)
