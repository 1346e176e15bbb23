"""What a report shows, as plain dicts and lists; the template and the figures draw these alone."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from hf_cap.cards import METRICS
from hf_cap.cues import Mark, find_marked
from hf_cap.errors import ConfigError
from hf_cap.evaluation.calibration import calibration_bins, expected_error
from hf_cap.evaluation.results import estimate
from hf_cap.report.load import ROLES, Facts, PriorFolder, ReportSettings, Rows, Run, group_runs
from hf_cap.report.shortcuts import change_of, is_explained, is_right, shortcut_section
from hf_cap.schema import LABEL, PRIOR, TEXT, WORDS, prior_column, prior_sources
from hf_cap.utils import subsample
from hf_cap.words import fold, is_punctuation

_PERCENT = ("accuracy", "macro_f1", "worst_class_accuracy", "ece", "set_coverage")
_LEAST = {"alignment": -1.0, "comprehensiveness": -1.0, "sufficiency": -1.0}  # and 1 at most
_DIGITS = 3  # decimals that are shown
_NEITHER = ("temperature", "set_coverage")  # more of it is neither better nor worse
# without alignment the loss has one part, and `transformers.Trainer` logs it under its own name
CURVES = {
    "loss_task": ("Task loss", "loss"),
    "loss_align": ("Alignment loss (before its weight)", None),
    "align_cosine": ("Cosine of attribution and prior", None),
    "eval_loss_task": ("Task loss, held out", "eval_loss"),
    "eval_loss_align": ("Alignment loss, held out", None),
}
FUSED = "fused prior"
_PAIRS = 12


def report_contents(
    runs: Sequence[Run],
    baselines: Sequence[Run] = (),
    priors: PriorFolder | None = None,
    settings: ReportSettings | None = None,
    shortcuts: Sequence[Facts] | None = None,
) -> Facts:
    """Everything that the page shows; runs with weight 0 and `baselines` are the baseline of the others."""
    settings, everything = settings or ReportSettings(), [*runs, *baselines]
    tables = _shows_tables(everything, priors)
    groups = group_runs(runs, baselines)
    known = [name for run in everything for name in (*run.records, *run.evaluations)]
    split = settings.split or ("test" if "test" in known or not known else known[0])
    audit = prior_audit(priors.audit) if priors and priors.audit else None
    keywords, most = audit["keywords"] if audit else {}, settings.examples
    sets = evaluation_sets(groups, split)
    records = {place: rows for place, one in enumerate(groups) if (rows := _evaluated(one, split))}
    marks = [one["mark"] for one in shortcuts or ()]
    pair = choose_groups(groups)
    names = {key: groups[place]["name"] for key, place in pair.items()}
    compared = {key: records[place] for key, place in pair.items() if place in records}
    others = [name for name in dict.fromkeys((split, *known)) if name != "train"]
    by_set = {key: {n: _evaluated(groups[place], n) for n in others} for key, place in pair.items()}
    versions = {pair for run in everything for pair in (run.facts.get("versions") or {}).items()}
    gaps = {"records": not tables and not records, "priors": not tables and priors is None}
    gaps["audit"] = priors is not None and priors.audit is None
    return {
        "title": settings.title,
        "unit": "rows" if tables else "texts",
        "split": split,
        "groups": groups,
        "evaluations": sets,
        "findings": find_changes(groups, sets),
        "shortcuts": shortcut_section(shortcuts, by_set, names),
        "labels": label_table(compared, marks),
        "concepts": concept_section(choose_models(groups), split),
        "compared": pair,
        "panels": training_curves(groups),
        "features": feature_tables(groups),
        "calibrations": {place: calibration(rows) for place, rows in records.items()},
        "confusions": {i: confusion(rows, keywords) for i, rows in records.items()},
        "audit": audit,
        "examples": collect_examples(groups, priors, first=split, most=most, marks=marks),
        "versions": sorted(versions),
        "gaps": [*_gaps(groups, split), *(name for name in gaps if gaps[name])],
    }


def _shows_tables(runs: Sequence[Run], priors: PriorFolder | None) -> bool:
    """Whether a page on some runs is about tables, or `ConfigError` where it cannot be made."""
    if not runs:
        raise ConfigError("A report needs at least one run; got none.")
    tables = [run.name for run in runs if run.facts.get("kind") == "train_tabular"]
    if tables and (len(tables) < len(runs) or priors is not None):
        raise ConfigError(
            f"A page on tables ({', '.join(tables)}) shows no texts and no priors; make a page of each."
        )
    return bool(tables)


def _evaluated(group: Facts, name: str) -> list[Mapping[str, Any]]:
    """The texts of an evaluation set, of all runs of a group together."""
    return [row for run in group["runs"] for row in run.records.get(name, ())]


def _gaps(groups: Sequence[Facts], split: str) -> list[str]:
    """What would make the comparison of the groups whole, and is missing."""
    roles = {group["role"] for group in groups}
    runs = [run for group in groups for run in group["runs"]]
    found = {
        "evaluations": any(split not in run.evaluations for run in runs),
        "baseline": "baseline" not in roles,
        "control": "aligned" in roles and "control" not in roles,
        "seeds": any(len(group["runs"]) == 1 for group in groups),
        "history": not any(run.facts.get("history") for run in runs),
    }
    return [name for name, is_gap in found.items() if is_gap]


# --- Results over seeds, and training curves


def evaluation_sets(groups: Sequence[Facts], first: str | None = None) -> list[Facts]:
    """Every evaluation set, with `name`, `size`, `explained` (texts) and `rows`; the one named `first` leads.

    A row has `measure, title, percent` and one of `values` and `differences` per group: `{mean, low,
    high, n}` or `None`. Differences are paired by seed with the group's baseline.
    """
    runs = [run for group in groups for run in group["runs"]]
    numbers = {name: n for run in reversed(runs) for name, n in run.evaluations.items()}
    found = []
    for name in sorted(numbers, key=lambda name: (name != first, name)):
        rows = [_compare(groups, name, measure) for measure in METRICS]
        size = numbers[name].get("texts", numbers[name].get("rows"))
        rows = [row for row in rows if any(row["values"])]
        facts = {"name": name, "size": size, "explained": numbers[name].get("explained_texts"), "rows": rows}
        found += [facts] if rows else []
    return found


def _compare(groups: Sequence[Facts], test_set: str, measure: str) -> Facts:
    """The row of a measure: its mean in each group, and the difference from the group's baseline."""
    values = [_by_seed(group, test_set, measure) for group in groups]
    changes = []
    for group, own in zip(groups, values, strict=True):
        other = {} if group["baseline"] is None else values[group["baseline"]]
        changes.append({seed: own[seed] - other[seed] for seed in own if seed in other})
    row: Facts = {"measure": measure, "title": METRICS[measure], "percent": measure.startswith(_PERCENT)}
    least = 0.0 if row["percent"] else _LEAST.get(measure)
    # a difference is at most as large as the range, which ends at 1
    ranges = (None, None) if least is None else ((least, 1.0), (least - 1, 1 - least))
    for name, found, within in zip(("values", "differences"), (values, changes), ranges, strict=True):
        row[name] = [asdict(estimate(list(one.values()), within=within)) if one else None for one in found]
    return row


