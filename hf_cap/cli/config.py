"""Configuration of a command: dataclass default < YAML file (`--config`) < command line.

Flags are the fields of the dataclasses, `--learning_rate` and `--learning-rate` alike. A key that no
field has is refused with the nearest valid name. Imports neither torch nor transformers.
"""

import argparse
import difflib
import shlex
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from hf_cap.errors import CAPError, ConfigError
from hf_cap.utils import bundled

T = TypeVar("T")

_UNSAID: tuple[Any, ...] = (MISSING, None, "", (), [], {})
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Setting:
    """One field as the command line sees it."""

    name: str
    kind: Any
    """Type with `Optional` taken off: `str`, `int`, `float`, `bool`, `Literal`, `list`, `tuple`, `dict`."""
    item: Any
    """Type of the elements of a list or of the values of a mapping; the kind itself otherwise."""
    optional: bool
    default: Any
    help: str
    also: tuple[type, ...] = ()
    """Other types that the field takes as YAML gives them, for instance `list` beside `str`."""

    def convert(self, value: Any) -> Any:
        """A value from YAML or the command line as the field's type.

        Raises:
            ConfigError: it is not of that type, or not one of the choices.
        """
        # "none" is a word where it is the default, as in `--report_to none`
        is_null = value in ("none", "null") and self.optional and self.default != value
        if value is None or is_null:
            if self.optional:
                return None
            raise ConfigError(f"`{self.name}` needs a value.")
        if isinstance(value, self.also):
            return value
        if self.kind is dict:
            return {key: self._one(element) for key, element in self._pairs(value)}
        if self.kind in (list, tuple):
            many = value if isinstance(value, (list, tuple)) else [value]
            return self.kind(self._one(element) for element in many)
        return self._one(value)

    def _pairs(self, value: Any) -> list[tuple[str, Any]]:
        """Items of a mapping from YAML, or of `name=value` words from the command line."""
        if isinstance(value, dict):
            return [(str(key), element) for key, element in value.items()]
        words = value if isinstance(value, list) else [value]
        if not all("=" in str(word) for word in words):
            raise ConfigError(f"`{self.name}` takes pairs `name=value`, got {value!r}.")
        pairs = (str(word).partition("=") for word in words)
        return [(key, element) for key, _, element in pairs]

    def _one(self, value: Any) -> Any:
        item = self.item
        if get_origin(item) in (dict, Mapping):
            if not isinstance(value, dict):
                raise ConfigError(
                    f"`{self.name}` takes mappings such as {{name: value}}, got {value!r}. Write them into a "
                    "YAML file and give that by `--config`."
                )
            return value
        if get_origin(item) is Literal:
            by_name = {str(choice): choice for choice in get_args(item)}
            if str(value) not in by_name:
                raise ConfigError(
                    f"`{self.name}` must be one of {', '.join(map(repr, by_name))}, got {value!r}."
                )
            return by_name[str(value)]
        try:
            if item is bool:
                return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
            if item in (int, float):
                # YAML reads 1e-3 as a string; 3.0 is a fine integer, 3.5 is not
                number = float(value)
                if item is int and number != int(number):
                    raise ValueError
                return item(number) if item is float or "e" in str(value) else item(value)
            if item is str:
                if isinstance(value, bool):
                    return "yes" if value else "no"  # YAML reads these words as truth values
                return str(Path(value).expanduser()) if str(value).startswith("~/") else str(value)
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(
                f"`{self.name}` takes a value of type {item.__name__}, got {value!r}."
            ) from error
        return value


def settings_of(*classes: type) -> dict[str, Setting]:
    """The settings that some dataclasses declare, by name; of two with one name the first holds."""
    found: dict[str, Setting] = {}
    for cls in classes:
        hints = get_type_hints(cls)
        for item in fields(cls):
            learned = item.metadata.get("learned")  # from a data set: no setting
            if item.init and not learned and not item.name.startswith("_"):
                found.setdefault(item.name, _setting(item, hints[item.name]))
    return found


