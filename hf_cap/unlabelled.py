"""Texts without labels: they refine the head of a trained sentence-encoder classifier."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hf_cap.classifiers import text_embeddings
from hf_cap.errors import ConfigError
from hf_cap.sentence_encoder import SCALE, is_sentence_classifier

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
        rounds: Of dividing and moving.
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
        tokenizer: Its tokenizer.
        texts: At best of the same source as the texts to classify; a few hundred or more.

    Raises:
        ConfigError: the classifier has another head.
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
    """Raise `ConfigError` for a classifier with another head, or whose weights are spread over processes.

    Args:
        model: The classifier.
        setting: What asks for it, for the message.
        sharded: Whether its weights are spread.
    """
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
