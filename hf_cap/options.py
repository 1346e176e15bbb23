"""Settings as dataclass fields whose help text is written once.

`option` declares a field; `documented` writes the `Args:` section of the class docstring from the
same text; the command line shows it in `--help`. Imports nothing heavy, so that `--help` is instant.
"""

import inspect
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, TypeVar

T = TypeVar("T")


def option(default: Any = None, help: str = "", *, factory: Callable[[], Any] | None = None) -> Any:
    """A dataclass field with a help text.

    Args:
        default: Value when nothing is given; ignored when `factory` is given.
        help: What the setting does, its unit and range. Shown in docstring and `--help`.
        factory: Makes the default where it is mutable.
    """
    if factory is not None:
        return field(default_factory=factory, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def required(help: str) -> Any:
    """A dataclass field that has a help text and no default."""
    return field(metadata={"help": help})


def documented(cls: type[T]) -> type[T]:
    """Append to the class docstring one `Args:` entry for each field that the class itself declares."""
    own = inspect.get_annotations(cls)
    lines = [
        f"    {item.name}: {item.metadata['help']}"
        for item in fields(cls)  # type: ignore[arg-type]
        if item.name in own and item.metadata.get("help")
    ]
    cls.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "Args:", *lines])
    return cls
