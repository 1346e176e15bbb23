"""Size, time, accuracy and explanations of one classifier made smaller in several ways.

A MiniLM classifier of some HWU64 classes is pruned (by the loss of the task, with the alignment loss of a
`keywords` prior, by magnitude), trained further, quantised, and stored as a delta. Explanations are the drops
of the probability of the whole model's class without each word, and `cosine` compares them with its own.
Times are those of one thread of the processor, a text at a time.

    python -m benchmarks.small --data data/hwu64
"""

import argparse
import copy
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from datasets import Dataset
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.shortcuts import of_classes, trained
from benchmarks.study.runs import quiet
from hf_cap import fuse_priors, load_splits
from hf_cap.data import label_names
from hf_cap.embedded import ENCODER, resolve_model
from hf_cap.evaluation import few_shot
from hf_cap.evaluation.classifier import Classifier
from hf_cap.evaluation.metrics import ScoredTexts, comprehensiveness, cosine
from hf_cap.export import best_rescale, export_onnx, save_delta, sparse, whole
from hf_cap.priors import source_class
from hf_cap.schema import LABEL, TEXT
from hf_cap.training.options import PruneOptions
from hf_cap.training.pruning import prune_classifier
from hf_cap.utils import write_json
from hf_cap.words import split_words, without_words

HEADS, UNITS = 0.25, 0.5
Predict = Callable[[Sequence[str]], NDArray[np.float64]]


def train(model: Any, tokenizer: Any, data: Dataset, steps: int, weight: float = 0.0) -> Any:
    """Training, plain or with alignment of this weight; a model by name gets a head."""
    how = {"max_steps": steps, "alignment_weight": weight, "weight_decay": 0.0, "seed": 42}
    trainer = trained(data, model, tokenizer, **how)
    return trainer.model, trainer.processing_class


def by_onnx(file: Path, tokenizer: Any) -> Predict:
    """Probabilities by onnxruntime, in one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def predict(texts: Sequence[str]) -> NDArray[np.float64]:
        parts = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(list(texts[start : start + 32]), padding=True, return_tensors="np")
            parts.append(session.run(None, {name: batch[name] for name in names})[0])
        odds = np.exp(np.concatenate(parts).astype(np.float64))
        return np.asarray(odds / odds.sum(1, keepdims=True))

    return predict


def without_each_word(predict: Predict, texts: list[str], targets: list[int]) -> list[list[float]]:
    """Drop of the target's probability without each word, per text."""
    spans = [split_words(text) for text in texts]
    versions = [
        without_words(text, words, [out])
        for text, words in zip(texts, spans, strict=True)
        for out in range(len(words))
    ]
    scores: list[list[float]] = []
    rest = iter(predict(versions))
    for row, words in zip(predict(texts), spans, strict=True):
        target = targets[len(scores)]
        scores.append([float(row[target] - next(rest)[target]) for _ in words])
    return scores


class Table:
    """The rows so far; the first is that of the whole model, whom the others are compared with."""

    def __init__(self, test: Dataset, explained: int) -> None:
        self.texts, self.gold = test[TEXT][:], np.array(test[LABEL])
        self.explained = self.texts[:explained]
        self.rows: list[dict[str, Any]] = []
        self.targets: list[int] = []
        self.scores: list[list[float]] = []

    def add(self, name: str, predict: Predict, size: int) -> None:
        """Measure and print a row."""
        found = predict(self.texts)
        self.targets = self.targets or found[: len(self.explained)].argmax(1).tolist()
        scores = without_each_word(predict, self.explained, self.targets)
        self.scores = self.scores or scores
        scored = ScoredTexts(self.explained, self.targets, scores)
        started = time.process_time()
        for text in self.explained:
            predict([text])
        seconds = time.process_time() - started
        row = {
            "name": name,
            "mb": round(size / 1e6, 1),
            "ms_per_text": round(1000 * seconds / len(self.explained), 2),
            "accuracy": round(float((found.argmax(1) == self.gold).mean()), 4),
            "comprehensiveness": round(float(comprehensiveness(predict, scored).mean()), 4),
            "cosine": round(float(np.mean(list(map(cosine, scores, self.scores)))), 4),
        }
        self.rows.append(row)
        print(row, flush=True)

    def add_model(self, name: str, model: Any, tokenizer: Any) -> None:
        """A row of a classifier in float32."""
        self.add(name, Classifier(model, tokenizer), 4 * model.num_parameters())


