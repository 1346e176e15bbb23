"""The settings of a command: default < YAML files (`--config`, later ones win) < flags.

A command is a module with `SETTINGS`, the dataclasses whose fields are its flags: a class alone gives
`--name`, a `Group` gives `--group.name`. tyro converts the words and writes help and completion.
"""

import argparse
import contextlib
import difflib
import io
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

import yaml

from hf_cap.cli.values import is_mapping, is_optional, registry
from hf_cap.errors import CAPError, ConfigError
from hf_cap.utils import bundled, option

T = TypeVar("T")
Values = dict[str, Any]
"""Name of a setting, such as `cap.n`, to its value; only those that were given."""


class Group:
    """Settings under a common prefix, `--name.setting`: all fields with a help text.

    Args:
        name: The prefix.
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

    def as_class(self) -> type:
        """A dataclass of these settings alone, which checks nothing."""
        found = []
        for name, (kind, item) in self.settings.items():
            same: Any = field(
                default=item.default, default_factory=item.default_factory, metadata=item.metadata
            )
            found.append((name, kind, same))
        return make_dataclass("Settings", found, kw_only=True, namespace={"__doc__": self.doc})


@dataclass
class Common:
    """Settings of every command."""

    config: str | None = option(None, "YAML file of settings; may be given again, later ones win.")
    quiet: bool = option(False, "Print no progress, only results and warnings; short: -q.")
    json: bool = option(False, "Print the result as JSON.")


class Result(NamedTuple):
    """What a command found out: facts for `--json`, and the text that people read."""

    facts: Mapping[str, Any]
    text: str | None = None

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        shown = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in self.facts.items()}
        return "\n".join(f"{k}: {v}" for k, v in shown.items() if isinstance(v, str | int))


def parse(name: str, module: ModuleType, argv: Sequence[str]) -> Values | None:
    """The settings that were given to a command; `None` where help was asked for, and is printed.

    Raises:
        ConfigError: an unknown name, a value that does not fit, or one that is missing.
    """
    groups = _groups(module)
    leaves = {f"{g.start}{key}": leaf for g in groups for key, leaf in g.settings.items()}
    words, flags = _read_words(argv)
    if any(flag == "help" for flag, _ in flags):
        _print_help(name, module, groups)
        return None
    if words and not hasattr(module, "POSITIONAL"):
        stray = " ".join(words)
        raise ConfigError(f"Cannot make sense of {stray!r}; settings are `--name value`.")
    files = [file for flag, found in flags if flag == "config" for file in found]
    starts = [*leaves, getattr(module, "MORE", "")]
    layers = [(*pair, file) for file in files for pair in _flat(read_yaml(file), starts)]
    layers += [(module.POSITIONAL, words, "")] if words else []
    layers += [(flag, value, "") for flag, value in flags if flag != "config"]
    given, origin = _merged(layers, leaves)
    more = _training_arguments(module, leaves, given, origin)
    for key, (_, item) in leaves.items():
        if item.default is item.default_factory is MISSING and key not in given:
            raise ConfigError(f"`--{key}` is missing; `hf-cap {name} --help` says what it is.")
    ours = {key: value for key, value in given.items() if key in leaves}
    return {**_converted(groups, ours, origin), **more}


def build(cls: type[T], values: Mapping[str, Any], group: str = "", **fixed: Any) -> T:
    """An instance of a dataclass from those values of a group that are its fields.

    Raises:
        ConfigError: the class does not accept a value.
    """
    names = [item.name for item in fields(cls) if item.init]  # type: ignore[arg-type]
    found = {key: value for key, value in group_of(values, group).items() if key in names}
    try:
        return cls(**{**found, **fixed})
    except CAPError:
        raise
    except ValueError as error:  # what transformers has to say of its settings
        raise ConfigError(f"{error}") from error


def group_of(values: Mapping[str, Any], group: str) -> Values:
    """The values of a group, without its prefix."""
    start = f"{group}." if group else ""
    return {key.removeprefix(start): v for key, v in values.items() if key.startswith(start)}


def command_line() -> str:
    """The command that runs, as a shell takes it, for the record of what it makes."""
    return shlex.join(["hf-cap", *sys.argv[1:]])


def refuse_unknown(
    names: Iterable[str], known: Iterable[str], origin: Mapping[str, str], kind: str = "setting"
) -> None:
    """Check that all names are known.

    Raises:
        ConfigError: one is not; the message has the nearest that is, and the file it stands in.
    """
    known = list(known)
    for name in names:
        if name not in known:
            same = [each for each in known if each.rpartition(".")[2] == name]
            near = same or difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
            place = f" (in {origin[name]!r})" if origin.get(name) else ""
            hint = f"Did you mean `{near[0]}`?" if near else f"`--help` lists the {kind}s."
            raise ConfigError(f"There is no {kind} `{name}`{place}. {hint}")


class _TextLoader(yaml.BaseLoader):
    """Leaves scalars as they are written: `on`, `01` and `1e-3` mean what the field's type says."""


