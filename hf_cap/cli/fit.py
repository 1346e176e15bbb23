"""From labelled texts to a trained, evaluated model and a report."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_cap.cli.core import Group, Result, Values, build, group_of
from hf_cap.cli.extract import LM_GROUPS, ExtractArguments, source_groups
from hf_cap.embedded import ENCODER
from hf_cap.evaluation.evaluate import EvaluationSettings
from hf_cap.priors.classifier import ClassifierSource
from hf_cap.priors.extract import ExtractionSettings
from hf_cap.priors.fusion import PriorFusion
from hf_cap.report.load import ReportSettings
from hf_cap.schema import LABEL, TEXT
from hf_cap.training.options import AlignmentOptions
from hf_cap.utils import option, required

if TYPE_CHECKING:
    import pandas as pd

    from hf_cap.workflow import FitResult


@dataclass(frozen=True, kw_only=True)
class FitArguments:
    """What is read and written, and how often it is trained."""

    dataset: str = required("Labelled texts: a file, a folder, a Hub id or an `embedded/...` name.")
    output_dir: str = required("Folder to write; what is finished there is not done again.")
    text_column: str = option(TEXT, "Column that holds the text.")
    label_column: str = option(LABEL, "Column that holds the label.")
    labels: tuple[str, ...] = option((), "The label space, in order. Default: that of the data.")
    test_size: float = option(
        0.2, "Part of each class that is held out where there is no split `test`, in (0, 1)."
    )
    seeds: tuple[int, ...] = option((0,), "One training run per seed and method.")
    controls: tuple[str, ...] = option(
        (), "Also train with priors without information: `shuffled`, `uniform`, `random`."
    )


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The classifier, its alignment and its training."""

    model: str = option(ENCODER, "Encoder to fine-tune: Hub id, folder or `embedded/...` name.")


GROUPS = [
    Group(
        "extract",
        ExtractArguments,
        ExtractionSettings,
        only=("sources", "model", "word_pattern", "batch_size", "progress"),
    ),
    *LM_GROUPS,
    *source_groups(ClassifierSource),
    Group("fuse", PriorFusion),
    Group("train", Encoder, AlignmentOptions),
    Group("evaluate", EvaluationSettings),
    Group("report", ReportSettings),
]
EXAMPLE = "data.csv --output_dir runs/mine --cap.n 50"
SETTINGS = [FitArguments, *GROUPS]
POSITIONAL = "dataset"
MORE = "train."
PROGRESS = ("extract.progress",)


def run(values: Values) -> Result:
    """Take all steps that are not finished."""
    from transformers.utils.logging import set_verbosity_error

    from hf_cap.workflow import fit

    set_verbosity_error()  # a new classification head is no surprise here
    given = build(FitArguments, values)
    groups: dict[str, Any] = {group.name: group_of(values, group.name) for group in GROUPS}
    return shown(fit(**vars(given), **groups))


def shown(result: "FitResult") -> Result:
    """The results of `fit` as a table: mean ± half-width of the interval over the seeds."""
    import pandas as pd

    from hf_cap.evaluation.results import summarize

    table = summarize(result.results, ["method", "test_set", "measure"])
    cells = {
        heading: [_cell(table, (method, split, measure)) for method in result.accuracy]
        for measure, (heading, split) in COLUMNS.items()
    }
    shown = pd.DataFrame(cells, index=list(result.accuracy)).to_string()
    notes = (
        "Mean ± half-width of the 95 % interval over the seeds, on the test texts; alignment on the"
    )
    facts = {name: str(getattr(result, name)) for name in ("model", "report")}
    text = f"{shown}\n\n{notes} training texts.\nReport: {result.report}"
    return Result({"accuracy": dict(result.accuracy), **facts}, text)


COLUMNS = {
    "accuracy": ("accuracy ↑", "test"),
    "macro_f1": ("macro-F1 ↑", "test"),
    "alignment": ("alignment ↑", "train"),
    "comprehensiveness": ("compreh. ↑", "test"),
    "sufficiency": ("suffic. ↓", "test"),
}
"""Measure to its heading and split."""


def _cell(table: "pd.DataFrame", key: tuple[str, ...]) -> str:
    if key not in table.index:
        return "-"
    found = table.loc[key]
    spread = "" if found["n"] < 2 else f" ± {found['high'] - found['mean']:.2f}"
    return f"{found['mean']:.2f}{spread}"
