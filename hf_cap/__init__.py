"""hf_cap: teach small text classifiers which words matter.

Beside the names here: `hf_cap.priors` (sources), `hf_cap.losses`, `hf_cap.evaluation` (metrics, attacks,
results), `hf_cap.lm` (language models), `hf_cap.laat` (tables) and `hf_cap.errors`. Names are imported
when they are first used, so that `import hf_cap` and `hf-cap --help` are instant.
"""

from typing import TYPE_CHECKING

from hf_cap.utils import lazy_exports

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hf_cap import errors as errors
    from hf_cap import evaluation as evaluation
    from hf_cap import laat as laat
    from hf_cap import lm as lm
    from hf_cap import losses as losses
    from hf_cap import priors as priors
    from hf_cap.attribution import attribute_words as attribute_words
    from hf_cap.data import load_splits as load_splits
    from hf_cap.data import save_splits as save_splits
    from hf_cap.evaluation.evaluate import evaluate_classifier as evaluate_classifier
    from hf_cap.hub import load_prior_dataset as load_prior_dataset
    from hf_cap.hub import push_prior_dataset as push_prior_dataset
    from hf_cap.laat.trainer import LAATConfig as LAATConfig
    from hf_cap.laat.trainer import LAATTrainer as LAATTrainer
    from hf_cap.lm.base import LanguageModel as LanguageModel
    from hf_cap.lm.base import LMSettings as LMSettings
    from hf_cap.lm.base import MockLanguageModel as MockLanguageModel
    from hf_cap.priors.audit import audit_dataset as audit_dataset
    from hf_cap.priors.cap import CAPPrior as CAPPrior
    from hf_cap.priors.channel import ChannelPrior as ChannelPrior
    from hf_cap.priors.extract import extract_priors as extract_priors
    from hf_cap.priors.fusion import fuse_priors as fuse_priors
    from hf_cap.report.page import write_report as write_report
    from hf_cap.training.config import CAPConfig as CAPConfig
    from hf_cap.training.trainer import CAPTrainer as CAPTrainer
    from hf_cap.workflow import fit as fit

_EXPORTS, __getattr__, __dir__ = lazy_exports(__name__, __file__)
__all__ = ["__version__", *sorted(_EXPORTS)]
