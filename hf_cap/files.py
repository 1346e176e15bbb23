"""Files that are either whole or absent: written beside their place, then moved into it; and their state."""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigError


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
