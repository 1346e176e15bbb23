"""The errors of hf_cap: `CAPError` and below it one class per cause, each also a builtin.

A message says what is wrong, what was got, and what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


class CAPError(Exception):
    """Root of the tree: `except CAPError` catches every deliberate error of hf_cap."""


class ConfigError(CAPError, ValueError):
    """A setting, or two settings together, cannot work."""


class DataError(CAPError, ValueError):
    """A data set lacks a column, a label or a text that the stage needs."""


class PriorError(CAPError, ValueError):
    """A prior is missing, malformed, or does not belong to the text beside it."""


class ModelError(CAPError, ValueError):
    """A model or tokenizer cannot serve the purpose it was given for."""


class ExtractError(CAPError, RuntimeError):
    """The language model gave no usable score."""


class AlignmentError(CAPError, RuntimeError):
    """The gradient of the alignment loss is blocked, or is not finite."""


class ServerError(CAPError, ConnectionError):
    """A server cannot be reached, refused the request, or lacks a needed ability."""


class MissingExtra(CAPError, ImportError):
    """An optional part of hf_cap is not installed; the message names the extra."""


def import_extra(extra: str, needs: str, *modules: str) -> Any:
    """Import the modules of an optional part and return the first, or raise `MissingExtra`."""
    try:
        first, *_ = map(import_module, modules or (extra,))
    except ImportError as error:
        told = f"{needs} the extra `{extra}`: pip install 'hf-cap[{extra}]'."
        raise MissingExtra(told) from error
    return first


@contextmanager
def as_config_errors() -> Iterator[None]:
    """Raise what transformers has to say of its settings as `ConfigError`."""
    try:
        yield
    except CAPError:
        raise
    except (ValueError, ImportError) as error:
        raise ConfigError(f"The settings cannot be used: {' '.join(str(error).split())}") from error
