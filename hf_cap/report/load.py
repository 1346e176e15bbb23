"""Read what the commands leave on disk: run folders, as groups, and folders of priors.

Imports nothing heavy, since the command line reads `ReportSettings`.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_cap.errors import ConfigError, DataError
from hf_cap.schema import CONTROL_PRIORS, LABEL, WORDS
from hf_cap.utils import check_range, documented, option

AUDIT_FILE = "audit.json"
_RECORD_COLUMNS = ("text", LABEL, "prediction", "probabilities", WORDS, "attributions")
_OBJECTS = ("settings", "alignment", "data", "scores", "versions")
_ARRAYS = ("history", "features")

ROLES = ("baseline", "control", "aligned")
# what differs between the seeds of one experiment, or says only where and how it ran
_NOT_COMPARED = frozenset(
    "seed data_seed output_dir run_name logging_dir report_to resume_from_checkpoint push_to_hub "
    "hub_model_id disable_tqdm logging_steps save_strategy save_steps save_total_limit "
    "eval_split".split()
)

Facts = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]
"""Column name to value, for each text."""


@documented
@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What goes into a report, and how much of it."""

    title: str = option("What the model learned", "Heading of the page.")
    split: str | None = option(
        None,
        "Evaluation whose errors, calibration and texts are shown; `test` by default, else the first.",
    )
    examples: int = option(
        1000,
        "Number of texts in the example browser, evenly spread over the data; at least 0.",
    )
    megabytes: float = option(
        4.0, "Room for the texts and their scores; fewer texts are shown where they need more."
    )

    def __post_init__(self) -> None:
        check_range(self, "examples", at_least=0)
        check_range(self, "megabytes", above=0)


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: Name of its folder.
        facts: Content of `run.json`.
        evaluations: Name of an evaluation set to its numbers.
        records: Name of an evaluation set to its texts, with `text, label, prediction,
            probabilities, words, attributions, prior` and perhaps `prior_<source>`.
    """

    name: str
    facts: Mapping[str, Any]
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    records: Mapping[str, Rows] = field(default_factory=dict)


@dataclass(frozen=True)
class PriorFolder:
    """A data set with priors.

    Attributes:
        splits: Split name to its texts, with label names in `label`.
        audit: Content of `audit.json`; `None` where the priors were not audited.
    """

    splits: Mapping[str, Rows]
    audit: Mapping[str, Any] | None = None


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder.

    Raises:
        DataError: there is no such folder, `hf-cap train` did not write it, or a file is damaged.
    """
    from hf_cap.cards import EVALUATIONS, RUN_FILE

    path = Path(folder).expanduser()
    if not (path / RUN_FILE).is_file():
        found = sorted(item.name for item in path.iterdir())[:8] if path.is_dir() else "nothing"
        raise DataError(
            f"{str(path)!r} is not a run: it holds no {RUN_FILE} (found {found}). Give a folder "
            "that `hf-cap train` wrote."
        )
    facts = _read_json(path / RUN_FILE)
    for names, kind, what in ((_OBJECTS, dict, "object"), (_ARRAYS, list, "array")):
        for name in names:
            if not isinstance(facts.get(name), kind | None):
                where = f"{name!r} in {str(path / RUN_FILE)!r}"
                raise DataError(f"{where} must be a JSON {what}, got {facts[name]!r}.")
    evaluations = path / EVALUATIONS
    return Run(
        name=path.resolve().name,
        facts=facts,
        evaluations={file.stem: _read_json(file) for file in sorted(evaluations.glob("*.json"))},
        records={
            file.stem: read_rows(file, _RECORD_COLUMNS)
            for file in sorted(evaluations.glob("*.parquet"))
        },
    )


def load_priors(
    folder: str | os.PathLike[str], audit: str | os.PathLike[str] | None = None
) -> PriorFolder:
    """Read a folder of priors, one parquet file per split.

    Args:
        folder: The folder.
        audit: Folder with the `audit.json` of these priors; by default the folder itself, or the
            one beside it whose name ends in `-audit`, where `hf-cap audit` puts it.

    Raises:
        DataError: there is no such folder, it holds no parquet file, `audit` holds no `audit.json`,
            or a file is damaged.
    """
    path = Path(folder).expanduser()
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise DataError(
            f"{str(path)!r} holds no priors: there is no parquet file in it. Give a folder that "
            "`hf-cap extract` or `hf-cap fuse` wrote."
        )
    usual = [path, path.with_name(f"{path.name}-audit")]
    places = usual if audit is None else [Path(audit).expanduser()]
    audits = [place / AUDIT_FILE for place in places if (place / AUDIT_FILE).is_file()]
    if audit is not None and not audits:
        raise DataError(
            f"{str(audit)!r} holds no {AUDIT_FILE}. Give a folder that `hf-cap audit` wrote."
        )
    return PriorFolder(
        splits={file.stem: read_rows(file, ["text"]) for file in files},
        audit=_read_json(audits[0]) if audits else None,
    )


