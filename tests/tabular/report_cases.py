"""Runs on a table, as the report reads them; with a feature name that tries to break the page."""

from collections.abc import Mapping
from typing import Any

from hf_cap.report.load import Run

EVIL = "<img src=x onerror=alert(1)>\"'</style></script>"
NAMES = ("age", EVIL, "job=cook")
TOLD = (3.0, -4.0, None)


def make_run(
    name: str, learnt: tuple[float, ...], *, weight: float = 100.0, seed: int = 0, **facts: Any
) -> Run:
    """A run on a table with two classes, the second of which is told and learnt with the other sign."""
    rows = [
        {
            "class": label,
            "feature": feature,
            "score": None if told is None or not weight else sign * told,
            "attribution": sign * value,
        }
        for label, sign in (("no", -1), ("yes", 1))
        for feature, told, value in zip(NAMES, TOLD, learnt, strict=True)
    ]
    record: Mapping[str, Any] = {
        "kind": "train_tabular",
        "seed": seed,
        "settings": {"student": "logistic"},
        "alignment": {"alignment_weight": weight},
        "data": {"dataset": "desk.csv", "train_split": "train", "rows": 8, "labels": ["no", "yes"]},
        "scores": {"method": "chat"} if weight else None,
        "features": rows,
        "history": [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}],
        **facts,
    }
    numbers = {"rows": 40, "roc_auc": 0.75, "macro_f1": 0.5, "accuracy": 0.5 + weight / 1000}
    return Run(name, record, {"test": numbers})


RUNS = [
    make_run("plain", (1.0, 0.0, 0.0), weight=0.0),
    make_run("shuffled", (0.0, 3.0, 0.0), scores={"control": "shuffled"}),
    make_run("aligned", (6.0, -8.0, 0.0)),
]
