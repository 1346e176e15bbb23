"""`fit`: from labelled texts to a trained and evaluated classifier; and the steps that commands share."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset

from hf_cap import utils
from hf_cap.cards import EVALUATIONS
from hf_cap.classifiers import load_tokenizer
from hf_cap.cues import Mark, ShortcutSettings, change_cues, load_marks
from hf_cap.data import (
    label_names,
    load_splits,
    load_texts,
    named_labels,
    save_splits,
    with_test_split,
    with_unlabelled,
)
from hf_cap.embedded import ENCODER, LANGUAGE_MODEL
from hf_cap.errors import CAPError, ConfigError, DataError, MissingExtra, as_config_errors
from hf_cap.evaluation.evaluate import evaluate_classifier
from hf_cap.evaluation.settings import EvaluationSettings
from hf_cap.lm.base import LMRuntime, LMSettings, using_runtime
from hf_cap.lm.open import check_language_model
from hf_cap.parquet import write_parquet
from hf_cap.priors.base import ExtractionSettings, Source, source_class
from hf_cap.priors.cap import CAPPrior, choose_dtype
from hf_cap.priors.classifier import ClassifierSource
from hf_cap.priors.extract import extract_priors
from hf_cap.priors.fusion import PriorFusion, fuse_priors
from hf_cap.priors.keywords import CONTROLS, with_control
from hf_cap.priors.language_model import LanguageModelSource
from hf_cap.progress import duration
from hf_cap.report.load import SHORTCUTS_FILE, ReportSettings, load_run
from hf_cap.report.page import write_report
from hf_cap.report.shortcuts import most_changed
from hf_cap.schema import LABEL, PRIOR, TEXT, prior_column
from hf_cap.shortcuts import find_shortcuts, make_judges, write_shortcuts
from hf_cap.training.config import CAPConfig
from hf_cap.training.run import train_classifier
from hf_cap.training.validation import SEEDS, check_start
from hf_cap.utils import Place
from hf_cap.words import WORD_PATTERN

_logger = logging.getLogger(__name__)

Settings = Mapping[str, Any]
BASELINE, ALIGNED = "baseline", "aligned"
FIT_FILE, SHORTCUTS = "fit.json", "shortcuts.yaml"
_SHOWN = 12  # texts that the report has priors of
_LISTED = 8  # shortcuts that the log names
FIT = {"save_strategy": "no", "logging_steps": 10, "report_to": "none"}


@dataclass(frozen=True)
class FitResult:
    """What `fit` made.

    Attributes:
        output_dir: The folder, with `prior` (a data set), `models` and the report.
        report: The report, an HTML page.
        model: Folder of the aligned classifier of the first seed.
        accuracy: Method (`baseline`, `aligned`, controls) to mean test accuracy over the seeds.
        results: One row per number, for `hf_cap.evaluation.summarize` and `compare`.
    """

    output_dir: Path
    report: Path
    model: Path
    accuracy: Mapping[str, float]
    results: pd.DataFrame = field(repr=False)


def fit(
    dataset: Place,
    output_dir: Place,
    *,
    text_column: str = TEXT,
    label_column: str = LABEL,
    labels: Sequence[str] = (),
    test_size: float = 0.2,
    seeds: Sequence[int] = (0,),
    controls: Sequence[str] = (),
    shortcuts: bool = False,
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
        labels: The label space, in order; by default that of the data.
        test_size: Part of each class, in (0, 1), that is held out where there is no split `test`.
        seeds: One training run per seed and method; the first also draws the test split.
        controls: Priors without information to train with as well: `shuffled`, `uniform`, `random`.
        shortcuts: Find shortcuts (`shortcuts.yaml`, to edit), give them no score, train with word dropout.
        extract: `sources` (default: cap; with `shortcuts` there may be none), `model` (language model),
            `word_pattern`, `batch_size`.
        fuse: Settings of `PriorFusion`.
        train: `model` (encoder) and settings of `CAPConfig`.
        evaluate, report: Settings of `EvaluationSettings` and of `ReportSettings`.
        sources: Settings of a source by its name, as `cap={"n": 50}`; `prompt` and `lm` for language models.

    Raises:
        CAPError: the data, a setting or a model cannot be used.
    """
    name, folder = os.fspath(dataset), utils.real_path(output_dir)
    stages = _Stages(name, folder, sources, extract, fuse, train, evaluate, report)
    if shortcuts:
        stages.fuse["shortcuts"] = str(stages.folder / SHORTCUTS)
        stages.train.setdefault("word_dropout", 0.9)
    stages.check(controls, test_size, seeds)
    columns: Settings = {"text_column": text_column, "label_column": label_column}
    splits = load_splits(dataset, labels=labels or None, **columns)
    splits = with_test_split(splits, test_size, seeds[0])
    return stages.run(splits, seeds, (BASELINE, ALIGNED, *controls))


