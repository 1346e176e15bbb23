"""After training on few texts: the encoder most of the way back to its start, and its head fitted anew."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from hf_cap.errors import ConfigError

KEPT_TO_REFIT, KEPT_TO_REFINE = 1 / 3, 0.5
"""How much of what training changed in the encoder stays; chosen on validation texts of other draws."""
INVERSE_PENALTY = 10.0
"""`C` of scikit-learn's logistic regression, fit for embeddings of unit length."""


def encoder_weights(model: Any) -> dict[str, Tensor]:
    """A copy of the weights below the head, to be taken before training; empty with adapters."""
    return {
        name: weight.detach().cpu().clone()
        for name, weight in model.named_parameters()
        if weight.requires_grad
        and not name.startswith("head.")
        and not hasattr(model, "peft_config")
    }


@torch.no_grad()
def average_encoder(model: Any, start: Mapping[str, Tensor], kept: float) -> None:
    """Move the weights in `start` towards it, in place, so that a part of what training changed stays.

    The mean of weights before and after training forgets less of what the encoder knew (WiSE-FT; Wortsman
    et al., 2022).

    Args:
        model: Trained.
        start: `encoder_weights` before training.
        kept: In [0, 1]: 0 is the start, 1 what training made.
    """
    for name, weight in model.named_parameters():
        if name in start:
            weight.lerp_(start[name].to(weight), 1 - kept)


def refit_head(
    model: Any,
    embeddings: Float[Tensor, "texts hidden"],
    labels: Int[Tensor, " texts"],
    weights: Float[Tensor, " texts"] | None = None,
) -> None:
    """Fit the head of a `SentenceEncoderClassifier` anew, in place, by logistic regression on embeddings.

    Few texts make its probabilities far too flat. So the logits are stretched, which changes no prediction:
    the rows get a length of 1 on average, as they have at the start of training, before the learned scale.

    Args:
        model: Its learned scale stays.
        embeddings: Of unit length, from the encoder as it is now.
        labels: Class indices; each class at least once.
        weights: Of the texts, at least 0; by default all 1.

    Raises:
        ConfigError: there is no text of some class.
    """
    head = model.head
    missing = sorted({*range(len(head.weight))} - {*labels.tolist()})
    if missing:
        names = [model.config.id2label[index] for index in missing[:5]]
        raise ConfigError(
            f"`refit_head` needs a text of each label, and there is none of {names}; leave it out, or put "
            "the label names in with `label_names_in='head'`."
        )
    fit = LogisticRegression(C=INVERSE_PENALTY, max_iter=2000)
    fit.fit(embeddings.numpy(), labels.numpy(), None if weights is None else weights.numpy())
    rows, bias = fit.coef_, fit.intercept_
    if len(rows) == 1:  # of two classes scikit-learn gives the difference
        rows, bias = np.concatenate([-rows, rows]) / 2, np.concatenate([-bias, bias]) / 2
    length = float(np.linalg.norm(rows, axis=1).mean())
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rows) / length)
        head.bias.copy_(head.scale.cpu() * torch.from_numpy(bias) / length)
