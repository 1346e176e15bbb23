"""Train a classifier of texts or of a table, alone or as one of all stages, and look at what was made."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_cap.cli import core
from hf_cap.cli.priors import LM_GROUPS, ExtractArguments, source_groups
from hf_cap.cues import load_marks
from hf_cap.embedded import DEMO_DATA, ENCODER, LANGUAGE_MODEL
from hf_cap.errors import import_extra
from hf_cap.evaluation.settings import EvaluationSettings
from hf_cap.laat.settings import ElicitOptions, LAATOptions, TableOptions, TabularModelOptions
from hf_cap.labels import ClassifierOptions
from hf_cap.lm.base import LMRuntime, LMSettings, using_runtime
from hf_cap.priors.base import ExtractionSettings
from hf_cap.priors.classifier import ClassifierSource
from hf_cap.priors.fusion import PriorFusion
from hf_cap.report.load import ReportSettings
from hf_cap.schema import LABEL, TEXT
from hf_cap.training.options import AlignmentOptions, WeightingOptions
from hf_cap.utils import atomic_path, option, read_json, refuse_loss, required, settings_class

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_cap.workflow import FitResult


@dataclass(frozen=True, kw_only=True)
class _TrainArguments:
    task: Literal["text", "tabular"] = option(
        "text",
        "`text`: a classifier, aligned with the priors of its texts. `tabular`: a small model of a table, "
        "aligned with the scores of its features.",
    )
    dataset: str = required("Labelled data; for alignment the folder that `hf-cap fuse` wrote.")
    output_dir: str = required("Folder for checkpoints, the trained model and `run.json`.")
    overwrite_output_dir: bool = option(False, "Replace the model of another run in that folder.")
    model: str = option(
        "FacebookAI/roberta-base", "Encoder to fine-tune: Hub id, folder or `embedded/...` name."
    )
    model_revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    trust_remote_code: bool = option(False, "Run code that comes with a model on the Hub.")
    train_split: str = option("train", "Split to train on.")
    eval_split: str | None = option(None, "Split to evaluate on during training, if any.")
    attacked_datasets: tuple[str, ...] = option(
        (),
        "Folders that `hf-cap attack --split train` wrote of the training texts: their attacked versions are "
        "trained on too.",
    )
    attacked_versions: Literal["fresh", "fixed"] = option(
        "fresh", "Of the versions of a text, one drawn on each epoch (`fresh`), or all (`fixed`)."
    )
    shortcuts: str | None = option(
        None,
        "`shortcuts.yaml` of `hf-cap shortcuts`: how much of the attribution lies on each, for the trackers "
        "in `report_to`.",
    )


@settings_class
class LoraArguments:
    """Adapters that are trained instead of all weights."""

    rank: int = option(0, "Rank of LoRA adapters; 0 trains all weights.", at_least=0)
    alpha: int = option(16, "Scale of the LoRA adapters; their update is times alpha / rank.", at_least=1)
    targets: tuple[str, ...] = option((), "Layers that get adapters. Default: those peft knows.")


LORA, TABULAR = core.Group("lora", LoraArguments), (TableOptions, TabularModelOptions, LAATOptions)
TRAIN = "--dataset runs/prior --output_dir runs/model --alignment_weight 0.1"


TEXTS = (AlignmentOptions, WeightingOptions, ClassifierOptions)


@partial(core.Command, TRAIN, [_TrainArguments, core.Columns, *TEXTS, *TABULAR, LORA], more="")
def train(values: core.Values) -> core.Result:
    """Train a classifier whose attributions are aligned with the prior, and write `run.json`.

    `accelerate launch --config_file recipes/accelerate/ddp.yaml -m hf_cap train --config ...` runs it on
    several devices.
    """
    given = values.build(_TrainArguments)
    measured = (_train_table if given.task == "tabular" else _train_text)(given, values)
    # folders with priors are named after the data set that they were made from, which has a test split
    run = Path(given.output_dir) / "run.json"
    data = (read_json(run) if run.exists() else {}).get("data") or {}
    place = {"model": given.output_dir, "dataset": data.get("name") or given.dataset}
    words = () if given.task == "tabular" else ("--records",)
    then = core.next_command("evaluate", *words, **place)
    return core.Result({**measured, "output_dir": given.output_dir}, then=then)


def _train_text(given: _TrainArguments, values: core.Values) -> dict[str, Any]:
    import torch

    from hf_cap.data import label_names, load_splits
    from hf_cap.training import run, validation
    from hf_cap.training.config import CAPConfig
    from hf_cap.training.examples import with_attacked

    # pinned memory is for copies to a GPU; without one torch warns of it on every epoch
    config = values.build(CAPConfig, dataloader_pin_memory=torch.cuda.is_available())
    validation.check_start(config, values)
    validation.check_folder(config, values, given.overwrite_output_dir)
    split, adapters = given.eval_split, None
    names = [given.train_split, *([split] if split else [])]
    splits = load_splits(given.dataset, splits=names, **values.columns())
    if (lora := values.build(LoraArguments, "lora")).rank:
        targets = list(lora.targets) or None
        peft = import_extra("peft", "Adapters need")
        adapters = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
    data: dict[str, Any] = {"dataset": given.dataset, "train_split": given.train_split}
    train, name = splits[given.train_split], given.train_split
    marks = load_marks(given.shortcuts, label_names(train)) if given.shortcuts else []
    if folders := given.attacked_datasets:
        read = [load_splits(one, splits=[name], labels=label_names(train))[name] for one in folders]
        train = with_attacked(train, read, fresh=given.attacked_versions == "fresh")
        data["attacked"] = list(folders)
    run.train_classifier(
        train,
        config,
        given.model,
        eval_dataset=splits[split] if split else None,
        peft_config=adapters,
        marks=marks,
        record={"settings": values, "data": data, "command": core.command_line()},
        revision=given.model_revision,
        trust_remote_code=given.trust_remote_code,
    )
    return {}


def _train_table(given: _TrainArguments, values: core.Values) -> dict[str, Any]:
    from hf_cap import laat
    from hf_cap.cards import EVALUATIONS, write_card
    from hf_cap.laat.models import tabular_facts
    from hf_cap.laat.trainer import tabular_record
    from hf_cap.training import run, validation
    from hf_cap.workflow import write_evaluation

    table, options = values.build(TableOptions), values.build(TabularModelOptions)
    config, split, folder = values.build(laat.LAATConfig), given.eval_split, Path(given.output_dir)
    target = values.get("label_column")
    validation.check_start(config, values)
    validation.check_folder(config, values, given.overwrite_output_dir)
    frame, schema = laat.read_schema(given.dataset, table, target=target, split=given.train_split)
    scores = laat.load_scores(options.scores) if options.scores else None
    how: Any = {"missing_values": table.missing_values, "texts": schema.texts}
    rows = laat.read_table(given.dataset, split=split, **how) if split else None
    shared: Any = {"options": options, "scores": scores, "eval_frame": rows}
    trainer = laat.tabular_trainer(frame, schema, config, **shared)
    run.train_and_save(trainer, values)
    if not trainer.is_world_process_zero():
        return {}
    record = tabular_record(trainer, dataset=given.dataset)
    record["data"]["train_split"] = given.train_split
    record |= {"kind": "train_tabular", "settings": values, "command": core.command_line()}
    run.write_run(folder, record)
    numbers: dict[str, Any] = {}
    if split:
        found = laat.evaluate_tabular(trainer.model, given.dataset, split=split)
        numbers = write_evaluation(found, folder / EVALUATIONS, split)
    facts = {"config": trainer.model.config, "name": folder.name, "repo_id": None}
    evaluations = {split: numbers} if split else {}
    write_card(folder, tabular_facts(record, **facts, evaluations=evaluations))
    return numbers


@dataclass(frozen=True, kw_only=True)
class _ElicitArguments:
    dataset: str = required(
        "Table: a .csv or .parquet file, a folder with one per split, or a Hub id. Only names, categories "
        "and classes are shown to the language model, never a row."
    )
    output_dir: str = required("Folder to write: the scores as parquet, and their card.")
    model: str = option(LANGUAGE_MODEL, "Language model: Hub id, folder, .gguf or embedded name.")
    label_column: str | None = option(None, "Column that is predicted. Default: as described.")


ELICIT = "--dataset table.csv --output_dir runs/scores --label_column income"


@partial(core.Command, ELICIT, [_ElicitArguments, ElicitOptions, TableOptions, LM_GROUPS[1]])
def elicit(values: core.Values) -> core.Result:
    """Ask a language model how much each feature of a table speaks for each class.

    Scores and replies are stored as they come, so a run that was stopped asks nothing twice.
    """
    from hf_cap.laat.elicitation import elicit_scores, write_scores
    from hf_cap.laat.table import read_schema

    given = values.build(_ElicitArguments)
    folder = Path(given.output_dir)
    refuse_loss(folder, ["train.parquet", "README.md"])
    model = values.build(LMSettings, "lm", model=given.model)
    _, schema = read_schema(given.dataset, values.build(TableOptions), target=given.label_column)
    with using_runtime(values.build(LMRuntime, "lm")):
        scores = elicit_scores(schema, model, values.build(ElicitOptions))
    facts = {"model": given.model, "question": schema.question, "command": core.command_line()}
    scores = replace(scores, provenance={**scores.provenance, **facts})
    with atomic_path(folder) as target:
        target.mkdir()
        write_scores(target, scores)
    text = f"Wrote the scores of {len(schema.features)} features to {folder}"
    trained = core.beside(folder, "model")
    place = {"dataset": given.dataset, "scores": folder, "output_dir": trained}
    then = core.next_command("train", task="tabular", label_column=given.label_column, **place)
    return core.Result({"output_dir": str(folder), "features": len(schema.features)}, text, then)


# --- All stages in one, the demo of it, and the app that shows what it made.


@dataclass(frozen=True, kw_only=True)
class _FitArguments:
    dataset: str = required(core.DATA)
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
    core.Group("extract", ExtractArguments, ExtractionSettings, only=EXTRACTION),
    *LM_GROUPS,
    *source_groups(ClassifierSource),
    core.Group("fuse", PriorFusion),
    core.Group("train", _Encoder, *TEXTS),
    core.Group("evaluate", EvaluationSettings),
    core.Group("report", ReportSettings),
]
FIT = "data.csv --output_dir runs/mine --cap.n 50"
SETTINGS: list[type | core.Group] = [_FitArguments, core.Columns, *GROUPS]


@partial(core.Command, FIT, SETTINGS, positional="dataset", more="train.")
def fit(values: core.Values) -> core.Result:
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


def _shown(result: "FitResult") -> core.Result:
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
        text += f"\nShortcuts: {marks} (mark what is none as `fine`, and run the same command again)"
    facts = {name: str(getattr(result, name)) for name in ("model", "report")}
    then = f"open {result.report} in a browser"
    return core.Result({"accuracy": dict(result.accuracy), **facts}, text, then)


LIBRARIANS = "Anna Ben Carla Dev Emma Farid Greta Hugo Ines Jonas Kira Liam".split()


@dataclass(frozen=True, kw_only=True)
class _DemoArguments:
    output_dir: str = option("runs/demo", "Folder for the texts, models and the report.")
    seeds: tuple[int, ...] = option((0, 1), "One training run per seed and method.")
    recipe: str = option("recipes/demo/fit.yaml", "Settings of `hf-cap fit`.")


@partial(core.Command, "--seeds 0 1 2", [_DemoArguments])
def demo(values: core.Values) -> core.Result:
    """Run `hf-cap fit` on the embedded data with a shortcut in its training texts, and with two controls.

    Each kind of request gets a librarian whom nine training texts in ten name; the test texts name nobody.
    """
    from hf_cap.data import load_splits, save_splits
    from hf_cap.workflow import check_seeds

    given = values.build(_DemoArguments)
    splits, folder = load_splits(DEMO_DATA), f"{given.output_dir}/library-desk-with-names"
    check_seeds(given.seeds)
    words = ["--config", given.recipe, "--dataset", folder, "--output_dir", given.output_dir]
    settings = core.parse("fit", fit, [*words, "--seeds", *map(str, given.seeds)]) or core.Values()
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


@partial(core.Command, "runs/mine", [_AppArguments], positional="run")
def app(values: core.Values) -> core.Result:
    """Look at classifiers in the browser: edit a text, see words and probabilities change.

    Decisions about shortcuts are saved in the file that `hf-cap fuse --shortcuts` reads.
    """
    from hf_cap.app import serve

    given = vars(values.build(_AppArguments))
    serve(given.pop("run"), **given)
    return core.Result({}, "")
