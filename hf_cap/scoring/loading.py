"""Loads the transformers model that settings name, in the number format and on the device they ask for."""

import importlib.util
from dataclasses import replace
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..embedded import resolve_model
from ..errors import ConfigError, MissingExtra, ModelError
from .local import LocalScorer
from .settings import Dtype, ScorerRuntime, ScorerSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZERS = {"4bit": "load_in_4bit", "8bit": "load_in_8bit"}


def load_scorer(settings: ScorerSettings, runtime: ScorerRuntime) -> LocalScorer:
    """The local model of `settings` as a scorer.

    Raises:
        ModelError: there is no such model, or it is not a causal language model.
        MissingExtra: `bitsandbytes` is needed and not installed.
    """
    model, tokenizer = load_language_model(settings, choose_device(runtime.device))
    name = "|".join(filter(None, [settings.model, settings.quantization.replace("none", "")]))
    return LocalScorer(model, tokenizer, name=name, runtime=runtime)


def load_language_model(
    settings: ScorerSettings, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of `settings` on `device`, and its tokenizer.

    Raises:
        ModelError: there is no such model, or it is not a causal language model.
        MissingExtra: `bitsandbytes` is needed and not installed.
    """
    folder = resolve_model(settings.model)
    common = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    options = {"dtype": choose_dtype(settings, device), **_quantized(settings, device), **common}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **common)
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The language model {settings.model!r} cannot be loaded as a decoder-only model: {error}"
        ) from error
    if settings.quantization == "none":
        torch.nn.Module.to(model, device)
    return model, tokenizer


def choose_device(name: str) -> torch.device:
    """The device called `name`; for `auto` an accelerator where there is one.

    Raises:
        ConfigError: torch knows no such device.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator if accelerator is not None else torch.device("cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name!r} is no device of torch: {error}") from error


def choose_dtype(settings: ScorerSettings, device: torch.device) -> torch.dtype:
    """Number format of the weights on `device`."""
    return DTYPES[_dtype_name(settings, device)]


def resolve_dtype(settings: ScorerSettings, runtime: ScorerRuntime) -> ScorerSettings:
    """The settings with the number format that `auto` stands for on the device of `runtime`.

    That of a served model is the server's business.
    """
    if settings.dtype != "auto" or settings.base_url is not None:
        return settings
    return replace(settings, dtype=_dtype_name(settings, choose_device(runtime.device)))


def _dtype_name(settings: ScorerSettings, device: torch.device) -> Dtype:
    # by the kind of device alone: asking a GPU what it can do would bar forked workers from using it
    if settings.dtype != "auto":
        return settings.dtype
    return "float32" if device.type == "cpu" else "bfloat16"


def _quantized(settings: ScorerSettings, device: torch.device) -> dict[str, Any]:
    if settings.quantization == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(
            f"quantization={settings.quantization!r} needs the package `bitsandbytes`: "
            "pip install bitsandbytes"
        )
    quantizer = BitsAndBytesConfig(**{QUANTIZERS[settings.quantization]: True})
    return {"quantization_config": quantizer, "device_map": {"": device}}
