"""`hf-cap audit`: look into the priors of a data set."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_cap.cli.config import build
from hf_cap.priors.audit import AuditSettings
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import documented, option, required, write_json

_logger = logging.getLogger(__name__)


@documented
@dataclass(frozen=True, kw_only=True)
class AuditPlaces:
    """What is audited, against what, and where the figures go."""

    dataset: str = required(
        "Folder with prior columns, as `hf-cap extract` or `hf-cap fuse` writes it."
    )
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


SETTINGS = (AuditPlaces, AuditSettings)


def run(values: dict[str, Any]) -> None:
    """Audit, write, and print the training-free measure of each source's worth."""
    from hf_cap.data import label_names, load_splits
    from hf_cap.priors.audit import audit_dataset
    from hf_cap.report.figures import audit_figures, save_figures

    places = build(AuditPlaces, values)
    dataset = load_splits(places.dataset, splits=[places.split])[places.split]
    reference = None
    if places.reference is not None:
        reference = load_splits(
            places.reference,
            splits=[places.reference_split],
            labels=label_names(dataset),
            text_column=places.text_column,
            label_column=places.label_column,
        )[places.reference_split]
    folder = Path(places.output_dir or f"{places.dataset.rstrip('/')}-audit")
    audit = audit_dataset(dataset, reference, build(AuditSettings, values))
    write_json(folder / "audit.json", audit.to_dict())
    save_figures(audit_figures(audit.to_dict()), folder)
    if audit.log_odds:
        print(
            "agreement with the log-odds of the words in the reference (rank correlation, top word):"
        )
    for source, found in (audit.log_odds or {}).items():
        numbers = (found.rank_correlation.value, found.top_word.value)
        shown = ["-" if number is None else f"{number:.3f}" for number in numbers]
        print(f"  {source:<22}{shown[0]:>7}{shown[1]:>7}")
    _logger.info("Wrote audit.json and the figures to %s", folder)