def add_pruned(table: Table, model: Any, tokenizer: Any, data: Dataset, steps: int) -> None:
    """Pruned by three importances, and then trained further."""
    kinds: dict[str, Mapping[str, Any]] = {
        "task": {},
        "task and alignment": {"alignment": 1.0},
        "magnitude": {"score": "magnitude"},
    }
    for name, settings in kinds.items():
        smaller = copy.deepcopy(model)
        options = PruneOptions(heads=HEADS, units=UNITS, **settings)
        prune_classifier(smaller, tokenizer, data, options)
        table.add_model(f"pruned by {name}", smaller, tokenizer)
        trained, _ = train(smaller, tokenizer, data, steps)
        table.add_model(f"pruned by {name}, recovered", trained, tokenizer)


def add_deltas(table: Table, model: Any, tokenizer: Any, valid: Dataset, folder: Path) -> None:
    """Stored as differences from the base; the scale is 1 - drop, or chosen on validation texts."""
    model.save_pretrained(folder / "whole")
    tuned = load_file(folder / "whole" / "model.safetensors")
    base = load_file(Path(resolve_model(ENCODER)) / "model.safetensors")
    other = copy.deepcopy(model)

    def accuracy(state: Any) -> float:
        other.load_state_dict(state)
        found = Classifier(other, tokenizer)(valid[TEXT][:]).argmax(1)
        return float((found == np.array(valid[LABEL])).mean())

    for drop in (0.0, 0.9, 0.99):
        chosen = [1 - drop]
        if drop:
            candidates = [(1 - drop) * factor for factor in (1, 2, 4)]
            chosen.append(best_rescale(tuned, base, accuracy, drop, candidates))
        for q in dict.fromkeys(chosen):
            place = folder / f"delta-{drop}-{q}"
            file = save_delta(str(folder / "whole"), ENCODER, place, drop=drop, rescale=q)
            other.load_state_dict(whole(sparse(tuned, base, drop=drop, rescale=q), base))
            size = file.stat().st_size
            table.add(f"delta, drop {drop}, rescale {q:g}", Classifier(other, tokenizer), size)


def write(given: argparse.Namespace, table: Table) -> None:
    """Write the settings and the rows."""
    settings = {name: value for name, value in vars(given).items() if name != "output"}
    settings |= {"data": Path(given.data).name, "heads": HEADS, "units": UNITS}
    write_json(given.output, {"settings": settings, "rows": table.rows})


def main() -> None:
    """Train, make smaller, measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument(
        "--alignment_weight", type=float, default=0.0,
        help="of the first training; above 0 only pruning is measured",
    )  # fmt: skip
    parser.add_argument("--recovery_steps", type=int, default=20)
    parser.add_argument("--texts", type=int, default=150, help="test texts")
    parser.add_argument("--explained", type=int, default=40, help="test texts that are explained")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "small.json")
    given = parser.parse_args()
    quiet()
    splits = load_splits(given.data)
    names = sorted(random.Random("0").sample(label_names(splits["train"]), given.classes))
    full, test = (of_classes(splits[name], names) for name in ("train", "test"))
    data = few_shot(full, given.shots, draw=given.draw, allow_fewer=True)
    valid = few_shot(full, 3, seed=1, allow_fewer=True)
    source = source_class("keywords").from_dataset(full, statistic="log_odds")
    data = fuse_priors(data.map(source, batched=True), ["keywords"])
    model, tokenizer = train(ENCODER, None, data, given.steps, given.alignment_weight)
    table = Table(test.shuffle(0).select(range(min(given.texts, len(test)))), given.explained)
    table.add_model("whole", model, tokenizer)
    add_pruned(table, model, tokenizer, data, given.recovery_steps)
    if given.alignment_weight:
        return write(given, table)
    with TemporaryDirectory() as scratch:
        for name in ("onnx", "int8"):
            file = export_onnx(model, tokenizer, Path(scratch) / name, int8=name == "int8")
            table.add(name, by_onnx(file, tokenizer), file.stat().st_size)
        add_deltas(table, model, tokenizer, valid, Path(scratch))
    write(given, table)


if __name__ == "__main__":
    main()
