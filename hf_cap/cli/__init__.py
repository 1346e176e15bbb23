"""The command line: `hf-cap COMMAND --config recipe.yaml --setting value`.

Each command is a module beside this one with

- `EXAMPLE`: a call of it, shown in its help,
- `SETTINGS`: torch-free dataclasses (or a `Group` of them) whose fields are its flags,
- `run(values)`: does the work and returns what it found out; heavy imports happen inside it,
- optionally `POSITIONAL`: the setting that words before the first flag belong to,
- optionally `MORE`: the prefix of the settings of `transformers.TrainingArguments`,
- optionally `PROGRESS`: the settings that `--quiet` turns off.
"""

import contextlib
import errno
import json
import logging
import os
import sqlite3
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from hf_cap import __version__
from hf_cap.cli.core import parse, print_completion, refuse_unknown
from hf_cap.errors import CAPError, ConfigError

COMMANDS = {
    "fit": "from labelled texts to a trained, evaluated model and a report",
    "extract": "add prior columns to a labelled data set",
    "fuse": "fuse the prior columns into one prior",
    "audit": "inspect the priors of a data set: numbers and a JSON file",
    "elicit": "ask a language model for scores of a table's features",
    "train": "train a classifier, aligned with the prior",
    "attack": "make an adversarial test set from a labelled split",
    "evaluate": "measure a classifier: accuracy, faithfulness, alignment",
    "report": "one HTML page on training runs",
    "push": "publish a model, priors, scores or a metric on the Hub, with a card",
    "demo": "run `fit` on the embedded models and data, with a control",
    "env": "print versions and devices, for a bug report",
}
SHELLS = ("bash", "zsh", "fish", "tcsh")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 (full disk), 2 (a user's mistake) or 130 (interrupt).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # of several launched processes only the first logs
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    # one line per request or file is noise beside a progress bar
    for noisy in ("httpx", "httpx2", "httpcore", "matplotlib", "fontTools", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        _run(arguments)
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
    return 0


def load_command(name: str) -> ModuleType:
    """The module of a command.

    Raises:
        ConfigError: there is no such command.
    """
    refuse_unknown([name], COMMANDS, {}, kind="command")
    return import_module(f".{name}", __name__)


def _run(arguments: list[str]) -> None:
    match arguments:
        case [] | ["-h" | "--help"]:
            print(_overview())
        case ["--version"]:
            print(f"hf-cap {__version__}")
        case ["--completion", shell]:
            refuse_unknown([shell], SHELLS, {}, kind="shell")
            print_completion({name: load_command(name) for name in COMMANDS}, shell)
        case [name, *rest] if not name.startswith("-"):
            _run_command(name, rest)
        case _:
            refuse_unknown([arguments[0].lstrip("-")], ("help", "version", "completion"), {})
            raise ConfigError(f"`--completion` needs a shell: {', '.join(SHELLS)}.")


def _run_command(name: str, words: list[str]) -> None:
    module = load_command(name)
    values = parse(name, module, words)
    if values is None:
        return
    as_json, quiet = (values.pop(common, False) for common in ("json", "quiet"))
    if quiet:
        logging.getLogger().setLevel(logging.WARNING)
        values = {**dict.fromkeys(getattr(module, "PROGRESS", ()), False), **values}
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result alone
        result = module.run(values)
    if text := json.dumps(result.facts, indent=2, default=str) if as_json else str(result):
        print(text)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {does}" for name, does in COMMANDS.items())
    return (
        "usage: hf-cap COMMAND [--config FILE.yaml] [--setting VALUE ...]\n\n"
        f"Teach small text classifiers which words matter.\n\ncommands:\n{listing}\n\n"
        "options:\n  --help, --version\n"
        f"  --completion {{{','.join(SHELLS)}}}  print a script that completes commands and flags\n\n"
        "`hf-cap COMMAND --help` shows the settings of one."
    )


def _disk_is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error.sqlite_errorcode == sqlite3.SQLITE_FULL
