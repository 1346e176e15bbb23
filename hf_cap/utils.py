"""What several rooms share: settings, files, seeds, batches. Imports nothing heavy."""

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from hf_cap.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


# --- Settings: dataclass fields whose help text is written once.


def option(default: Any = None, help: str = "", *, factory: Callable[[], Any] | None = None) -> Any:
    """A dataclass field with a help text; `factory` makes the default where it is mutable."""
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
    """Check every field of a dataclass whose type is a `Literal`.

    Raises:
        ConfigError: a value is none of the names; the message lists them.
    """
    for item in fields(settings):
        if get_origin(item.type) is not Literal:
            continue
        choices, value = get_args(item.type), getattr(settings, item.name)
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
    """Check that the attributes `names` lie in a range; `None`, which stands for a default, passes.

    Raises:
        ConfigError: a number is outside, or is not a number; `below=math.inf` asks for finite ones.
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


def lazy_exports(
    package: str, modules: Mapping[str, str], names: list[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose names are imported when they are first used.

    Args:
        package: Its `__name__`.
        modules: Public name to the module in the package that holds it.
        names: All public names; those without a module are subpackages or modules themselves.
    """

    def find(name: str) -> Any:
        if name in modules:
            return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: names


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


def versions(
    names: Iterable[str] = ("hf-cap", "torch", "transformers", "datasets"),
) -> dict[str, str | None]:
    """Distribution name to installed version; `None` where it is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


# --- Files, which are either whole or absent.


def bundled(name: str) -> Path:
    """A file or folder that ships with hf_cap: inside the wheel's package, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.exists() else package.parent / name


def real_path(place: str | os.PathLike[str]) -> Path:
    """The absolute path, with `~` and links followed."""
    return Path(place).expanduser().resolve()


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Path to write a file or folder to, beside the target; it replaces the target at the end.

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
    """Check that a folder, which is going to be replaced, holds nothing but the files `written`.

    Raises:
        ConfigError: it holds more, or it is a file.
    """
    path = real_path(folder)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"The output {str(path)!r} is a file. Name a folder.")
    lost = sorted({file.name for file in path.iterdir()} - set(written)) if path.is_dir() else []
    if lost:
        raise ConfigError(
            f"The folder {str(path)!r} would be replaced, and with it "
            f"{', '.join(map(repr, lost[:5]))}{' and more' * (len(lost) > 5)}. "
            "Name another output folder, or move these away."
        )


def folder_stamp(folder: str | os.PathLike[str]) -> str:
    """Fingerprint of the names, sizes and times of the files in a folder; empty without a folder.

    It shows cheaply whether a model has been written again. Subfolders do not count.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        return ""
    entries = sorted((e for e in os.scandir(path) if e.is_file()), key=lambda entry: entry.name)
    return fingerprint(
        *(f"{os.fsencode(e.name)!r} {e.stat().st_size} {e.stat().st_mtime_ns}" for e in entries)
    )


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically, indented, with sorted keys.

    Raises:
        ValueError: a number is not finite; `finite` replaces such numbers in logs.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_text(target, text + "\n")


def finite(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of a log with `None` for each number that is not finite, which JSON cannot hold."""
    return [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in line.items()
        }
        for line in lines
    ]


# --- Fingerprints, and random draws that depend on their key alone: not on order, batch or process.


def fingerprint(*parts: str) -> str:
    """Short hash of some strings: 16 hexadecimal digits."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=8).hexdigest()


def rank(*key: object) -> bytes:
    """A place in a random order, as bytes to sort by; `key` are values with a stable `repr`."""
    return hashlib.sha256(repr(key).encode()).digest()


def generator(*key: object) -> "np.random.Generator":
    """A generator whose draws depend only on `key`; see `rank`."""
    import numpy as np

    return np.random.default_rng(int.from_bytes(rank(*key)[:8]))


def text_seed(seed: int, text: str) -> int:
    """A seed in [0, 2**32) from the user's seed and the text."""
    return int.from_bytes(rank(seed, text)[:4])


# --- Rows.


def subsample(rows: Sequence[T], most: int) -> list[T]:
    """At most `most` of the rows, evenly spread, in their order; data may be sorted by label."""
    count = min(most, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


def length_batches(
    lengths: Sequence[int], tokens: int, texts: int | None = None
) -> Iterator[list[int]]:
    """Indices in batches of about equal length.

    A batch that fills a quarter of its budget is efficient already: no longer item joins it, for
    which all the others would be padded.

    Args:
        lengths: Length of each item.
        tokens: Most tokens of a batch, padding included; a longer item is a batch of its own.
        texts: Most items of a batch.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        longest = lengths[batch[-1]] if batch else 0
        efficient = longest < lengths[index] and 4 * len(batch) * longest >= tokens
        full = (len(batch) + 1) * lengths[index] > tokens or len(batch) == texts
        if batch and (efficient or full):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