def _by_seed(group: Facts, test_set: str, measure: str) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for place, (run, seed) in enumerate(zip(group["runs"], group["seeds"], strict=True)):
        value = run.evaluations.get(test_set, {}).get(measure)
        if isinstance(value, int | float) and math.isfinite(value):
            # a second run of one seed counts too, but has no partner in the baseline
            found[(group["name"], place) if seed in found else seed] = float(value)
    return found


def training_curves(groups: Sequence[Facts]) -> list[Facts]:
    """One panel per logged quantity; a curve has mean, min and max over the runs at each step."""
    panels = []
    for key, (title, otherwise) in CURVES.items():
        rows = []
        for group, run in ((place, run) for place, one in enumerate(groups) for run in one["runs"]):
            history = run.facts.get("history") or ()
            name = key if any(key in entry for entry in history) else otherwise
            known = (entry for entry in history if None not in (entry.get(name), entry.get("step")))
            rows += [(group, float(entry["step"]), float(entry[name])) for entry in known]
        frame = pd.DataFrame(rows, columns=["group", "step", "value"])
        stats = frame.groupby(["group", "step"])["value"].agg(["mean", "min", "max"]).reset_index()
        curves = [curve.to_dict("list") | {"group": g} for g, curve in stats.groupby("group")]
        panels += [{"title": title, "curves": curves}] if curves else []
    return panels


