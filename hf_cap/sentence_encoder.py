"""Classifiers of our own: on a sentence encoder (pooling, a unit embedding, a linear head), and pruned ones.

A folder of the first is three things at once: a checkpoint of `Trainer`, a classifier for hf_cap, and a
model for sentence-transformers, whose `encode` gives the logits.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.hub import cached_file

from hf_cap.errors import ModelError
from hf_cap.utils import write_json

CONFIG_ENTRY = "sentence_encoder"
"""Entry of `config.json` that makes a checkpoint a classifier of this module."""
SCALE = 16.0  # scale of the logits at the start; cosines alone are too flat for a softmax

_MODULES, _POOLING, _NORMALIZE, _DENSE = "modules.json", "1_Pooling", "2_Normalize", "3_Dense"
_LENGTHS = "sentence_bert_config.json"

Tokens = Float[Tensor, "batch tokens hidden"]
Mask = Int[Tensor, "batch tokens"]
Embeddings = Float[Tensor, "batch hidden"]


def _mean(tokens: Tokens, mask: Mask) -> Embeddings:
    weight = mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def _first(tokens: Tokens, mask: Mask) -> Embeddings:
    return tokens[torch.arange(len(tokens)), mask.argmax(1)]


def _last(tokens: Tokens, mask: Mask) -> Embeddings:
    return tokens[torch.arange(len(tokens)), mask.shape[1] - 1 - mask.flip(1).argmax(1)]


POOLINGS: dict[str, Callable[[Tokens, Mask], Embeddings]] = {"mean": _mean, "cls": _first, "lasttoken": _last}
"""Name in sentence-transformers to a function of token vectors and attention mask; padding on any side."""


class CosineHead(nn.Module):
    """Logits `scale · (W e) + b` of unit embeddings; rows of unit length make W e a cosine in [-1, 1]."""

    def __init__(self, hidden: int, labels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.functional.normalize(torch.randn(labels, hidden), dim=-1))
        self.bias = nn.Parameter(torch.zeros(labels))
        self.scale = nn.Parameter(torch.tensor(SCALE))

    def forward(self, embeddings: Embeddings) -> Float[Tensor, "batch labels"]:
        """Logits of a batch."""
        return nn.functional.linear(embeddings, self.scale * self.weight, self.bias)


class SentenceEncoderClassifier(PreTrainedModel):
    """Encoder, pooling, unit length, linear head. The labels are those of the configuration.

    Args:
        config: That of the encoder, with the labels and the entry `sentence_encoder`: `{"pooling": name}`.
        encoder: Pretrained; by default a new one with random weights.
    """

    config_class = PretrainedConfig
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True

    def __init__(self, config: PretrainedConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        pooling = getattr(config, CONFIG_ENTRY)["pooling"]
        if pooling not in POOLINGS:
            raise ModelError(f"There is no pooling {pooling!r}; there are {sorted(POOLINGS)}.")
        self.pool = POOLINGS[pooling]
        if encoder is None:
            as_pruned(encoder := AutoModel.from_config(config), config)
        if isinstance(getattr(encoder, "pooler", None), nn.Module):
            # its output is not used, so its weights would never get a gradient
            encoder.pooler = None
        # under its own prefix, plain `AutoModel` finds the encoder in the saved weights
        self.base_model_prefix = encoder.base_model_prefix or "encoder"
        setattr(self, self.base_model_prefix, encoder)
        self.head = CosineHead(config.hidden_size, config.num_labels or 0)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: encoder and head have their weights already."""

    @property
    def encoder(self) -> PreTrainedModel:
        """The encoder of tokens."""
        found: PreTrainedModel = getattr(self, self.base_model_prefix)
        return found

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of the encoder."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the encoder."""
        self.encoder.set_input_embeddings(value)

    def embed(self, attention_mask: Mask, **inputs: Any) -> Embeddings:
        """Unit embeddings `(batch, hidden)` of tokenised texts."""
        tokens = self.encoder(attention_mask=attention_mask, **inputs)[0]
        return nn.functional.normalize(self.pool(tokens, attention_mask), dim=-1)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"] | None = None,
        attention_mask: Mask | None = None,
        labels: Int[Tensor, " batch"] | None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        """Logits `(batch, labels)` and, with `labels`, the mean cross-entropy."""
        if attention_mask is None:
            given = input_ids if input_ids is not None else inputs["inputs_embeds"][..., 0]
            attention_mask = torch.ones_like(given, dtype=torch.long)
        inputs = {name: value for name, value in inputs.items() if value is not None}
        logits = self.head(self.embed(attention_mask, input_ids=input_ids, **inputs))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As `PreTrainedModel.save_pretrained`, with the modules that sentence-transformers reads."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            state = kwargs.get("state_dict") or self.state_dict()
            write_modules(Path(save_directory), self.config, state)


