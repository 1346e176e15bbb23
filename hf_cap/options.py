"""Settings as dataclass fields whose help text is written once.

`option` declares a field; `documented` writes the `Args:` section of the class docstring from the
same text; the command line shows it in `--help`. `check_choices` and `check_range` refuse values that
cannot work. Imports nothing heavy, so that `--help` is instant.
"""

import inspect
import operator
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .errors import ConfigError

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


def check_choices(settings: Any) -> None:
    """Refuse a value that is none of its names, in every field whose type is a `Literal`.

    Args:
        settings: A dataclass.

    Raises:
        ConfigError: it names the field, its names and the value.
    """
    hints = get_type_hints(type(settings))
    for item in fields(settings):
        choices, value = get_args(hints[item.name]), getattr(settings, item.name)
        if get_origin(hints[item.name]) is Literal and value not in choices:
            names = ", ".join(map(repr, choices))
            raise ConfigError(f"`{item.name}` must be one of {names}, got {value!r}.")


def check_range(
    settings: Any,
    *names: str,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse numbers outside a range, not-a-number too; `None`, which stands for a default, passes.

    Args:
        settings: An object with the numbers.
        names: Its attributes that must be in the range.
        at_least: Lowest number.
        above: What the numbers are more than.
        at_most: Highest number.
        below: What the numbers are less than; `math.inf` asks for finite ones.

    Raises:
        ConfigError: it names the attribute, the range and the value.
    """
    limits = [
        (holds, words, limit)
        for holds, words, limit in (
            (operator.ge, "at least", at_least),
            (operator.gt, "more than", above),
            (operator.le, "at most", at_most),
            (operator.lt, "less than", below),
        )
        if limit is not None
    ]
    wanted = " and ".join(f"{words} {limit}" for _, words, limit in limits)
    for name in names:
        value = getattr(settings, name)
        if value is not None and not all(holds(value, limit) for holds, _, limit in limits):
            raise ConfigError(f"`{name}` must be {wanted}, got {value!r}.")