class _Stages:
    """The stages of `fit`; `fit.json` lists those that are finished, their settings and their seconds."""

    def __init__(self, name: str, folder: Path, groups: Any, *stages: Any) -> None:
        extract, self.fuse, train, self.evaluate, self.report = (dict(s or {}) for s in stages)
        self.name, self.folder = name, folder
        self.options = {"model": LANGUAGE_MODEL, "sources": ("cap",), **extract}
        self.groups = {name: dict(group) for name, group in groups.items() if group}
        self.train = {"model": ENCODER, **FIT, **train}
        if phrases := self.groups.get("prompt", {}).get("label_phrases"):
            self.train.setdefault("label_phrases", phrases)
        if pattern := self.options.get("word_pattern"):
            for later in (self.train, self.evaluate):
                later.setdefault("word_pattern", pattern)
        alignment = ("alignment_", "attribution_", "finite_", "prior_", "word_dropout")
        plain = {name: v for name, v in self.train.items() if not name.startswith(alignment)}
        self.plain = {**plain, "alignment_weight": 0.0}
        self.file, self.known = folder / FIT_FILE, read_steps(folder)

    def check(self, controls: Sequence[str], test_size: float, seeds: Sequence[int]) -> None:
        """Create every settings object once, so that a mistake is found before any work."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("`fit` runs in one process. Launch its stages: extract, fuse, train.")
        if unknown := {*controls} - {*CONTROLS}:
            raise ConfigError(f"There is no control {min(unknown)!r}; there are {CONTROLS}.")
        utils.check_writable(self.folder)
        utils.check_recordable({**vars(self), "output_dir": str(self.folder)}, default=_described)
        if not 0 < test_size < 1:
            raise ConfigError(f"`test_size` must be above 0 and below 1, got {test_size!r}.")
        check_seeds(seeds)
        if len({*controls}) < len(controls):
            raise ConfigError(f"Name each only once: controls={controls!r}.")
        if fixed := {"output_dir", "seed"} & {*self.train}:
            raise ConfigError(f"`train.{min(fixed)}` is chosen by `output_dir` and `seeds`; leave it out.")
        if not self.options["sources"] and not self.fuse.get("shortcuts"):
            raise ConfigError("Without `sources` there is no prior; name some, or ask for `shortcuts`.")
        made = [prior_column(source_class(name).name) for name in self.options["sources"]]
        if (column := self.train.get("prior_column")) not in (None, PRIOR, *made):
            raise ConfigError(f"There will be no `train.prior_column` {column!r}, but {[PRIOR, *made]}.")
        try:
            with as_config_errors():
                ExtractionSettings(**pick(ExtractionSettings, self.options))
                PriorFusion(**{**self.fuse, "shortcuts": None})
                EvaluationSettings(**self.evaluate)
                ReportSettings(**self.report)
                for cls in (LMSettings, LMRuntime):
                    cls(**pick(cls, self.groups.get("lm", {})))
                config = self.config(self.folder, self.train)
                check_start(config, self.train)
        except TypeError as error:
            raise ConfigError(f"There is no such setting: {error}.") from error
        if config.eval_strategy != "no":
            raise ConfigError("`fit` evaluates after each training; leave out `train.eval_strategy`.")
        if isinstance(self.train["model"], str):
            # a wrong name is found before the priors are paid for
            load_tokenizer(self.train["model"])

    def run(self, splits: Mapping[str, Dataset], seeds: Sequence[int], methods: Sequence[str]) -> FitResult:
        """Run the stages that are not finished."""
        digest = {
            name: utils.fingerprint(*split[TEXT], *map(str, split[LABEL]), *label_names(split))
            for name, split in splits.items()
        }
        if place := self.train.get("unlabelled") or with_unlabelled(self.name):
            digest["unlabelled"] = utils.fingerprint(*load_texts(place))
        self.check_sources(splits["train"])
        self.stage("data", digest, partial(save_splits, splits))
        # how fast priors are made does not determine them
        options = {k: v for k, v in self.options.items() if k not in ("batch_size", "progress")}
        groups = {**self.groups, "lm": pick(LMSettings, self.groups.get("lm", {}))}
        for name, group in groups.items():
            options |= {f"{name}.{key}": value for key, value in group.items()}
        self.stage("priors", options, partial(self.extract_into, splits["train"]), "data")
        decisions = self.decisions(splits["train"])
        self.stage("prior", {**self.fuse, **decisions}, self.fuse_into, "priors")
        runs = {f"models/{name}-seed{seed}": (name, seed) for seed in seeds for name in methods}
        for name, (method, seed) in runs.items():
            data, settings = ("data", self.plain) if method == BASELINE else ("prior", self.train)
            train = partial(self.train_into, self.folder / data, method, seed, settings)
            self.stage(name, settings, train, data)
            measure = partial(self.evaluate_into, splits["test"])
            self.stage(f"{name}/{EVALUATIONS}", self.evaluate, measure, name, "prior")
        measured = [f"{name}/{EVALUATIONS}" for name in runs]
        show = partial(self.show_into, splits, [*runs][:2])
        if self.evaluate.get("records", True):
            self.stage("shown", options, show, "prior", *measured[:2])
        report = partial(self.report_into, [self.folder / name for name in runs])
        self.stage("report.html", self.report, report, *measured)
        return _result(self.folder, runs)

    def stage(self, name: str, settings: Any, make: Callable[[Path], object], *after: str) -> None:
        """Make a file or folder, unless it is there with these settings and from the same stages."""
        path, before = self.folder / name, self.known.get(name)
        settings = json.loads(json.dumps(settings, default=_described))
        key = utils.fingerprint(json.dumps([settings, *(self.known[each]["key"] for each in after)]))
        if before and before["key"] == key and before["finished"] and path.exists():
            _logger.info("Already there: %s", path)
            return
        if before and before["key"] != key:
            old = before["settings"]
            changed = [k for k in {**old, **settings} if old.get(k) != settings.get(k)]
            _logger.warning("%s is made again: changed %s.", path, ", ".join(changed or after))
            for checkpoint in path.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        _logger.info("Making %s", path)
        self._write(name, {"settings": settings, "key": key, "finished": False})
        started = time.monotonic()
        try:
            make(path)
        except CAPError:
            self._write(name, before)  # a mistake costs nothing that was finished
            raise
        seconds = round(time.monotonic() - started, 1)
        self._write(name, {"settings": settings, "key": key, "finished": True, "seconds": seconds})
        _logger.info("Made %s in %s", path, duration(seconds))

    def _write(self, name: str, record: Any) -> None:
        self.known[name] = record
        utils.write_json(self.file, {name: value for name, value in self.known.items() if value})

    def config(self, path: Path, settings: Settings, **fixed: Any) -> CAPConfig:
        options = {name: value for name, value in settings.items() if name != "model"}
        # pinned memory is for copies to a GPU
        options = {"dataloader_pin_memory": torch.cuda.is_available(), **options, **fixed}
        return CAPConfig(**{"output_dir": str(path), "resume_from_checkpoint": "last", **options})

    def check_sources(self, dataset: Dataset) -> None:
        """Create the sources once, so that mistakes in them are found before anything is written."""
        if not self.known.get("priors", {}).get("finished"):
            with self.runtime():
                self.sources(dataset, learns=False)

    def runtime(self) -> AbstractContextManager[None]:
        return using_runtime(LMRuntime(**pick(LMRuntime, self.groups.get("lm", {}))))

    def sources(self, dataset: Dataset, **how: Any) -> list[Source]:
        named = {k: v for k, v in self.options.items() if k in ("model", "word_pattern")}
        return make_sources(self.options["sources"], dataset, self.groups, **named, **how)

    def extract_into(self, dataset: Dataset, path: Path, **splits: Dataset) -> None:
        with self.runtime():
            sources = self.sources(dataset)
            splits = splits or {"train": dataset}
            if not sources:
                save_splits(splits, path)
                return
            options = {**pick(ExtractionSettings, self.options), "splits": tuple(splits)}
            extract_priors(splits, sources, path, ExtractionSettings(**options), dataset=self.name)

    @property
    def marks(self) -> list[Mark]:
        """What was decided about shortcuts; empty where none are asked for."""
        return load_marks(self.folder / SHORTCUTS) if self.fuse.get("shortcuts") else []

    def decisions(self, dataset: Dataset) -> Settings:
        """Find shortcuts, unless that is done; gives a digest of what was decided about them."""
        if not self.fuse.get("shortcuts"):
            return {}
        lm, prompt = (self.groups.get(name, {}) for name in ("lm", "prompt"))
        how = {**prompt, **pick(ShortcutSettings, self.options)}
        asked = {"model": self.options["model"], "encoder": self.train["model"]}
        settings = {**asked, **how, **pick(LMSettings, lm)}
        find = partial(self.find_into, dataset, ShortcutSettings(**pick(ShortcutSettings, how)))
        self.stage(SHORTCUTS, settings, find, "data")
        if not (marks := self.marks) and not self.options["sources"]:
            raise DataError("No shortcuts were found, and no `sources` give a prior; name some.")
        return {"marks": utils.fingerprint(*map(str, marks))}

    def find_into(self, dataset: Dataset, how: ShortcutSettings, path: Path) -> None:
        asked = name_model(self.options["model"], self.groups.get("lm", {}))
        with self.runtime():
            judges = make_judges(asked, self.train["model"], **self.groups.get("prompt", {}))
            found = find_shortcuts(dataset, judges, settings=how)
        write_shortcuts(found, path)
        listed = ", ".join(f"{one.cue} -> {one.label}" for one in found[:_LISTED])
        more = ", ..." if found[_LISTED:] else ""
        _logger.info("Found %d shortcuts%s%s%s", len(found), ": " if found else "", listed, more)

    def fuse_into(self, path: Path) -> None:
        save_splits(fuse_priors(load_splits(self.folder / "priors"), **self.fuse), path)

    def show_into(self, splits: Mapping[str, Dataset], pair: Sequence[str], path: Path) -> None:
        """Make priors of the texts that changed most, which the report shows first."""
        before, after = (load_run(self.folder / name) for name in pair)
        chosen = most_changed(before, after, self.marks, _SHOWN)
        names = label_names(splits["test"])
        columns: Any = {TEXT: [*chosen], LABEL: [names.index(label) for label in chosen.values()]}
        test = Dataset.from_dict(columns, splits["test"].select_columns([*columns]).features)
        self.extract_into(splits["train"], path, test=test)
        save_splits(fuse_priors(load_splits(path), **self.fuse), path)

    def train_into(self, data: Path, method: Any, seed: int, settings: Any, path: Path) -> None:
        dataset = load_splits(data, splits=["train"])["train"]
        if method not in (BASELINE, ALIGNED):
            dataset = with_control(dataset, method, seed=seed)
        data_facts = {"name": self.name, "dataset": str(data), "train_split": "train"}
        record = {"settings": settings, "data": data_facts}
        config = self.config(path, settings, seed=seed)
        train_classifier(dataset, config, settings["model"], marks=self.marks, record=record)

    def evaluate_into(self, test: Dataset, path: Path) -> None:
        on_test = EvaluationSettings(**{"records": True, **self.evaluate})
        # only the training texts have priors to agree with
        on_train = replace(on_test, faithfulness=False, soft=False)
        train = load_splits(self.folder / "prior")["train"]
        sets = {"train": (train, on_train), "test": (test, on_test)}
        pattern = self.options.get("word_pattern", WORD_PATTERN)
        texts, labels = test[TEXT][:], named_labels(test)
        changed = change_cues(texts, labels, marks, pattern) if (marks := self.marks) else {}
        for name, texts in changed.items():
            how = replace(on_train, records=on_test.records and name == "shifted")
            sets[name] = (test.remove_columns(TEXT).add_column(TEXT, texts), how)
        for name, (data, how) in sets.items():
            found = evaluate_classifier(str(path.parent), None, data, settings=how)
            write_evaluation(found.to_dict(), path, name)

    def report_into(self, runs: Sequence[Path], path: Path) -> None:
        settings = ReportSettings(**self.report)
        shortcuts = self.folder / SHORTCUTS_FILE if self.fuse.get("shortcuts") else None
        try:
            priors = [p for p in (self.folder / "prior", self.folder / "shown") if p.exists()]
            write_report(runs, path, priors=priors, shortcuts=shortcuts, settings=settings)
        except MissingExtra as error:
            _logger.warning("There is no report: %s", error)


def _described(value: Any) -> Any:
    """What stands for a setting that JSON has no form for, such as a language model."""
    return getattr(value, "fingerprint", None) or type(value).__qualname__


def _result(folder: Path, runs: Mapping[str, tuple[str, int]]) -> FitResult:
    rows = []
    for name, (method, seed) in runs.items():
        for file in sorted((folder / name / EVALUATIONS).glob("*.json")):
            numbers = utils.read_json(file)
            where = (str(folder), method, seed, 0, file.stem)
            rows += [(*where, key, value) for key, value in numbers.items() if type(value) is float]
    columns = ["run", "method", "seed", "draw", "test_set", "measure", "value"]
    frame = pd.DataFrame(rows, columns=columns)
    tested = frame[(frame["measure"] == "accuracy") & (frame["test_set"] == "test")]
    accuracy = tested.groupby("method", sort=False)["value"].mean().to_dict()
    model = next(folder / name for name, (method, _) in runs.items() if method == ALIGNED)
    return FitResult(folder, folder / "report.html", model, accuracy, frame)


# --- What commands do as well.


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise `ConfigError` unless there are one or more seeds, each once and possible."""
    if not seeds or not all(0 <= seed < SEEDS for seed in seeds) or len({*seeds}) < len(seeds):
        raise ConfigError(f"`seeds` must be one or more numbers from 0 on, each once, got {seeds!r}.")