def write_modules(folder: Path, config: PretrainedConfig, state: Mapping[str, Tensor]) -> None:
    """Write what sentence-transformers needs beside the checkpoint of a `SentenceEncoderClassifier`."""
    parts = {"Transformer": "", "Pooling": _POOLING, "Normalize": _NORMALIZE, "Dense": _DENSE}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(parts.items())
    ]
    weight, bias, scale = (
        state[f"head.{name}"].detach().float().cpu() for name in ("weight", "bias", "scale")
    )
    labels, hidden = weight.shape
    pooling = getattr(config, CONFIG_ENTRY)["pooling"]
    dense = {"in_features": hidden, "out_features": labels, "bias": True}
    dense |= {"activation_function": "torch.nn.modules.linear.Identity"}  # type: ignore[dict-item]
    for name in (_POOLING, _NORMALIZE, _DENSE):
        (folder / name).mkdir(exist_ok=True)
    flags = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    modes = {f"pooling_mode_{flag}": name == pooling for name, flag in flags.items()}
    write_json(folder / _POOLING / "config.json", {"word_embedding_dimension": hidden, **modes})
    write_json(folder / _DENSE / "config.json", dense)
    tensors = {"linear.weight": (scale * weight).contiguous(), "linear.bias": bias}
    save_file(tensors, folder / _DENSE / "model.safetensors", metadata={"format": "pt"})
    length = getattr(config, CONFIG_ENTRY).get("max_length")
    write_json(folder / _LENGTHS, {"max_seq_length": length, "do_lower_case": False})
    write_json(folder / _MODULES, modules)  # the last: without it the folder is no such model


# --- From a sentence encoder of the Hub to a classifier.


def read_sentence_encoder(source: str, revision: str | None = None) -> dict[str, Any] | None:
    """Pooling and longest input of a checkpoint that was trained as a sentence encoder.

    `source` is a folder or Hub id, also of a saved `SentenceEncoderClassifier`.

    Returns:
        The entry `sentence_encoder` of a classifier's configuration; `None` where there is no `modules.json`.
    """
    modules = _read(source, _MODULES, revision)
    if modules is None:
        return None
    if entry := (_read(source, "config.json", revision) or {}).get(CONFIG_ENTRY):
        return dict(entry)
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ModelError(
            f"The sentence encoder {source!r} consists of {kinds}; only a Transformer with Pooling and "
            "Normalize can become a classifier. Use `head='sequence'`, or another encoder."
        )
    pooling = _read(source, f"{modules[1]['path']}/config.json", revision) or {}
    lengths = _read(source, _LENGTHS, revision) or {}
    return {"pooling": _pooling_name(source, pooling), "max_length": lengths.get("max_seq_length")}


def _pooling_name(source: str, config: Mapping[str, Any]) -> str:
    """Sentence-transformers 6 names the mode, earlier ones have a flag for each."""
    named = config.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, on in config.items()
        if key.startswith("pooling_mode_") and on is True
    ]
    modes = [named] if isinstance(named, str) else list(named)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ModelError(
            f"The sentence encoder {source!r} pools by {modes}; known are {sorted(POOLINGS)}, one at a "
            "time. Use `head='sequence'`, or another encoder."
        )
    return str(modes[0])


def _read(source: str, name: str, revision: str | None) -> Any:
    quiet = ("missing_entries", "connection_errors", "gated_repo")
    optional = {f"_raise_exceptions_for_{what}": False for what in quiet}
    file = cached_file(source, name, revision=revision, **optional)
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def new_sentence_classifier(
    source: str, labels: Sequence[str], entry: Mapping[str, Any], **place: Any
) -> tuple[SentenceEncoderClassifier, bool]:
    """A sentence encoder with a head for `labels`, and whether that head is new.

    Args:
        source: Folder or Hub id; the head of a saved classifier serves if it has as many outputs.
        labels: Label names, in the order of the head's outputs.
        entry: What `read_sentence_encoder` gave.
        place: `revision` and `trust_remote_code`.
    """
    config = AutoConfig.from_pretrained(source, **place)
    known = is_sentence_classifier(config) and config.num_labels == len(labels)
    config.update(label_config(labels))
    if known:
        trained: SentenceEncoderClassifier = SentenceEncoderClassifier.from_pretrained(
            source, config=config, revision=place.get("revision") or "main"
        )
        return trained, False
    config.update({CONFIG_ENTRY: dict(entry)})
    encoder = auto_class(AutoModel, config).from_pretrained(source, config=config, **place)
    return SentenceEncoderClassifier(config, encoder), True


