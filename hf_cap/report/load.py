"""Read what the commands leave on disk: run folders, as groups, and folders of priors.

Imports nothing heavy, since the command line reads `ReportSettings`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_cap.cards import EVALUATIONS, RUN_FILE, public_name, public_settings, public_text
from hf_cap.cues import Cue, Mark, load_marks
from hf_cap.errors import DataError
from hf_cap.schema import CONTROL_PRIORS, LABEL, TEXT, WORDS
from hf_cap.utils import Place, option, read_json, settings_class

AUDIT_FILE, SHORTCUTS_FILE = "audit.json", "shortcuts.json"
_RECORD_COLUMNS = (TEXT, LABEL, "prediction", "probabilities", WORDS, "attributions")
ROLES = ("baseline", "control", "aligned")
# what differs between the seeds of one experiment, or says only where and how it ran
_NOT_COMPARED = frozenset(
    "seed data_seed output_dir run_name logging_dir report_to resume_from_checkpoint push_to_hub "
    "hub_model_id disable_tqdm logging_steps save_strategy save_steps save_total_limit "
    "eval_split".split()
)

# what reading altered bytes ends in
_DAMAGED = (ValueError, TypeError, AttributeError, IndexError, KeyError)
# the shapes are those of `read_json`
_NUMBER = (int, float, type(None))
_TEXT = (str, type(None))
_BY_SOURCE = {"*": {"*": _NUMBER}}
_RUN = {
    "kind?": str, "model?": str, "seed?": int, "command?": str,
    "settings?": {}, "alignment?": {"alignment_weight?": (int, float)}, "scores?": {"control?": str},
    "data?": {"name?": str, "dataset?": str, "train_split?": str, "rows?": int,
              "labels?": [str], "provenance?": [{"control?": {"control?": str}}]},
    "history?": [{"step?": int, "loss?": _NUMBER, "loss_task?": _NUMBER, "loss_align?": _NUMBER,
                  "align_cosine?": _NUMBER, "eval_loss?": _NUMBER}],
    "versions?": {"*": _TEXT}, "features?": [{"score": _NUMBER, "attribution": _NUMBER}],
}  # fmt: skip
_CONCEPTS = {
    "labels": {"*": {"texts": int, "left": float, "concepts": [{
        "importance": float, "words": [str], "text": str,
        "nearest?": {"label": str, "concept": int, "cosine": float}}]}},
    "confusions": [{"gold": str, "predicted": str, "texts": int, "concept": int, "by": float}],
    "shared?": _NUMBER,
}  # fmt: skip
_EVALUATION = {
    "texts?": int, "rows?": int, "explained_texts?": int, "labels?": list, "accuracy?": _NUMBER,
    "macro_f1?": _NUMBER, "concepts?": _CONCEPTS,
}  # fmt: skip
_AUDIT = {
    "texts?": int, "top_k?": int, "sources?": [str], "mass?": _BY_SOURCE, "rank_correlation?": _BY_SOURCE,
    "top_k_agreement?": _BY_SOURCE, "degenerate?": _BY_SOURCE, "class_overlap?": {"*": _NUMBER},
    "keywords?": {"*": {"*": [list]}},
    "confused_classes?": {"*": [{"classes": [str], "overlap": _NUMBER, "shared": list}]},
}  # fmt: skip
_SHORTCUTS = {"shortcuts": [{
    "kind": str, "value": str, "cue": str, "label": str, "texts": int, "of": int, "elsewhere": int,
    "log_odds": (int, float), "q": (int, float), "relevance": (int, float), "mass?": _NUMBER,
    "removed?": _NUMBER, "flipped?": _NUMBER, "examples?": [str],
}]}  # fmt: skip

Facts = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]  # column name to value, for each text


@settings_class
class ReportSettings:
    """What goes into a report, and how much of it."""

    title: str = option("What the model learned", "Heading of the page.")
    split: str | None = option(
        None, "Evaluation whose errors, calibration and texts are shown; `test` by default, else the first."
    )
    examples: int = option(
        1000, "Number of texts in the example browser, evenly spread over the data; at least 0.", at_least=0
    )
    megabytes: float = option(
        4.0, "Room for the texts and their scores; fewer texts are shown where they need more.", above=0
    )


@dataclass(frozen=True)
class Run:
    """One training run: its folder's name, `run.json`, and its evaluation sets.

    Attributes:
        evaluations: Name of a set to its numbers.
        records: Name of a set to its texts, with `text, label, prediction, probabilities, words,
            attributions, prior` and perhaps `prior_<source>`.
    """

    name: str
    facts: Mapping[str, Any]
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    records: Mapping[str, Rows] = field(default_factory=dict)


@dataclass(frozen=True)
class PriorFolder:
    """Split name to its texts, with label names in `label`, and `audit.json` where there is one."""

    splits: Mapping[str, Rows]
    audit: Mapping[str, Any] | None = None


def load_run(folder: Place) -> Run:
    """Read a run folder."""
    path = Path(folder).expanduser()
    file = path / RUN_FILE
    if not file.is_file():
        raise DataError(
            f"{str(path)!r} is not a run: it holds no {RUN_FILE}. Give a folder that `hf-cap train` wrote."
        )
    sets = path / EVALUATIONS
    numbers = {one.stem: read_json(one, _EVALUATION) for one in sorted(sets.glob("*.json"))}
    records = {o.stem: read_rows(o, _RECORD_COLUMNS) for o in sorted(sets.glob("*.parquet"))}
    return Run(path.resolve().name, read_json(file, _RUN), numbers, records)


def load_priors(*folders: Place, audit: Place | None = None) -> PriorFolder:
    """Read folders of priors, one parquet file per split, and the `audit.json` of the first.

    That is in the folder `audit`, by default in the folder itself or the one beside it whose name ends in
    `-audit`, where `hf-cap audit` puts it. A folder or file that is missing or damaged is a `DataError`.
    """
    paths, splits = [Path(folder).expanduser() for folder in folders], dict[str, Rows]()
    for path in paths:
        if not (files := sorted(path.glob("*.parquet"))):
            raise DataError(
                f"{str(path)!r} holds no parquet file. Give priors that `hf-cap extract` or `fuse` wrote."
            )
        splits |= {f.stem: [*splits.get(f.stem, ()), *read_rows(f, [TEXT])] for f in files}
    usual = [paths[0], paths[0].with_name(f"{paths[0].name}-audit")]
    places = usual if audit is None else [Path(audit).expanduser()]
    found = next((place / AUDIT_FILE for place in places if (place / AUDIT_FILE).is_file()), None)
    if audit is not None and found is None:
        raise DataError(f"{str(audit)!r} holds no {AUDIT_FILE}. Give a folder that `hf-cap audit` wrote.")
    return PriorFolder(splits, read_json(found, _AUDIT) if found else None)


def load_shortcuts(place: Place) -> list[Facts]:
    """The shortcuts in `shortcuts.json`, or in a folder that has it, with the `mark` of each.

    Decisions are those of the YAML file beside it; what it does not have is no longer listed.
    """
    file = Path(place).expanduser()
    file = file / SHORTCUTS_FILE if file.is_dir() else file
    found = found_shortcuts(file)
    if (decisions := file.with_suffix(".yaml")).exists():
        decided = {(mark.cue, mark.label): mark for mark in load_marks(decisions)}
        found = {key: {**found[key], "mark": decided[key]} for key in found if key in decided}
    return list(found.values())


def found_shortcuts(file: Path) -> dict[tuple[Cue, str], Facts]:
    """Cue and label to the row of `shortcuts.json` about it, with its `mark` as it was found."""
    found: dict[tuple[Cue, str], Facts] = {}
    for one in read_json(file, _SHORTCUTS)["shortcuts"]:
        mark = Mark(kind=one["kind"], value=one["value"], label=one["label"])
        row = {"mass": None, "removed": None, "flipped": None, "examples": [], **one, "mark": mark}
        found[mark.cue, mark.label] = row
    return found


def read_rows(file: Path, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a parquet file; class indices become label names where the file knows them."""
    from hf_cap.parquet import read_table

    table = read_table(file)
    try:
        stored = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = stored.get("info", {}).get("features", {}).get(LABEL, {}).get("names")
        rows: list[dict[str, Any]] = table.to_pylist()
        for row in rows if names else ():
            row[LABEL] = None if row[LABEL] is None else names[row[LABEL]]
    except _DAMAGED as error:
        raise DataError(f"{str(file)!r} cannot be read as parquet: {error}. Write it again.") from error
    if missing := [name for name in columns if name not in table.column_names]:
        raise DataError(f"{str(file)!r} lacks the columns {missing}; it has {table.column_names}.")
    return rows


