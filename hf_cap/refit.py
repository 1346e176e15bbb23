"""After training: the encoder part of the way back, its head fitted anew or refined by unlabelled texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hf_cap.classifiers import text_embeddings
from hf_cap.errors import ConfigError
from hf_cap.sentence_encoder import SCALE, is_sentence_classifier

KEPT_TO_REFIT, KEPT_TO_REFINE = 1 / 3, 0.5
"""How much of what training changed in the encoder stays; chosen on validation texts of other draws."""
INVERSE_PENALTY = 10.0
"""`C` of scikit-learn's logistic regression, fit for embeddings of unit length."""


def encoder_weights(model: Any) -> dict[str, Tensor]:
    """A copy of the weights below the head, to be taken before training; empty with adapters."""
    return {
        name: weight.detach().cpu().clone()
        for name, weight in model.named_parameters()
        if weight.requires_grad and not name.startswith("head.") and not hasattr(model, "peft_config")
    }


@torch.no_grad()
def average_encoder(model: Any, start: Mapping[str, Tensor], kept: float) -> None:
    """Move the weights in `start` towards it, in place, so that a part of what training changed stays.

    The mean of weights before and after training forgets less of what the encoder knew (WiSE-FT; Wortsman
    et al., 2022).
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


# --- Texts without labels refine the head of a trained sentence-encoder classifier.

Prototypes = Float[Tensor, "labels hidden"]


def expectation_maximisation(
    fixed: Prototypes,
    unlabelled: Float[Tensor, "texts hidden"],
    *,
    scale: float = SCALE,
    share: float = 0.3,
    rounds: int = 20,
) -> Prototypes:
    """One prototype of unit length per label, from what is known of the labels and from unlabelled texts.

    A round divides each text among the labels by softmax(scale · cosine), then moves each prototype to the
    direction of `fixed + share · Σ part · text` (a mixture of von Mises-Fisher distributions of equal weight
    and concentration; Banerjee et al., 2005).

    Args:
        fixed: What is known of each label; its length says how many texts it counts for.
        unlabelled: Unit embeddings; there may be none.
        scale: Of the cosines, above 0.
        share: Weight of an unlabelled text beside a known one, at least 0.
    """
    rows = nn.functional.normalize(fixed, dim=-1)
    for _ in range(rounds):
        parts = (scale * unlabelled @ rows.T).softmax(-1)
        rows = nn.functional.normalize(fixed + share * parts.T @ unlabelled, dim=-1)
    return rows


def refine_head(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Move the head of a trained classifier, in place, to where texts without labels lie.

    Its rows become the prototypes of `expectation_maximisation`, the row of training counting for two texts;
    the bias becomes 0. Without texts everything stays as it is.

    Args:
        model: A `SentenceEncoderClassifier`, perhaps with adapters.
        texts: At best of the same source as the texts to classify; a few hundred or more.
    """
    check_refinable(model)
    if not texts:
        return
    head, embeddings = model.head, text_embeddings(model, tokenizer, texts)
    with torch.no_grad():
        trained = nn.functional.normalize(head.weight.float().cpu(), dim=-1)
        head.weight.copy_(expectation_maximisation(2 * trained, embeddings))
        head.bias.zero_()


def check_refinable(model: Any, setting: str = "unlabelled", *, sharded: bool = False) -> None:
    """Raise `ConfigError` for a classifier with another head, or whose weights are spread over processes."""
    if not is_sentence_classifier(model.config):
        raise ConfigError(
            f"`{setting}` changes the head of a sentence encoder, and this classifier has "
            f"`head='sequence'`; take another model, or leave out `{setting}`."
        )
    if sharded:
        raise ConfigError(
            f"FSDP and DeepSpeed spread the head over processes, so `{setting}` cannot change it; leave it "
            "out, and train in one process or with DDP."
        )
