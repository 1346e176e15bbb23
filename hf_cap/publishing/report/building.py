"""From what was read to what is shown: the report as a pure function of runs and priors."""

from collections.abc import Iterator, Mapping, Sequence

from ...errors import ConfigError
from .audit import audit_keywords, prior_audit
from .examples import choose_pair, collect_examples
from .features import feature_tables
from .groups import RunGroup, group_runs, training_data, unit_of
from .loading import PriorFolder, Run
from .predictions import calibration, confusion, model_keywords
from .results import evaluation_sets, findings, panels
from .settings import ReportSettings
from .values import Report, Unit

_DEFAULT_SPLIT = "test"
_BASELINE: Mapping[Unit, str] = {
    "texts": "--alignment_weight 0",
    "rows": "--task tabular` without `--scores",
}
_TOLD: Mapping[Unit, str] = {"texts": "priors say", "rows": "scores say"}


def build_report(
    runs: Sequence[Run],
    baselines: Sequence[Run] = (),
    priors: PriorFolder | None = None,
    settings: ReportSettings | None = None,
) -> Report:
    """The report on some runs.

    Args:
        runs: Runs of any kind; those with an alignment weight of 0 are the baseline of the others.
        baselines: Further runs that are baselines.
        priors: The priors that they were aligned with, for the audit and the texts.
        settings: What goes in.

    Raises:
        ConfigError: there is no run, runs on texts and on tables are mixed, or tables are to have priors.
    """
    settings = settings or ReportSettings()
    groups = group_runs(runs, baselines)
    if not groups:
        raise ConfigError("A report needs at least one run; got none.")
    unit = unit_of([*runs, *baselines])
    if unit == "rows" and priors is not None:
        raise ConfigError(
            "`priors` are scores of the words of texts, and these runs are models of tables, whose feature "
            "scores the report finds in the runs. Leave `priors` out."
        )
    split = settings.split or _main_split(groups)
    keywords, source = _keywords(groups, split, priors)
    sets = evaluation_sets(groups, split)
    calibrations = [calibration(i, group, split) for i, group in enumerate(groups)]
    confusions = [confusion(i, g, split, keywords, source) for i, g in enumerate(groups)]
    return Report(
        title=settings.title,
        split=split,
        findings=findings(groups, sets, unit),
        groups=tuple(group.shown for group in groups),
        data=training_data([run for group in groups for run in group.runs]),
        versions=_versions(groups),
        evaluations=sets,
        panels=panels(groups),
        calibrations=tuple(found for found in calibrations if found),
        confusions=tuple(found for found in confusions if found),
        audit=None if priors is None or priors.audit is None else prior_audit(priors.audit),
        examples=collect_examples(choose_pair(groups), priors, first=split, most=settings.examples),
        unit=unit,
        features=feature_tables(groups),
        gaps=tuple(_gaps(groups, split, priors, unit)),
    )


def _main_split(groups: Sequence[RunGroup]) -> str:
    """`test` where it was evaluated, else the first set that was, those with records before others."""
    runs = [run for group in groups for run in group.runs]
    names = [name for run in runs for name in run.records]
    names += [name for run in runs for name in run.evaluations]
    return _DEFAULT_SPLIT if _DEFAULT_SPLIT in names or not names else names[0]


def _keywords(
    groups: Sequence[RunGroup], split: str, priors: PriorFolder | None
) -> tuple[dict[str, tuple[str, ...]], str | None]:
    """Keywords of each label, by the audited prior where there is one, else by what the models attribute."""
    if priors is not None and (found := audit_keywords(priors.audit or {})):
        return found, "prior"
    records = [run.records[split] for group in groups for run in group.runs if split in run.records]
    found = model_keywords(columns for columns in records if "attributions" in columns)
    return found, "attribution" if found else None


def _versions(groups: Sequence[RunGroup]) -> Mapping[str, str]:
    """Versions of the packages; of several, all that occur."""
    found: dict[str, dict[str, None]] = {}
    for group in groups:
        for run in group.runs:
            for name, version in (run.facts.get("versions") or {}).items():
                found.setdefault(str(name), {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in found.items()}


def _gaps(
    groups: Sequence[RunGroup], split: str, priors: PriorFolder | None, unit: Unit
) -> Iterator[str]:
    """What is missing, and the command that makes it."""
    runs = [run for group in groups for run in group.runs]
    roles = {group.shown.role for group in groups}
    if not any(run.evaluations for run in runs):
        yield "No run was evaluated, so there are no results: `hf-cap evaluate --model RUN --dataset DATA`."
    elif missing := [run.name for run in runs if split not in run.evaluations]:
        yield f"Not evaluated on {split}, and so left out of its figures: {', '.join(missing)}."
    if "baseline" not in roles:
        yield (
            "There is no run without alignment, so nothing here says what alignment changed: "
            f"`hf-cap train {_BASELINE[unit]}`."
        )
    if "aligned" in roles and "control" not in roles:
        yield (
            f"There is no control run. A gain is due to what the {_TOLD[unit]} only if it exceeds that of "
            f"shuffled ones."
        )
    if any(len(group.runs) == 1 for group in groups):
        yield "A group of one run has no interval: train with several seeds."
    if unit == "texts" and not any(split in run.records for run in runs):
        yield (
            f"There are no records of single texts of {split}, so calibration, confusions and heat maps "
            "of the models are left out: `hf-cap evaluate --records`."
        )
    if not any(run.facts.get("history") for run in runs):
        yield "The runs carry no training history, so there are no training curves."
    if unit == "texts":
        yield from _prior_gaps(priors)


def _prior_gaps(priors: PriorFolder | None) -> Iterator[str]:
    if priors is None:
        yield "No priors were given, so their audit is left out: `hf-cap report RUN --priors FOLDER`."
    elif priors.audit is None:
        yield "The priors were not audited, so there are no figures on them: `hf-cap audit`."
