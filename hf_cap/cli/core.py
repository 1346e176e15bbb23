"""Settings of a command: default < YAML files (`--config`, later ones win) < flags.

A command is a function with dataclasses whose fields are its flags: a class alone gives `--name`, a `Group`
`--group.name`. tyro writes help and completion from them.
"""

import contextlib
import difflib
import inspect
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from hf_cap.errors import ConfigError, as_config_errors
from hf_cap.schema import LABEL, TEXT
from hf_cap.secret_scan import without_secrets
from hf_cap.utils import Place, bundled, check_recordable, option, parse_yaml, read_yaml

T = TypeVar("T")
DATA = "Labelled data: `embedded/...`, a folder, a file, or a Hub id."


class Group:
    """Settings under a common prefix, `--name.setting`: all fields that have a help text.

    Args:
        name: The prefix; empty for none.
        classes: Dataclasses; of two fields with one name the first holds.
        without: Fields that are no settings of this group.
        only: The fields that are, if not all.
    """

    def __init__(
        self, name: str, *classes: type, without: Iterable[str] = (), only: Iterable[str] = ()
    ) -> None:
        self.name, self.start = name, f"{name}." if name else ""
        self.doc = (classes[0].__doc__ or "").strip().partition("\n")[0]
        self.settings: dict[str, tuple[Any, Field[Any]]] = {}
        for cls in classes:
            hints = get_type_hints(cls)
            for item in fields(cls):
                chosen = item.name not in {*without} and (not only or item.name in {*only})
                if item.init and item.metadata.get("help") and chosen:
                    self.settings.setdefault(item.name, (hints[item.name], item))


@dataclass
class Common:
    """Settings of every command."""

    config: str | None = option(None, "YAML file of settings; may be given again, later ones win.")
    quiet: bool = option(False, "Print no progress, only results and warnings; short: -q.")
    json: bool = option(False, "Print the result as JSON.")


@dataclass
class Columns:
    """Columns of labelled texts."""

    text_column: str = option(TEXT, "Column that holds the text.")
    label_column: str = option(LABEL, "Column that holds the label.")


class Values(dict[str, Any]):
    """Name of a setting, such as `cap.n`, to its value; only those that were given."""

    def build(self, cls: type[T], group: str = "", **more: Any) -> T:
        """An instance of a dataclass from those values of a group that are its fields, and more."""
        names = [item.name for item in fields(cls) if item.init]  # type: ignore[arg-type]
        found = {key: value for key, value in self.group(group).items() if key in names}
        with as_config_errors():
            return cls(**{**more, **found})

    def columns(self) -> dict[str, str]:
        """The names of the columns, as arguments of `load_splits`."""
        return vars(self.build(Columns))

    def group(self, group: str) -> dict[str, Any]:
        """The values of a group, without its prefix."""
        start = f"{group}." if group else ""
        return {k.removeprefix(start): v for k, v in self.items() if k.startswith(start)}


@dataclass(frozen=True)
class Result:
    """What a command found out: facts for `--json`, the text that people read, and what to do next."""

    facts: Mapping[str, Any]
    text: str | None = None
    then: str = ""

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        shown = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in self.facts.items()}
        return "\n".join(f"{k}: {v}" for k, v in shown.items() if isinstance(v, str | int))


@dataclass
class Command:
    """A command, made of a function by `@partial(Command, example, settings)`.

    Attributes:
        example: A call of it, shown in its help.
        settings: Dataclasses that load no torch, or groups of them.
        run: Does the work; heavy imports happen inside it.
        positional: The setting that words before the first flag belong to.
        more: Prefix of the settings of `transformers.TrainingArguments`, where they are accepted.
    """

    example: str
    settings: Sequence[type | Group]
    run: Callable[[Values], Result]
    positional: str = ""
    more: str | None = None

    @property
    def groups(self) -> list[Group]:
        """The settings; the first group has no prefix."""
        flat = [each for each in self.settings if not isinstance(each, Group)]
        return [Group("", *flat, Common), *(g for g in self.settings if isinstance(g, Group))]


