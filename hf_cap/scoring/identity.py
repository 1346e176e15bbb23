"""What tells one language model from another: the part of a score's key that is not the question."""

import hashlib

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLE = 1024


def model_identity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | None = None
) -> str:
    """Name, commit (of a Hub model), number format, and fingerprints of weights and tokenizer."""
    commit = getattr(model.config, "_commit_hash", None) or "local"
    dtype = str(model.dtype).removeprefix("torch.")
    return "|".join(
        [
            name or model.name_or_path or type(model).__name__,
            commit,
            dtype,
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
