"""`hf-cap demo`: the whole way on the embedded models and data, as the commands a user would type.

extract -> fuse -> train without and with alignment on the same seeds -> evaluate -> a table.
What is finished is not done again: an interrupted demo goes on where it was.
"""

import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cap.cli.config import build
from hf_cap.utils import bundled, documented, option, write_text

if TYPE_CHECKING:
    from rich.table import Table


_logger = logging.getLogger(__name__)

METHODS: dict[str, list[str]] = {"none": ["--alignment_weight", "0"], "aligned": []}
COLUMNS = {
    "accuracy": "accuracy ↑",
    "macro_f1": "macro-F1 ↑",
    "alignment": "alignment ↑",
    "comprehensiveness": "comprehensiveness ↑",
    "sufficiency": "sufficiency ↓",
}
SHORT = {"comprehensiveness": "compreh. ↑", "sufficiency": "suffic. ↓"}
"""Names that keep the table of the terminal within 80 columns."""


@documented
@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Where the demo works and how often it trains."""

    output_dir: str = option("runs/demo", "Folder for priors, models and the report.")
    seeds: tuple[int, ...] = option((0, 1, 2), "One training run a seed and method.")
    recipes: str = option(
        "recipes/demo", "Folder with `extract.yaml`, `fuse.yaml`, `train.yaml` and `evaluate.yaml`."
    )


SETTINGS = (DemoSettings,)


def run(values: dict[str, Any]) -> None:
    """Run all stages, print the table, write `report.md`."""
    from rich.console import Console
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()  # a fresh classification head is no surprise here
    settings = build(DemoSettings, values)
    room = Path(settings.output_dir)
    recipes = bundled(settings.recipes)
    priors, prior = room / "priors", room / "prior"
    _step(recipes, "extract", ["--output_dir", str(priors)], done=priors)
    _step(recipes, "fuse", ["--dataset", str(priors), "--output_dir", str(prior)], done=prior)
    for seed, method in product(settings.seeds, METHODS):
        _train_and_measure(recipes, prior, room / "models" / f"{method}-seed{seed}", method, seed)
    results = collect(room, settings.seeds)
    write_text(room / "report.md", report(results, settings, room))
    runs = [str(room / "models" / f"{m}-seed{s}") for m in METHODS for s in settings.seeds]
    page = room / "report.html"
    _step(recipes, "report", [*runs, "--priors", str(prior), "--output", str(page)], done=page)
    Console().print(table(results, len(settings.seeds)))
    print(f"prior data set: {prior}")
    print(f"models:         {room / 'models'}")
    print(f"report:         {room / 'report.md'} and {page}")


def _train_and_measure(recipes: Path, prior: Path, model: Path, method: str, seed: int) -> None:
    from hf_cap.cards import EVALUATIONS, RUN_FILE

    places = ["--dataset", str(prior), "--output_dir", str(model), "--seed", str(seed)]
    _step(recipes, "train", [*places, *METHODS[method]], done=model / RUN_FILE)
    tested = ["--model", str(model), "--split", "test", "--records", "true"]
    _step(recipes, "evaluate", tested, done=model / EVALUATIONS / "test.json")
    # only the training texts have priors to agree with
    fitted = ["--model", str(model), "--split", "train", "--dataset", str(prior)]
    flags = [*fitted, "--faithfulness", "false"]
    _step(recipes, "evaluate", flags, done=model / EVALUATIONS / "train.json")


def _step(recipes: Path, command: str, flags: list[str], *, done: Path) -> None:
    """Run one command as the command line would, unless what it makes is there."""
    from hf_cap.cli import parse_command

    recipe = recipes / f"{command}.yaml"
    words = [command, *flags, *(["--config", str(recipe)] if recipe.exists() else [])]
    if done.exists():
        _logger.info("Already there: %s", done)
        return
    _logger.info("\n$ hf-cap %s", shlex.join(words))
    module = import_module(f".{command}", __package__)
    values = parse_command(command, module, words[1:])
    if values is not None:
        module.run(values)


def collect(room: Path, seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Numbers of the finished runs: method to measure to one value a seed."""
    from hf_cap.cards import EVALUATIONS

    found: dict[str, dict[str, list[float]]] = {method: {} for method in METHODS}
    for method, name in product(METHODS, COLUMNS):
        split = "train" if name == "alignment" else "test"
        models = (room / "models" / f"{method}-seed{seed}" for seed in seeds)
        files = [model / EVALUATIONS / f"{split}.json" for model in models]
        values = [json.loads(file.read_text(encoding="utf-8"))[name] for file in files]
        if None not in values:
            found[method][name] = values
    return found


def _cell(values: list[float], digits: int) -> str:
    from hf_cap.evaluation import estimate

    found = estimate(values)
    spread = "" if found.high is None else f" ± {found.high - found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f}{spread}"


def _rows(results: dict[str, dict[str, list[float]]], digits: int) -> list[list[str]]:
    return [
        [method, *(_cell(numbers[name], digits) if name in numbers else "-" for name in COLUMNS)]
        for method, numbers in results.items()
    ]


def table(results: dict[str, dict[str, list[float]]], runs: int) -> "Table":
    """The results as a table for the terminal."""
    from rich.box import SIMPLE
    from rich.table import Table

    caption = f"mean ± half-width of the 95 % interval over {runs} seeds;\nalignment on the training texts"
    names = {**COLUMNS, **SHORT}.values()
    shown = Table("method", *names, caption=caption, box=SIMPLE, padding=(0, 1, 0, 0))
    for row in _rows(results, digits=2):
        shown.add_row(*row)
    return shown


def report(results: dict[str, dict[str, list[float]]], settings: DemoSettings, room: Path) -> str:
    """`report.md`: the table, where things are, and how to read it."""
    header = ["method", *COLUMNS.values()]
    lines = [
        "| " + " | ".join(row) + " |"
        for row in [header, ["---"] * len(header), *_rows(results, digits=3)]
    ]
    return "\n".join(
        [
            "# hf_cap demo",
            "",
            f"Mean ± half-width of the 95 % interval over the seeds {list(settings.seeds)}, on the test "
            "split. A difference well inside the intervals is no difference.",
            "",
            *lines,
            "",
            "- accuracy, macro-F1: share of texts predicted right; mean F1 over the labels.",
            "- alignment: cosine of the model's word attributions with the prior, for the gold label, on the "
            "training texts (only they have priors).",
            "- comprehensiveness: drop of the predicted label's probability without its top words.",
            "- sufficiency: the same drop with its top words alone.",
            "",
            f"Prior data set: `{room / 'prior'}`. Models: `{room / 'models'}`, each with its settings and "
            "training history in `run.json` and its numbers in `evaluation/test.json`.",
            "",
        ]
    )
