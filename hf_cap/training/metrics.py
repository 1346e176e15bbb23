"""What evaluation during training measures by default."""

import numpy as np
from sklearn.metrics import accuracy_score, f1_score
from transformers import EvalPrediction

DEFAULT_METRICS = ("accuracy", "macro_f1")


def accuracy_and_macro_f1(prediction: EvalPrediction) -> dict[str, float]:
    """Share of texts with the right label, and the mean over the labels of F1; both in [0, 1]."""
    logits, true = prediction.predictions, np.asarray(prediction.label_ids)
    # an encoder-decoder returns hidden states too, after its logits
    predicted = np.asarray(logits[0] if isinstance(logits, tuple) else logits).argmax(-1)
    macro = f1_score(true, predicted, average="macro", zero_division=0)
    return {"accuracy": float(accuracy_score(true, predicted)), "macro_f1": float(macro)}
