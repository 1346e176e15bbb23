"""Encoders of which whole attention heads and feed-forward units were taken out.

Every layer keeps as many heads and as many units as any other. The units are told by `intermediate_size`, so
that any library loads such a checkpoint. transformers 5 has no setting for heads that do not fill the width
of the model: their number is an entry of our own, which the loaders of hf_cap read and others stumble over.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from hf_cap.errors import ModelError

KEPT_HEADS = "kept_heads"
"""Entry of `config.json`: attention heads per layer, where some were taken out."""


class Layer(NamedTuple):
    """The parts of an encoder layer of the BERT family that heads and units are parts of."""

    attention: Any  # with the layers query, key, value
    mixed: Any  # from the heads
    up: Any  # to the units
    down: Any  # from the units


def encoder_layers(model: nn.Module) -> list[Layer]:
    """The layers of a BERT, RoBERTa, ELECTRA or the like.

    Raises:
        ModelError: the model has none of this form.
    """
    parts = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
    found: list[Any] = [m for m in model.modules() if all(map(_has(m), parts))]
    if not found:
        raise ModelError(
            f"Heads and units of {type(model).__name__} cannot be taken out: it has no layers like BERT's. "
            "Choose an encoder of the BERT family, such as 'embedded/minilm-l6' or 'roberta-base'."
        )
    return [
        Layer(m.attention.self, m.attention.output.dense, m.intermediate.dense, m.output.dense)
        for m in found
    ]


def _has(module: nn.Module) -> Any:
    names = {name for name, _ in module.named_modules()}
    return lambda name: name in names


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