def find_changes(groups: Sequence[Facts], sets: Sequence[Facts], most: int = 6) -> list[Facts]:
    """What changed against the baseline, good or bad, on each evaluation set.

    All groups are told of on the first set, the aligned ones on `most` sets; these come first, and of them
    those whose accuracy changed most. There are `set` and `group` (facts of theirs), `accuracy` (its row,
    `now`, `before` and `change`, or `None`), `flips` (see `count_flips`) and the titles of the other
    measures that got `better`, `worse`, or moved within the spread of the seeds (`unclear`), each with its
    row and its `change`. A single seed has no spread: what differs in it moved.
    """
    found = []
    for number, one in enumerate(sets[:most]):
        for place, group in reversed(list(enumerate(groups))):
            if group["baseline"] is None or (number and group["role"] != "aligned"):
                continue
            rows = [row for row in one["rows"] if row["differences"][place]]
            moved: Facts = {"better": [], "worse": [], "unclear": []}
            for row in (row for row in rows if row["measure"] not in ("accuracy", *_NEITHER)):
                change = row["differences"][place]
                if not round(change["mean"], _DIGITS):
                    continue
                moved[_direction(row["title"], change)].append({**row, "change": change})
            exact = next((row for row in rows if row["measure"] == "accuracy"), None)
            flips = count_flips(groups[group["baseline"]], group, one["name"])
            found.append({"set": one, "group": place, "accuracy": exact, "flips": flips, **moved})
    return sorted(found, key=lambda one: _rank(groups, one))


def _rank(groups: Sequence[Facts], change: Facts) -> tuple[bool, float]:
    """What puts a change of `find_changes` among the others: the least comes first."""
    place, exact = change["group"], change["accuracy"]
    size = abs(exact["differences"][place]["mean"]) if exact else 0.0
    return groups[place]["role"] != "aligned", -round(size, _DIGITS)


def _direction(title: str, change: Mapping[str, Any]) -> str:
    low, high = (change["mean"],) * 2 if change["low"] is None else (change["low"], change["high"])
    if low <= 0 <= high:
        return "unclear"
    return "worse" if (low > 0) == ("lower is better" in title) else "better"


def count_flips(baseline: Facts, group: Facts, test_set: str) -> Facts | None:
    """Predictions that were put `right` and put `wrong`, `of` so many in `seeds` runs of a common seed."""
    flips, seeds, texts = Counter[str](), 0, 0
    plain = dict(zip(reversed(baseline["seeds"]), reversed(baseline["runs"]), strict=True))
    for seed, run in zip(group["seeds"], group["runs"], strict=True):
        rows, other = run.records.get(test_set), plain.get(seed)
        before = {row[TEXT]: row for row in other.records.get(test_set, ())} if other else {}
        if pairs := [(before[row[TEXT]], row) for row in rows or () if row[TEXT] in before]:
            seeds, texts = seeds + 1, texts + len(pairs)
            was, now = ([is_right(row) for row in rows] for rows in zip(*pairs, strict=True))
            flips.update("right" if b else "wrong" for a, b in zip(was, now, strict=True) if a != b)
    if not seeds:
        return None
    return {"right": flips["right"], "wrong": flips["wrong"], "of": texts, "seeds": seeds}


# --- Texts of the example browser, and what is wrong on them


def choose_groups(groups: Sequence[Facts]) -> dict[str, int]:
    """Places of the groups `before` and `after` alignment that are compared text by text.

    The first aligned group (a control, where there is no other) beside its baseline.
    """
    last = max(range(len(groups)), key=lambda place: ROLES.index(groups[place]["role"]))
    pair = {"before": last} if groups[last]["role"] == "baseline" else {"after": last}
    before = groups[last]["baseline"]
    return pair if before is None else {"before": before, **pair}


def choose_models(groups: Sequence[Facts]) -> dict[str, tuple[str, Run]]:
    """Name and run of these groups, in runs of one seed where there are such."""
    pair = {key: groups[place] for key, place in choose_groups(groups).items()}
    last = list(pair.values())[-1]
    shared = [seed for seed in last["seeds"] if all(seed in one["seeds"] for one in pair.values())]
    places = {key: one["seeds"].index(shared[0]) if shared else 0 for key, one in pair.items()}
    return {key: (one["name"], one["runs"][places[key]]) for key, one in pair.items()}


