"""Robust accuracy: the share of texts of which every attacked version is predicted right.

Beside it the accuracy on the original texts, the mean accuracy over attacked versions, and the share of
rightly predicted texts that an attack turns; each in [0, 1].
"""

from dataclasses import asdict

import datasets
import evaluate

from hf_cap.evaluation.evaluate import robustness
from hf_cap.evaluation.spaces import CAP, LICENSE

INPUTS = """
Args:
    predictions: for each text the predicted labels of its attacked versions, at least one.
    references: gold label of each text.
    clean_predictions: predicted label of each original text.
Returns:
    robust_accuracy, mean_attacked_accuracy, clean_accuracy: in [0, 1]; higher is better.
    attack_success: in [0, 1]; lower is better.
"""


class RobustAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """Accuracy under attack."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=CAP,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Value("int64"),
                    "clean_predictions": datasets.Value("int64"),
                }
            ),
            license=LICENSE,
            reference_urls=["https://arxiv.org/abs/2512.14719"],
        )

    def _compute(self, predictions, references, clean_predictions):  # type: ignore[no-untyped-def]
        return asdict(robustness(predictions, clean_predictions, references))
