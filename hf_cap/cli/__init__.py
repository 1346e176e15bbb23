"""The command line: `hf-cap COMMAND --config recipe.yaml --setting value`.

Each command is a module beside this one with

- `SETTINGS`: torch-free dataclasses whose fields are its flags,
- `run(values)`: does the work; heavy imports happen inside it,
- optionally `more_settings()`: dataclasses that cost an import (shown by `--help-all`),
- optionally `POSITIONAL`: the setting that words before the first flag belong to.

Only these modules know more than one wing of the package.
"""

import argparse
import errno
import logging
import os
import sqlite3
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import takewhile
from types import ModuleType
from typing import Any, NamedTuple

from hf_cap import __version__
from hf_cap.cli.config import (
    Setting,
    add_flags,
    merge,
    read_yaml,
    settings_of,
    unknown_flags,
    unknown_key,
)
from hf_cap.errors import CAPError, ConfigError


class Command(NamedTuple):
    """Where a command lives and what it does, in one line."""

    module: str
    summary: str


COMMANDS = {
    "extract": Command("extract", "add prior columns to a labelled data set"),
    "fuse": Command("fuse", "fuse the prior columns into one prior"),
    "audit": Command("audit", "look into the priors of a data set: figures and a JSON"),
    "elicit": Command("elicit", "ask a language model for scores of a table's features"),
    "train": Command("train", "train a classifier, aligned with the prior"),
    "attack": Command("attack", "make an adversarial test set from a labelled split"),
    "evaluate": Command("evaluate", "measure a classifier: accuracy, faithfulness, alignment"),
    "report": Command("report", "one HTML page on training runs"),
    "push": Command("push", "publish a model, priors or a metric on the Hub, with a card"),
    "demo": Command("demo", "run the whole way on the embedded models and data"),
    "env": Command("env", "print versions and devices, for a bug report"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 (a full disk), 2 (a user's mistake), 130 (interrupt)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # of several processes that were launched together the first speaks for all
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    # one line a request or file is noise beside a progress bar
    for noisy in ("httpx", "httpx2", "httpcore", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return _run(arguments)
    except CAPError as error:
        print(f"hf-cap: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hf-cap: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    except (OSError, sqlite3.OperationalError) as error:
        if not _disk_is_full(error):
            raise
        print(
            f"hf-cap: The disk is full ({error}). Free some space and run the same command again; what was "
            "finished is kept.",
            file=sys.stderr,
        )
        return 1


def _disk_is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error.sqlite_errorcode == sqlite3.SQLITE_FULL


def parser() -> argparse.ArgumentParser:
    """The top-level parser: names the commands and nothing of their settings."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items())
    top = argparse.ArgumentParser(
        prog="hf-cap",
        usage="hf-cap COMMAND [--config FILE.yaml] [--setting VALUE ...]",
        description="Teach small text classifiers which words matter.",
        epilog=f"commands:\n{listing}\n\n`hf-cap COMMAND --help` shows the settings of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"hf-cap {__version__}")
    return top


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        parser().parse_args(arguments)
        parser().print_help()
        return 0 if not arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise ConfigError(unknown_key(name, COMMANDS).replace("setting", "command"))
    command = import_module(f".{COMMANDS[name].module}", __name__)
    values = parse_command(name, command, rest)
    if values is None:
        return 0
    command.run(values)
    return 0


def parse_command(
    name: str, command: ModuleType, arguments: Sequence[str]
) -> dict[str, Any] | None:
    """Settings that were given to a command, converted and checked; `None` when help was asked for.

    Raises:
        ConfigError: an unknown setting, a value of a wrong type, or a required one is missing.
    """
    light = settings_of(*command.SETTINGS)
    words, arguments = _leading_words(arguments)
    more = getattr(command, "more_settings", None)
    if more is not None and "--help-all" in arguments:
        command_parser(name, {**settings_of(*more()), **light}, more=False).print_help()
        return None
    settings = light
    given, rest = command_parser(name, settings, more=more is not None).parse_known_args(arguments)
    layers = _layers(given)
    unknown = {*unknown_flags(rest), *(key for layer in layers for key in layer)} - set(settings)
    if more is not None and unknown:
        # not one of ours: perhaps one of the many settings that cost an import to know
        settings = {**settings_of(*more()), **light}
        given, rest = command_parser(name, settings, more=True).parse_known_args(arguments)
        layers = _layers(given)
    for flag in unknown_flags(rest):
        raise ConfigError(unknown_key(flag, settings))
    positional = getattr(command, "POSITIONAL", None)
    if rest or (words and positional is None):
        stray = " ".join([*words, *rest])
        raise ConfigError(f"Cannot make sense of {stray!r}; settings are `--name value`.")
    if positional and words:
        many = settings[positional].kind in (list, tuple)
        layers.append({positional: words if many else " ".join(words)})
    return merge(settings, *layers)


def _leading_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first flag, and the rest."""
    words = list(takewhile(lambda word: not word.startswith("-"), arguments))
    return words, list(arguments[len(words) :])


def _layers(given: argparse.Namespace) -> list[dict[str, Any]]:
    flags = dict(vars(given))
    return [*(read_yaml(path) for path in flags.pop("config", None) or ()), flags]


def command_parser(
    name: str, settings: dict[str, Setting], *, more: bool
) -> argparse.ArgumentParser:
    """Parser of one command with a flag for each setting."""
    result = argparse.ArgumentParser(
        prog=f"hf-cap {name}",
        usage=f"hf-cap {name} [--config FILE.yaml] [--setting VALUE ...]",
        description=COMMANDS[name].summary[0].upper() + COMMANDS[name].summary[1:] + ".",
        epilog="`--help-all` also shows every setting of transformers.TrainingArguments; all are accepted."
        if more
        else None,
        allow_abbrev=False,
    )
    result.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="YAML file with settings; may be given several times, later ones win, flags win over all.",
    )
    add_flags(result, settings)
    return result
