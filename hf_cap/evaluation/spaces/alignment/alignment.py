"""Alignment: agreement of word scores with an attribution prior.

Mean cosine and mean Spearman rank correlation over the texts whose prior is not empty or all zero; each in
[-1, 1], higher is better.
"""

import datasets
import evaluate
import numpy as np

from hf_cap.evaluation.metrics import AGREEMENTS
from hf_cap.evaluation.spaces import CAP, LICENSE

INPUTS = """
Args:
    predictions: one list of word scores a text; positive = evidence for the class.
    references: its prior, one score a word; an empty list for a text without one.
Returns:
    cosine, spearman: means over the texts with a prior, each in [-1, 1]; higher is better.
    texts: how many texts that are.
"""


class Alignment(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """Alignment of attributions with a prior."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=CAP,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("float64")),
                }
            ),
            license=LICENSE,
            reference_urls=["https://arxiv.org/abs/2512.14719"],
        )

    def _compute(self, predictions, references):  # type: ignore[no-untyped-def]
        pairs = [pair for pair in zip(predictions, references, strict=True) if any(pair[1])]
        means = {
            name: float(np.mean([agree(*pair) for pair in pairs])) if pairs else None
            for name, agree in AGREEMENTS.items()
        }
        return {**means, "texts": len(pairs)}