_NULL = "tag:yaml.org,2002:null"
_TextLoader.add_implicit_resolver(_NULL, re.compile(r"^(~|null|)$"), ["~", "n", ""])
_TextLoader.add_constructor(_NULL, lambda loader, node: None)


def read_yaml(file: str, loader: Any = _TextLoader) -> Values:
    """The mapping in a YAML file, its scalars as text; `recipes/...` is also found where installed.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    place = Path(file).expanduser()
    try:
        text = (place if place.exists() else bundled(file)).read_text(encoding="utf-8")
        content = yaml.load(text, loader)
    except OSError as error:
        raise ConfigError(f"Cannot read the settings in {file!r}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file!r} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{file!r} must hold `name: value` lines.")
    return content or {}


def _groups(module: ModuleType) -> list[Group]:
    flat = [each for each in module.SETTINGS if not isinstance(each, Group)]
    return [Group("", *flat, Common), *(g for g in module.SETTINGS if isinstance(g, Group))]


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


def _flat(content: Values, leaves: Iterable[str], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested groups as dotted names: `cap: {n: 3}` is `cap.n: 3`."""
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        is_group = isinstance(value, dict) and any(leaf.startswith(f"{name}.") for leaf in leaves)
        found += _flat(value, leaves, f"{name}.") if is_group else [(name, value)]
    return found


def _merged(
    layers: Iterable[tuple[str, Any, str]], leaves: Mapping[str, tuple[Any, Any]]
) -> tuple[Values, dict[str, str]]:
    """The words of each setting, later layers over earlier ones, and the file that they come from."""
    given: Values = {}
    origin: dict[str, str] = {}
    for key, value, file in layers:
        if key in leaves:
            kind = leaves[key][0]
            words = _as_words(key, value, kind, file)
            value = [*given.get(key, []), *words] if is_mapping(kind) else words
        given[key], origin[key] = value, file
    return given, origin


def _as_words(name: str, value: Any, kind: Any, file: str) -> list[str]:
    """A value from YAML as the words that say it on the command line."""
    if value is None and is_optional(kind):
        return ["none"]
    if isinstance(value, dict) and is_mapping(kind):
        return [f"{key}={each}" for key, each in value.items()]
    words = value if isinstance(value, list) else [value]
    if any(not isinstance(word, str) for word in words):
        shown = "empty" if value is None else repr(value)
        raise ConfigError(f"`{name}` (in {file!r}) cannot be {shown}.")
    return words


def _converted(groups: Sequence[Group], given: Values, origin: Mapping[str, str]) -> Values:
    """The words of each setting as a value of its type."""
    import tyro

    words = []
    for key, value in given.items():
        words += [f"--{key}={value[0]}"] if len(value) == 1 else [f"--{key}", *value]
    screen = io.StringIO()
    try:
        with contextlib.redirect_stderr(screen), contextlib.redirect_stdout(io.StringIO()):
            settings = tyro.cli(_whole_class(groups), args=words, **_options("hf-cap"))
    except SystemExit as error:
        message = _sentence(screen.getvalue())
        files = {origin[name] for name in re.findall(r"--([\w.]+\w)", message) if origin.get(name)}
        raise ConfigError(message + "".join(f" (In {file!r}.)" for file in files)) from error
    parts = zip(groups, vars(settings).values(), strict=True)
    values = {f"{g.start}{key}": v for g, part in parts for key, v in vars(part).items()}
    return {key: values[key] for key in given}


