"""Soft-NS: how much of the output stays when embedding elements of unimportant words are erased at random.

Relative to erasing every element; each element is kept with probability importance, the scores of a text
scaled to [0, 1]; in [0, 1], higher is better (Zhao and Aletras 2023).
"""

import evaluate

from hf_cap.evaluation.faithfulness_metric import FaithfulnessMetric, describe
from hf_cap.evaluation.metrics import soft_ns
from hf_cap.evaluation.spaces import SOFT_ERASURE

OPTIONS = """\
    samples, seed: random masks a text, and their seed.
    distance: `probability` of the class (the paper), or `hellinger` distance of the output."""
RETURNS = """\
    soft_ns: mean over the texts where it is defined, in [0, 1]; higher is better."""


class SoftNS(FaithfulnessMetric):
    """Soft normalised sufficiency (Soft-NS)."""

    measure = staticmethod(soft_ns)

    def _info(self) -> evaluate.MetricInfo:
        return describe(
            __doc__,
            citation=SOFT_ERASURE,
            url="https://arxiv.org/abs/2305.10496",
            options=OPTIONS,
            returns=RETURNS,
        )
