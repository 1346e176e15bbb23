"""Comprehensiveness: drop of the class's probability when the highest-scoring words are taken out.

`p(y|x) - p(y|x without r)`, r the top 1, 5, 10, 20 and 50 % of the words (rounded up), averaged over these
sizes (AOPC) and the texts; in [-1, 1], higher is better (DeYoung et al. 2020).
"""

import evaluate

from hf_cap.evaluation.faithfulness_metric import FaithfulnessMetric, describe
from hf_cap.evaluation.metrics import comprehensiveness
from hf_cap.evaluation.spaces import ERASER

OPTIONS = """\
    percentages: sizes of the rationale in percent of the words."""
RETURNS = """\
    comprehensiveness: mean over the texts, in [-1, 1]; higher is better."""


class Comprehensiveness(FaithfulnessMetric):
    """Comprehensiveness of word attributions."""

    measure = staticmethod(comprehensiveness)

    def _info(self) -> evaluate.MetricInfo:
        return describe(
            __doc__,
            citation=ERASER,
            url="https://arxiv.org/abs/1911.03429",
            options=OPTIONS,
            returns=RETURNS,
        )
