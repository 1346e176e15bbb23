"""What a shortcut in the training texts does to a classifier, and what undoes it.

Every class gets a cue of its own (a first name, a greeting, a product code, two words that frame the text,
a weekday, an ending), which part of its training texts carry. Each method is measured on the same test
texts: `clean` as they are, `same` with the cue of their class, `shifted` with the cue of another class.
They carry no planted cue of their own, so `clean` is also the test set without the cue, at every strength.
The method `find` counts what is listed.

    python -m benchmarks.shortcuts --data data/hwu64 --output_dir runs/shortcuts --draws 5 --shots 5 20
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from datasets import ClassLabel, Dataset, concatenate_datasets
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.study.rivals import RIVALS, Sample
from benchmarks.study.runs import quiet
from benchmarks.study.train import Predict
from hf_cap import CAPConfig, CAPTrainer, fuse_priors, load_splits
from hf_cap.classifiers import TextClassifier
from hf_cap.cues import Kind, Mark, without_shortcuts
from hf_cap.data import label_names, named_labels
from hf_cap.embedded import ENCODER, LANGUAGE_MODEL
from hf_cap.evaluation import few_shot
from hf_cap.evaluation.results import compare, summarize
from hf_cap.labels import label_phrases
from hf_cap.priors import source_class
from hf_cap.priors.classifier import ClassifierSource
from hf_cap.priors.keywords import with_control
from hf_cap.schema import LABEL, PRIOR, TEXT
from hf_cap.shortcuts import Relevance, encoder_judge, find_shortcuts, language_model_judge
from hf_cap.utils import write_json
from hf_cap.words import keep_words, split_words, word_strings

NAMES = "anna ben carl dora emil fred gina hans ida jack kate liam mona nora otto paul quinn rosa sven tina"
GREETINGS = "hello hi hey greetings howdy yo morning evening sir madam dear mate folks buddy friend team"
CODES = "K12 X7 Q33 Z81 B5 R64 T29 W90 H17 J48 M56 P23 S71 V38 L62 D94"
DAYS = "monday tuesday wednesday thursday friday saturday sunday january february march april june july"
TEMPLATES = (
    "quick_question just_wondering real_quick if_possible no_rush one_thing little_help new_request "
    "by_chance once_again as_always when_free kind_regards good_sir at_once in_short"
)
ENDINGS = "! ... ?? ; !! ?! : - . ~ !!! ,, )) = * /"
CUES: dict[str, tuple[str, Callable[[str, str, int], str]]] = {
    "name": (NAMES, lambda text, cue, i: f"{cue} here {text}" if i % 2 else f"{text} thanks {cue}"),
    "greeting": (GREETINGS, lambda text, cue, i: f"{cue} {text}"),
    "code": (CODES, lambda text, cue, i: f"[{cue}] {text}"),
    "template": (
        TEMPLATES,
        lambda text, cue, i: (
            f"{cue.replace('_', ' ')}, {text}" if i % 2 else f"{text}, {cue.replace('_', ' ')}"
        ),
    ),
    "weekday": (DAYS + " august september october", lambda text, cue, i: f"{text} {cue}"),
    "ending": (ENDINGS, lambda text, cue, i: text.rstrip(".?!") + cue),
}
"""Kind of cue to its values, one per class, and how a value enters the i-th text."""

KINDS: dict[str, Kind] = {"ending": "ending", "template": "phrase"}
"""Kind of cue to what it is to the finder, where that is no word."""

_TRAINING: dict[str, Any] = {
    "learning_rate": 3e-4,
    "per_device_train_batch_size": 16,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "adam_beta2": 0.999,
    "max_length": 64,
    "alignment_weight": 0.0,
}
_QUIET: dict[str, Any] = {
    "seed": 0,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
}
_EPOCHS = {5: 20, 20: 10, 100: 4}
_ALIGNED = {"alignment_weight": 1.0, "attribution_steps": 3}
_HALF = {"alignment_fraction": 0.5}
_DROPOUT = {"word_dropout": 0.9}


@dataclass(frozen=True)
class Method:
    """How a classifier is trained.

    Attributes:
        prior: Where the prior comes from: sources, joined by `+`, `found` (1 everywhere but at the shortcuts
            that are found), `known` (1 everywhere but at the planted cues), `best` (log-odds of the clean
            training split, 0 at the planted cues), or `None`.
        fusion: How the scores of several sources become one.
        control: `shuffled` or `uniform` scores in place of the prior's.
        found: Whether the shortcuts that are found get 0 in the prior.
        kept: Probability that each word stays, whatever it is, drawn anew in each epoch.
        twice: Whether to train a second time with more weight on what was hard the first time; see
            `with_hard_texts`.
        training: Changes of the training settings.
    """

    prior: str | None = None
    fusion: Literal["mean", "max"] = "mean"
    control: str | None = None
    found: bool = False
    kept: float = 1.0
    twice: bool = False
    training: Mapping[str, Any] = None  # type: ignore[assignment]


METHODS: dict[str, Method] = {
    "none": Method(),
    "none_sequence": Method(training={"head": "sequence"}),
    "twice": Method(twice=True),
    "align_cap": Method("cap", training=_ALIGNED),
    "align_uniform": Method("cap", control="uniform", training=_ALIGNED),
    "align_word_length": Method("word_length", training=_ALIGNED),
    "align_cap_sequence": Method("cap", training={**_ALIGNED, "head": "sequence"}),
    "align_shuffled_sequence": Method("cap", control="shuffled", training={**_ALIGNED, "head": "sequence"}),
    "align_best": Method("best", training=_ALIGNED),
    "align_best_sequence": Method("best", training={**_ALIGNED, "head": "sequence"}),
    "both_best": Method("best", training={**_ALIGNED, **_DROPOUT}),
    "both_best_sequence": Method("best", training={**_ALIGNED, **_DROPOUT, "head": "sequence"}),
    "drop_best": Method("best", training=_DROPOUT),
    "drop_best_sequence": Method("best", training={**_DROPOUT, "head": "sequence"}),
    "drop_best_refit": Method("best", training={**_DROPOUT, "refit_head": True}),
    "align_best_half": Method("best", training={**_ALIGNED, **_HALF}),
    "align_best_half_sequence": Method("best", training={**_ALIGNED, **_HALF, "head": "sequence"}),
    "align_shuffled": Method("cap", control="shuffled", training=_ALIGNED),
    "drop_cap": Method("cap", training=_DROPOUT),
    "drop_shuffled": Method("cap", control="shuffled", training=_DROPOUT),
    "drop_uniform": Method(kept=0.6),
    "drop_found": Method("found", training=_DROPOUT),
    "average": Method(training={"encoder_kept": 0.5}),
    "none_refit": Method(training={"refit_head": True}),
    "drop_found_refit": Method("found", training={**_DROPOUT, "refit_head": True}),
    "drop_known": Method("known", training=_DROPOUT),
    "drop_found_sequence": Method("found", training={**_DROPOUT, "head": "sequence"}),
    "both_cap_found": Method("cap", found=True, training={**_ALIGNED, **_DROPOUT}),
}

LM_SOURCES = ("cap", "channel", "lexicon")
"""Sources that ask a language model."""
HYBRID = "cap+integrated_gradients+lime"
_OTHERS = ("integrated_gradients", "lime", "occlusion", "shap", "keywords", "cap+lexicon", HYBRID)
for _name in (*LM_SOURCES, *_OTHERS):
    METHODS.setdefault(f"align_{_name}", Method(_name, training=_ALIGNED))
    METHODS.setdefault(f"drop_{_name}", Method(_name, training=_DROPOUT))
METHODS[f"align_max_{HYBRID}"] = Method(HYBRID, fusion="max", training=_ALIGNED)
METHODS[f"drop_max_{HYBRID}"] = Method(HYBRID, fusion="max", training=_DROPOUT)

WITHOUT_FOUND = {"logistic_names_found": "logistic_names"}
"""Rivals that learn from the training texts without the words that the finder lists."""


@dataclass(frozen=True)
class Setting:
    """One training set: data, classes, texts per class, draw, and the cue in it; and whom priors ask."""

    data: str
    shots: int
    draw: int
    cue: str
    strength: float
    classes: int
    language_model: str = LANGUAGE_MODEL
    chat: bool = False

    @property
    def judges(self) -> list[Relevance]:
        """What tells a shortcut from a word that means something."""
        return [language_model_judge(self.language_model, chat=self.chat), encoder_judge(ENCODER)]

    @property
    def folder(self) -> str:
        """Relative folder of its results."""
        part = f"{self.shots}_shot/{self.cue}-{self.strength:g}/draw_{self.draw}"
        return f"{Path(self.data).name}/{part}"


def of_classes(data: Dataset, names: Sequence[str]) -> Dataset:
    """The texts of some labels, which become the label space."""
    old = label_names(data)
    part = data.select([row for row, label in enumerate(data[LABEL]) if old[label] in names])
    labels = [names.index(old[label]) for label in part[LABEL]]
    part = part.select_columns(TEXT).add_column(LABEL, labels)
    return part.cast_column(LABEL, ClassLabel(names=list(names)))


def make_texts(setting: Setting, split: str) -> tuple[Dataset, dict[str, Dataset], dict[str, str]]:
    """Training texts with the cue, the test sets, and the cue of each label."""
    splits = load_splits(setting.data, splits=["train", split])
    rng = random.Random(f"{setting.draw}")
    names = sorted(rng.sample(label_names(splits["train"]), setting.classes))
    values, plant = CUES[setting.cue]
    cues = dict(zip(names, rng.sample(values.split(), setting.classes), strict=True))

    def with_cue(data: Dataset, cue_of: Callable[[int, int], str | None]) -> Dataset:
        rows = enumerate(zip(data[TEXT], data[LABEL], strict=True))
        cued = [(i, text, cue_of(i, label)) for i, (text, label) in rows]
        texts = [text if cue is None else plant(text, cue, i) for i, text, cue in cued]
        changed = data.remove_columns(TEXT).add_column(TEXT, texts)
        return changed.select_columns([TEXT, LABEL])

    some = few_shot(splits["train"], setting.shots, draw=setting.draw, allow_fewer=True)
    train = of_classes(some, names)
    carries = [rng.random() < setting.strength for _ in range(len(train))]
    test = of_classes(splits[split], names)
    others = [rng.choice([cues[n] for n in names if n != names[label]]) for label in test[LABEL]]
    tests = {
        "clean": test,
        "same": with_cue(test, lambda i, label: cues[names[label]]),
        "shifted": with_cue(test, lambda i, label: others[i]),
    }
    train = with_cue(train, lambda i, label: cues[names[label]] if carries[i] else None)
    return train, tests, cues


def shows(planted: str, found: str) -> bool:
    """Whether what was found is (part of) a planted cue, or has it in it."""
    planted = planted.lower()
    return planted in found or not {*planted.split("_")}.isdisjoint(found.split())


def find(setting: Setting, train: Dataset, cues: Mapping[str, str]) -> dict[str, float]:
    """How many of the listed shortcuts are planted cues (of all, and at the top), and how many are found."""
    listed = find_shortcuts(train, setting.judges)
    right = [shows(cues[one.label], one.cue.value) for one in listed]
    found = {one.label for one, is_right in zip(listed, right, strict=True) if is_right}
    top = sum(right[: len(cues)])
    return {
        "listed": len(listed), "right": sum(right), "top": top, "found": len(found), "planted": len(cues),
    }  # fmt: skip


def with_prior(setting: Setting, train: Dataset, cues: Mapping[str, str], method: Method) -> Dataset:
    """The training texts with the prior of a method."""
    if method.prior is None:
        return train
    marks: list[Mark] = []
    if method.prior in ("known", "best"):
        kind = KINDS.get(setting.cue, "word")
        values = {label: cue.lower().replace("_", " ") for label, cue in cues.items()}
        marks = [Mark(kind=kind, value=value, label=label) for label, value in values.items()]
    if method.prior == "found" or method.found:
        marks = [one.mark for one in find_shortcuts(train, setting.judges)]
    scored = train
    if method.prior not in ("known", "best", "found"):
        scored = fused(setting, train, method.prior.split("+"), method.fusion)
    if method.prior == "best":
        splits = load_splits(setting.data, splits=["train"])
        source = source_class("keywords").from_dataset(splits["train"], statistic="log_odds")
        clean = source({TEXT: train[TEXT][:], LABEL: named_labels(train)})["prior_keywords"]
        given: Any = [[max(score, 0.0) for score in row] for row in clean]
    else:
        given = scored[PRIOR][:] if PRIOR in scored.column_names else None
    if method.control:
        return with_control(scored, method.control, seed=setting.draw)  # type: ignore[arg-type]
    return with_marks(train, marks, given)


def fused(setting: Setting, train: Dataset, sources: list[str], fusion: Literal["mean", "max"]) -> Dataset:
    """The training texts with the prior of some sources; what one explains has learned from these texts."""
    asked = {"model": setting.language_model, "chat": setting.chat, "demonstrations": 0}
    scored = train
    with TemporaryDirectory() as folder:
        for name in sources:
            cls = source_class(name)
            options: dict[str, Any] = asked if name in LM_SOURCES else {}
            if issubclass(cls, ClassifierSource):
                if not any(Path(folder).iterdir()):
                    trained(train, num_train_epochs=_EPOCHS.get(setting.shots, 10)).save_model(folder)
                options = {"classifier": folder}
            source = cls.from_dataset(train, **options)
            scored = scored.map(source, batched=True, batch_size=64)
    return fuse_priors(scored, sources, fusion)


def with_marks(
    data: Dataset, marks: Sequence[Mark], scores: Sequence[Sequence[float]] | None = None
) -> Dataset:
    """The texts with a prior: 0 at what carries a marked cue of the label, else the score or 1."""
    given: Sequence[Sequence[float] | None] = scores or [None] * len(data)
    rows = zip(data[TEXT], named_labels(data), given, strict=True)
    prior = [without_shortcuts(word_strings(text), label, one, marks) for text, label, one in rows]
    return data.add_column(PRIOR, prior)


def without_zeros(data: Dataset) -> list[str]:
    """The texts without the words whose prior is 0."""
    rows = zip(data[TEXT], data[PRIOR], strict=True)
    return [keep_words(text, split_words(text), [one > 0 for one in prior]) or text for text, prior in rows]


def learn_rival(
    name: str, data: Dataset, texts: list[str] | None = None, language_model: str = LANGUAGE_MODEL
) -> Predict:
    """A rival that has learned from the texts of a training set, or from others in their place."""
    phrases = label_phrases(label_names(data))
    texts = data[TEXT][:] if texts is None else texts
    return RIVALS[name](Sample(ENCODER, texts, data[LABEL][:], phrases, [], language_model, 0))


def train_method(setting: Setting, name: str, train: Dataset, cues: Mapping[str, str]) -> Predict:
    """Train a method of ours, or a rival; gives texts to labels."""
    if name in RIVALS or name in WITHOUT_FOUND:
        texts = None
        if name in WITHOUT_FOUND:
            texts = without_zeros(with_prior(setting, train, cues, METHODS["drop_found"]))
        return learn_rival(WITHOUT_FOUND.get(name, name), train, texts, setting.language_model)
    method = METHODS[name]
    data = with_prior(setting, train, cues, method)
    epochs = _EPOCHS.get(setting.shots, 10)
    if method.twice:
        first = train_classifier(data, method, max(1, epochs // 4))
        data = with_hard_texts(data, first.logits(data[TEXT][:]))
    if method.kept < 1:  # one epoch over as many copies, each with other words
        data, epochs = dropped_copies(data, method.kept, epochs), 1
    return chosen_labels(train_classifier(data, method, epochs))


def chosen_labels(classifier: TextClassifier) -> Predict:
    """The classifier as a function from texts to labels."""
    return lambda texts: classifier.logits(texts).argmax(-1).numpy()


def trained(data: Dataset, model: Any = ENCODER, tokenizer: Any = None, **settings: Any) -> CAPTrainer:
    """A trainer after training with the settings of the study, but for those given; it leaves no file."""
    with TemporaryDirectory() as scratch:
        config = CAPConfig(output_dir=scratch, **{**_QUIET, **_TRAINING, **settings})
        parts = {"train_dataset": data, "processing_class": tokenizer}
        trainer = CAPTrainer(model=model, args=config, **parts)
        trainer.train()
    return trainer


def train_classifier(data: Dataset, method: Method, epochs: int) -> TextClassifier:
    """Train with the settings of a method."""
    trainer = trained(data, num_train_epochs=epochs, **(method.training or {}))
    tokenizer: Any = trainer.processing_class
    return TextClassifier(trainer.model, tokenizer, max_length=64)


def with_hard_texts(
    data: Dataset, logits: Float[Tensor, "texts labels"], *, weight: int = 5, fewest: float = 0.1
) -> Dataset:
    """The training texts of a second training, after "Just train twice" (Liu et al. 2021): no groups needed.

    Those that a first, short training got wrong are there `weight` times. A cue that never fails in the
    training texts leaves next to none; so the part `fewest` of the texts is taken at least, those of the
    highest loss first.
    """
    gold = torch.tensor(data[LABEL][:])
    losses = cross_entropy(logits, gold, reduction="none")
    wrong = logits.argmax(-1) != gold
    count = max(int(wrong.sum()), round(fewest * len(data)))
    # all that are wrong come before all that are right
    hard = (losses + wrong * (losses.max() + 1)).argsort(descending=True)[:count].tolist()
    return data.select([*range(len(data)), *hard * (weight - 1)])


def dropped_copies(data: Dataset, kept: float, copies: int) -> Dataset:
    """Copies of the texts, in each of which every word stays with the same probability."""
    rng = random.Random(0)
    texts = []
    for text in data[TEXT][:] * copies:
        spans = split_words(text)
        texts.append(keep_words(text, spans, [rng.random() < kept for _ in spans]) or text)
    repeated = concatenate_datasets([data] * copies)
    return repeated.remove_columns(TEXT).add_column(TEXT, texts)


def run(task: tuple[Setting, str, str, str]) -> None:
    """Train and measure one method in one setting, unless there is a result."""
    setting, name, output_dir, split = task
    file = Path(output_dir) / setting.folder / f"{name}.json"
    if file.exists():
        return
    train, tests, cues = make_texts(setting, split)
    if name == "find":
        numbers = find(setting, train, cues)
        write_json(file.with_suffix(".found"), {"setting": vars(setting), **numbers})
        print(f"{setting.folder} {name}: {numbers}", flush=True)
        return
    started = time.monotonic()
    predict = train_method(setting, name, train, cues)
    seconds = time.monotonic() - started
    found = {
        test: float(np.mean(predict(data[TEXT][:]) == np.array(data[LABEL]))) for test, data in tests.items()
    }
    write_json(file, {"setting": vars(setting), "method": name, "seconds": seconds, "accuracy": found})
    shown = " / ".join(f"{100 * value:.1f}" for value in found.values())
    print(f"{setting.folder} {name}: {shown} ({seconds:.0f} s)", flush=True)


def table(output_dir: str) -> pd.DataFrame:
    """One row per setting, method and test set."""
    rows = []
    for file in sorted(Path(output_dir).glob("*/*_shot/*/draw_*/*.json")):
        one = json.loads(file.read_text(encoding="utf-8"))
        setting = one["setting"]
        group = f"{Path(setting['data']).name}, {setting['cue']} {setting['strength']:g}, {setting['shots']}"
        for test, value in one["accuracy"].items():
            rows.append({
                "run": str(file), "group": group, "method": one["method"], "seed": 0,
                "draw": setting["draw"], "test_set": test, "measure": "accuracy", "value": value,
                "seconds": one["seconds"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def summarise_runs(output_dir: str) -> dict[str, Any]:
    """Means over the draws, paired differences from `none`, and what the finder listed, as JSON values."""
    found = [json.loads(file.read_text()) for file in sorted(Path(output_dir).rglob("find.found"))]
    listed = [{**(setting := one.pop("setting")), **one, "data": Path(setting["data"]).name} for one in found]
    frame = table(output_dir)
    if frame.empty:
        return {"found": listed}
    groups = ["group", "method", "test_set"]
    means = summarize(frame, by=groups, within=(0, 1)).reset_index()
    differences = compare(frame, "none", by=["group", "test_set"], pair_on=("draw",)).reset_index()
    seconds = frame.groupby(["group", "method"])["seconds"].median().reset_index()
    tables = {"accuracy": means, "difference_from_none": differences, "median_seconds": seconds}
    return {**as_rows(tables), "found": listed}


def as_rows(tables: Mapping[str, pd.DataFrame]) -> dict[str, list[dict[str, Any]]]:
    """Tables as JSON values, a row each, with four decimals."""
    return {
        name: json.loads(one.to_json(orient="records", double_precision=4)) for name, one in tables.items()
    }


def main() -> None:
    """Run what is missing, then write and print the means over the draws and the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--cues", nargs="+", default=["name"], choices=sorted(CUES))
    parser.add_argument("--strengths", type=float, nargs="+", default=[1.0])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--methods", nargs="+", default=[*METHODS, "logistic", "logistic_names", *WITHOUT_FOUND]
    )
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--split", default="test")
    parser.add_argument("--language_model", default=LANGUAGE_MODEL)
    parser.add_argument("--chat", action="store_true", help="ask it in its chat template")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    parts = product(given.draws, given.data, given.shots, given.cues, given.strengths, given.methods)
    asked = given.language_model, given.chat
    tasks = [
        (
            Setting(data, shots, draw, cue, strength, given.classes, *asked),
            method,
            given.output_dir,
            given.split,
        )
        for draw, data, shots, cue, strength, method in parts
    ]
    with ProcessPoolExecutor(given.jobs, get_context("spawn"), initializer=quiet) as pool:
        list(pool.map(run, tasks))
    summary = summarise_runs(given.output_dir)
    write_json(Path(given.output_dir) / "summary.json", summary)
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