def label_config(labels: Sequence[str]) -> dict[str, Any]:
    """What a configuration says of its labels."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def is_sentence_classifier(config: PretrainedConfig) -> bool:
    """Whether a configuration is that of a saved `SentenceEncoderClassifier`."""
    return hasattr(config, CONFIG_ENTRY)


# --- Encoders of which whole attention heads and feed-forward units were taken out. Every layer keeps as many
# as any other. The units are told by `intermediate_size`, so that any library loads such a checkpoint;
# transformers 5 has no setting for heads that do not fill the width of the model: their number is an entry of
# our own, which the loaders of hf_cap read and others stumble over.


KEPT_HEADS = "kept_heads"
"""Entry of `config.json`: attention heads per layer, where some were taken out."""


class Layer(NamedTuple):
    """The parts of an encoder layer of the BERT family that heads and units are parts of."""

    attention: Any  # with the layers query, key, value
    mixed: Any  # from the heads
    up: Any  # to the units
    down: Any  # from the units


def encoder_layers(model: nn.Module) -> list[Layer]:
    """The layers of a BERT, RoBERTa, ELECTRA or the like."""
    parts = {"attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"}
    found: list[Any] = [m for m in model.modules() if parts <= {name for name, _ in m.named_modules()}]
    if not found:
        raise ModelError(
            f"Heads and units of {type(model).__name__} cannot be taken out: it has no layers like BERT's. "
            "Choose an encoder of the BERT family, such as 'embedded/minilm-l6' or 'roberta-base'."
        )
    return [
        Layer(m.attention.self, m.attention.output.dense, m.intermediate.dense, m.output.dense) for m in found
    ]


def keep(model: nn.Module, heads: Sequence[Tensor], units: Sequence[Tensor]) -> None:
    """Take all but these heads and units out of each layer, and tell so in the configuration.

    Args:
        model: An encoder with or without a head, without adapters; it is changed in place.
        heads, units: Per layer the places of those that stay, ascending, as many in each layer.
    """
    for layer, of_heads, of_units in zip(encoder_layers(model), heads, units, strict=True):
        size = layer.attention.attention_head_size
        width = torch.arange(size, device=of_heads.device)
        rows = (of_heads[:, None] * size + width).flatten()
        for linear in (layer.attention.query, layer.attention.key, layer.attention.value):
            _shrink(linear, rows, 0)
        _shrink(layer.mixed, rows, 1)
        _shrink(layer.up, of_units, 0)
        _shrink(layer.down, of_units, 1)
        layer.attention.num_attention_heads = len(of_heads)
        layer.attention.all_head_size = len(rows)
    for module in model.modules():
        if isinstance(config := getattr(module, "config", None), PretrainedConfig):
            config.update({"intermediate_size": len(units[0])})
            if len(heads[0]) < config.num_attention_heads:
                config.update({KEPT_HEADS: len(heads[0])})


def _shrink(linear: nn.Linear, index: Tensor, dim: int) -> None:
    trained, index = linear.weight.requires_grad, index.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight.detach().index_select(dim, index), trained)
    if dim == 0 and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[index], trained)
    linear.out_features, linear.in_features = linear.weight.shape


def as_pruned(model: nn.Module, config: PretrainedConfig) -> None:
    """Give a new model the shape that its configuration tells, for weights that are loaded then."""
    if heads := getattr(config, KEPT_HEADS, None):
        layers = encoder_layers(model)
        units = [torch.arange(layer.up.out_features) for layer in layers]
        keep(model, [torch.arange(heads)] * len(layers), units)


def auto_class(auto: Any, config: PretrainedConfig) -> Any:
    """What loads a checkpoint: `auto`, such as `AutoModel`, or its class of models without some heads."""
    if not getattr(config, KEPT_HEADS, None):
        return auto
    family = auto._model_mapping[type(config)]

    def start(self: Any, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        family.__init__(self, config, *args, **kwargs)
        as_pruned(self, config)

    return type(family.__name__, (family,), {"__init__": start})
