"""What a benchmark leaves beside its cells: numbers, tables, a page, figures and a summary."""

import base64
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.study.claims import claim
from benchmarks.study.figures import draw_figures
from benchmarks.study.results import Result, outcomes, read_results, rows, summary
from benchmarks.study.tables import NOTES, markdown, tables
from hf_cap.errors import MissingExtra
from hf_cap.evaluation.results import over_datasets, table
from hf_cap.utils import atomic_path, write_json, write_text

_logger = logging.getLogger(__name__)

TABLE_FILE = "table.md"


def write_table(room: Path) -> None:
    """The table of all cells that are finished by now."""
    with claim(room, room / TABLE_FILE, wait=True):
        write_text(room / TABLE_FILE, markdown(read_results(room)))


def write_report(room: Path) -> list[Path]:
    """Write everything that follows from the finished cells into the benchmark's folder.

    Returns:
        `table.md`, `table.html`, `results.parquet`, `few_shot.json`, `selection.json` where hyper-parameters
        were chosen, and the folder `figures` where matplotlib is installed.
    """
    results = read_results(room)
    with claim(room, room / TABLE_FILE, wait=True):
        write_text(room / TABLE_FILE, markdown(results))
        written = [room / TABLE_FILE]
        if not results:
            return written
        with atomic_path(room / "results.parquet") as path:
            Dataset.from_list(list(rows(results))).to_parquet(str(path))
        write_json(room / "few_shot.json", few_shot_summary(results))
        chosen = [
            json.loads(file.read_text("utf-8"))
            for file in sorted((room / "selection").rglob("*.json"))
        ]
        if chosen:
            write_json(room / "selection.json", chosen)
            written.append(room / "selection.json")
        figures = _figures(results, room / "figures")
        write_text(room / "table.html", page(results, figures))
    names = ["results.parquet", "few_shot.json", "table.html"]
    return [*written, *(room / name for name in names), *([room / "figures"] if figures else [])]


def few_shot_summary(results: Sequence[Result]) -> dict[str, Any]:
    """The content of `few_shot.json`: the summary of each data set, and the full tables."""
    accuracies = outcomes(results)
    return {
        "summary": summary(results),
        "table": [asdict(row) for row in table(accuracies)],
        "over_datasets": [asdict(row) for row in table(over_datasets(accuracies))],
        "cells": len(results),
        "versions": results[-1].numbers["versions"],
    }


def page(results: Sequence[Result], figures: Sequence[Path] = ()) -> str:
    """One HTML page with the tables and figures, which asks the network for nothing."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    drawn = [
        (file.stem.replace("_", " ").capitalize(), base64.b64encode(file.read_bytes()).decode())
        for file in figures
        if file.suffix == ".svg"
    ]
    template = environment.get_template("page.html.j2")
    return template.render(notes=NOTES, tables=tables(results), figures=drawn)


def _figures(results: Sequence[Result], folder: Path) -> list[Path]:
    try:
        with atomic_path(folder) as path:
            path.mkdir()
            drawn = draw_figures(results, path)
    except MissingExtra as error:
        _logger.warning("No figures: %s", error)
        return []
    return [folder / file.name for file in drawn]
