"""Tables of a study from its finished runs: a tidy frame, compared by `hf_cap.evaluation.results`."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.study.settings import BASELINE, CEILING, CLEAN, RESULT_FILE, RIVALS, SEQUENCE, told
from hf_cap.evaluation import compare, summarize
from hf_cap.schema import CONTROL_PRIORS
from hf_cap.utils import write_json, write_text

_logger = logging.getLogger(__name__)

NOTES = (
    "Accuracy in percent: mean ± half-width of the 95 % interval over the samples of training texts, each by "
    "the mean of its seeds; over the seeds where there is one sample. Differences are paired, in points.",
    "A gain counts only over the best control: `shuffled` (the scores of a prior on the wrong words), "
    "`uniform`, `random` and `word_length` know nothing of the task. `oracle` is the log-odds of the whole "
    "training split, a ceiling.",
    "p: paired bootstrap of the difference from the best control; Holm's correction over the methods of a "
    "table. With n samples it is never below 2^(1 − n).",
    "Tables over several data sets (`a + b`) hold the methods that each of them has.",
)
EXPLANATIONS = {
    "comprehensiveness": "↑",
    "sufficiency": "↓",
    "soft_nc": "↑",
    "soft_ns": "↑",
    "oracle_alignment": "↑",
    "prior_alignment": "↑",
}
_RIVAL_METHODS = (*RIVALS, SEQUENCE)
_NUMBER_FORMAT = frozenset({"bf16", "dtype", "fp16", "tf32", "use_cpu"})
"""Settings that say where and in which number format, but not what is computed."""


def read_frame(folder: Path) -> pd.DataFrame:
    """One row per number of every finished run that may be compared.

    Runs of a data set count together only if they were measured on the same texts in the same way, those of
    a method only if they were trained alike. Of several settings those of the most runs count, and a warning
    tells what is left out. The number format may differ between samples and seeds, not within one.
    """
    found = [
        json.loads(file.read_text(encoding="utf-8"))
        for file in sorted((folder / "cells").glob(f"*/*/draw_*/*/seed_*/{RESULT_FILE}"))
    ]
    for place, kind in (
        (("dataset", "regime"), lambda s: [s.get("data"), s.get("evaluation")]),
        (("dataset", "regime", "method"), lambda s: [_plain(s.get("training")), _plain(s.get("prior"))]),
        (("dataset", "regime", "draw", "seed"), _number_format),
    ):
        found = _of_one_kind(found, place, kind)
    rows = [row for result in found for row in _rows(result)]
    columns = [
        "dataset", "regime", "draw", "method", "seed", "test_set", "measure", "value", "run", "told",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _rows(result: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    run = result["settings"]["cell"]
    place = {**run, "run": f"{run['dataset']}, {run['regime']}"}
    place["told"] = " + ".join(told(result["settings"]))
    for test_set, numbers in result["test_sets"].items():
        for measure in ("accuracy", "macro_f1", "accuracy_changed", "nll", "ece"):
            if measure in numbers:
                value = numbers[measure]
                yield {**place, "test_set": test_set, "measure": measure, "value": value}
    for measure in EXPLANATIONS:
        if (value := result["explanations"].get(measure)) is not None:
            yield {**place, "test_set": CLEAN, "measure": measure, "value": value}
    for step in ("train", "evaluate"):
        if (value := result.get("seconds", {}).get(step)) is not None:
            yield {**place, "test_set": CLEAN, "measure": f"seconds_{step}", "value": value}


def _plain(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: _plain(v) for name, v in value.items() if name not in _NUMBER_FORMAT}


def _number_format(settings: Mapping[str, Any]) -> Any:
    training = settings.get("training", {})
    return {name: training[name] for name in sorted(_NUMBER_FORMAT) if training.get(name)}


def _of_one_kind(results: list[Any], place: Sequence[str], kind: Any) -> list[Any]:
    """The results whose settings are those of the most runs of the same place."""
    frame = pd.DataFrame(
        {
            "place": [tuple(r["settings"]["cell"][name] for name in place) for r in results],
            "kind": [json.dumps(kind(r["settings"]), sort_keys=True) for r in results],
        }
    )
    kept = []
    for where, group in frame.groupby("place", sort=False):
        most = group["kind"].value_counts(sort=True).index[0]
        kept += group.index[group["kind"] == most].tolist()
        if others := int((group["kind"] != most).sum()):
            _logger.warning(
                "%s: %d finished runs were made with other settings than the %d others, and are in no table.",
                ", ".join(map(str, where)), others, len(group) - others,
            )  # fmt: skip
    return [results[index] for index in sorted(kept)]


def over_datasets(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of several data sets as those of one, with the methods that each of them has."""
    parts = []
    for _, group in frame.groupby(["regime", "test_set", "measure"], sort=False):
        names = sorted(group["dataset"].unique())
        if len(names) < 2:
            continue
        everywhere = group.groupby("method")["dataset"].nunique() == len(names)
        group = group[group["method"].map(everywhere)].copy()
        group["draw"] = group.groupby(["dataset", "draw"]).ngroup()
        group["run"] = " + ".join(names) + ", " + group["regime"]
        parts.append(group)
    return pd.concat(parts) if parts else frame.iloc[:0]