def _whole_class(groups: Sequence[Group]) -> Any:
    """One dataclass that holds the groups, of which the first has no prefix."""
    import tyro

    flat: Any = groups[0].as_class()
    first = ("settings", Annotated[flat, tyro.conf.arg(name="")])
    named: list[Any] = [(group.name, group.as_class()) for group in groups[1:]]
    return make_dataclass("Settings", [first, *named], kw_only=True)


def _sentence(box: str) -> str:
    """The message in a box that tyro drew: its part between the first two rules."""
    lines = [re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯]", "", line).strip() for line in box.splitlines()]
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"[-─].*[-─]", line)]
    body = lines[rules[0] + 1 : rules[1]] if len(rules) > 1 else lines
    sentence = " ".join(" ".join(body).split()).rstrip(".") + "."
    sentence = re.sub(r"^Error parsing (--[\w.]+): (takes)", r"`\1` \2", sentence)
    return sentence[0].upper() + sentence[1:]


def _training_arguments(
    module: ModuleType, leaves: Mapping[str, Any], given: Values, origin: Mapping[str, str]
) -> Values:
    """The given settings of `transformers.TrainingArguments`, whose prefix a command names in `MORE`."""
    others = {key: value for key, value in given.items() if key not in leaves}
    if not others:
        return {}
    if not hasattr(module, "MORE"):
        refuse_unknown(others, leaves, origin)
    from transformers import HfArgumentParser, TrainingArguments

    known = [f"{module.MORE}{item.name}" for item in fields(TrainingArguments) if item.init]
    refuse_unknown(others, [*leaves, *known], origin)
    found, words = {}, []
    for key, value in others.items():
        if origin[key] and not isinstance(value, str):  # the parser has no words for these
            typed = read_yaml(origin[key], yaml.SafeLoader)
            found[key] = dict(_flat(typed, [*leaves, *others]))[key]
        else:
            said = [value] if origin[key] else value or ["true"]
            words += [f"--{key.removeprefix(module.MORE)}", *said]
    reader = HfArgumentParser(TrainingArguments, allow_abbrev=False, exit_on_error=False)  # type: ignore[arg-type]
    try:
        read, rest = reader.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}.") from error
    if rest:
        raise ConfigError(f"Cannot make sense of {' '.join(rest)!r}; settings are `--name value`.")
    return {k: found.get(k, getattr(read, k.removeprefix(module.MORE))) for k in others}


def _print_help(name: str, module: ModuleType, groups: Sequence[Group]) -> None:
    import tyro

    about = f"{(module.__doc__ or '').strip()}\n\nExample: hf-cap {name} {module.EXAMPLE}"
    if hasattr(module, "MORE"):
        about += f"\n\nAll settings of transformers.TrainingArguments are accepted as --{module.MORE}NAME."
    with contextlib.suppress(SystemExit):
        shown = _options(f"hf-cap {name}")
        tyro.cli(_whole_class(groups), args=["--help"], description=about, **shown)


def print_completion(modules: Mapping[str, ModuleType], shell: str) -> None:
    """Print a script that completes commands and flags in a shell (bash, zsh, fish, tcsh)."""
    import tyro

    with contextlib.suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(
            {name: _whole_class(_groups(module)) for name, module in modules.items()},
            args=["--tyro-write-completion", shell, "-"],
            **_options("hf-cap"),
        )


def _options(program: str) -> dict[str, Any]:
    import tyro

    conf = (tyro.conf.FlagConversionOff,)
    return {"prog": program, "use_underscores": True, "config": conf, "registry": registry()}