def parse(name: str, command: Command, argv: Sequence[str]) -> Values | None:
    """The settings that were given to a command; `None` where help was asked for, and is printed."""
    leaves = {f"{g.start}{key}": leaf for g in command.groups for key, leaf in g.settings.items()}
    leading, flags = _read_words(argv)
    if any(flag == "help" for flag, _ in flags):
        _print_help(name, command)
        return None
    if leading and not command.positional:
        raise ConfigError(f"Cannot make sense of {leading[0]!r}; settings are `--name value`.")
    given: dict[str, tuple[Any, str]] = {}
    for file in [file for flag, files in flags if flag == "config" for file in files]:
        content = _flat(read_settings(file), [*leaves, command.more or ""])
        if "config" in content:
            raise ConfigError(f"{file!r} names a `config`; give each file as a `--config` of its own.")
        given |= {key: (value, file) for key, value in content.items()}
    given |= {command.positional: (leading, "")} if leading else {}
    given |= {flag: (words, "") for flag, words in flags if flag != "config"}
    if command.more is not None and given.keys() - leaves:
        from transformers import TrainingArguments

        more = Group(command.more.rstrip("."), TrainingArguments)
        leaves = {**{f"{more.start}{key}": leaf for key, leaf in more.settings.items()}, **leaves}
    check_known(given, leaves, {key: file for key, (_, file) in given.items()})
    for key, (_, item) in leaves.items():
        if item.default is item.default_factory is MISSING and key not in given:
            raise ConfigError(f"`--{key}` is missing; `hf-cap {name} --help` says what it is.")
    values = Values()
    for key, (value, file) in given.items():
        place = f" (in {file!r})" if file else ""
        values[key] = converted(f"`--{key}`{place}", value, leaves[key][0])
    check_recordable(values | {f"argument {place + 1}": word for place, word in enumerate(argv)})
    return values


def next_command(name: str, /, *words: str, **settings: Any) -> str:
    """A command that fits what was just made, as a shell takes it; settings without a value are left out."""
    flags = [word for key, value in settings.items() if value for word in (f"--{key}", str(value))]
    return shlex.join(["hf-cap", name, *words, *flags])


def free_folder(folder: Place) -> str:
    """A folder that is not there yet: the one named, else the first of `-2`, `-3`, ... behind it."""
    names = chain([str(folder)], (f"{folder}-{number}" for number in count(2)))
    return next(name for name in names if not Path(name).exists())


def beside(folder: Place, name: str) -> str:
    """A new folder beside another one, for the next command."""
    return free_folder(Path(folder).parent / name)


def command_line() -> str:
    """The command that runs, as a shell takes it, for the record of what it makes; without secrets."""
    return without_secrets(shlex.join(["hf-cap", *sys.argv[1:]]))


def check_known(
    names: Iterable[str], known: Iterable[str], files: Mapping[str, str], kind: str = "setting"
) -> None:
    """Raise `ConfigError`, with the nearest known one and its file, for a name that is not known."""
    known = list(known)
    for name in [name for name in names if name not in known]:
        same = [each for each in known if each.rpartition(".")[2] == name]
        near = same or difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        place = f" (in {files[name]!r})" if files.get(name) else ""
        hint = f"Did you mean `{near[0]}`?" if near else f"`--help` lists the {kind}s."
        raise ConfigError(f"There is no {kind} `{name}`{place}. {hint}")


# --- Words and YAML.


def read_settings(file: str) -> dict[str, Any]:
    """The mapping in a YAML file, its scalars as text; `recipes/...` is also found where installed."""
    installed = not Path(file).expanduser().exists() and bundled(file).exists()
    content = read_yaml(bundled(file) if installed else file)
    if content and not isinstance(content, dict):
        raise ConfigError(f"{file!r} must hold `name: value` lines.")
    return content or {}


