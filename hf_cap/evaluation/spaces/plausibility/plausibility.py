"""Plausibility: agreement of word scores with the words that a person marked.

Token F1 and intersection over union of the highest-scoring words, and the area under the precision-recall
curve of the scores; each in [0, 1], higher is better (DeYoung et al. 2020).
"""

from dataclasses import asdict

import datasets
import evaluate
import numpy as np

from hf_cap.evaluation.metrics import plausibility
from hf_cap.evaluation.spaces import ERASER, LICENSE

INPUTS = """
Args:
    predictions: one list of word scores a text; positive = evidence for the explained class.
    references: one list of 0 and 1 a text; 1 marks a word of the human rationale.
    size: words to choose in every text; by default as many as are marked in it.
Returns:
    token_f1, auprc, iou: means over the texts with a marked word, each in [0, 1]; higher is better.
    texts: how many texts that are.
"""


class Plausibility(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """Plausibility of word attributions."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=ERASER,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("bool")),
                }
            ),
            license=LICENSE,
            reference_urls=["https://arxiv.org/abs/1911.03429"],
        )

    def _compute(self, predictions, references, size=None):  # type: ignore[no-untyped-def]
        found = [plausibility(s, m, size) for s, m in zip(predictions, references, strict=True)]
        values = [asdict(item) for item in found if item is not None]
        names = ("token_f1", "auprc", "iou")
        means = (
            {name: float(np.mean([value[name] for value in values])) for name in names}
            if values
            else {}
        )
        return {**dict.fromkeys(names), **means, "texts": len(values)}
