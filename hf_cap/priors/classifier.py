"""The reference classifier that `integrated_gradients`, `lime`, `shap` and `occlusion` explain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..attribution import check_offsets
from ..classifiers import TextClassifier, load_model, load_tokenizer
from ..embedded import resolve_model
from ..errors import ModelError
from ..files import folder_stamp
from ..scoring.identity import model_identity
from .source_settings import ReferenceSettings
from .word_source import WordSource


@dataclass(frozen=True, kw_only=True)
class ClassifierSource(WordSource, ReferenceSettings):
    """A source that explains a reference classifier.

    Attributes:
        stamp: State of the classifier's files when the source was made, so that a classifier trained anew
            in the same folder is explained anew and not read from the cache of `Dataset.map`.
    """

    stamp: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamp", folder_stamp(resolve_model(self.classifier)))

    def open(self) -> "ReferenceClassifier":
        """The classifier, opened once a process.

        Raises:
            ModelError: it cannot be loaded, or its labels are not those of the data.
        """
        return _open(
            self.classifier, self.revision, self.trust_remote_code, self.stamp, self.labels
        )


class ReferenceClassifier(TextClassifier):
    """A sequence classifier whose labels are those of the data, its weights frozen.

    Attributes:
        outputs: For each label of the data, in order, the model's output that stands for it.
        identity: Name, revision and fingerprints of weights and tokenizer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        outputs: tuple[int, ...],
        identity: str,
    ) -> None:
        super().__init__(model, tokenizer)
        self.outputs = outputs
        self.identity = identity

    def log_probs(self, texts: Sequence[str]) -> Float[Tensor, "texts labels"]:
        """Log-probability of each label of the data for each text, in nats, on the CPU."""
        return self.logits(texts).log_softmax(-1)[:, self.outputs]


@lru_cache(maxsize=2)
def _open(
    name: str, revision: str | None, trust_remote_code: bool, stamp: str, labels: tuple[str, ...]
) -> ReferenceClassifier:
    if folder_stamp(resolve_model(name)) != stamp:
        raise ModelError(
            f"The reference classifier {name!r} has changed since the source was made. Make the source anew."
        )
    model = load_model(name, revision, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(name, revision, trust_remote_code=trust_remote_code)
    check_offsets(tokenizer)
    names: dict[int, str] = model.config.id2label  # type: ignore[assignment]  # None in no classifier
    outputs = _match_labels(name, names, labels)
    model.requires_grad_(False).train(False)
    module: nn.Module = model  # whose `to` is typed
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    return ReferenceClassifier(model, tokenizer, outputs, model_identity(model, tokenizer, name))


def _match_labels(name: str, names: Mapping[int, str], labels: Sequence[str]) -> tuple[int, ...]:
    output = {label: index for index, label in names.items()}
    if set(output) != set(labels):
        missing, extra = sorted(set(labels) - set(output)), sorted(set(output) - set(labels))
        raise ModelError(
            f"The reference classifier {name!r} has other labels than the data: it lacks "
            f"{missing[:5]!r} and has {extra[:5]!r} besides. Train one on this data (`hf-cap train`), or "
            "set its `config.id2label` to the label names of the data."
        )
    return tuple(output[label] for label in labels)
