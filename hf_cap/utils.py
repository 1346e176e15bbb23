"""What several rooms share: settings, files, seeds, batches. Imports nothing heavy."""

import ast
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import operator
import os
import platform
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, field, fields
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, dataclass_transform, get_args, get_origin

import regex
import yaml

from hf_cap.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
Place: TypeAlias = str | os.PathLike[str]  # of a file or folder


# --- Settings: dataclass fields whose help text is written once.


def option(default: Any = MISSING, help: str = "", *, factory: Any = MISSING, **checks: Any) -> Any:
    """A dataclass field with a help text; `factory` makes the default where it is mutable.

    `checks` are those of `check_settings`: limits of `check_range`, and `check`, a function of the value.
    """
    return field(default=default, default_factory=factory, metadata={"help": help, **checks})


def required(help: str) -> Any:
    """A dataclass field that has a help text and no default."""
    return option(MISSING, help)


def documented(cls: type[T]) -> type[T]:
    """Append one `Args:` entry per field that the class itself declares to its docstring."""
    own = [item for item in fields(cls) if item.name in inspect.get_annotations(cls)]  # type: ignore[arg-type]
    lines = [f"    {item.name}: {help}" for item in own if (help := item.metadata.get("help"))]
    cls.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "Args:", *lines])
    return cls


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def settings_class(cls: type[T]) -> type[T]:
    """A frozen dataclass of options, given by name, that is documented and checked when it is made.

    A class with a `__post_init__` calls `check_settings` there.
    """
    if not hasattr(cls, "__post_init__"):
        cls.__post_init__ = check_settings  # type: ignore[attr-defined]
    return documented(dataclass(frozen=True, kw_only=True)(cls))


