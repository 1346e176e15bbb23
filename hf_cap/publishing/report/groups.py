"""Runs into groups: the same settings but for the seed. Baselines first, then controls, then the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...cards.safety import public_name, public_settings, public_text
from ...errors import ConfigError
from ...schema import CONTROL_PRIORS
from .loading import Run
from .values import Data, Group, Role, Unit

# what differs between the seeds of one experiment, or says only where and how it ran
_PLACES = frozenset(
    "seed data_seed output_dir run_name logging_dir report_to resume_from_checkpoint push_to_hub "
    "hub_model_id disable_tqdm logging_steps save_strategy save_steps save_total_limit eval_split".split()
)
_ROLE_NAMES: Mapping[Role, str] = {
    "baseline": "no alignment",
    "control": "control",
    "aligned": "aligned",
}


@dataclass(frozen=True)
class RunGroup:
    """A group as the page shows it, with its runs."""

    shown: Group
    runs: tuple[Run, ...]


def alignment_weight(run: Run) -> float | None:
    """Weight β of the alignment term; `None` where the run does not say."""
    for place in ("alignment", "settings"):
        weight = (run.facts.get(place) or {}).get("alignment_weight")
        if weight is not None:
            return float(weight)
    return None


def unit_of(runs: Sequence[Run]) -> Unit:
    """What the runs learnt from.

    Raises:
        ConfigError: some learnt from texts and some from tables.
    """
    tables = [run.name for run in runs if run.facts.get("kind") == "train_tabular"]
    if tables and len(tables) < len(runs):
        others = sorted({run.name for run in runs} - set(tables))
        raise ConfigError(
            f"One page cannot compare models of tables ({', '.join(tables)}) with models of texts "
            f"({', '.join(others)}). Make a report of each."
        )
    return "rows" if tables else "texts"


def group_runs(runs: Sequence[Run], baselines: Sequence[Run] = ()) -> list[RunGroup]:
    """Group runs by their settings.

    Args:
        runs: Any runs; those with an alignment weight of 0 are baselines.
        baselines: Further runs that are baselines whatever their settings say.

    Returns:
        Groups in the order baseline, control, aligned; within a role in the order given. Where a role has
        more than one group, the settings that tell them apart are part of their names, or numbers where
        these settings must not be shown.
    """
    found: dict[tuple[Role, str], list[Run]] = {}
    members: list[tuple[Role, Run]] = [("baseline", run) for run in baselines]
    for role, run in members + [(_role(run), run) for run in runs]:
        found.setdefault((role, repr(sorted(_settings(run).items()))), []).append(run)
    groups: list[RunGroup] = []
    for role in _ROLE_NAMES:
        of_role = [tuple(group) for (its_role, _), group in found.items() if its_role == role]
        names = _names(role, [group[0] for group in of_role])
        groups += [
            RunGroup(_shown(name, role, group), group)
            for name, group in zip(names, of_role, strict=True)
        ]
    return groups


def baseline_of(index: int, groups: Sequence[RunGroup]) -> int | None:
    """The baseline that a group is compared with: the first on the same data and model, else the first."""
    if groups[index].shown.role == "baseline":
        return None
    baselines = [i for i, group in enumerate(groups) if group.shown.role == "baseline"]
    ground = _ground(groups[index].runs[0])
    alike = [i for i in baselines if _ground(groups[i].runs[0]) == ground]
    return next(iter([*alike, *baselines]), None)


def training_data(runs: Sequence[Run]) -> tuple[Data, ...]:
    """The data sets that the runs were trained on, each once."""
    found = {}
    for run in runs:
        data = run.facts.get("data") or {}
        if data:
            found[repr(sorted(data.items()))] = Data(
                dataset=public_name(data.get("dataset")) or "unknown",
                split=str(data.get("train_split", "unknown")),
                rows=data.get("rows"),
                labels=len(data.get("labels") or ()),
            )
    return tuple(dict.fromkeys(found.values()))


def _role(run: Run) -> Role:
    if alignment_weight(run) == 0:
        return "baseline"
    return "control" if _control(run) else "aligned"


def _control(run: Run) -> str | None:
    """The control that the run was aligned with, such as `shuffled`; `None` for a real prior."""
    scores = run.facts.get("scores") or {}
    if scores.get("control"):
        return str(scores["control"])
    column = str((run.facts.get("settings") or {}).get("prior_column", ""))
    return next((name for name in CONTROL_PRIORS if column.endswith(name)), None)


def _settings(run: Run) -> dict[str, str]:
    given = {"model": run.facts.get("model"), **(run.facts.get("settings") or {})}
    return {
        name: str(value)
        for name, value in given.items()
        if name not in _PLACES and value is not None
    }


def _ground(run: Run) -> tuple[Any, ...]:
    # not the data set's name: the same texts with priors lie in another folder
    data = run.facts.get("data") or {}
    return data.get("rows"), data.get("labels"), run.facts.get("model")


def _names(role: Role, firsts: Sequence[Run]) -> list[str]:
    plain = [
        ": ".join([_ROLE_NAMES[role], *filter(None, [_control(run)])])
        if role == "control"
        else _ROLE_NAMES[role]
        for run in firsts
    ]
    if len(set(plain)) == len(plain):
        return plain
    settings = [public_settings(_settings(run)) for run in firsts]
    differing = [
        name
        for name in dict.fromkeys(name for group in settings for name in group)
        if len({group.get(name) for group in settings}) > 1
    ]
    return _numbered(
        [
            f"{name} ({', '.join(f'{key}={group.get(key)}' for key in differing if key in group)})"
            if any(key in group for key in differing)
            else name
            for name, group in zip(plain, settings, strict=True)
        ]
    )


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, with a number where several are the same: what tells these groups apart is not shown."""
    return [
        f"{name}, group {names[:place].count(name) + 1}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _shown(name: str, role: Role, runs: Sequence[Run]) -> Group:
    first = runs[0]
    command = first.facts.get("command")
    model = first.facts.get("model")
    return Group(
        name=name,
        role=role,
        runs=tuple(run.name for run in runs),
        seeds=tuple(run.facts.get("seed") for run in runs),
        model=public_name(model),
        settings=public_settings(_settings(first)),
        command=None if command is None else public_text(str(command)),
    )
