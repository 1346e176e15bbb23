"""`fit`: from labelled texts to a trained and evaluated classifier, by all stages one after the other."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cap.cards import EVALUATIONS
from hf_cap.data import choose_split, label_names, load_splits, save_splits
from hf_cap.embedded import ENCODER, LANGUAGE_MODEL
from hf_cap.errors import CAPError, ConfigError, DataError, MissingExtra
from hf_cap.lm.base import LMRuntime, LMSettings, using_runtime
from hf_cap.schema import LABEL, TEXT
from hf_cap.stages import check_start, make_sources, pick, train_classifier, write_evaluation
from hf_cap.utils import (
    fingerprint,
    rank,
    real_path,
    write_json,
)

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    from hf_cap.training.config import CAPConfig

_logger = logging.getLogger(__name__)

Settings = Mapping[str, Any]
BASELINE, ALIGNED = "baseline", "aligned"
PLAIN_PROMPT = {"chat": False}
"""The small embedded model names 20 % of the labels of HWU64 rightly from plain lines, 7 % in its chat."""
FEW_TEXTS = {
    "num_train_epochs": 20,
    "per_device_train_batch_size": 16,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "save_strategy": "no",
    "logging_steps": 10,
    "report_to": "none",
}
"""How `fit` trains by default: the three epochs of `Trainer` are too few for a handful of texts."""


@dataclass(frozen=True)
class FitResult:
    """What `fit` made.

    Attributes:
        output_dir: The folder, with `prior` (a data set), `models` and `report.html`.
        model: Folder of the aligned classifier of the first seed.
        accuracy: Method (`baseline`, `aligned`, controls) to mean test accuracy over the seeds.
        results: One row per number, for `hf_cap.evaluation.summarize` and `compare`.
    """

    output_dir: Path
    model: Path
    accuracy: Mapping[str, float]
    results: "pd.DataFrame" = field(repr=False)

    @property
    def report(self) -> Path:
        """The report, an HTML page."""
        return self.output_dir / "report.html"


def fit(
    dataset: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    text_column: str = TEXT,
    label_column: str = LABEL,
    labels: Sequence[str] = (),
    test_size: float = 0.2,
    seeds: Sequence[int] = (0,),
    controls: Sequence[str] = (),
    extract: Settings | None = None,
    fuse: Settings | None = None,
    train: Settings | None = None,
    evaluate: Settings | None = None,
    report: Settings | None = None,
    **sources: Settings,
) -> FitResult:
    """Train a classifier on labelled texts without and with alignment, and compare the two.

    Splits the texts, extracts and fuses priors, trains one model per method and seed, evaluates them on
    the test split and writes a report. Called again it makes only what is new or has changed settings.

    Args:
        dataset: A file, a folder, a Hub id or an `embedded/...` name.
        output_dir: Folder to write.
        text_column: Column of the texts.
        label_column: Column of the labels.
        labels: The label space, in order; by default that of the data.
        test_size: Part of each class, in (0, 1), that is held out where there is no split `test`.
        seeds: One training run per seed and method; the first also draws the test split.
        controls: Priors without information to train with as well: `shuffled`, `uniform`, `random`.
        extract: `sources` (default: cap), `model` (language model), `word_pattern`, `batch_size`.
        fuse: Settings of `PriorFusion`.
        train: `model` (encoder) and settings of `CAPConfig`.
        evaluate: Settings of `EvaluationSettings`.
        report: Settings of `ReportSettings`.
        sources: Settings of a source by its name, as `cap={"n": 50}`; `prompt` and `lm` (number format,
            device, store ...) are shared by the sources that ask a language model.

    Raises:
        CAPError: the data, a setting or a model cannot be used; see `hf_cap.errors`.
    """
    folder = real_path(output_dir)
    stages = _Stages(folder, extract, fuse, train, evaluate, report, sources)
    stages.check(controls, test_size)
    splits = load_splits(
        dataset, text_column=text_column, label_column=label_column, labels=labels or None
    )
    splits = _with_test_split(splits, test_size, seeds[0])
    return _result(folder, _run_all(stages, splits, seeds, (BASELINE, ALIGNED, *controls)))


def _run_all(
    stages: "_Stages", splits: "Mapping[str, Dataset]", seeds: Sequence[int], methods: Sequence[str]
) -> list[tuple[str, int, str]]:
    """Run the stages that are not finished; gives method, seed and name of each model."""
    folder = stages.folder
    work, prior = _Work(folder), folder / "prior"
    work.stage("data", _digest(splits), lambda path: save_splits(splits, path))
    work.stage("priors", stages.extraction, partial(stages.extract, splits["train"]), "data")
    fuse = partial(stages.fuse_into, folder / "priors")
    work.stage("prior", stages.fuse, fuse, "priors")
    runs = [(method, seed, f"models/{method}-seed{seed}") for seed in seeds for method in methods]
    for method, seed, name in runs:
        source, settings = ("data", stages.plain) if method == BASELINE else ("prior", stages.train)
        train = partial(stages.train_into, folder / source, method, seed, settings)
        work.stage(name, settings, train, source)
        measure = partial(stages.evaluate_into, splits["test"], prior)
        work.stage(f"{name}/{EVALUATIONS}", stages.evaluate, measure, name, "prior")
    measured = [f"{name}/{EVALUATIONS}" for *_, name in runs]
    page = partial(stages.report_into, [folder / name for *_, name in runs], prior)
    work.stage("report.html", stages.report, page, *measured)
    return runs


class _Stages:
    """The stages of `fit` with their settings; each writes to the path that it is given."""

    def __init__(
        self,
        folder: Path,
        extract: Any,
        fuse: Any,
        train: Any,
        evaluate: Any,
        report: Any,
        groups: Any,
    ) -> None:
        self.folder = folder
        self.options = {"model": LANGUAGE_MODEL, "sources": ("cap",), **(extract or {})}
        self.groups = {name: dict(group) for name, group in groups.items() if group}
        if self.options["model"] == LANGUAGE_MODEL:
            self.groups["prompt"] = {**PLAIN_PROMPT, **self.groups.get("prompt", {})}
        self.train = {"model": ENCODER, **FEW_TEXTS, **(train or {})}
        if self.train["model"] == ENCODER:
            self.train.setdefault("learning_rate", 3e-4)
        alignment = ("alignment_", "attribution_", "finite_", "prior_")
        plain = {name: v for name, v in self.train.items() if not name.startswith(alignment)}
        self.plain = {**plain, "alignment_weight": 0.0}
        self.fuse, self.evaluate, self.report = fuse or {}, evaluate or {}, report or {}

    @property
    def extraction(self) -> Settings:
        """The settings that determine priors; how fast they are made is none of them."""
        groups = {**self.groups, "lm": pick(LMSettings, self.groups.get("lm", {}))}
        named = {f"{name}.{key}": v for name, group in groups.items() for key, v in group.items()}
        kept = {k: v for k, v in self.options.items() if k not in ("batch_size", "progress")}
        return {**kept, **named}

    def check(self, controls: Sequence[str], test_size: float) -> None:
        """Create every settings object once, so that a mistake is found before any work."""
        from hf_cap.evaluation.evaluate import EvaluationSettings
        from hf_cap.priors.fusion import PriorFusion
        from hf_cap.priors.keywords import CONTROLS
        from hf_cap.report.load import ReportSettings

        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "`fit` runs in one process. Launch its stages: `hf-cap extract`, `hf-cap train`."
            )
        if unknown := [name for name in controls if name not in CONTROLS]:
            raise ConfigError(f"There is no control {unknown[0]!r}; there are {sorted(CONTROLS)}.")
        if not 0 < test_size < 1:
            raise ConfigError(
                f"`test_size` must be more than 0 and less than 1, got {test_size!r}."
            )
        try:
            PriorFusion(**self.fuse)
            EvaluationSettings(**self.evaluate)
            ReportSettings(**self.report)
            check_start(self.config(self.folder, self.train))
        except TypeError as error:
            raise ConfigError(f"There is no such setting: {error}.") from error

    def config(self, path: Path, settings: Settings, **fixed: Any) -> "CAPConfig":
        """How to train into a folder."""
        import torch

        from hf_cap.training.config import CAPConfig

        options = {name: value for name, value in settings.items() if name != "model"}
        # pinned memory is for copies to a GPU
        defaults = {
            "dataloader_pin_memory": torch.cuda.is_available(),
            "resume_from_checkpoint": "last",
        }
        return CAPConfig(**{"output_dir": str(path), **defaults, **options, **fixed})

    def extract(self, dataset: "Dataset", path: Path) -> None:
        """Write the priors of all sources."""
        from hf_cap.priors.extract import ExtractionSettings, extract_priors

        named = {k: v for k, v in self.options.items() if k in ("model", "word_pattern")}
        with using_runtime(LMRuntime(**pick(LMRuntime, self.groups.get("lm", {})))):
            sources = make_sources(self.options["sources"], dataset, self.groups, **named)
            how = ExtractionSettings(**pick(ExtractionSettings, self.options))
            extract_priors({"train": dataset}, sources, path, how)

    def fuse_into(self, priors: Path, path: Path) -> None:
        """Write the fused prior."""
        from hf_cap.priors.fusion import fuse_priors

        save_splits(fuse_priors(load_splits(priors), **self.fuse), path)

    def train_into(
        self, data: Path, method: Any, seed: int, settings: Settings, path: Path
    ) -> None:
        """Train one model."""
        from hf_cap.priors.keywords import with_control

        dataset = load_splits(data, splits=["train"])["train"]
        if method not in (BASELINE, ALIGNED):
            dataset = with_control(dataset, method, seed=seed)
        record = {
            "settings": dict(settings),
            "data": {"dataset": str(data), "train_split": "train"},
        }
        config = self.config(path, settings, seed=seed)
        train_classifier(dataset, config, settings["model"], record=record)

    def evaluate_into(self, test: "Dataset", prior: Path, path: Path) -> None:
        """Measure one model on the test texts, and its alignment on the training texts."""
        from hf_cap.classifiers import load_model, load_tokenizer
        from hf_cap.evaluation.evaluate import EvaluationSettings, evaluate_classifier

        model, tokenizer = load_model(str(path.parent)), load_tokenizer(str(path.parent))
        on_test = EvaluationSettings(**{"records": True, **self.evaluate})
        # only the training texts have priors to agree with
        on_train = replace(on_test, records=False, faithfulness=False, soft=False)
        train = load_splits(prior)["train"]
        for name, data, how in (("train", train, on_train), ("test", test, on_test)):
            found = evaluate_classifier(model, tokenizer, data, settings=how)
            write_evaluation(found.to_dict(), path, name)

    def report_into(self, runs: Sequence[Path], prior: Path, path: Path) -> None:
        """Write the page."""
        from hf_cap.report.load import ReportSettings
        from hf_cap.report.page import write_report

        try:
            write_report(runs, path, priors=prior, settings=ReportSettings(**self.report))
        except MissingExtra as error:
            _logger.warning("There is no report: %s", error)


class _Work:
    """What is finished in a folder, and with which settings: `fit.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "fit.json"
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else "{}"
        self.known: dict[str, Any] = json.loads(text)

    def stage(self, name: str, settings: Any, make: Callable[[Path], object], *after: str) -> None:
        """Make a file or folder, unless it is there with these settings and the same input.

        Args:
            name: What is made.
            settings: What it is made with.
            make: Makes it at a path.
            after: Stages that it is made from.
        """
        path, before = self.folder / name, self.known.get(name)
        settings = json.loads(json.dumps(settings, default=_described))
        key = fingerprint(json.dumps([settings, *(self.known[each]["key"] for each in after)]))
        if before and before["key"] == key and before["finished"] and path.exists():
            _logger.info("Already there: %s", path)
            return
        if before and before["key"] != key:
            old = before["settings"]
            changed = [k for k in {**old, **settings} if old.get(k) != settings.get(k)]
            what = ", ".join(changed or after)
            _logger.warning("%s is made again: changed %s.", path, what)
            for checkpoint in path.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        self._write(name, {"settings": settings, "key": key, "finished": False})
        try:
            make(path)
        except CAPError:
            self._write(name, before)  # a mistake costs nothing that was finished
            raise
        self._write(name, {"settings": settings, "key": key, "finished": True})

    def _write(self, name: str, record: Any) -> None:
        self.known[name] = record
        write_json(self.file, {name: value for name, value in self.known.items() if value})


def _described(value: Any) -> Any:
    """What stands for a setting that JSON has no form for, such as a language model."""
    return getattr(value, "fingerprint", None) or type(value).__qualname__


def _digest(splits: "Mapping[str, Dataset]") -> dict[str, str]:
    """A fingerprint of the texts and labels of each split."""
    return {
        name: fingerprint(*split[TEXT], *map(str, split[LABEL]), *label_names(split))
        for name, split in splits.items()
    }


def _with_test_split(
    splits: "Mapping[str, Dataset]", test_size: float, seed: int
) -> "dict[str, Dataset]":
    """The splits `train` and `test`; where there is no `test`, a part of each class is held out."""
    train = choose_split(splits, "train").select_columns([TEXT, LABEL])
    if "test" in splits:
        return {"train": train, "test": splits["test"].select_columns([TEXT, LABEL])}
    by_label: dict[int, list[int]] = {}
    texts, classes = train[TEXT][:], train[LABEL][:]
    for row in sorted(range(len(train)), key=lambda row: rank(seed, texts[row], row)):
        by_label.setdefault(classes[row], []).append(row)
    held_out: set[int] = set()
    for label, rows in by_label.items():
        if len(rows) < 2:
            raise DataError(
                f"The label {label_names(train)[label]!r} has one text only, so none can be held out for "
                "the test. Add texts of it, or give a split `test`."
            )
        held_out |= {*rows[: min(len(rows) - 1, max(1, round(test_size * len(rows))))]}
    parts = {"train": {*range(len(train))} - held_out, "test": held_out}
    return {name: train.select(sorted(rows)) for name, rows in parts.items()}


def _result(folder: Path, runs: Sequence[tuple[str, int, str]]) -> FitResult:
    import pandas as pd

    rows = []
    for method, seed, name in runs:
        for split in ("test", "train"):
            file = folder / name / EVALUATIONS / f"{split}.json"
            numbers = json.loads(file.read_text(encoding="utf-8"))
            where = (str(folder), method, seed, 0, split)
            rows += [(*where, key, value) for key, value in numbers.items() if type(value) is float]
    columns = ["run", "method", "seed", "draw", "test_set", "measure", "value"]
    frame = pd.DataFrame(rows, columns=columns)
    tested = frame[(frame["measure"] == "accuracy") & (frame["test_set"] == "test")]
    accuracy = tested.groupby("method", sort=False)["value"].mean().to_dict()
    model = next(folder / name for method, _, name in runs if method == ALIGNED)
    return FitResult(folder, model, accuracy, frame)
