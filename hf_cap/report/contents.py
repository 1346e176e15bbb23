"""What a report shows, as plain dicts and lists; the template and the figures draw these alone."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from hf_cap.evaluation.results import COLUMNS, compare, estimate, summarize
from hf_cap.report.load import (
    ROLES,
    Facts,
    PriorFolder,
    ReportSettings,
    Rows,
    Run,
    all_runs,
    all_versions,
    group_runs,
    training_data,
    unit_of,
)
from hf_cap.schema import LABEL, PRIOR, TEXT, WORDS, prior_column, prior_sources
from hf_cap.utils import subsample

MEASURES = {
    "accuracy": ("Accuracy", "higher", True),
    "macro_f1": ("Macro F1", "higher", True),
    "roc_auc": ("ROC-AUC", "higher", False),
    "r2": ("R²", "higher", False),
    "rmse": ("Root mean squared error", "lower", False),
    "alignment": ("Agreement with the prior (cosine)", "higher", False),
    "comprehensiveness": ("Comprehensiveness", "higher", False),
    "sufficiency": ("Sufficiency", "lower", False),
    "soft_nc": ("Soft comprehensiveness (Soft-NC)", "higher", False),
    "soft_ns": ("Soft sufficiency (Soft-NS)", "higher", False),
}
"""Number of an evaluation to its title, the better values, and whether it is shown in percent."""
# without alignment the loss has one part, and `transformers.Trainer` logs it under its own name
CURVES = {
    "loss_task": ("Task loss", "loss"),
    "loss_align": ("Alignment loss (before its weight)", None),
    "align_cosine": ("Cosine of attribution and prior", None),
    "eval_loss_task": ("Task loss, held out", "eval_loss"),
    "eval_loss_align": ("Alignment loss, held out", None),
}
FUSED = "fused prior"
_BINS, _PAIRS, _KEYWORDS = 10, 12, 10
_DEGENERATE = {
    "missing": "have no prior, or one of zeros",
    "constant": "have the same score on every word",
    "one_word": "have a score on a single word",
    "label_copied": "have a word of the label's name as their highest",
}


def report_contents(
    runs: Sequence[Run],
    baselines: Sequence[Run] = (),
    priors: PriorFolder | None = None,
    settings: ReportSettings | None = None,
) -> Facts:
    """Everything that the page shows.

    Args:
        runs: Runs of any kind; those with an alignment weight of 0 are the baseline of the others.
        baselines: Further runs that are baselines.
        priors: The priors that they were aligned with, for the audit and the texts.
        settings: What goes in.

    Raises:
        ConfigError: there is no run, runs on texts and on tables are mixed, or tables have priors.
    """
    settings = settings or ReportSettings()
    groups = group_runs(runs, baselines)
    unit = unit_of([*runs, *baselines], priors)
    names = [name for run in all_runs(groups) for name in run.records]
    names += [name for run in all_runs(groups) for name in run.evaluations]
    split = settings.split or ("test" if "test" in names or not names else names[0])
    audit = (priors.audit if priors else None) or {}
    sets = evaluation_sets(groups, split)
    keywords = audit_keywords(audit) or _model_keywords(groups, split)
    return {
        "title": settings.title,
        "unit": unit,
        "split": split,
        "groups": groups,
        "data": training_data(groups),
        "findings": findings(groups, sets, unit),
        "evaluations": sets,
        "panels": training_curves(groups),
        "features": feature_tables(groups),
        "calibrations": _of_records(calibration, groups, split),
        "confusions": _of_records(lambda rows: confusion(rows, keywords), groups, split),
        "keywords_from": "prior" if audit_keywords(audit) else "attribution",
        "audit": prior_audit(audit),
        "examples": collect_examples(groups, priors, first=split, most=settings.examples),
        "versions": all_versions(groups),
        "gaps": _gaps(groups, split, priors, unit),
    }


# --- Results over seeds, and training curves


def results_frame(groups: Sequence[Facts]) -> pd.DataFrame:
    """One row per number of every evaluation; `method` is the position of a group, as text."""
    rows = []
    for number, group in enumerate(groups):
        for place, (run, seed) in enumerate(zip(group["runs"], group["seeds"], strict=True)):
            # a second run of one seed counts too, but has no partner in the baseline
            again = "" if group["seeds"].index(seed) == place else f" ({number}, {place})"
            rows += [
                ("", str(number), f"{seed}{again}", 0, test_set, measure, float(value))
                for test_set, numbers in run.evaluations.items()
                for measure in MEASURES
                if isinstance(value := numbers.get(measure), int | float) and math.isfinite(value)
            ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def evaluation_sets(groups: Sequence[Facts], first: str | None = None) -> list[Facts]:
    """Every evaluation set with its measures; the one named `first` leads.

    Returns:
        Sets with `name`, `size` and `rows`. A row has `measure, title, better, percent` and one of
        `values` and `differences` per group: `{mean, low, high, n}` or `None`. Differences are
        paired by seed with the group's baseline.
    """
    frame = results_frame(groups)
    if frame.empty:
        return []
    by, names = ["test_set", "measure"], [str(number) for number in range(len(groups))]
    values: dict[Any, Facts] = _estimates(summarize(frame, [*by, "method"]))
    changes: dict[Any, Facts] = {}
    for baseline in {group["baseline"] for group in groups} - {None}:
        compared = [n for n in names if groups[int(n)]["baseline"] == baseline]
        chosen = frame[frame["method"].isin([*compared, names[baseline]])]
        table = compare(chosen, names[baseline], by).rename(columns={"difference": "mean"})
        changes |= _estimates(table)
    found = []
    for test_set in sorted(frame["test_set"].unique(), key=lambda name: name != first):
        rows: list[Facts] = [
            {"measure": measure, "title": title, "better": better, "percent": percent}
            | {"values": [values.get((test_set, measure, name)) for name in names]}
            | {"differences": [changes.get((test_set, measure, name)) for name in names]}
            for measure, (title, better, percent) in MEASURES.items()
        ]
        sizes = [one for run in all_runs(groups) if (one := run.evaluations.get(test_set))]
        size = sizes[0].get("texts", sizes[0].get("rows"))
        rows = [row for row in rows if any(row["values"])]
        found.append({"name": test_set, "size": size, "rows": rows})
    return found


def _estimates(table: pd.DataFrame) -> dict[Any, Facts]:
    """Index to `{mean, low, high, n}`; the interval of a single value is `None`."""
    table = table[["mean", "low", "high", "n"]].astype(object)
    found: dict[Any, Facts] = table.where(table.notna(), None).to_dict("index")
    return found


def findings(groups: Sequence[Facts], sets: Sequence[Facts], unit: str = "texts") -> list[str]:
    """What alignment did to accuracy, a sentence per group and set; controls on the first alone."""
    found = []
    for number, test_set in enumerate(sets):
        for row in (row for row in test_set["rows"] if row["measure"] == "accuracy"):
            for place in reversed(range(len(groups))):
                group, change = groups[place], row["differences"][place]
                if change and (number == 0 or group["role"] == "aligned"):
                    means = (row["values"][index]["mean"] for index in (place, group["baseline"]))
                    now, before = (number_text(mean, True) for mean in means)
                    found.append(
                        f"On {test_set['name']}, the model “{group['name']}” is right on {now} % of "
                        f"the {unit}, against {before} % without alignment: {_change(change)}"
                    )
    return found


def _change(change: Facts) -> str:
    mean = number_text(change["mean"], True, signed=True)
    if change["low"] is None:
        return f"{mean} points. One seed says nothing about chance; train more."
    low, high = (number_text(change[end], True, signed=True) for end in ("low", "high"))
    clear = change["low"] > 0 or change["high"] < 0
    verdict = "a change beyond" if clear else "no change that stands out from"
    interval = f"95 % interval {low} to {high}, {change['n']} seeds"
    return f"{mean} points ({interval}), {verdict} the spread of the seeds."


def training_curves(groups: Sequence[Facts]) -> list[Facts]:
    """One panel per logged quantity; a curve has mean, min and max over the runs at each step."""
    panels = []
    for key, (title, otherwise) in CURVES.items():
        rows = []
        for group, run in ((place, run) for place, one in enumerate(groups) for run in one["runs"]):
            history = run.facts.get("history") or ()
            name = key if any(key in entry for entry in history) else otherwise
            rows += [
                (group, float(entry["step"]), float(entry[name]))
                for entry in history
                if entry.get(name) is not None and entry.get("step") is not None
            ]
        frame = pd.DataFrame(rows, columns=["group", "step", "value"])
        stats = frame.groupby(["group", "step"])["value"].agg(["mean", "min", "max"]).reset_index()
        curves = [curve.to_dict("list") | {"group": g} for g, curve in stats.groupby("group")]
        panels += [{"title": title, "curves": curves}] if curves else []
    return panels


# --- Texts of the example browser, with every score that there is for them


def choose_pair(groups: Sequence[Facts]) -> tuple[Run | None, Run | None, tuple[str, str]]:
    """The runs before and after alignment whose attributions are compared, and their groups' names.

    The first aligned group (a control, where there is no other) beside its baseline, in runs of one
    seed where there are such.
    """
    after = sorted(groups, key=lambda group: -ROLES.index(group["role"]))[0]
    if after["role"] == "baseline":
        return after["runs"][0], None, (after["name"], "")
    if after["baseline"] is None:
        return None, after["runs"][0], ("", after["name"])
    pair = groups[after["baseline"]], after
    seed = next((seed for seed in after["seeds"] if seed in pair[0]["seeds"]), None)
    runs = [one["runs"][one["seeds"].index(seed) if seed in one["seeds"] else 0] for one in pair]
    return runs[0], runs[1], (pair[0]["name"], pair[1]["name"])


def collect_examples(
    groups: Sequence[Facts], priors: PriorFolder | None, *, first: str | None, most: int
) -> Facts:
    """At most `most` texts of all sets, evenly spread; models and priors are joined by text.

    Splits of the priors of which no text was evaluated are sets of their own; the set `first` leads.

    Returns:
        `sets` (names), `rows` of scores (`key, name, kind, note`), `total` (texts that there were)
        and `examples`: `set, text, words, label, before, after` (`(label, probability)` or `None`)
        and `scores`, a dict from the key of a row to one score per word.
    """
    before, after, names = choose_pair(groups)
    splits = {
        name: [row for row in rows if row.get(WORDS)]
        for name, rows in (priors.splits if priors else {}).items()
    }
    known = {row[TEXT]: _prior_scores(row) for rows in splits.values() for row in rows}
    records = [run.records if run else {} for run in (before, after)]
    sets = sorted({**records[1], **records[0]}, key=lambda name: name != first)
    found = []
    for number, name in enumerate(sets):
        said = [{row[TEXT]: row for row in one.get(name, ())} for one in records]
        for row in records[1].get(name) or records[0].get(name, ()):
            pair = [rows.get(row[TEXT]) for rows in said]
            found.append(_example(number, row, known.get(row[TEXT], {}), pair))
    seen = {example["text"] for example in found}
    for name, rows in splits.items():
        if rows and seen.isdisjoint(row[TEXT] for row in rows):
            found += [_example(len(sets), row, {}) for row in rows]
            sets.append(f"{name} (priors only)")
    examples = subsample(found, most)
    keys = dict.fromkeys(key for one in examples for key in one["scores"])
    of_prior, of_model = "Priors, for the gold label", "Models, for the label that each predicts"
    last = {
        PRIOR: (FUSED, "prior", of_prior),
        "before": (names[0], "attribution", of_model),
        "after": (names[1], "attribution", of_model),
    }
    order = [*(key for key in keys if key not in last), *(key for key in last if key in keys)]
    told = ((key, last.get(key, (key, "source", of_prior))) for key in order)
    shown = [{"key": k, "name": name, "kind": kind, "note": note} for k, (name, kind, note) in told]
    return {"sets": sets, "rows": shown, "examples": examples, "total": len(found)}


def _example(
    number: int,
    row: Mapping[str, Any],
    known: Mapping[str, Any],
    pair: Sequence[Mapping[str, Any] | None] = (None, None),
) -> Facts:
    """A text with the scores that can be drawn: one finite number per word."""
    said = {key: one for key, one in zip(("before", "after"), pair, strict=True) if one}
    scores = {**known, **_prior_scores(row), **{k: one["attributions"] for k, one in said.items()}}
    return {
        "set": number,
        "text": row[TEXT],
        "words": row[WORDS],
        "label": str(row.get(LABEL)),
        "before": None,
        "after": None,
        "scores": {key: one for key, one in scores.items() if _drawable(one, len(row[WORDS]))},
        **{k: (str(one["prediction"]), max(one["probabilities"])) for k, one in said.items()},
    }


def _prior_scores(row: Mapping[str, Any]) -> dict[str, Any]:
    columns = {source: prior_column(source) for source in prior_sources(row)} | {PRIOR: PRIOR}
    return {key: row[name] for key, name in columns.items() if isinstance(row.get(name), Sequence)}


def _drawable(scores: Sequence[float | None] | None, words: int) -> bool:
    return (
        scores is not None
        and len(scores) == words
        and all(score is not None and math.isfinite(score) for score in scores)
    )


# --- Errors: calibration, confusions, and keywords that labels share


def _of_records(
    measure: Callable[[Rows], Facts], groups: Sequence[Facts], split: str
) -> list[Facts]:
    """What is measured on the texts of each group that has records, all its runs together."""
    found = []
    for place, group in enumerate(groups):
        if rows := [row for run in group["runs"] for row in run.records.get(split, ())]:
            found.append({"group": place, **measure(rows)})
    return found


def calibration(rows: Rows) -> Facts:
    """Expected calibration error over ten bins of equal width (Naeini et al., 2015).

    The confidence is the probability of the predicted label. A bin counts by its share of the texts.

    Returns:
        `error` in [0, 1], lower is better, and `bins` with `confidence, accuracy, texts`.
    """
    sure = np.array([max(row["probabilities"]) for row in rows], dtype=float)
    right = np.array([str(row[LABEL]) == str(row["prediction"]) for row in rows], dtype=float)
    frame = pd.DataFrame({"confidence": sure, "accuracy": right})
    grouped = frame.groupby(np.minimum((sure * _BINS).astype(int), _BINS - 1))
    bins = grouped.mean().assign(texts=grouped.size())
    error = ((bins["confidence"] - bins["accuracy"]).abs() * bins["texts"]).sum() / len(rows)
    return {"error": float(error), "bins": bins.to_dict("records")}


def confusion(rows: Rows, keywords: Mapping[str, Sequence[str]]) -> Facts:
    """Gold against predicted labels, with the keywords that confused labels share.

    Returns:
        `labels`; `counts`, a dict from (gold, predicted) to a number of texts; `pairs`, the most
        frequent errors, with `gold, predicted, texts, of` (texts of the gold label) and `shared`.
    """
    counts = Counter((str(row[LABEL]), str(row["prediction"])) for row in rows)
    of = Counter(str(row[LABEL]) for row in rows)
    errors = [(pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]]
    pairs = [
        {"gold": gold, "predicted": predicted, "texts": count, "of": of[gold]}
        | {"shared": [w for w in keywords.get(gold, ()) if w in keywords.get(predicted, ())]}
        for (gold, predicted), count in errors[:_PAIRS]
    ]
    labels = sorted({label for pair in counts for label in pair})
    return {"labels": labels, "counts": dict(counts), "pairs": pairs}


def _model_keywords(groups: Sequence[Facts], split: str) -> dict[str, list[str]]:
    """The words that models count most for each label they predict, with a positive total."""
    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in (row for run in all_runs(groups) for row in run.records.get(split, ())):
        for word, score in zip(row[WORDS], row["attributions"] or (), strict=False):
            totals[str(row["prediction"])][word.lower()] += score
    return {
        label: [word for word, total in words.most_common(_KEYWORDS) if total > 0]
        for label, words in totals.items()
    }


# --- Features of tables, the audit of the priors, and what the page lacks


def feature_tables(groups: Sequence[Facts]) -> list[Facts]:
    """The features of each output of models of tables: elicited scores beside learned gradients.

    The scores are those of the first aligned group, so that controls are held against the same. All
    vectors have unit length, as in the alignment loss: only directions are compared.

    Returns:
        Tables with `output`; `features`, the largest first, with `name`, `elicited_score` and one
        `learned_gradient` per group; and `agreement`, a dict from group to the cosine of both.
    """
    rows = [
        (str(one["class"]), str(one["feature"]), place, number, one["score"], one["attribution"])
        for place, group in enumerate(groups)
        for number, run in enumerate(group["runs"])
        for one in run.facts.get("features") or ()
    ]
    frame = pd.DataFrame(rows, columns=["output", "name", "group", "run", "score", "gradient"])
    scored = frame[frame["score"].notna() & (frame["run"] == 0)]
    ranked = sorted(scored["group"].unique(), key=lambda place: groups[place]["role"] != "aligned")
    scored = scored[scored["group"].isin(ranked[:1])].set_index(["output", "name"])["score"]
    return [
        _feature_table(str(output), part, scored[scored.index.get_level_values(0) == output])
        for output, part in frame.groupby("output", sort=False)
    ]


def _feature_table(output: str, part: pd.DataFrame, scored: "pd.Series[float]") -> Facts:
    def unit(vectors: Any) -> Any:
        lengths = np.linalg.norm(vectors, axis=0)
        return vectors / np.where(lengths == 0, 1.0, lengths)

    def by_group(values: "pd.Series[float]") -> dict[int, Facts]:
        return {int(g): asdict(estimate(one)) for g, one in values.groupby(level="group")}

    gradients = part.pivot_table("gradient", "name", ["group", "run"], sort=False).fillna(0.0)
    scores = scored.droplevel("output").reindex(gradients.index).astype(float)
    known, gradients = scores.notna(), unit(gradients)
    scores = unit(scores.fillna(0.0))
    means = gradients.T.groupby(level="group").mean().T.abs().max(axis=1)
    largest = np.maximum(means, scores.abs()).sort_values(ascending=False, kind="stable")
    features = [
        {"name": name, "elicited_score": float(scores[name]) if known[name] else None}
        | {"learned_gradient": by_group(gradients.loc[name])}
        for name in largest.index
    ]
    cosines = by_group(scores @ unit(gradients.mul(known, axis=0)))
    return {"output": output, "features": features, "agreement": cosines if any(scores) else {}}


def audit_keywords(audit: Mapping[str, Any]) -> dict[str, list[str]]:
    """Keywords of each label by the fused prior, else by the first source; empty without any."""
    by_source = audit.get("keywords") or {}
    found: Mapping[str, Any] = by_source.get(PRIOR) or next(iter(by_source.values()), {})
    return {label: [str(word) for word, _ in words] for label, words in found.items()}


def prior_audit(audit: Mapping[str, Any]) -> Facts | None:
    """What the page shows of `audit.json`, which itself is `facts`; `None` where it is empty."""
    warnings = [
        f"{FUSED if source == PRIOR else source}: {number_text(share, True)} % of the texts {what}."
        for source, shares in (audit.get("degenerate") or {}).items()
        for case, what in _DEGENERATE.items()
        if (share := float(shares.get(case) or 0)) > 0
    ]
    overlaps = ((audit.get("confused_classes") or {}).get(PRIOR) or [])[:_PAIRS]
    shown = {"facts": audit, "texts": audit.get("texts"), "overlaps": overlaps}
    return shown | {"keywords": audit_keywords(audit), "warnings": warnings} if audit else None


def _gaps(groups: Sequence[Facts], split: str, priors: PriorFolder | None, unit: str) -> list[str]:
    """What is missing, and the command that makes it."""
    runs, roles = all_runs(groups), {group["role"] for group in groups}
    baseline = {"texts": "--alignment_weight 0", "rows": "--task tabular` without `--scores"}[unit]
    evaluated = any(run.evaluations for run in runs)
    missing = [run.name for run in runs if split not in run.evaluations]
    of_texts = unit == "texts"
    checks = [
        (not evaluated, "No run was evaluated: `hf-cap evaluate --model RUN --dataset DATA`."),
        (evaluated and missing, f"Not evaluated on {split}: {', '.join(missing)}."),
        ("baseline" not in roles, f"No run without alignment: `hf-cap train {baseline}`."),
        (
            "aligned" in roles and "control" not in roles,
            "No control run. A gain is due to what is in the prior only if it exceeds that of a "
            "shuffled one.",
        ),
        (
            any(len(group["runs"]) == 1 for group in groups),
            "A group of one run has no interval: train with several seeds.",
        ),
        (not any(run.facts.get("history") for run in runs), "No training history, so no curves."),
        (
            of_texts and not any(split in run.records for run in runs),
            f"No records of single texts of {split}, so no calibration, confusions and heat maps of "
            "the models: `hf-cap evaluate --records`.",
        ),
        (of_texts and not priors, "No priors were given: `hf-cap report RUN --priors FOLDER`."),
        (priors and priors.audit is None, "The priors were not audited: `hf-cap audit`."),
    ]
    return [said for is_missing, said in checks if is_missing]


def number_text(value: float, percent: bool = False, *, signed: bool = False) -> str:
    """Three decimals, or percent with one; with a true minus sign, and zeros so that columns line up."""
    text = f"{100 * value:.1f}" if percent else f"{value:.3f}"
    sign = "+" if signed and not text.startswith("-") else ""
    return sign + text.replace("-", "\N{MINUS SIGN}")


def estimate_text(value: Mapping[str, Any], percent: bool = False) -> str:
    """A mean with its interval, such as `76.5 % (75.2 to 77.8)`."""
    unit = " %" if percent else ""
    mean = f"{number_text(value['mean'], percent)}{unit}"
    if value["low"] is None:
        return mean
    return f"{mean} ({number_text(value['low'], percent)} to {number_text(value['high'], percent)})"