def _setting(item: "Field[Any]", hint: Any) -> Setting:
    optional, also = False, ()
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        optional = len(members) < len(get_args(hint))
        # `dict | str | None` and the like: what comes from the command line is the text
        hint = members[0] if len(members) == 1 else (str if str in members else members[0])
        others = {get_origin(member) or member for member in members if member is not hint}
        also = tuple(others & {bool, dict, list})
    origin = get_origin(hint)
    kind, element = hint, hint
    if origin in (list, tuple):
        kind, element = origin, get_args(hint)[0]
    elif origin in (dict, Mapping):
        kind, element = dict, get_args(hint)[1]
    default = item.default if item.default is not MISSING else MISSING
    if item.default_factory is not MISSING:
        default = item.default_factory()
    described = str(item.metadata.get("help", ""))
    return Setting(item.name, kind, element, optional, default, described, also)


def add_flags(parser: argparse.ArgumentParser, settings: Mapping[str, Setting]) -> None:
    """Declare one flag a setting. A flag that is not given leaves no trace in the namespace."""
    for setting in settings.values():
        flags = dict.fromkeys([f"--{setting.name}", f"--{setting.name.replace('_', '-')}"])
        shown = f" Default: {setting.default}." if setting.default not in _UNSAID else ""
        parser.add_argument(
            *flags,
            default=argparse.SUPPRESS,
            help=(setting.help + shown).replace("%", "%%"),
            **_shape(setting),
        )


def _shape(setting: Setting) -> dict[str, Any]:
    """How many words a flag takes, and what stands for them in the help."""
    if setting.kind is dict:
        return {"nargs": "+", "metavar": "NAME=VALUE"}
    if get_origin(setting.item) is Literal:
        metavar = "{" + ",".join(map(str, get_args(setting.item))) + "}"
    else:
        metavar = getattr(setting.item, "__name__", "value").upper()
    if setting.kind in (list, tuple):
        return {"nargs": "+", "metavar": metavar}
    if setting.item is bool:
        return {"nargs": "?", "const": True, "metavar": "{true,false}"}
    return {"metavar": metavar}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Keys and values of a configuration file: where the path leads, else `recipes/...` as installed.

    Raises:
        ConfigError: there is no such file, or it is not a flat mapping.
    """
    place = Path(path) if Path(path).exists() else bundled(str(path))
    try:
        content = yaml.safe_load(place.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file {str(path)!r}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{str(path)!r} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{str(path)!r} must hold `key: value` lines, got {type(content).__name__}."
        )
    return {str(key): value for key, value in content.items()}


def merge(settings: Mapping[str, Setting], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all layers, the later over the earlier, each converted to its field's type.

    A mapping adds its entries to those of earlier layers.

    Raises:
        ConfigError: a key that no setting has (with the nearest that exists), a value of a wrong
            type, or a setting without default that no layer gives.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key not in settings:
                raise ConfigError(unknown_key(key, settings))
            converted = settings[key].convert(value)
            if settings[key].kind is dict and isinstance(converted, dict):
                converted = {**values.get(key, {}), **converted}
            values[key] = converted
    for name, setting in settings.items():
        if setting.default is MISSING and name not in values:
            raise ConfigError(f"`{name}` is missing: {setting.help}")
    return values


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Sentence that refuses a key and names the nearest valid one."""
    near = difflib.get_close_matches(key.replace("-", "_"), list(known), n=1, cutoff=0.5)
    hint = f" Did you mean `{near[0]}`?" if near else " `--help` lists the settings."
    return f"There is no setting `{key}`.{hint}"


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """An instance of a dataclass from those of the values that are its fields.

    Raises:
        ConfigError: the class refuses a value.
    """
    names = {item.name for item in fields(cls) if item.init}  # type: ignore[arg-type]
    try:
        return cls(**{name: value for name, value in values.items() if name in names})
    except CAPError:
        raise
    except ValueError as error:  # what transformers has to say of its settings
        raise ConfigError(str(error)) from error


def unknown_flags(rest: Sequence[str]) -> list[str]:
    """Names of the flags in what argparse did not take."""
    return [word.lstrip("-").split("=")[0] for word in rest if word.startswith("--")]


def command_line() -> str:
    """The command that runs, as a shell takes it, for the record of what it makes."""
    return shlex.join(["hf-cap", *sys.argv[1:]])