def _read_words(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The words before the first flag, and each flag with its words."""
    leading: list[str] = []
    flags: list[tuple[str, list[str]]] = []
    for word in argv:
        word = {"-h": "--help", "-q": "--quiet"}.get(word, word)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags.append((name.replace("-", "_"), [value] if equals else []))
        else:
            (flags[-1][1] if flags else leading).append(word)
    return leading, flags


def _flat(content: Any, leaves: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Nested groups as dotted names: `cap: {n: 3}` is `cap.n: 3`."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        is_group = isinstance(value, dict) and any(leaf.startswith(f"{name}.") for leaf in leaves)
        found |= _flat(value, leaves, f"{name}.") if is_group else {name: value}
    return found


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _whole(word: str) -> int:
    with contextlib.suppress(ValueError):
        return int(word)
    if (number := float(word)) != int(number):  # 1e3 is a whole number too
        raise ValueError(word)
    return int(number)


_SIMPLE: dict[Any, tuple[str, Callable[[str], Any]]] = {
    bool: ("true or false", lambda word: _BOOLEANS[word.lower()]),
    int: ("a whole number", _whole),
    float: ("a number", float),
    str: ("a text", lambda word: str(Path(word).expanduser()) if word[:2] == "~/" else word),
}


def converted(label: str, value: Any, kind: Any) -> Any:
    """The words of a flag, or a value from YAML whose scalars are text, as a value of a type."""
    words = value if isinstance(value, list) else [value]
    origin, options = get_origin(kind), get_args(kind)
    kinds = [each for each in options if each is not type(None)]
    if origin in (tuple, list):
        return origin(converted(label, [word], options[0]) for word in words)
    if origin in (dict, Mapping):
        if bad := [word for word in words if not isinstance(word, dict) and "=" not in str(word)]:
            raise ConfigError(f"{label} takes pairs name=value, got {bad[0]!r}.")
        pairs = value if isinstance(value, dict) else dict(word.split("=", 1) for word in words)
        if not isinstance(value, dict) and len(pairs) < len(words):
            raise ConfigError(f"{label} has a name twice among {[*pairs]!r}.")
        return {key: converted(label, [each], options[1]) for key, each in pairs.items()}
    if len(kinds) == len(options) - 1 == 1:
        is_none = words in (["none"], [""], ["null"])
        return None if is_none else converted(label, value, kinds[0])
    if kind is bool and not words:
        return True
    is_word = len(words) == 1 and isinstance(words[0], str)
    if kind not in _SIMPLE and origin is not Literal:
        return words[0] if is_word and str in kinds else _typed(value)
    choices = {str(each).lower() if isinstance(each, bool) else each: each for each in options}
    wanted, convert = _SIMPLE.get(kind) or (f"one of {', '.join(choices)}", choices.__getitem__)
    if is_word:
        with contextlib.suppress(ValueError, KeyError, OverflowError):
            return convert(words[0])
    raise ConfigError(f"{label} takes {wanted}, got {' '.join(map(repr, words)) or 'nothing'}.")


def _typed(value: Any) -> Any:
    """A value from YAML with scalars as YAML takes them."""
    if isinstance(value, dict):
        return {key: _typed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_typed(each) for each in value]
    return parse_yaml(value, repr(value), typed=True)


# --- Help and completion.


def _whole_class(groups: Sequence[Group]) -> Any:
    """One dataclass that holds the groups, of which the first has no prefix."""
    import tyro

    pairs = tyro.conf.arg(metavar="NAME=VALUE ...")
    whole: list[Any] = []
    for group in groups:
        own: list[Any] = []
        for name, (kind, item) in group.settings.items():
            default: Any = {"default": item.default, "default_factory": item.default_factory}
            is_mapping = get_origin(kind) in (dict, Mapping)
            kind = Annotated[kind, pairs] if is_mapping else kind
            own.append((name, kind, field(**default, metadata=item.metadata)))
        light: Any = {"kw_only": True, "eq": False, "repr": False}
        made: Any = make_dataclass(group.name or "settings", own, **light)
        made = made if group.name else Annotated[made, tyro.conf.arg(name="")]
        whole.append((group.name or "settings", made, field(metadata={"help": group.doc})))
    return make_dataclass("Settings", whole, kw_only=True)


def _print_help(name: str, command: Command) -> None:
    import tyro

    about = f"{inspect.getdoc(command.run)}\n\nExample: hf-cap {name} {command.example}"
    if command.more is not None:
        about += f"\n\nAll settings of transformers.TrainingArguments are accepted as --{command.more}NAME."
    options: Any = {"use_underscores": True, "config": (tyro.conf.FlagConversionOff,)}
    with contextlib.suppress(SystemExit):
        whole = _whole_class(command.groups)
        tyro.cli(whole, prog=f"hf-cap {name}", args=["--help"], description=about, **options)


def print_completion(commands: Mapping[str, Command], shell: str) -> None:
    """Print a script that completes commands and flags in a shell."""
    import tyro

    words = ["--tyro-write-completion", shell, "-"]
    found = {name: _whole_class(command.groups) for name, command in commands.items()}
    with contextlib.suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(found, prog="hf-cap", args=words, use_underscores=True)
