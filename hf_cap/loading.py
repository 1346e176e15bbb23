"""Load models so that whatever is wrong with their files is a `ModelError`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from hf_cap.errors import CAPError, ModelError

NO_LIMIT = 10**9  # tokens of an input, or of a vocabulary, that has no limit: more than any has


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Raise `ModelError` for all that libraries raise where the files of a model are missing or damaged."""
    try:
        with no_bars():
            yield
    except CAPError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        reason = kind + " ".join(str(error).split())
        raise ModelError(
            f"{what} cannot be loaded: {reason.rstrip('.')}. Download or save it again, or name another "
            "one, such as 'embedded/minilm-l6'."
        ) from error


@contextmanager
def no_bars() -> Iterator[None]:
    """Turn the bars of transformers off, of weights that are read and written, but not those of downloads."""
    from transformers.utils import logging

    hub: Any = import_module("huggingface_hub.utils")
    drawn, downloads = logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    if drawn:
        logging.disable_progress_bar()
        if downloads:
            hub.enable_progress_bars()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()
            if not downloads:
                hub.disable_progress_bars()


def check_missing(name: str, weights: Iterable[str]) -> None:
    """Raise `ModelError` for weights that would be random."""
    if missing := sorted(weights):
        raise ModelError(
            f"The model {name!r} lacks the weights {missing[:3]!r} ({len(missing)} in all), which would be "
            "random; train it, or download or save it again."
        )


def check_finite(name: str, model: Any) -> None:
    """Raise `ModelError` for weights that are nan or infinite."""
    named = model.named_parameters()
    if bad := [weight for weight, p in named if p.is_floating_point() and not p.isfinite().all()]:
        raise ModelError(
            f"The weights {bad[:3]!r} of the model {name!r} are not finite; download or save it again."
        )


def check_tokens(model: Any, texts: Iterable[Sequence[int]]) -> None:
    """Raise `ModelError` for a token that has no embedding in the model."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    rows = getattr(embeddings, "num_embeddings", NO_LIMIT)
    largest = max(map(max, filter(len, texts)), default=0)
    if largest >= rows:
        raise ModelError(
            f"The tokenizer gives the token {largest}, but the model has {rows} token embeddings; they do "
            "not belong together, so download or save both again."
        )
