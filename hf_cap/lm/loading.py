"""Loads the transformers model that settings name, and fingerprints what is loaded."""

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_cap.embedded import require_gguf, resolve_model
from hf_cap.errors import ConfigError, MissingExtra, ModelError
from hf_cap.lm.base import Dtype, LMRuntime, LMSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZERS = {"4bit": "load_in_4bit", "8bit": "load_in_8bit"}
_SAMPLE = 1024


def load_language_model(
    settings: LMSettings, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of `settings` on `device`, and its tokenizer.

    Raises:
        ModelError: there is no such model, or it is not a causal language model.
        MissingExtra: `bitsandbytes` or `gguf` is needed and not installed.
    """
    dtype = DTYPES[_dtype_name(settings, device)]
    where = _where(settings)
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=dtype, **_quantized(settings, device)
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The language model {settings.model!r} cannot be loaded as a decoder-only model: {error}"
        ) from error
    if settings.quantization == "none":
        torch.nn.Module.to(model, device)
    return model, tokenizer


def load_tokenizer(settings: LMSettings) -> PreTrainedTokenizerBase:
    """The tokenizer of `settings`.

    Raises:
        OSError, ValueError: there is none.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**_where(settings))
    return tokenizer


def _where(settings: LMSettings) -> dict[str, Any]:
    """What `from_pretrained` is given to find the files."""
    common = {
        "revision": settings.revision,
        "trust_remote_code": settings.trust_remote_code,
    }
    if not settings.model.endswith(".gguf"):
        return {"pretrained_model_name_or_path": resolve_model(settings.model), **common}
    file = Path(settings.model).expanduser()
    if not file.is_file():
        raise ModelError(f"There is no file {settings.model!r}.")
    require_gguf()
    return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, **common}


def _quantized(settings: LMSettings, device: torch.device) -> dict[str, Any]:
    if settings.quantization == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(
            f"quantization={settings.quantization!r} needs the package `bitsandbytes`: "
            "pip install bitsandbytes"
        )
    quantizer = BitsAndBytesConfig(**{QUANTIZERS[settings.quantization]: True})
    return {"quantization_config": quantizer, "device_map": {"": device}}


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


def resolve_dtype(settings: LMSettings, runtime: LMRuntime) -> LMSettings:
    """The settings with the number format that `auto` stands for on the device of `runtime`.

    That of a served model is up to the server.
    """
    if settings.dtype != "auto" or settings.base_url is not None:
        return settings
    return replace(settings, dtype=_dtype_name(settings, choose_device(runtime.device)))


def _dtype_name(settings: LMSettings, device: torch.device) -> Dtype:
    # by the kind of device alone: asking a GPU what it can do would bar forked workers from using it
    if settings.dtype != "auto":
        return settings.dtype
    return "float32" if device.type == "cpu" else "bfloat16"


# --- Fingerprints


def model_fingerprint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | None = None
) -> str:
    """Name, commit (of a Hub model), number format, and fingerprints of weights and tokenizer."""
    return "|".join(
        [
            name or model.name_or_path or type(model).__name__,
            getattr(model.config, "_commit_hash", None) or "local",
            str(model.dtype).removeprefix("torch."),
            weights_fingerprint(model),
            tokenizer_fingerprint(tokenizer),
        ]
    )


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Hash over every weight's name, shape, sum and a sample of its values.

    The sum sees all values and the sample many, so that any training step shows; reading the weights
    once is far quicker than hashing all their bytes, and works on any device.
    """
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    with torch.no_grad():
        for name, weight in sorted(model.state_dict().items()):
            flat = weight.detach().reshape(-1)
            if flat.device.type == "mps":  # Apple's GPUs have no double precision
                flat = flat.cpu()
            sample = flat[:: max(1, flat.numel() // _SAMPLE)].cpu().double().numpy()
            digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
            digest.update(sample.tobytes())
            digest.update(flat.sum(dtype=torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash over vocabulary and rules."""
    if tokenizer.is_fast:
        text = tokenizer.backend_tokenizer.to_str()
    else:
        text = repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
