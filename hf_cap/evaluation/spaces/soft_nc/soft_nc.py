"""Soft-NC: how far the output moves when embedding elements of important words are erased at random.

Relative to erasing every element; each element is kept with probability 1 - importance, the scores of a
text scaled to [0, 1]; in [0, 1], higher is better (Zhao and Aletras 2023).
"""

import evaluate

from hf_cap.evaluation.faithfulness_metric import FaithfulnessMetric, describe
from hf_cap.evaluation.metrics import soft_nc
from hf_cap.evaluation.spaces import SOFT_ERASURE

OPTIONS = """\
    samples, seed: random masks a text, and their seed.
    distance: `probability` of the class (the paper), or `hellinger` distance of the output."""
RETURNS = """\
    soft_nc: mean over the texts where it is defined, in [0, 1]; higher is better."""


class SoftNC(FaithfulnessMetric):
    """Soft normalised comprehensiveness (Soft-NC)."""

    measure = staticmethod(soft_nc)

    def _info(self) -> evaluate.MetricInfo:
        return describe(
            __doc__,
            citation=SOFT_ERASURE,
            url="https://arxiv.org/abs/2305.10496",
            options=OPTIONS,
            returns=RETURNS,
        )
