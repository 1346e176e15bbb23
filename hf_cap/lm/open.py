"""Whatever names or holds a language model, opened; once per process."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from hf_cap.embedded import resolve_model
from hf_cap.errors import ConfigError
from hf_cap.lm.base import LanguageModel, LMRuntime, LMSettings, current_runtime
from hf_cap.lm.cache import AnswerStore, CachedLanguageModel
from hf_cap.utils import folder_stamp

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextGenerationPipeline

ModelLike: TypeAlias = Union[
    str,
    Path,
    LMSettings,
    LanguageModel,
    "tuple[PreTrainedModel, PreTrainedTokenizerBase]",
    "TextGenerationPipeline",
]
"""A Hub id, folder, .gguf file or embedded name, all settings, a loaded model and its tokenizer, a loaded
`pipeline("text-generation")`, or an opened language model."""


def open_language_model(model: ModelLike, runtime: LMRuntime | None = None) -> LanguageModel:
    """The language model; equal settings give the same object within a process.

    A model that was written anew into its folder is opened anew. An opened one is returned as it is.

    Args:
        model: What names or holds it.
        runtime: Device, budget, store and so on; default: what `using_runtime` set, else the defaults.

    Raises:
        ConfigError: `model` is of another kind, or the store cannot be used.
        ModelError: the model cannot be loaded.
        ServerError: the server cannot be reached, or does not serve the model.
        MissingExtra: a package that the settings need is not installed.
    """
    runtime = runtime or current_runtime()
    known = settings_or_model(model, runtime)
    if isinstance(known, LanguageModel):
        return known
    return _open(known, runtime, model_stamp(known))


def settings_or_model(model: ModelLike, runtime: LMRuntime) -> LMSettings | LanguageModel:
    """Settings with their number format, or a language model for what holds one; else a `ConfigError`."""
    if isinstance(model, LanguageModel):
        return model
    if isinstance(model, str | Path):
        model = LMSettings(model=str(model))
    if isinstance(model, LMSettings):
        from hf_cap.lm.local import resolve_dtype  # imports torch

        return resolve_dtype(model, runtime)
    held: Any = model
    if getattr(held, "task", None) == "text-generation":
        held = (held.model, held.tokenizer)
    if not isinstance(held, tuple) or len(held) != 2:
        raise ConfigError(
            "A language model is a Hub id, a folder, a .gguf file, LMSettings, a pair of a loaded model and "
            "its tokenizer, a loaded transformers.pipeline('text-generation') or a LanguageModel; got "
            f"{type(model).__name__}."
        )
    from hf_cap.lm.local import LocalLanguageModel

    return _stored(LocalLanguageModel(*held, runtime=runtime), runtime)


def model_stamp(model: LMSettings | LanguageModel) -> str:
    """Changes when the folder or file that settings name is written anew; else empty."""
    if not isinstance(model, LMSettings):
        return ""
    file = Path(model.model).expanduser()
    if file.is_file():
        return f"{file.stat().st_size} {file.stat().st_mtime_ns}"
    return folder_stamp(file)


@lru_cache(maxsize=1)
def _open(settings: LMSettings, runtime: LMRuntime, stamp: str) -> LanguageModel:
    # imported here: the command line reads settings without paying for torch
    check_language_model(settings, runtime)  # before the model is loaded
    if settings.base_url is not None:
        from hf_cap.lm.served import ServedLanguageModel

        return _stored(ServedLanguageModel(settings, runtime), runtime)
    from hf_cap.lm.local import load_local

    return _stored(load_local(settings, runtime), runtime)


def check_language_model(model: ModelLike, runtime: LMRuntime | None = None) -> None:
    """Raise `ConfigError` or `ModelError` for a store, device or embedded name that cannot be used."""
    runtime = runtime or current_runtime()
    if runtime.store_path:
        AnswerStore(runtime.store_path).get(())
    name = model.model if isinstance(model, LMSettings) else model
    if isinstance(name, str | Path) and getattr(model, "base_url", None) is None:
        from hf_cap.lm.local import choose_device

        choose_device(runtime.device)
        resolve_model(str(name))


def _stored(model: LanguageModel, runtime: LMRuntime) -> LanguageModel:
    path = runtime.store_path
    return model if path is None else CachedLanguageModel(model, path)
