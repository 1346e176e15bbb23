"""Settings as dataclass fields whose help text is written once.

`option` declares a field; `documented` writes the `Args:` section of the class docstring from the
same text; the command line shows it in `--help`. `check_choices` and `check_range` refuse values that
cannot work. Imports nothing heavy, so that `--help` is instant.
"""

import ctypes
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import math
import operator
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from hf_cap.errors import ConfigError

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
        if get_origin(hints[item.name]) is not Literal:
            continue
        choices, value = get_args(hints[item.name]), getattr(settings, item.name)
        if value not in choices:
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


# --- Files that are either whole or absent: written beside their place, then moved into it; and their state.


def bundled(name: str) -> Path:
    """A file or folder that ships with hf_cap but is not code, such as `recipes/demo`.

    In the wheel it lies inside the package, in a checkout beside it.
    """
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.exists() else package.parent / name


def real_path(place: str | os.PathLike[str]) -> Path:
    """The place itself: absolute, with `~` and links followed."""
    return Path(place).expanduser().resolve()


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Path in the target's folder to write a file or folder to; it takes the target's place at the end.

    When the body raises, or the process dies in it, the target stays as it was. A link stays a link.
    """
    target = real_path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield room / target.name
        if target.is_dir():
            os.replace(target, room / "replaced")
        try:
            os.replace(room / target.name, target)
        except OSError:
            if (room / "replaced").exists():
                os.replace(room / "replaced", target)
            raise
    finally:
        shutil.rmtree(room, ignore_errors=True)


def refuse_loss(folder: str | os.PathLike[str], written: Iterable[str]) -> None:
    """Refuse to replace a folder that holds more than the files `written`.

    Raises:
        ConfigError: it does, or it is a file.
    """
    path = real_path(folder)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"The output {str(path)!r} is a file. Name a folder.")
    lost = sorted({file.name for file in path.iterdir()} - set(written)) if path.is_dir() else []
    if lost:
        raise ConfigError(
            f"The folder {str(path)!r} would be replaced, and with it {', '.join(map(repr, lost[:5]))}"
            f"{' and more' * (len(lost) > 5)}. Name another output folder, or move these away."
        )


def folder_stamp(folder: str | os.PathLike[str]) -> str:
    """Hash of the names, sizes and times of the files of a folder; empty where there is no such folder.

    It tells cheaply whether a model that was read from there has been written anew. Folders in it, such as
    an evaluation of the model, do not count.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        return ""
    entries = sorted((e for e in os.scandir(path) if e.is_file()), key=lambda entry: entry.name)
    files = "\0".join(f"{e.name} {e.stat().st_size} {e.stat().st_mtime_ns}" for e in entries)
    return hashlib.blake2b(os.fsencode(files), digest_size=8).hexdigest()


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically, indented, with sorted keys.

    Raises:
        ValueError: a number is not finite, which other readers cannot take; `finite` takes such out of logs.
    """
    write_text(
        target,
        json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n",
    )


def finite(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of a log as JSON can tell them: `None` for each number that is not finite."""
    return [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in line.items()
        }
        for line in lines
    ]


# --- Random draws that depend on what they are for, and on nothing else: not on order, batch or process.


def rank(*key: object) -> bytes:
    """A place in a random order, as bytes to sort by.

    Args:
        key: What is ranked: values with a stable `repr`, such as a seed, a draw number and a text.
    """
    return hashlib.sha256(repr(key).encode()).digest()


def generator(*key: object) -> np.random.Generator:
    """A generator whose draws depend only on `key`; see `rank`."""
    return np.random.default_rng(int.from_bytes(rank(*key)[:8]))


def text_seed(seed: int, text: str) -> int:
    """A seed in [0, 2**32) from the user's seed and the text."""
    return int.from_bytes(rank(seed, text)[:4])


# --- Objects that a user names on the command line.


def load_object(place: str) -> Any:
    """Import what `module:name` names; the module may be a file in the current folder.

    Raises:
        ConfigError: the module cannot be imported, or has nothing of this name.
    """
    module, _, name = place.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{place!r} cannot be loaded as `module:name`: {error}.") from error


# --- Versions of the software that made a result.


MADE_WITH = ("hf-cap", "torch", "transformers", "datasets")


def versions(names: Iterable[str] = MADE_WITH) -> dict[str, str | None]:
    """Distribution name to installed version; `None` where it is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- What the C library does with freed memory: large tensors on a CPU come and go.


_THRESHOLDS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 128 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**30),
}
"""Variables of glibc, each with the number of the same parameter of `mallopt`, and its value in bytes."""


def keep_freed_memory() -> None:
    """Let this process and its children keep the memory of freed tensors for the next ones.

    glibc gives freed blocks of some size back to the system, so that every pass of a model has its memory
    mapped and zeroed anew, page by page (docs/scoring.md has what that costs). Kept are at most 1 GiB and
    no block over 128 MiB.

    Where the user has settings for malloc, or the C library is not glibc, nothing changes. This holds for
    the whole process; so command lines call it, and functions of the package do not.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, (parameter, size) in _THRESHOLDS.items():
        mallopt(parameter, size)
        os.environ[name] = str(size)
