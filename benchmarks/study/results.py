"""What the finished cells say together: as outcomes for the statistics, and as one row a number."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.study.bench import CELL_FILE
from benchmarks.study.texts import CLEAN
from hf_cap.evaluation.results import BASELINE, CEILING, Cell, Outcome, TableRow, table
from hf_cap.schema import CONTROL_PRIORS

_logger = logging.getLogger(__name__)

Better = Literal["higher", "lower"]
EXPLANATIONS: Mapping[str, Better] = {
    "comprehensiveness": "higher",
    "sufficiency": "lower",
    "soft_nc": "higher",
    "soft_ns": "higher",
    "oracle_alignment": "higher",
    "prior_alignment": "higher",
}
"""Measures of a cell's explanations; the alignments are cosines with the oracle and with the own prior."""

_MEASURES = ("accuracy", "macro_f1", "accuracy_changed")
"""Measures of a cell on a test set; the last where an attack leaves some texts as they are."""

_NUMERICS = frozenset({"bf16", "dtype", "fp16", "tf32", "use_cpu"})
"""Settings of training or of a prior that say where and in which number format, but not what is computed."""


@dataclass(frozen=True)
class Result:
    """A finished cell and what its `cell.json` holds."""

    cell: Cell
    numbers: Mapping[str, Any]


def read_results(room: Path) -> list[Result]:
    """All finished cells of a benchmark's folder that may be compared, sorted.

    The runs of a method count together only if they were made with the same settings, and those of a data
    set and regime only if they were measured on the same texts in the same way. Where settings were changed
    on the way, those of the most cells count, and a warning says what is left out. The number format may
    differ between machines, and so between runs, but not between the methods of one draw and seed, which
    are compared with each other.
    """
    found = []
    for file in (room / "cells").glob(f"*/*/draw_*/*/seed_*/{CELL_FILE}"):
        numbers = json.loads(file.read_text(encoding="utf-8"))
        found.append(Result(Cell(**numbers["settings"]["cell"]), numbers))
    found.sort(key=lambda result: result.cell)
    kept = _of_one_kind(found, ("dataset", "regime"), _measured)
    kept = _of_one_kind(kept, ("dataset", "regime", "method"), _made)
    return _of_one_kind(kept, ("dataset", "regime", "draw", "seed"), _computed)


def _measured(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The texts and the way of measuring."""
    return {name: settings.get(name) for name in ("data", "evaluation")}


def _made(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is trained, from which prior, but not in which number format."""
    return {name: _without_numerics(settings.get(name)) for name in ("training", "prior")}


def _computed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The number format of training; a switch that is off is none."""
    training = settings.get("training", {})
    return {"training": {name: training[name] for name in _NUMERICS if training.get(name)}}


def _without_numerics(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        name: _without_numerics(inner) for name, inner in value.items() if name not in _NUMERICS
    }


def _of_one_kind(
    results: Sequence[Result],
    place: Sequence[str],
    kind: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> list[Result]:
    """The results without those whose settings are of another kind than most of the same place."""
    kinds: dict[tuple[Any, ...], dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        where = tuple(getattr(result.cell, name) for name in place)
        of_kind = json.dumps(kind(result.numbers["settings"]), sort_keys=True)
        kinds[where][of_kind].append(result)
    kept = []
    for where, found in kinds.items():
        most = max(found.values(), key=len)
        kept += most
        if others := sum(map(len, found.values())) - len(most):
            _logger.warning(
                "%s: %d finished cells were made with other settings (%s) than the %d others, and are in no "
                "table.",
                ", ".join(f"{name} {value}" for name, value in zip(place, where, strict=True)),
                others,
                " or ".join(kind(most[0].numbers["settings"])),
                len(most),
            )
    return sorted(kept, key=lambda result: result.cell)


def rows(results: Iterable[Result]) -> Iterator[dict[str, Any]]:
    """One row a cell, test set and measure, as in `results.parquet`."""
    for result in results:
        place = asdict(result.cell)
        for test_set, found in result.numbers["test_sets"].items():
            for measure in _MEASURES:
                if measure in found:
                    value = found[measure]
                    yield {**place, "test_set": test_set, "measure": measure, "value": value}
        for measure in EXPLANATIONS:
            value = result.numbers["explanations"].get(measure)
            if value is not None:
                yield {**place, "test_set": CLEAN, "measure": measure, "value": value}


def outcomes(results: Iterable[Result], measure: str = "accuracy") -> list[Outcome]:
    """The values of one measure, one a cell and test set."""
    names = Cell.__dataclass_fields__
    return [
        Outcome(Cell(**{name: row[name] for name in names}), row["test_set"], row["value"])
        for row in rows(results)
        if row["measure"] == measure
    ]


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """The best method of each data set, and by how much it beats the best control.

    Returns:
        For each data set, of its regime with the fewest texts: `regime`, then for the clean test set
        `best_method` (the highest mean difference from `none` over the runs that both have, so that no method
        wins by having run on easy draws only; `none`, controls and `oracle` do not compete), its
        `accuracy`, `best_control`, `gain_over_best_control` with `gain_half_width` (95 % interval),
        `gain_over_none`, `p` and `p_holm`; the same for each attack under `attacks`. A difference of
        accuracies lies in [-1, 1]; what cannot be told yet is null.
    """
    found: dict[str, Any] = {}
    compared = table(outcomes(results))
    for dataset in dict.fromkeys(row.dataset for row in compared):
        of_set = [row for row in compared if row.dataset == dataset]
        regime = min({row.regime for row in of_set}, key=size_of)
        by_test = {
            test_set: _best([r for r in of_set if (r.regime, r.test_set) == (regime, test_set)])
            for test_set in dict.fromkeys(row.test_set for row in of_set)
        }
        clean = by_test.pop(CLEAN, _best([]))
        found[dataset] = {"regime": regime, **clean, "attacks": by_test}
    return found


def _best(of_place: Sequence[TableRow]) -> dict[str, Any]:
    outside = (BASELINE, CEILING, *CONTROL_PRIORS)
    competing = [row for row in of_place if row.method not in outside]
    row = max(competing, key=_lead, default=None)
    gain, change = (row.from_control, row.from_baseline) if row else (None, None)
    return {
        "best_method": row and row.method,
        "accuracy": row and row.value.mean,
        "runs": row.value.count if row else 0,
        "best_control": row and row.best_control,
        "gain_over_best_control": gain and gain.mean,
        "gain_half_width": gain and gain.half_width,
        "gain_over_none": change and change.mean,
        "p": row and row.p,
        "p_holm": row and row.p_holm,
    }


def _lead(row: TableRow) -> tuple[bool, float]:
    """Sort key: how far a method is over `none`; behind those, its mean where no run is shared."""
    return row.from_baseline is not None, (row.from_baseline or row.value).mean


def size_of(regime: str) -> float:
    """Texts a class of a regime, to sort by."""
    return float("inf") if regime == "full" else int(regime.removesuffix("_shot"))
