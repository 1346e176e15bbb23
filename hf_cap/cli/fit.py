"""All stages in one."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_cap.cli.core import DATA, Columns, Command, Group, Result, Values
from hf_cap.cli.priors import LM_GROUPS, ExtractArguments, source_groups
from hf_cap.embedded import ENCODER
from hf_cap.evaluation.evaluate import EvaluationSettings
from hf_cap.labels import ClassifierOptions
from hf_cap.priors.classifier import ClassifierSource
from hf_cap.priors.extract import ExtractionSettings
from hf_cap.priors.fusion import PriorFusion
from hf_cap.report.load import ReportSettings
from hf_cap.training.options import AlignmentOptions, WeightingOptions
from hf_cap.utils import option, required

if TYPE_CHECKING:
    from hf_cap.workflow import FitResult


@dataclass(frozen=True, kw_only=True)
class _FitArguments:
    dataset: str = required(DATA)
    output_dir: str = required("Folder to write; what is finished there is not done again.")
    labels: tuple[str, ...] = option((), "The label space, in order. Default: that of the data.")
    test_size: float = option(
        0.2, "Part of each class that is held out where there is no split `test`, in (0, 1)."
    )
    seeds: tuple[int, ...] = option((0,), "One training run per seed and method.")
    controls: tuple[str, ...] = option(
        (), "Also train with priors without information: `shuffled`, `uniform`, `random`."
    )
    shortcuts: bool = option(
        False,
        "Find shortcuts (`shortcuts.yaml` in the output folder; edit it and run again), give them no score "
        "and train with word dropout.",
    )


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """The classifier, its alignment and its training."""

    model: str = option(ENCODER, "Encoder to fine-tune: Hub id, folder or `embedded/...` name.")


EXTRACTION = ("sources", "model", "word_pattern", "batch_size", "progress")
GROUPS = [
    Group("extract", ExtractArguments, ExtractionSettings, only=EXTRACTION),
    *LM_GROUPS,
    *source_groups(ClassifierSource),
    Group("fuse", PriorFusion),
    Group("train", _Encoder, AlignmentOptions, WeightingOptions, ClassifierOptions),
    Group("evaluate", EvaluationSettings),
    Group("report", ReportSettings),
]
FIT = "data.csv --output_dir runs/mine --cap.n 50"
SETTINGS: list[type | Group] = [_FitArguments, Columns, *GROUPS]


@partial(Command, FIT, SETTINGS, positional="dataset", more="train.")
def fit(values: Values) -> Result:
    """From labelled texts to a trained model and a report, by all steps that are not finished."""
    from hf_cap import workflow

    groups: dict[str, Any] = {group.name: values.group(group.name) for group in GROUPS}
    given = {**vars(values.build(_FitArguments)), **values.columns()}
    return _shown(workflow.fit(**given, **groups))


SHOWN = {
    "accuracy ↑": ("test", "accuracy"),
    "macro-F1 ↑": ("test", "macro_f1"),
    "cue removed ↑": ("removed", "accuracy"),
    "cue of another label ↑": ("shifted", "accuracy"),
    "alignment ↑": ("train", "alignment"),
    "compreh. ↑": ("test", "comprehensiveness"),
    "suffic. ↓": ("test", "sufficiency"),
}


def _shown(result: "FitResult") -> Result:
    """The results of `fit` as a table."""
    import pandas as pd

    of_seeds = result.results.groupby(["test_set", "measure", "method"])["value"]
    found = of_seeds.agg(["mean", "min", "max", "count"])
    # no interval: Student's t of two seeds is wider than what an accuracy can be
    ends = [found[name].map("{:.2f}".format) for name in ("min", "max")]
    spread = (" (" + ends[0] + " to " + ends[1] + ")").where(found["count"] > 1, "")
    cells = (found["mean"].map("{:.2f}".format) + spread).unstack("method").T.sort_index(axis=1)
    shown = pd.DataFrame({heading: cells[key] for heading, key in SHOWN.items() if key in cells})
    table = shown.loc[list(result.accuracy)].to_string(index_names=False)
    text = (
        f"{table}\n\nMean (lowest to highest seed) on the test texts; "
        f"alignment on the training texts.\nModel: {result.model}\nReport: {result.report}"
    )
    facts = {name: str(getattr(result, name)) for name in ("model", "report")}
    then = f"open {result.report} in a browser"
    return Result({"accuracy": dict(result.accuracy), **facts}, text, then)