def read_steps(folder: Path) -> dict[str, Any]:
    """The steps of `fit` in its folder: name to settings, key and whether it is finished; empty before it."""
    file, shape = folder / FIT_FILE, {"settings": dict, "key": str, "finished": bool}
    return utils.read_json(file, {"*": shape}) if file.exists() else {}


def name_model(model: Any, lm: Settings) -> Any:
    """The settings of a language model that is given by name, with those of the group `lm`; else as it is."""
    return LMSettings(model=model, **pick(LMSettings, lm)) if isinstance(model, str) else model


def make_sources(
    names: Sequence[str],
    dataset: Dataset,
    groups: Mapping[str, Settings],
    *,
    learns: bool = True,
    **shared: Any,
) -> list[Source]:
    """Create sources, which learn from a training split what they need.

    Where nothing `learns`, only settings are checked: no language model is loaded, which learning may ask.
    `names` are in `hf_cap.priors.SOURCES`, or `module:Class`; `groups` has the settings of a source by its
    name, of language models as `prompt` and `lm`, and of classifiers as `classifier`; `shared` has `model`
    (what `open_language_model` takes) and `word_pattern`.
    """
    classes = {name: source_class(name) for name in names}
    known = {*names, *(cls.name for cls in classes.values()), "prompt", "lm", "classifier"}
    if unused := sorted(name for name, group in groups.items() if group and name not in known):
        raise ConfigError(f"There are settings for {unused[0]!r}, which is not among {list(names)}.")
    shared["model"] = name_model(shared["model"], groups.get("lm", {}))
    shared |= {**groups.get("prompt", {}), **groups.get("classifier", {})}
    asking = any(issubclass(cls, LanguageModelSource) for cls in classes.values())
    if asking and not learns:
        check_language_model(shared["model"])
    elif asking:
        checked = pick(CAPPrior, {**shared, **groups.get("cap", {})})
        shared["model"] = choose_dtype(shared["model"], dataset, checked)
    made = []
    for name, cls in classes.items():
        own = {**groups.get(cls.name, {}), **groups.get(name, {})}
        if unknown := sorted(set(own) - set(pick(cls, own))):
            raise ConfigError(f"The source {name!r} has no setting {unknown[0]!r}.")
        options = {**pick(cls, shared), **own}
        if issubclass(cls, ClassifierSource) and not options.get("classifier"):
            raise ConfigError(
                f"The source {name!r} explains a classifier: give one, trained on the same split without "
                "alignment (`hf-cap train --alignment_weight 0 ...`), as `--classifier FOLDER`."
            )
        if learns:
            made.append(cls.from_dataset(dataset, **options))
        else:
            column = options.get("label_column", LABEL)
            made.append(cls(labels=tuple(label_names(dataset, column, at_least=2)), **options))
    return made


def pick(cls: type, settings: Settings) -> dict[str, Any]:
    """Those of the settings that are fields of a dataclass."""
    return {f.name: settings[f.name] for f in fields(cls) if f.init and f.name in settings}


def write_evaluation(evaluation: Settings, folder: Path, name: str) -> dict[str, Any]:
    """Write `<name>.json`, which is returned, and the records, if any, in place of `<name>.parquet`."""
    numbers = {key: value for key, value in evaluation.items() if key != "records"}
    stored = folder / f"{utils.file_name(name)}.parquet"
    if records := evaluation.get("records"):
        with utils.atomic_path(stored) as path:
            write_parquet(Dataset.from_list(records), path)
    else:
        stored.unlink(missing_ok=True)
    utils.write_json(folder / f"{name}.json", numbers)
    return numbers
