"""Inspect the priors of a data set."""

import logging
from dataclasses import dataclass
from pathlib import Path

from hf_cap.cli.core import Result, Values, build
from hf_cap.priors.audit import AuditSettings
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import option, required, write_json

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AuditArguments:
    """What is audited, against what, and where the numbers go."""

    dataset: str = required("Folder with prior columns, of `hf-cap extract` or `hf-cap fuse`.")
    split: str = option("train", "Split to audit.")
    reference: str | None = option(
        None, "Larger labelled data with the same labels, for the log-odds of each word and class."
    )
    reference_split: str = option("train", "Split of the reference.")
    text_column: str = option(TEXT, "Column of the reference that holds the text.")
    label_column: str = option(LABEL, "Column of the reference that holds the label.")
    output_dir: str | None = option(
        None, "Folder for `audit.json` and the figures (SVG). Default: `DATASET-audit`."
    )


EXAMPLE = "--dataset runs/prior --reference data"
SETTINGS = [AuditArguments, AuditSettings]


def run(values: Values) -> Result:
    """Audit, write, and report how well each source agrees with the reference."""
    from hf_cap.data import label_names, load_splits
    from hf_cap.priors.audit import audit_dataset
    from hf_cap.report.figures import audit_figures, save_figures

    given = build(AuditArguments, values)
    dataset = load_splits(given.dataset, splits=[given.split])[given.split]
    reference = None
    if given.reference is not None:
        reference = load_splits(
            given.reference,
            splits=[given.reference_split],
            labels=label_names(dataset),
            text_column=given.text_column,
            label_column=given.label_column,
        )[given.reference_split]
    folder = Path(given.output_dir or f"{given.dataset.rstrip('/')}-audit")
    audit = audit_dataset(dataset, reference, build(AuditSettings, values))
    write_json(folder / "audit.json", audit)
    save_figures(audit_figures(audit), folder)
    _logger.info("Wrote audit.json and the figures to %s", folder)
    lines = ["Agreement with the log-odds of the reference's words (rank correlation, top word):"]
    for source, found in (audit["log_odds"] or {}).items():
        numbers = (found["rank_correlation"]["value"], found["top_word"]["value"])
        shown = ["-" if number is None else f"{number:.3f}" for number in numbers]
        lines.append(f"  {source:<22}{shown[0]:>7}{shown[1]:>7}")
    return Result(audit, "\n".join(lines) if audit["log_odds"] else "")
