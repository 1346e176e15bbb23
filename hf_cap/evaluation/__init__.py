"""Evaluation: classifiers, metrics, attacks, few-shot sets and the comparison of results.

Names are imported on first use.
"""

from typing import TYPE_CHECKING

from hf_cap.utils import lazy_exports

if TYPE_CHECKING:
    from hf_cap.data import few_shot as few_shot
    from hf_cap.evaluation.attacks import attack_dataset as attack_dataset
    from hf_cap.evaluation.calibration import Calibration as Calibration
    from hf_cap.evaluation.calibration import calibrate as calibrate
    from hf_cap.evaluation.classifier import load_classifier as load_classifier
    from hf_cap.evaluation.evaluate import Evaluation as Evaluation
    from hf_cap.evaluation.evaluate import evaluate_classifier as evaluate_classifier
    from hf_cap.evaluation.metrics import ScoredTexts as ScoredTexts
    from hf_cap.evaluation.metrics import comprehensiveness as comprehensiveness
    from hf_cap.evaluation.metrics import cosine as cosine
    from hf_cap.evaluation.metrics import plausibility as plausibility
    from hf_cap.evaluation.metrics import robustness as robustness
    from hf_cap.evaluation.metrics import soft_nc as soft_nc
    from hf_cap.evaluation.metrics import soft_ns as soft_ns
    from hf_cap.evaluation.metrics import spearman as spearman
    from hf_cap.evaluation.metrics import sufficiency as sufficiency
    from hf_cap.evaluation.modules import load_metric as load_metric
    from hf_cap.evaluation.modules import write_metric_space as write_metric_space
    from hf_cap.evaluation.results import Estimate as Estimate
    from hf_cap.evaluation.results import compare as compare
    from hf_cap.evaluation.results import estimate as estimate
    from hf_cap.evaluation.results import holm as holm
    from hf_cap.evaluation.results import paired_bootstrap as paired_bootstrap
    from hf_cap.evaluation.results import summarize as summarize
    from hf_cap.evaluation.settings import AttackSettings as AttackSettings
    from hf_cap.evaluation.settings import EvaluationSettings as EvaluationSettings

_EXPORTS, __getattr__, __dir__ = lazy_exports(__name__, __file__)
__all__ = sorted(_EXPORTS)