def choose(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of a table of some kind, or a `ConfigError` that lists the names in it."""
    if name not in table:
        raise ConfigError(f"There is no {what} {name!r}; there are {sorted(table)}.")
    return table[name]


def check_settings(settings: Any) -> None:
    """Raise `ConfigError` if an option of a dataclass has a value that it cannot have."""
    check_choices(settings)
    for item in fields(settings):
        if limits := {kind: item.metadata[kind] for kind in _LIMITS if kind in item.metadata}:
            check_range(settings, item.name, **limits)
        if check := item.metadata.get("check"):
            check(getattr(settings, item.name))


def check_choices(settings: Any) -> None:
    """Raise `ConfigError` if a field of a dataclass whose type is a `Literal` has another value."""
    for item in fields(settings):
        if get_origin(item.type) is not Literal:
            continue  # it may have no value yet
        value, choices = getattr(settings, item.name), get_args(item.type)
        if value not in choices:
            names = ", ".join(map(repr, choices))
            raise ConfigError(f"`{item.name}` must be one of {names}, got {value!r}.")


_LIMITS = {
    "at_least": ("at least", operator.ge),
    "above": ("more than", operator.gt),
    "at_most": ("at most", operator.le),
    "below": ("less than", operator.lt),
}


def check_range(settings: Any, *names: str, **limits: float) -> None:
    """Raise `ConfigError` if one of the attributes `names` is out of range; `None` is in it.

    The limits are `at_least`, `above`, `at_most` and `below`; `below=math.inf` asks for finite numbers.
    """
    checks = [(*_LIMITS[kind], limit) for kind, limit in limits.items()]
    wanted = " and ".join(f"{words} {limit}" for words, _, limit in checks)
    for name in names:
        value = getattr(settings, name)
        if value is not None and not all(holds(value, limit) for _, holds, limit in checks):
            raise ConfigError(f"`{name}` must be {wanted}, got {value!r}.")


def lazy_exports(
    package: str, file: str
) -> tuple[dict[str, str], Callable[[str], Any], Callable[[], list[str]]]:
    """Name to module, `__getattr__` and `__dir__` of a package whose names are imported on first use.

    They are what its `file` imports for type checkers, each as `from module import name as name`.
    """
    lines = [o for o in ast.walk(ast.parse(Path(file).read_bytes())) if isinstance(o, ast.ImportFrom)]
    modules = {one.name: str(line.module) for line in lines for one in line.names if one.asname}

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if modules[name] == package:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(modules[name]), name)

    return modules, find, lambda: sorted(modules)


def load_object(place: str) -> Any:
    """Import `module:name`, also from the current folder, or raise `ConfigError`."""
    module, _, name = place.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{place!r} cannot be loaded as `module:name`: {error}.") from error


def versions(
    names: Sequence[str] = ("hf-cap", "torch", "transformers", "datasets", "icu4py"),
) -> dict[str, str | None]:
    """Distribution name to installed version; `None` where it is not installed."""
    found: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# --- Texts of others: labels, words, file names, answers of servers.

# not the joiners and breaks inside words of Persian, Hindi, Khmer and emoji, nor the tags of flags
_STEERING = regex.compile(
    r"(?!(?<=\U0001f3f4[\U000e0020-\U000e007e]{0,6})[\U000e0020-\U000e007f])"
    r"[[\p{C}\p{Zl}\p{Zp}]--[\p{Prepended_Concatenation_Mark}\u200b-\u200d]]",
    regex.VERSION1,
)


def printable(text: str) -> str:
    """The text with U+FFFD for what steers a terminal, breaks a line or turns the reading direction."""
    return str(_STEERING.sub("\ufffd", text))


# --- Files, which are either whole or absent.

_CLOCK_SECONDS = 2.0  # a process's beginning may be told so differently, as the clock is set


def bundled(name: str) -> Path:
    """A file or folder that ships with hf_cap: inside the wheel's package, beside it in a checkout."""
    package = Path(__file__).parent
    return package / name if (package / name).exists() else package.parent / name


def real_path(place: Place) -> Path:
    """The absolute path, with `~` and links followed."""
    return Path(place).expanduser().resolve()


# `*`, `?`, `[` and `{` are patterns where a data set is loaded from its card
_UNFIT = re.compile(r'[/\\:*?"<>|\[\]{}]|^\.|^ | $')


def file_name(name: object) -> str:
    """The name of a split, a source or a result, which becomes that of a file or folder."""
    name = str(name)
    if not name or not name.isprintable() or _UNFIT.search(name) or len(name.encode()) > 150:
        raise ConfigError(
            f"{name[:150]!r} cannot name a file or folder: give 1 to 150 bytes without any of "
            '/ \\ : * ? " < > | [ ] { }, control characters, a dot at the start or spaces at the ends.'
        )
    return name


@contextmanager
def atomic_path(target: Place) -> Iterator[Path]:
    """Path to write a file or folder to, beside the target; it replaces the target at the end.

    When the body raises, or the process dies in it, the target stays as it was. Parent folders that are
    missing are made, and go again with an error. A link stays a link. What a process that died in it has
    left is cleared away by the next one.
    """
    if not (target := real_path(target)).is_dir():
        refuse_folder(target)  # or a device
    _clear_rooms(target)
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    named = {"prefix": f".{target.name} {process_mark()} ", "suffix": f"@{platform.node()}"}
    room = Path(tempfile.mkdtemp(dir=target.parent, **named))
    try:
        yield room / target.name
        if target.is_dir() and (room / target.name).exists():
            if (room / target.name).is_file():
                refuse_folder(target)
            os.replace(target, room / "replaced")
        os.replace(room / target.name, target)
    finally:
        shutil.rmtree(room, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # it holds the target
                parent.rmdir()


def _clear_rooms(target: Path) -> None:
    """Remove the rooms of processes of this machine that have died; if one died between two moves, end it."""
    form = rf"\.{re.escape(target.name)} (\d+ [\d.]+) \w+@{re.escape(platform.node())}"
    for room in target.parent.glob(f".{escape(target.name)} *"):
        if (owner := re.fullmatch(form, room.name)) and not is_running(owner[1]):
            if not target.exists() and (room / "replaced").exists():
                os.replace(room / target.name, target)
            shutil.rmtree(room, ignore_errors=True)


def process_mark() -> str:
    """The number of this process and when it began, by which others of the machine know it."""
    import psutil

    return f"{os.getpid()} {psutil.Process().create_time()}"


def is_running(mark: str) -> bool:
    """Whether the process with this mark still runs; its number may be used again."""
    import psutil

    number, began = mark.split(" ")
    try:
        process = psutil.Process(int(number))
        same = abs(process.create_time() - float(began)) < _CLOCK_SECONDS
        # a zombie was killed, and is not yet collected by its parent
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def refuse_folder(file: Place) -> None:
    """Raise `ConfigError` if a file to write is a folder or a device, which it would replace."""
    path = real_path(file)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{str(file)!r} is a folder or a device, no file. Name a file.")


def check_writable(folder: Place) -> None:
    """Raise `ConfigError` if no file can be written into a folder, or it cannot be made."""
    path = real_path(folder)
    try:
        with tempfile.TemporaryFile(dir=next(p for p in (path, *path.parents) if p.exists())) as file:
            file.write(b"0")
    except OSError as error:
        raise ConfigError(
            f"Nothing can be written to {str(path)!r}: {error.strerror}. Name another output folder."
        ) from error


def check_recordable(settings: Mapping[str, Any], default: Callable[[Any], Any] | None = None) -> None:
    """Raise `ConfigError` for a setting that a record in strict JSON cannot hold.

    Such are nan, infinity, bytes that are no UTF-8 and, without the `default` of `json.dumps`, objects.
    """
    for name, value in settings.items():
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False, default=default).encode()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"`{name}` cannot be recorded, since it has bytes that are no UTF-8, a number that is not "
                f"finite or an object; got {value!r}."
            ) from error


