"""hf_cap: teach small text classifiers which words matter.

Names are imported when they are first used, so that `import hf_cap` and `hf-cap --help`
are instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hf_cap.attribution import attribute_words as attribute_words
    from hf_cap.data import load_splits as load_splits
    from hf_cap.data import save_splits as save_splits
    from hf_cap.evaluation.evaluate import Evaluation as Evaluation
    from hf_cap.evaluation.evaluate import EvaluationSettings as EvaluationSettings
    from hf_cap.evaluation.evaluate import evaluate_classifier as evaluate_classifier
    from hf_cap.hub import check_access as check_access
    from hf_cap.hub import load_prior_dataset as load_prior_dataset
    from hf_cap.hub import push_prior_dataset as push_prior_dataset
    from hf_cap.laat.elicitation import FeatureScores as FeatureScores
    from hf_cap.laat.trainer import LAATConfig as LAATConfig
    from hf_cap.laat.trainer import LAATTrainer as LAATTrainer
    from hf_cap.lm.base import LanguageModel as LanguageModel
    from hf_cap.lm.base import LMRuntime as LMRuntime
    from hf_cap.lm.base import LMSettings as LMSettings
    from hf_cap.lm.base import Query as Query
    from hf_cap.lm.base import Scored as Scored
    from hf_cap.lm.base import using_runtime as using_runtime
    from hf_cap.lm.mock import MockLanguageModel as MockLanguageModel
    from hf_cap.lm.open import open_language_model as open_language_model
    from hf_cap.pipelines import register_pipeline as register_pipeline
    from hf_cap.pipelines import show_attributions as show_attributions
    from hf_cap.priors.audit import Audit as Audit
    from hf_cap.priors.audit import audit_dataset as audit_dataset
    from hf_cap.priors.base import source_class as source_class
    from hf_cap.priors.cap import CAPPrior as CAPPrior
    from hf_cap.priors.channel import ChannelPrior as ChannelPrior
    from hf_cap.priors.extract import extract_priors as extract_priors
    from hf_cap.priors.fusion import fuse_priors as fuse_priors
    from hf_cap.report.page import write_report as write_report
    from hf_cap.training.callbacks import HeatMapCallback as HeatMapCallback
    from hf_cap.training.collator import CAPCollator as CAPCollator
    from hf_cap.training.config import CAPConfig as CAPConfig
    from hf_cap.training.trainer import CAPTrainer as CAPTrainer

_EXPORTS = {
    "Audit": "priors.audit",
    "CAPCollator": "training.collator",
    "CAPConfig": "training.config",
    "CAPPrior": "priors.cap",
    "CAPTrainer": "training.trainer",
    "ChannelPrior": "priors.channel",
    "Evaluation": "evaluation.evaluate",
    "EvaluationSettings": "evaluation.evaluate",
    "FeatureScores": "laat.elicitation",
    "HeatMapCallback": "training.callbacks",
    "LAATConfig": "laat.trainer",
    "LAATTrainer": "laat.trainer",
    "Query": "lm.base",
    "Scored": "lm.base",
    "LanguageModel": "lm.base",
    "LMRuntime": "lm.base",
    "LMSettings": "lm.base",
    "MockLanguageModel": "lm.mock",
    "attribute_words": "attribution",
    "audit_dataset": "priors.audit",
    "check_access": "hub",
    "evaluate_classifier": "evaluation.evaluate",
    "extract_priors": "priors.extract",
    "fuse_priors": "priors.fusion",
    "load_prior_dataset": "hub",
    "load_splits": "data",
    "open_language_model": "lm.open",
    "push_prior_dataset": "hub",
    "register_pipeline": "pipelines",
    "save_splits": "data",
    "show_attributions": "pipelines",
    "source_class": "priors.base",
    "using_runtime": "lm.base",
    "write_report": "report.page",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