def compare_methods(frame: pd.DataFrame) -> pd.DataFrame:
    """Every method of one measure against `none` and against the best control.

    Args:
        frame: Rows of one measure.

    Returns:
        One row per run (data set and regime), test set and method, the best method first: `mean`, `low`,
        `high`, `n`; `none_difference` and its `none_low`, `none_high`; `best_control` and
        `control_difference` likewise; `p` and `p_holm` of that difference, for methods that compete.
    """
    place = ["run", "test_set"]
    table = summarize(frame, [*place, "method"])
    table = table.join(_difference(frame, BASELINE, "none"))
    outside = [BASELINE, CEILING, *CONTROL_PRIORS]
    groups = dict(iter(frame.groupby(place, sort=False)))
    parts = []
    for where, part in table.groupby(level=place, sort=False):
        group, part = groups[where], part.copy()
        ranked = ranked_methods(group, CONTROL_PRIORS)
        part["best_control"] = [next((c for c in ranked if c != method), None) for *_, method in part.index]
        for control in part["best_control"].dropna().unique():
            rows = part["best_control"] == control
            found = _difference(group, control, "control")
            part.loc[rows, found.columns] = found.reindex(part.index[rows])
        if ranked:
            competing = group[~group["method"].isin(set(outside) - {ranked[0]})]
            found = compare(competing, ranked[0], place, test="bootstrap")[["p", "p_holm"]]
            part[["p", "p_holm"]] = found.reindex(part.index)
        parts.append(part.sort_values("mean", ascending=False, kind="stable"))
    return pd.concat(parts) if parts else table


def _difference(frame: pd.DataFrame, baseline: str, prefix: str) -> pd.DataFrame:
    found = compare(frame, baseline, ["run", "test_set"])[["difference", "low", "high"]]
    return found.add_prefix(f"{prefix}_")


def ranked_methods(group: pd.DataFrame, methods: Iterable[str]) -> list[str]:
    """Those of some methods, the best first, on the runs that all of them have (or on their own, if none)."""
    chosen = group[group["method"].isin(set(methods))]
    values = chosen.pivot_table(index=["draw", "seed"], columns="method", values="value")
    shared = values.dropna()
    means = (shared if len(shared) else values).groupby("draw").mean().mean()
    return [str(name) for name in means.sort_values(ascending=False, kind="stable").index]


def write_tables(folder: Path) -> list[Path]:
    """Write `table.md`, `results.parquet`, `summary.json` and `rivals.json` into the folder of a study."""
    frame = read_frame(folder)
    written = [folder / "table.md"]
    write_text(written[0], markdown(frame))
    if len(frame):
        frame.to_parquet(folder / "results.parquet", index=False)
        write_json(folder / "summary.json", summary(frame))
        write_json(folder / "rivals.json", against_rivals(frame))
        names = ("results.parquet", "summary.json", "rivals.json")
        written += [folder / name for name in names]
    return written


def summary(frame: pd.DataFrame) -> dict[str, Any]:
    """For each data set and regime, and each test set, the method furthest above `none`.

    Returns:
        `{run: {test_set: {best_method, accuracy, best_control, p_holm,
        ...}}}`; accuracies in [0, 1], differences in [-1, 1], null where there is nothing to tell.
    """
    table = compare_methods(frame[frame["measure"] == "accuracy"])
    competing = table[~table.index.get_level_values("method").isin([BASELINE, CEILING, *CONTROL_PRIORS])]
    found: dict[str, Any] = {}
    for (run, test_set), group in competing.groupby(["run", "test_set"], sort=False):
        key = "none_difference" if group["none_difference"].notna().any() else "mean"
        best = group.loc[group[key].idxmax()]
        numbers = {str(k): _plain_number(v) for k, v in best.to_dict().items()}
        found.setdefault(run, {})[test_set] = {"best_method": best.name[-1], **numbers}
    return found


def against_rivals(frame: pd.DataFrame) -> dict[str, Any]:
    """Every method of each data set and regime, and ours against the best rival that is told no more.

    Args:
        frame: Rows of `read_frame`.

    Returns:
        `{run: {"methods": {method: {told, seconds, test_sets}}, "ours_minus_best_rival": {method:
        {test_set: {rival, difference, low, high, p, n}}}}}`: accuracies in [0, 1] with 95 % intervals,
        differences paired over the draws with the p of a paired bootstrap, mean seconds. Rivals are the
        methods of `RIVALS` and `none_sequence`, the best by the mean accuracy of the runs they share.
    """
    found: dict[str, Any] = {}
    for run, group in frame.groupby("run", sort=True):
        told_to = dict(zip(group["method"], group["told"], strict=True))
        accuracy = group[group["measure"] == "accuracy"]
        ours = [name for name in told_to if name not in (*_RIVAL_METHODS, CEILING)]
        found[str(run)] = {
            "methods": {name: _method_summary(group, name) for name in sorted(told_to)},
            "ours_minus_best_rival": {
                name: {
                    str(test_set): _plain_row(row)
                    for test_set, part in accuracy.groupby("test_set", sort=True)
                    if (row := _best_rival(part, name, told_to)) is not None
                }
                for name in sorted(ours)
            },
        }
    return found


