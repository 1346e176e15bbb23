"""From settings to an opened language model, as a scorer or as a chat model; once a process."""

from functools import lru_cache

from hf_cap.lm.base import Scorer, ScorerRuntime, ScorerSettings, current_runtime
from hf_cap.lm.chat import Chat, StoredChat
from hf_cap.utils import folder_stamp


def open_scorer(settings: ScorerSettings, runtime: ScorerRuntime | None = None) -> Scorer:
    """The scorer that `settings` describe; equal settings give the same object within a process.

    A model that was written anew into its folder is opened anew.

    Args:
        settings: Which model.
        runtime: Device, budget, store and so on; default: what `using_runtime` set, else the defaults.

    Raises:
        ModelError: the model cannot be loaded, or cannot score.
        ServerError: the server cannot be reached, or gives no prompt log-probabilities.
        MissingExtra: a package that the settings need is not installed.
    """
    return _open(settings, runtime or current_runtime(), folder_stamp(settings.model))


def open_chat(settings: ScorerSettings, runtime: ScorerRuntime | None = None) -> Chat:
    """The same language model as one that answers in words.

    Args:
        settings: Which model.
        runtime: Device, store and so on; default: what `using_runtime` set, else the defaults.

    Raises:
        ModelError: the model cannot be loaded, or has no chat template.
        MissingExtra: a package that the settings need is not installed.
    """
    return _open_chat(settings, runtime or current_runtime(), folder_stamp(settings.model))


@lru_cache(maxsize=1)
def _open(settings: ScorerSettings, runtime: ScorerRuntime, stamp: str) -> Scorer:
    # imported here: the command line reads settings without paying for torch
    from hf_cap.lm.cache import StoredScorer
    from hf_cap.lm.local import load_scorer
    from hf_cap.lm.served import open_served

    scorer = open_served(settings, runtime) if settings.base_url else load_scorer(settings, runtime)
    path = runtime.store_path
    return scorer if path is None else StoredScorer(scorer, path)


@lru_cache(maxsize=1)
def _open_chat(settings: ScorerSettings, runtime: ScorerRuntime, stamp: str) -> Chat:
    from hf_cap.lm.served import Connection, LocalChat, ServedChat

    chat: Chat = (
        ServedChat(Connection(settings.base_url, runtime), settings.model)
        if settings.base_url
        else LocalChat(settings, runtime)
    )
    path = runtime.store_path
    return chat if path is None else StoredChat(chat, path)
