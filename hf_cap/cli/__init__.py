"""The command line: `hf-cap COMMAND --config recipe.yaml --setting value`.

Each command is a `Command` in a module beside this one; heavy imports happen inside its function, so that
help is instant.
"""

import contextlib
import errno
import json
import logging
import os
import re
import sqlite3
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from hf_cap import __version__
from hf_cap.cli.core import Command, check_known, parse, print_completion
from hf_cap.errors import CAPError, ConfigError
from hf_cap.progress import silent
from hf_cap.secret_scan import without_secrets
from hf_cap.utils import printable

COMMANDS = {
    "fit": ("train", "from labelled texts to a trained, evaluated model and a report"),
    "extract": ("priors", "add prior columns to a labelled data set"),
    "fuse": ("priors", "fuse the prior columns into one prior"),
    "audit": ("priors", "inspect the priors of a data set: numbers and a JSON file"),
    "shortcuts": ("priors", "find what goes with a label though its meaning does not"),
    "elicit": ("train", "ask a language model for scores of a table's features"),
    "train": ("train", "train a classifier, aligned with the prior"),
    "attack": ("results", "make an adversarial test set from a labelled split"),
    "judge": ("results", "measure robust accuracy on attacks that still carry their label"),
    "evaluate": ("results", "measure a classifier: accuracy, faithfulness, alignment"),
    "calibrate": ("results", "make a classifier's probabilities and label sets hold"),
    "prune": ("results", "take the least important parts out of a classifier"),
    "export": ("results", "write a classifier as ONNX, with 8 bits, or as what differs from its base"),
    "report": ("results", "one HTML page on training runs"),
    "app": ("train", "look at classifiers in the browser, word by word; decide about shortcuts"),
    "push": ("results", "publish a model, priors, scores or a metric on the Hub, with a card"),
    "demo": ("train", "find a shortcut and train it away, on embedded models and data"),
    "env": ("results", "print versions and devices, for a bug report"),
}
"""Name to the module that it is in, and what it does."""
SHELLS = ("bash", "zsh", "fish", "tcsh")
_NOISY = "httpx httpx2 httpcore matplotlib fontTools openai onnx_ir onnxscript torch.onnx".split()
_HUSH = {"TRANSFORMERS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 (a file that cannot be read or written, or an error of hf_cap itself), 2 (a
        user's mistake), 130 (interrupt) or 141 (nobody reads the output any more).
    """
    # of several launched processes only the first logs
    level = "INFO" if os.environ.get("RANK", "0") == "0" else "WARNING"
    handler = _Handler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level, handlers=[handler])
    # what libraries say and draw about steps that take no time; a variable that is set already holds
    for name, value in _HUSH.items():
        os.environ.setdefault(name, value)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    status = 2
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout and sys.stdout.flush()
        return 0
    except BrokenPipeError:  # who reads the output, as `head` does, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except CAPError as error:
        message = str(error)
    except KeyboardInterrupt:
        message, status = "interrupted; run the same command again to go on.", 130
    except Exception as error:  # noqa: BLE001  # Python itself would print it as it is
        message = _file_problem(error) or _unexpected(error)
        status = 2 if getattr(error, "errno", None) == errno.ENAMETOOLONG else 1
    print(f"hf-cap: {_readable(message)}", file=sys.stderr)
    return status


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOCKED = {errno.EACCES, errno.EPERM, errno.EROFS}


def _file_problem(error: BaseException) -> str:
    """A sentence on an error of disk or rights; empty for any other.

    Libraries raise others while they handle such an error, or only quote its number.
    """
    cause: BaseException | None = error
    while cause:
        quoted = re.search(r"\(os error (\d+)\)", str(cause))
        number = int(quoted[1]) if quoted else cause.errno if isinstance(cause, OSError) else None
        torch_cannot_write = "inline_container" in str(cause)
        if (
            number in _FULL
            or torch_cannot_write
            or getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        ):
            return f"The disk is full ({cause}); free some space and run the same command again."
        if number in _LOCKED:
            return f"A file cannot be read or written ({cause}); change its rights or name another place."
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OSError | sqlite3.Error):
        return f"A file cannot be read or written: {error}."
    return ""


def _unexpected(error: BaseException) -> str:
    """What to do about an error that is not the user's, above it where it arose."""
    print(_readable(without_secrets("".join(traceback.format_exception(error)))), file=sys.stderr)
    return (
        f"an unexpected {type(error).__name__}, which is a mistake of hf_cap. Please report it with the "
        "lines above and what `hf-cap env` prints."
    )


def _readable(text: str) -> str:
    """Lines without what would steer the terminal, whatever label, file or server it came from."""
    return "\n".join(map(printable, text.expandtabs().split("\n")))


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes above a progress bar, not behind it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(self.stream):
            super().emit(record)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _readable(super().format(record))


def load_command(name: str) -> Command:
    """The command of this name, or a `ConfigError` that names the nearest."""
    check_known([name], COMMANDS, {}, kind="command")
    command: Command = getattr(import_module(f".{COMMANDS[name][0]}", __name__), name)
    return command


def _run(arguments: list[str]) -> None:
    match arguments:
        case [] | ["-h" | "--help"]:
            print(_overview())
        case ["--version"]:
            print(f"hf-cap {__version__}")
        case ["--completion", shell]:
            check_known([shell], SHELLS, {}, kind="shell")
            print_completion({name: load_command(name) for name in COMMANDS}, shell)
        case [name, *rest] if not name.startswith("-"):
            _run_command(name, rest)
        case _:
            check_known([arguments[0].lstrip("-")], ("help", "version", "completion"), {})
            raise ConfigError(f"`--completion` needs a shell: {', '.join(SHELLS)}.")


def _run_command(name: str, words: list[str]) -> None:
    command = load_command(name)
    values = parse(name, command, words)
    if values is None:
        return
    as_json, quiet = values.pop("json", False), values.pop("quiet", False)
    if quiet:
        logging.getLogger().setLevel(logging.WARNING)
    hushed = silent() if quiet else contextlib.nullcontext()
    with contextlib.redirect_stdout(sys.stderr), hushed:  # stdout is for the result alone
        result = command.run(values)
    if text := json.dumps(result.facts, indent=2, default=str) if as_json else str(result):
        print(_readable(text))
    if result.then and not quiet and os.environ.get("RANK", "0") == "0":
        print(_readable(f"Next: {result.then}"), file=sys.stderr)


def _overview() -> str:
    listing = "\n".join(f"  {name:<10}{does}" for name, (_, does) in COMMANDS.items())
    return (
        "usage: hf-cap COMMAND [--config FILE.yaml] [--setting VALUE ...]\n\n"
        f"Teach small text classifiers which words matter.\n\ncommands:\n{listing}\n\n"
        "options:\n  --help, --version\n"
        f"  --completion {{{','.join(SHELLS)}}}  print a script that completes commands and flags\n\n"
        "`hf-cap COMMAND --help` shows the settings of one."
    )