def read_rows(file: Path, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a parquet file; class indices become label names where the file knows them.

    Raises:
        DataError: the file is damaged, or lacks one of `columns`.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{str(file)!r} cannot be read as parquet: {error}. Write it again."
        ) from error
    if missing := [name for name in columns if name not in table.column_names]:
        raise DataError(f"{str(file)!r} lacks the columns {missing}; it has {table.column_names}.")
    rows: list[dict[str, Any]] = table.to_pylist()
    stored = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    names = stored.get("info", {}).get("features", {}).get(LABEL, {}).get("names")
    if names:
        rows = [{**row, LABEL: None if row[LABEL] is None else names[row[LABEL]]} for row in rows]
    return rows


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(
            f"{str(file)!r} is not valid JSON: {error}. Write it again with the command that made it."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{str(file)!r} must hold a JSON object, got {type(content).__name__}.")
    return content


# --- Groups of runs


def group_runs(runs: Sequence[Run], baselines: Sequence[Run] = ()) -> list[Facts]:
    """Group runs that differ in nothing but their seed: baselines, then controls, then aligned ones.

    Args:
        runs: Any runs; those with an alignment weight of 0 are baselines.
        baselines: Further runs that are baselines whatever their settings say.

    Returns:
        Groups with `name, role, runs, seeds, model, settings, command` and `baseline`, the position
        of the group to compare with. Names hold the settings that tell groups apart, or a number
        where these settings must not be shown.

    Raises:
        ConfigError: there is no run.
    """
    from hf_cap.cards import public_name, public_settings, public_text

    members = [(("baseline", "no alignment"), run) for run in baselines]
    found: dict[Any, list[Run]] = {}
    for (role, name), run in [*members, *((_role(run), run) for run in runs)]:
        found.setdefault((ROLES.index(role), name, tuple(_settings(run).items())), []).append(run)
    if not found:
        raise ConfigError("A report needs at least one run; got none.")
    keys = sorted(found, key=lambda key: key[0])
    settings = [public_settings(dict(own)) for _, _, own in keys]
    names = [
        _told_apart(name, own, [s for k, s in zip(keys, settings, strict=True) if k[1] == name])
        for (_, name, _), own in zip(keys, settings, strict=True)
    ]
    groups: list[Facts] = []
    for place, (name, key, own) in enumerate(zip(names, keys, settings, strict=True)):
        number = f", group {names[:place].count(name) + 1}" if names.count(name) > 1 else ""
        facts = found[key][0].facts
        group = {
            "name": name + number,
            "role": ROLES[key[0]],
            "runs": found[key],
            "seeds": [run.facts.get("seed") for run in found[key]],
            "model": public_name(facts.get("model")),
            "settings": own,
            "command": public_text(str(facts["command"])) if facts.get("command") else None,
        }
        groups.append(group | {"baseline": _baseline(group, groups)})
    return groups


def _role(run: Run) -> tuple[str, str]:
    """Role of a run, and the name of its group."""
    given = run.facts.get("settings") or {}
    weight = {**given, **(run.facts.get("alignment") or {})}.get("alignment_weight")
    if weight is not None and float(weight) == 0:
        return "baseline", "no alignment"
    column = str(given.get("prior_column", ""))
    control = (run.facts.get("scores") or {}).get("control")
    control = control or next((name for name in CONTROL_PRIORS if column.endswith(name)), None)
    return ("control", f"control: {control}") if control else ("aligned", "aligned")


def _settings(run: Run) -> dict[str, str]:
    given = {"model": run.facts.get("model"), **(run.facts.get("settings") or {})}
    return {
        name: str(value)
        for name, value in sorted(given.items())
        if name not in _NOT_COMPARED and value is not None
    }


def _told_apart(name: str, own: Mapping[str, str], alike: Sequence[Mapping[str, str]]) -> str:
    told = [f"{key}={own[key]}" for key in own if any(one.get(key) != own[key] for one in alike)]
    return f"{name} ({', '.join(told)})" if told else name


def _baseline(group: Facts, before: Sequence[Facts]) -> int | None:
    """The first baseline on the same data and model, else the first; `None` for a baseline."""

    def trained_on(one: Facts) -> tuple[Any, ...]:
        # not the data set's name: the same texts with priors are in another folder
        data = one["runs"][0].facts.get("data") or {}
        return data.get("rows"), data.get("labels"), one["runs"][0].facts.get("model")

    places = [place for place, one in enumerate(before) if one["role"] == "baseline"]
    alike = [place for place in places if trained_on(before[place]) == trained_on(group)]
    return None if group["role"] == "baseline" else next(iter([*alike, *places]), None)


# --- Facts of all runs together


def all_runs(groups: Sequence[Facts]) -> list[Run]:
    """The runs of all groups."""
    return [run for group in groups for run in group["runs"]]


def unit_of(runs: Sequence[Run], priors: PriorFolder | None) -> str:
    """`texts`, or `rows` where the runs learned from tables."""
    tables = [run.name for run in runs if run.facts.get("kind") == "train_tabular"]
    if tables and len(tables) < len(runs):
        others = sorted({run.name for run in runs} - set(tables))
        raise ConfigError(
            f"One page cannot compare models of tables ({', '.join(tables)}) with models of texts "
            f"({', '.join(others)}). Make a report of each."
        )
    if tables and priors is not None:
        raise ConfigError(
            "`priors` are scores of the words of texts, and these runs are models of tables, whose "
            "feature scores are read from the runs. Leave `priors` out."
        )
    return "rows" if tables else "texts"


def training_data(groups: Sequence[Facts]) -> list[Facts]:
    """The data sets that the runs were trained on, each once."""
    from hf_cap.cards import public_name

    found: dict[str, Facts] = {}
    for run in all_runs(groups):
        if data := run.facts.get("data"):
            name, labels = public_name(data.get("dataset")), len(data.get("labels") or ())
            one = {"dataset": name or "unknown", "rows": data.get("rows"), "labels": labels}
            one["split"] = str(data.get("train_split", "unknown"))
            found[repr(one)] = one
    return list(found.values())


def all_versions(groups: Sequence[Facts]) -> dict[str, str]:
    """Package to its versions, as text."""
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for run in all_runs(groups):
        for name, version in (run.facts.get("versions") or {}).items():
            found[str(name)][str(version)] = None
    return {name: ", ".join(versions) for name, versions in found.items()}