def collect_examples(
    groups: Sequence[Facts],
    priors: PriorFolder | None,
    *,
    first: str | None,
    most: int,
    marks: Sequence[Mark] = (),
) -> Facts:
    """At most `most` texts of all sets, evenly spread; models and priors are joined by text.

    Where models explained a part of their texts, that part is shown. Splits of the priors of which no text
    was evaluated are sets of their own; the set `first` leads. There are `sets` (names), `rows` of scores
    (`key, name, kind`), `total` (texts that there were) and `examples`: `set, text, words, label, before,
    after` (`(label, probability)` or `None`), `scores`, a dict from the key of a row to one score per word,
    `cues` of `find_marked` and `change` of `change_of` (`None` unless both models explained it).
    """
    models = choose_models(groups)
    all_splits = priors.splits if priors else {}
    splits = {name: [row for row in rows if row.get(WORDS)] for name, rows in all_splits.items()}
    known = {row[TEXT]: _prior_scores(row) for rows in splits.values() for row in rows}
    sets = list(dict.fromkeys(name for _, run in models.values() for name in run.records))
    sets.sort(key=lambda name: name != first)
    found, unexplained = list[Facts](), list[Facts]()
    for number, name in enumerate(sets):
        pairs = ((key, run.records.get(name, ())) for key, (_, run) in models.items())
        said = {key: {row[TEXT]: row for row in rows} for key, rows in pairs}
        for text in said.get("after") or said["before"]:
            both = {key: rows[text] for key, rows in said.items() if text in rows}
            example = _example(number, list(both.values())[-1], known.get(text, {}), both)
            paired = len(both) == 2 and is_explained(*both.values())
            moved = change_of(both["before"], both["after"], marks) if paired else None
            explained = any(map(is_explained, both.values()))
            (found if explained else unexplained).append({**example, "change": moved})
    seen = {example["text"] for example in found}
    for name, rows in splits.items():
        if rows and seen.isdisjoint(row[TEXT] for row in rows):
            found += [{**_example(len(sets), row, {}, {}), "change": None} for row in rows]
            sets.append(f"{name} (priors only)")
    examples = subsample(found or unexplained, most)
    for example in examples:
        example["cues"] = find_marked(example["words"], marks)
    keys = dict.fromkeys(key for one in examples for key in one["scores"])
    named = {PRIOR: {"name": FUSED, "kind": "prior"}}
    named |= {key: {"name": name, "kind": "attribution"} for key, (name, _) in models.items()}
    order = [*(key for key in keys if key not in named), *(key for key in named if key in keys)]
    shown = [{"key": key, "name": key, "kind": "source"} | named.get(key, {}) for key in order]
    return {"sets": sets, "rows": shown, "examples": examples, "total": len(found) + len(unexplained)}


def _example(number: int, row: Mapping[str, Any], known: Mapping[str, Any], said: Mapping[str, Any]) -> Facts:
    """A text with the scores that can be drawn: one finite number per word."""
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
    numbers = [score for score in scores or () if score is not None and math.isfinite(score)]
    return scores is not None and len(scores) == words == len(numbers)


def label_table(compared: Mapping[str, Rows], marks: Sequence[Mark], most: int = 6) -> list[Facts]:
    """Each label of the compared models, the most changed first: its texts that are right, and the words.

    A row has `label`; `right` and `texts`, dicts from `before` and `after` to a number of predictions; and
    `words`, from the same to at most `most` pairs of a word and whether it is a shortcut of the label: those
    with the highest sum of attributions, divided by the largest of a text, over the texts predicted so.
    """
    cues = {(m.label, word) for m in marks if m.decision == "shortcut" for word in m.value.split()}
    tables = defaultdict[str, Facts](lambda: {"right": Counter(), "texts": Counter(), "words": {}})
    for key, rows in compared.items():
        totals = defaultdict[str, Counter[str]](Counter)
        for row in rows:
            gold, said = str(row[LABEL]), str(row["prediction"])
            tables[gold]["texts"][key] += 1
            tables[gold]["right"][key] += gold == said
            if not is_explained(row):
                continue
            largest = max(map(abs, row["attributions"]), default=0) or 1.0
            for word, score in zip(row[WORDS], row["attributions"], strict=True):
                if not is_punctuation(word):
                    totals[said][fold(word)] += score / largest
        for label, table in tables.items():
            top = totals[label].most_common(most)
            table["words"][key] = [(word, (label, word) in cues) for word, n in top if n > 0]
    found = ({"label": label, **table} for label, table in sorted(tables.items()))
    return sorted(found, key=lambda one: -abs(one["right"]["after"] - one["right"]["before"]))


def concept_section(models: Mapping[str, tuple[str, Run]], split: str) -> Facts | None:
    """The concepts that `concept_audit` found on a set; `None` where none were looked for.

    There are the `names` of the models `before` and `after` alignment, `models`, what was found of each, and
    the `labels` that either predicts.
    """
    told = {key: run.evaluations.get(split, {}).get("concepts") for key, (_, run) in models.items()}
    found = {key: one for key, one in told.items() if one}
    labels = sorted({label for one in found.values() for label in one["labels"]})
    names = {key: models[key][0] for key in found}
    return {"names": names, "models": found, "labels": labels} if found else None


