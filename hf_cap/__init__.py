"""hf_cap: teach small text classifiers which words matter.

Names are imported when they are first used, so that `import hf_cap` and `hf-cap --help`
are instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .attribution import attribute_words as attribute_words
    from .data import load_splits as load_splits
    from .data import save_splits as save_splits
    from .evaluation.classifier import Evaluation as Evaluation
    from .evaluation.classifier import evaluate_classifier as evaluate_classifier
    from .evaluation.settings import EvaluationSettings as EvaluationSettings
    from .priors.audit import Audit as Audit
    from .priors.audit import audit_dataset as audit_dataset
    from .priors.cap import CAPPrior as CAPPrior
    from .priors.channel import ChannelPrior as ChannelPrior
    from .priors.extraction import extract_priors as extract_priors
    from .priors.fusion import fuse_priors as fuse_priors
    from .priors.pipeline import register_prior_pipeline as register_prior_pipeline
    from .priors.sources import source_class as source_class
    from .publishing.hub import check_access as check_access
    from .publishing.hub import load_prior_dataset as load_prior_dataset
    from .publishing.hub import push_prior_dataset as push_prior_dataset
    from .publishing.pipeline import register_pipeline as register_pipeline
    from .publishing.report.writer import write_report as write_report
    from .publishing.show import show_attributions as show_attributions
    from .scoring.open import open_scorer as open_scorer
    from .scoring.protocol import Query as Query
    from .scoring.protocol import Scored as Scored
    from .scoring.protocol import Scorer as Scorer
    from .scoring.settings import ScorerRuntime as ScorerRuntime
    from .scoring.settings import ScorerSettings as ScorerSettings
    from .scoring.settings import using_runtime as using_runtime
    from .scoring.standin import StandInScorer as StandInScorer
    from .tabular.config import LAATConfig as LAATConfig
    from .tabular.scores import FeatureScores as FeatureScores
    from .tabular.train import student_trainer as student_trainer
    from .tabular.trainer import LAATTrainer as LAATTrainer
    from .training.callbacks import HeatMapCallback as HeatMapCallback
    from .training.config import CAPConfig as CAPConfig
    from .training.data import CAPCollator as CAPCollator
    from .training.trainer import CAPTrainer as CAPTrainer

_EXPORTS = {
    "Audit": "priors.audit",
    "CAPCollator": "training.data",
    "CAPConfig": "training.config",
    "CAPPrior": "priors.cap",
    "CAPTrainer": "training.trainer",
    "ChannelPrior": "priors.channel",
    "Evaluation": "evaluation.classifier",
    "EvaluationSettings": "evaluation.settings",
    "FeatureScores": "tabular.scores",
    "HeatMapCallback": "training.callbacks",
    "LAATConfig": "tabular.config",
    "LAATTrainer": "tabular.trainer",
    "Query": "scoring.protocol",
    "Scored": "scoring.protocol",
    "Scorer": "scoring.protocol",
    "ScorerRuntime": "scoring.settings",
    "ScorerSettings": "scoring.settings",
    "StandInScorer": "scoring.standin",
    "attribute_words": "attribution",
    "audit_dataset": "priors.audit",
    "check_access": "publishing.hub",
    "evaluate_classifier": "evaluation.classifier",
    "extract_priors": "priors.extraction",
    "fuse_priors": "priors.fusion",
    "load_prior_dataset": "publishing.hub",
    "load_splits": "data",
    "open_scorer": "scoring.open",
    "push_prior_dataset": "publishing.hub",
    "register_pipeline": "publishing.pipeline",
    "register_prior_pipeline": "priors.pipeline",
    "save_splits": "data",
    "show_attributions": "publishing.show",
    "source_class": "priors.sources",
    "student_trainer": "tabular.train",
    "using_runtime": "scoring.settings",
    "write_report": "publishing.report.writer",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