def _method_summary(group: pd.DataFrame, method: str) -> dict[str, Any]:
    own = group[group["method"] == method]
    accuracy = summarize(own[own["measure"] == "accuracy"], ["test_set"], within=(0, 1))
    seconds = {
        step: round(float(own.loc[own["measure"] == f"seconds_{step}", "value"].mean()), 1)
        for step in ("train", "evaluate")
        if (own["measure"] == f"seconds_{step}").any()
    }
    test_sets = {str(name): _plain_row(row) for name, row in accuracy.iterrows()}
    return {"told": own["told"].iloc[0].split(" + "), "seconds": seconds, "test_sets": test_sets}


def _best_rival(part: pd.DataFrame, method: str, told_to: Mapping[str, str]) -> Any:
    """A method's difference from the best rival that is told no more; `None` without a shared run."""
    known = set(told_to[method].split(" + "))
    equals = [name for name in _RIVAL_METHODS if known.issuperset(told_to.get(name, "").split(" + "))]
    shared = part[part["method"] == method].merge(part, on=["draw", "seed"], suffixes=("_own", ""))
    for rival in ranked_methods(shared, equals)[:1]:
        pair = part[part["method"].isin([method, rival])]
        table = compare(pair, rival, [], test="bootstrap").drop(columns="p_holm")
        return pd.Series({"rival": rival, **table.loc[method].to_dict()})
    return None


def _plain_row(row: pd.Series) -> dict[str, Any]:
    numbers = {str(name): _plain_number(value) for name, value in row.to_dict().items()}
    return {**numbers, "n": int(numbers["n"])}


def _plain_number(value: Any) -> Any:
    if pd.isna(value):
        return None
    return round(value, 6) if isinstance(value, float) else value


def markdown(frame: pd.DataFrame) -> str:
    """All tables as one Markdown document."""
    parts = ["# Study", "", *(f"- {note}" for note in NOTES), ""]
    accuracy = frame[frame["measure"].isin(["accuracy", "accuracy_changed"])]
    for measure, group in accuracy.groupby("measure", sort=True):
        for rows in (group, over_datasets(group)):
            table = compare_methods(rows)
            for (run, test_set), part in table.groupby(["run", "test_set"], sort=True):
                title = f"{str(measure).replace('_', ' ').capitalize()}: {run}, {test_set}"
                parts += [f"## {title}", "", _accuracy_table(part), ""]
    for run, group in frame[frame["measure"].isin(EXPLANATIONS)].groupby("run", sort=True):
        parts += [f"## Explanations: {run}", "", _explanation_table(group), ""]
    return "\n".join(parts)


def _accuracy_table(part: pd.DataFrame) -> str:
    rows = [
        [
            str(name[-1]),
            str(row["n"]),
            interval(row["mean"], row["low"], row["high"], 100),
            interval(row["none_difference"], row["none_low"], row["none_high"], 100, signed=True),
            interval(
                row.get("control_difference"), row.get("control_low"), row.get("control_high"),
                100, signed=True,
            ),
            row.get("best_control") or "",
            p_text(row.get("p")),
            p_text(row.get("p_holm")),
        ]
        for name, row in part.iterrows()
    ]  # fmt: skip
    header = ["method", "n", "accuracy", "− none", "− best control", "best control", "p", "p (Holm)"]
    return table_text(header, rows)


def _explanation_table(group: pd.DataFrame) -> str:
    means = summarize(group, ["measure", "method"])
    changes = compare(group, BASELINE, ["measure"])
    measures = [name for name in EXPLANATIONS if (group["measure"] == name).any()]
    header, rows = ["method"], {method: [method] for method in sorted(group["method"].unique())}
    for measure in measures:
        header += [f"{measure} {EXPLANATIONS[measure]}", f"{measure} − {BASELINE}"]
        for method, row in rows.items():
            key = (measure, method)
            row += [
                interval(*means.loc[key, ["mean", "low", "high"]]) if key in means.index else "",
                interval(*changes.loc[key, ["difference", "low", "high"]], signed=True)
                if key in changes.index
                else "",
            ]
    return table_text(header, rows.values())


def table_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in (list(header), *cells)]
    return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:]])


def interval(mean: Any, low: Any, high: Any, scale: float = 1, *, signed: bool = False) -> str:
    """A mean with the half-width of its interval; one decimal in percent, else three."""
    if mean is None or pd.isna(mean):
        return ""
    places = 1 if scale == 100 else 3
    text = f"{scale * mean:{'+' if signed else ''}.{places}f}"
    return text if pd.isna(low) else f"{text} ± {scale * (high - low) / 2:.{places}f}"


def p_text(value: Any) -> str:
    """A p-value, never as zero."""
    if value is None or pd.isna(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