def refuse_loss(folder: Place, written: Iterable[str]) -> None:
    """Raise `ConfigError` if a folder to replace is a file, read-only, or holds more than `written`."""
    path = real_path(folder)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"The output {str(path)!r} is a file. Name a folder.")
    check_writable(path.parent)
    lost = sorted({file.name for file in path.iterdir()} - set(written)) if path.is_dir() else []
    if lost:
        names = ", ".join(map(repr, lost[:5])) + " and more" * (len(lost) > 5)
        raise ConfigError(
            f"The folder {str(path)!r} would be replaced, and with it {names}. Name another output "
            "folder, or move these away."
        )


def folder_stamp(folder: Place) -> str:
    """Fingerprint of the names, sizes and times of a folder's own files; empty without a folder."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        return ""
    files = ((os.fsencode(e.name), e.stat()) for e in os.scandir(path) if e.is_file())
    return fingerprint(*sorted(f"{name!r} {s.st_size} {s.st_mtime_ns}" for name, s in files))


def write_text(target: Place, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: Place, value: Any) -> None:
    """Write JSON atomically, with sorted keys; a number that is not finite is a `ValueError`."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_text(target, text + "\n")


# --- YAML, always read by version 1.2: `on`, `12:30` and `2024-01-01` are texts.


class _CoreLoader(yaml.BaseLoader):
    """Converts scalars by the core schema; its base leaves them texts."""

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        return _CORE[node.tag][1](text) if node.tag in _CORE else text


_CORE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", lambda word: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda word: word.lower() == "true"),
    "int": (r"[-+]?[0-9]+", int),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda word: float(word.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
}
for _name, (_pattern, _) in _CORE.items():
    _CoreLoader.add_implicit_resolver(_name, re.compile(rf"(?:{_pattern})\Z"), None)


