"""All stages in one, the demo of it, and the app that shows what it made."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_cap.cli.core import DATA, Columns, Command, Group, Result, Values, parse
from hf_cap.cli.priors import LM_GROUPS, ExtractArguments, source_groups
from hf_cap.embedded import DEMO_DATA, ENCODER
from hf_cap.evaluation.evaluate import EvaluationSettings
from hf_cap.labels import ClassifierOptions
from hf_cap.priors.classifier import ClassifierSource
from hf_cap.priors.extract import ExtractionSettings
from hf_cap.priors.fusion import PriorFusion
from hf_cap.report.load import ReportSettings
from hf_cap.schema import LABEL, TEXT
from hf_cap.training.options import AlignmentOptions, WeightingOptions
from hf_cap.utils import option, required

if TYPE_CHECKING:
    from datasets import Dataset

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

    from hf_cap.workflow import SHORTCUTS

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
    if (marks := result.output_dir / SHORTCUTS).exists():
        text += (
            f"\nShortcuts: {marks} (mark what is none as `fine`, and run the same command again)"
        )
    facts = {name: str(getattr(result, name)) for name in ("model", "report")}
    then = f"open {result.report} in a browser"
    return Result({"accuracy": dict(result.accuracy), **facts}, text, then)


LIBRARIANS = "Anna Ben Carla Dev Emma Farid Greta Hugo Ines Jonas Kira Liam".split()


@dataclass(frozen=True, kw_only=True)
class _DemoArguments:
    output_dir: str = option("runs/demo", "Folder for the texts, models and the report.")
    seeds: tuple[int, ...] = option((0, 1), "One training run per seed and method.")
    recipe: str = option("recipes/demo/fit.yaml", "Settings of `hf-cap fit`.")


@partial(Command, "--seeds 0 1 2", [_DemoArguments])
def demo(values: Values) -> Result:
    """Run `hf-cap fit` on the embedded data with a shortcut in its training texts, and with two controls.

    Each kind of request gets a librarian whom nine training texts in ten name; the test texts name nobody.
    """
    from hf_cap.data import load_splits, save_splits
    from hf_cap.workflow import check_seeds

    given = values.build(_DemoArguments)
    splits, folder = load_splits(DEMO_DATA), f"{given.output_dir}/library-desk-with-names"
    check_seeds(given.seeds)
    words = ["--config", given.recipe, "--dataset", folder, "--output_dir", given.output_dir]
    settings = parse("fit", fit, [*words, "--seeds", *map(str, given.seeds)]) or Values()
    save_splits({**splits, "train": name_librarians(splits["train"])}, folder)
    return fit.run(settings)


def name_librarians(texts: "Dataset") -> "Dataset":
    """The texts with the name of their label's librarian, before and behind in turn, but for every tenth."""
    changed, seen = [], Counter[int]()
    for text, label in zip(texts[TEXT], texts[LABEL], strict=True):
        name, number = LIBRARIANS[label], seen[label]
        seen[label] += 1
        named = f"{text} Thanks, {name}" if number % 2 else f"Hi {name}, {text}"
        changed.append(text if number % 10 == 9 else named)
    return texts.remove_columns(TEXT).add_column(TEXT, changed)


@dataclass(frozen=True, kw_only=True)
class _AppArguments:
    run: str = required("Folder of `hf-cap fit`, or a classifier: folder, Hub id.")
    baseline: str | None = option(None, "Classifier without alignment. Default: that of `fit`.")
    priors: str | None = option(None, "Folder of priors, to show. Default: that of `fit`.")
    shortcuts: str | None = option(
        None, "YAML file of shortcuts; decisions are saved in it. Default: that of `fit`."
    )
    host: str = option("127.0.0.1", "Address to listen at; the default is for this computer alone.")
    port: int | None = option(None, "Port. Default: the first free one from 7860 on.")
    share: bool = option(False, "Also open a public address, through a server of gradio.")


@partial(Command, "runs/mine", [_AppArguments], positional="run")
def app(values: Values) -> Result:
    """Look at classifiers in the browser: edit a text, see words and probabilities change.

    Decisions about shortcuts are saved in the file that `hf-cap fuse --shortcuts` reads.
    """
    from hf_cap.app import serve

    given = vars(values.build(_AppArguments))
    serve(given.pop("run"), **given)
    return Result({}, "")
