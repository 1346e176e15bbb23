"""Run folders as the command line writes them, built in code; with texts that try to break the page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from scipy.special import softmax

from hf_cap.embedded import DEMO_DATA, resolve_data
from hf_cap.evaluation.evaluate import Record
from hf_cap.report.load import Run
from hf_cap.words import word_strings

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = (
    "<script>document.title = 'broken in'</script> renew",
    "</script><img src=x onerror=\"document.title='broken in'\"> renew <!-- <script>",
    "quotes \" and ' and ` & &amp; &#39; \\u003c {{ 7 * 7 }} ${7}",
    "right to left: \u202eevil\u202c and \u05e9\u05dc\u05d5\u05dd and \u0645\u0631\u062d\u0628\u0627 back",
    "long " + "x" * 10_000 + " word",
    "emoji \U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 and line\u2028separator "
    "and\u00a0space\ufeff mark",
    "  many   spaces\tand\nlines  ",
)
"""Texts that show as text, or break a page that was not written with care."""
EVIL = "<img src=x onerror=alert(1)>\"'</style></script>"  # a name that tries to break the page
Rows = Sequence[tuple[str, str]]
SOURCES = ("cap", "channel", "lime", "integrated_gradients", "word_length")
CHROMIUM_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()


def demo_rows() -> list[tuple[str, str]]:
    """Texts and labels of the demo's test data."""
    folder = resolve_data(DEMO_DATA)
    assert folder is not None
    rows = map(json.loads, (folder / "test.jsonl").read_text().splitlines())
    return [(row["text"], row["label"]) for row in rows]


def scores(words: Sequence[str], *seed: int) -> list[float]:
    random = np.random.default_rng([*seed, *map(ord, words[0][:4])])
    return [float(score) for score in random.normal(size=len(words))]


def make_record(text: str, label: str, labels: Sequence[str], skill: float, seed: int) -> Record:
    """What a model of some skill (the larger, the more texts it gets right) says about a text."""
    words, key = word_strings(text), (seed, int(1000 * skill))
    random = np.random.default_rng([*key, *map(ord, text[:12])])
    logits = random.normal(size=len(labels))
    logits[labels.index(label)] += 4 * skill
    said, chances = labels[int(logits.argmax())], softmax(logits).tolist()
    return Record(
        text, label, said, tuple(chances), tuple(words), tuple(scores(words, *key)), tuple(scores(words))
    )


def write_evaluation(folder: Path, name: str, records: Sequence[Record], seed: int) -> None:
    """The JSON and the parquet of one evaluation."""
    right = float(np.mean([record.label == record.prediction for record in records]))
    numbers = {
        "texts": len(records), "accuracy": right, "macro_f1": right - 0.01,
        "comprehensiveness": 0.3 * right + 0.005 * seed, "alignment": 0.6 * right,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(numbers))
    Dataset.from_list([asdict(record) for record in records]).to_parquet(str(folder / f"{name}.parquet"))


def run_record(seed: int, weight: float, **settings: Any) -> dict[str, Any]:
    """What `run.json` holds of a training run."""
    aligned = {"loss_align": 1.0, "align_cosine": 0.5} if weight else {}
    losses = [(step, 2.5 * 0.97**step + 0.02 * seed) for step in range(5, 101, 5)]
    return {
        "kind": "train",
        "model": "embedded/minilm-l6",
        "seed": seed,
        "settings": {"alignment_weight": weight, "learning_rate": 2e-5, "seed": seed, **settings},
        "history": [{"step": step, "loss_task": loss, **aligned} for step, loss in losses],
        "versions": {"hf-cap": "0.1.0", "transformers": "5.23.0"},
        "command": f"hf-cap train --alignment_weight {weight} --seed {seed}",
    }


def write_runs(root: Path, rows: Rows, *, seeds: Sequence[int] = (0, 1, 2)) -> list[Path]:
    """Runs without alignment, with a shuffled prior and with the prior, evaluated on two sets."""
    labels = sorted({label for _, label in rows})
    data = {"dataset": DEMO_DATA, "train_split": "train", "rows": 96, "labels": labels}
    shuffled = {"prior_column": "prior_shuffled"}
    kinds: Any = (("plain", 0.0, 0.74, {}), ("shuffled", 0.1, 0.73, shuffled), ("aligned", 0.1, 0.8, {}))
    folders = []
    for (name, weight, skill, settings), seed in product(kinds, seeds):
        folders.append(folder := root / f"{name}-{seed}")
        (folder / "evaluation").mkdir(parents=True)
        record = run_record(seed, weight, output_dir=str(folder), **settings)
        (folder / "run.json").write_text(json.dumps({**record, "data": data}))
        for split, loss in (("test", 0.0), ("keyword_addition", 0.12)):
            draw = 10 * seed + int(loss > 0)
            records = [make_record(*row, labels, skill - loss, draw) for row in rows]
            write_evaluation(folder / "evaluation", split, records, seed)
    return folders


def write_priors(folder: Path, rows: Rows, sources: Sequence[str]) -> Path:
    """A folder of priors with one column per source, and the fused one."""
    words = [word_strings(text) for text, _ in rows]
    data: dict[str, list[Any]] = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    for number, source in enumerate(sources):
        data[f"prior_{source}"] = [scores(one, number) for one in words]
    data |= {"words": words, "prior": data[f"prior_{sources[0]}"]}
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(data).class_encode_column("label").to_parquet(str(folder / "test.parquet"))
    return folder


def table_run(
    name: str, learned: tuple[float, ...], *, weight: float = 100.0, seed: int = 0, **facts: Any
) -> Run:
    """A run on a table with two classes; the second has scores and gradients of the other sign."""
    values = list(zip(("age", EVIL, "job=cook"), (3.0, -4.0, None), learned, strict=True))
    rows = [
        {"class": label, "feature": feature, "attribution": sign * value}
        | {"score": None if score is None or not weight else sign * score}
        for label, sign in (("no", -1), ("yes", 1))
        for feature, score, value in values
    ]
    record: Mapping[str, Any] = {
        "kind": "train_tabular",
        "seed": seed,
        "settings": {"model_kind": "logistic"},
        "alignment": {"alignment_weight": weight},
        "data": {"dataset": "desk.csv", "train_split": "train", "rows": 8, "labels": ["no", "yes"]},
        "scores": {"method": "chat"} if weight else None,
        "features": rows,
        "history": [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}],
        **facts,
    }
    numbers = {"rows": 40, "roc_auc": 0.75, "macro_f1": 0.5, "accuracy": 0.5 + weight / 1000}
    return Run(name, record, {"test": numbers})


TABLE_RUNS = [
    table_run("plain", (1.0, 0.0, 0.0), weight=0.0),
    table_run("shuffled", (0.0, 3.0, 0.0), scores={"control": "shuffled"}),
    table_run("aligned", (6.0, -8.0, 0.0)),
]


class Watched:
    """A page whose console, errors and requests are kept."""

    def __init__(self, page: "Page", address: str) -> None:
        self.page, self.address = page, address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(address)

    def check(self, title: str) -> None:
        """No complaint, and no request to another place."""
        assert self.complaints == []
        own = (self.address, "file:", "data:", "blob:")
        assert [url for url in self.requests if not url.startswith(own)] == []
        assert self.page.title() == title