def group_runs(runs: Sequence[Run], baselines: Sequence[Run] = ()) -> list[Facts]:
    """Group runs that differ in nothing but their seed: baselines, then controls, then aligned ones.

    Runs with an alignment weight of 0 are baselines, as are `baselines` whatever their settings. A
    group has `name, role, runs, seeds, model, settings, command, data` (name, split, rows, labels)
    and `baseline`, the position of the group to compare with. Names hold the settings that tell
    groups apart, or a number where these settings must not be shown.
    """
    members = [("baseline", "no alignment", run) for run in baselines]
    members += [(*_role(run), run) for run in runs]
    found: dict[Any, Facts] = {}
    for role, name, run in sorted(members, key=lambda member: ROLES.index(member[0])):
        model, command = run.facts.get("model"), run.facts.get("command")
        given = {"model": model, **(run.facts.get("settings") or {})}
        shared = {key: str(given[key]) for key in sorted(given.keys() - _NOT_COMPARED)}
        shared = {key: value for key, value in shared.items() if given[key] is not None}
        data = run.facts.get("data") or {}
        split, rows, labels = data.get("train_split"), data.get("rows"), data.get("labels") or ()
        told = data.get("name") or data.get("dataset")
        named = (public_name(told), split, rows, len(labels)) if data else None
        facts = {
            "name": name,
            "role": role,
            # not the data set's name: the same texts with priors are in another folder
            "task": (rows, labels, model),
            "data": named,
            "model": public_name(model),
            "settings": public_settings(shared),
            "command": public_text(str(command)) if command else None,
        }
        group = found.setdefault((role, name, *shared.items()), {**facts, "runs": [], "seeds": []})
        group["runs"].append(run)
        group["seeds"].append(run.facts.get("seed"))
    groups = list(found.values())
    names = [_told_apart(group, groups) for group in groups]
    for place, (group, name) in enumerate(zip(groups, names, strict=True)):
        number = f", group {names[:place].count(name) + 1}" if names.count(name) > 1 else ""
        # the first baseline on the same data and model, else the first
        plain = [other for other, one in enumerate(groups) if one["role"] == "baseline"]
        plain.sort(key=lambda other: groups[other]["task"] != group["task"])
        group["name"] = name + number
        group["baseline"] = plain[0] if plain and group["role"] != "baseline" else None
    return groups


def _role(run: Run) -> tuple[str, str]:
    """Role of a run, and the name of its group."""
    given = run.facts.get("settings") or {}
    weight = {**given, **(run.facts.get("alignment") or {})}.get("alignment_weight")
    if weight is not None and float(weight) == 0:
        return "baseline", "no alignment"
    column = str(given.get("prior_column", ""))
    made: Facts = next(iter((run.facts.get("data") or {}).get("provenance") or ()), {})
    control = ((run.facts.get("scores") or made.get("control")) or {}).get("control")
    control = control or next((name for name in CONTROL_PRIORS if column.endswith(name)), None)
    return ("control", f"control: {control}") if control else ("aligned", "aligned")


def _told_apart(group: Facts, groups: Sequence[Facts]) -> str:
    own, name = group["settings"], group["name"]
    alike = [one["settings"] for one in groups if one["name"] == name]
    told = [f"{key}={own[key]}" for key in own if any(one.get(key) != own[key] for one in alike)]
    return f"{name} ({', '.join(told)})" if told else name