def parse_yaml(text: str | bytes, what: str, *, typed: bool = False) -> Any:
    """Read YAML, or `ConfigError` that names `what` where a name occurs twice or aliases grow too large.

    Scalars stay the texts that were written, or `typed` become numbers, truth values and `None`.
    """
    try:
        loader = (_CoreLoader if typed else yaml.BaseLoader)(text)
        node = loader.get_single_node()
        _check_nodes([node] if node else [], most=1_000_000 + 10 * len(text))
        return loader.construct_document(node) if node else None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{what} is not valid YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise ConfigError(f"{what} is nested too deeply for YAML.") from error


_TAGS = {*_CORE, *(f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str"))}


def _check_nodes(nodes: list[Any], most: int) -> None:
    while nodes:
        node = nodes.pop()
        most -= 1
        if node.tag not in _TAGS:
            raise ValueError(f"the tag {node.tag!r} is not supported; leave it out")
        if isinstance(node, yaml.MappingNode):
            names = Counter(name.value for name, _ in node.value if isinstance(name.value, str))
            if twice := [name for name, count in names.items() if count > 1]:
                raise ValueError(f"the name {twice[0]!r} occurs twice below line {node.start_mark.line + 1}")
            nodes += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
        else:
            most -= len(node.value)
        if most < 0:
            raise ValueError("its aliases make it too large")


def read_yaml(file: Place, *, typed: bool = False) -> Any:
    """The content of a YAML (or JSON) file, as `parse_yaml` reads it."""
    try:
        text = Path(file).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read {str(file)!r}: {error.strerror}.") from error
    return parse_yaml(text, repr(str(file)), typed=typed)


def read_json(file: Path, shape: Any = dict) -> dict[str, Any]:
    """The object in a JSON file; `DataError` where there is none, or it has another shape.

    A shape is a type, `[shape of the items]` or `{name: shape of the entry}`, where "*" is any name and a "?"
    at its end lets null and a missing entry pass.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Cannot read {str(file)!r}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(file)!r} is not valid JSON: {error}. Write it again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{str(file)!r} must hold a JSON object, got {type(content).__name__}.")
    if problem := _misfit(content, shape):
        raise DataError(f"{str(file)!r} is damaged: {problem}. Write it again, or remove it.")
    return content


def _misfit(value: Any, shape: Any, place: str = "") -> str:
    """Where a value from JSON has not the shape that is expected, and what is there; empty if it has."""
    where = place.lstrip(".") or "the whole"
    if isinstance(shape, list) and isinstance(value, list):
        found = (_misfit(one, shape[0], f"{place}[{at}]") for at, one in enumerate(value))
        return next(filter(None, found), "")
    if isinstance(shape, dict) and isinstance(value, dict):
        pairs = {key: kind for key, kind in shape.items() if key != "*"}
        pairs |= {f"{key}": shape["*"] for key in value if "*" in shape}
        for key, kind in pairs.items():
            name = key.removesuffix("?") if key in shape else key
            if name != key and value.get(name) is None:
                continue
            if name not in value:
                return f"{where} lacks {name!r}"
            if problem := _misfit(value[name], kind, f"{place}.{name}"):
                return problem
        return ""
    kinds = shape if isinstance(shape, type | tuple) else type(shape)
    if isinstance(value, kinds) and not (isinstance(value, bool) and kinds is not bool):
        return ""
    return f"{where} is {type(value).__name__} {str(value)[:40]!r}"


# --- Draws that depend on their key alone, not on order, batch or process, and batches.


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


def subsample(rows: Sequence[T], most: int) -> list[T]:
    """At most `most` of the rows, evenly spread, in their order; data may be sorted by label."""
    count = min(most, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


def length_batches(lengths: Sequence[int], tokens: int, texts: int | None = None) -> Iterator[list[int]]:
    """Indices in batches of about equal length, at most `tokens` (padding included) and `texts` each.

    A longer item is a batch of its own. A batch that fills a quarter of its tokens is efficient
    already: no longer item joins it, for which all the others would be padded.
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