def calibration(rows: Rows) -> Facts:
    """Expected calibration `error`, in [0, 1], and its `bins` of equally many texts.

    A bin has `confidence` (the probability of the predicted label), `accuracy` and `texts`.
    """
    sure = np.array([max(row["probabilities"]) for row in rows], dtype=float)
    bins = calibration_bins(sure, np.array([str(r[LABEL]) == str(r["prediction"]) for r in rows]))
    frame = pd.DataFrame(bins, columns=["confidence", "accuracy", "texts"]).astype({"texts": int})
    return {"error": expected_error(bins), "bins": frame.to_dict("records")}


def confusion(rows: Rows, keywords: Mapping[str, Sequence[str]]) -> Facts:
    """The `labels`, and `counts`, a dict from (gold, predicted) to a number of texts.

    `pairs` are the most frequent errors, with `gold, predicted, texts, of` (texts of the gold
    label) and `shared`, the keywords of both labels.
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


# --- Features of tables, the audit of the priors, and numbers as text


def feature_tables(groups: Sequence[Facts]) -> list[Facts]:
    """The features of each output of models of tables: elicited scores beside learned gradients.

    The scores are those of the first aligned group, so that controls are held against the same. All
    vectors have unit length, as in the alignment loss: only directions are compared. A table has
    `output`; `features`, the largest first, with `name`, `elicited_score` and one `learned_gradient`
    per group; and `agreement`, a dict from group to the cosine of both.
    """
    rows = [
        (str(one["class"]), str(one["feature"]), place, number, one["score"], one["attribution"])
        for place, group in enumerate(groups)
        for number, run in enumerate(group["runs"])
        for one in run.facts.get("features") or ()
    ]
    frame = pd.DataFrame(rows, columns=["output", "name", "group", "run", "score", "gradient"])
    scored = frame[frame["score"].notna() & (frame["run"] == 0)]
    first = min(scored["group"], key=lambda g: groups[g]["role"] != "aligned", default=None)
    scored = scored[scored["group"] == first]
    return [
        _feature_table(part, scored[scored["output"] == output].set_index("name")["score"])
        | {"output": str(output)}
        for output, part in frame.groupby("output", sort=False)
    ]


def _feature_table(part: pd.DataFrame, scored: "pd.Series[float]") -> Facts:
    def unit(vectors: Any) -> Any:
        lengths = np.linalg.norm(vectors, axis=0)
        return vectors / np.where(lengths == 0, 1.0, lengths)

    def by_group(values: "pd.Series[float]") -> dict[int, Facts]:
        return {int(g): asdict(estimate(one)) for g, one in values.groupby(level="group")}

    gradients = part.pivot_table("gradient", "name", ["group", "run"], sort=False).fillna(0.0)
    scores = scored.reindex(gradients.index).astype(float)
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
    return {"features": features, "agreement": cosines if any(scores) else {}}


def prior_audit(audit: Mapping[str, Any]) -> Facts:
    """What the page shows of `audit.json`, which itself is `facts`.

    The keywords of a label are those of the fused prior, else of the first source.
    """
    by_source = audit.get("keywords") or {}
    found: Mapping[str, Any] = by_source.get(PRIOR) or next(iter(by_source.values()), {})
    keywords = {label: [str(word) for word, _ in words] for label, words in found.items()}
    overlaps = ((audit.get("confused_classes") or {}).get(PRIOR) or [])[:_PAIRS]
    return {"facts": audit, "overlaps": overlaps, "keywords": keywords}


def number_text(value: float, percent: bool = False, *, signed: bool = False) -> str:
    """Three decimals, or percent with one; with a true minus sign, and zeros so that columns line up."""
    text = f"{100 * value:.{_DIGITS - 2}f}" if percent else f"{value:.{_DIGITS}f}"
    sign = "+" if signed and not text.startswith("-") else ""
    return sign + text.replace("-", "\N{MINUS SIGN}")


def estimate_text(value: Mapping[str, Any], percent: bool = False) -> str:
    """A mean with its interval, such as `76.5 % (75.2 to 77.8)`."""
    mean = number_text(value["mean"], percent) + (" %" if percent else "")
    if value["low"] is None:
        return mean
    return f"{mean} ({number_text(value['low'], percent)} to {number_text(value['high'], percent)})"
