"""How often alignment breaks in the middle of training, by settings that might prevent it.

In a broken run the mean cosine of attributions and prior falls by more than `FALL` within `WITHIN` steps.
Every setting trains on the same texts with the same seeds, with both kinds of head; the prior is that of
`cap` of the embedded language model.

    python -m benchmarks.stability --data data/hwu64 --output runs/stability.json
"""

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.shortcuts import METHODS, Setting, make_texts, trained, with_prior
from benchmarks.study.runs import quiet
from hf_cap.utils import write_json

FALL, WITHIN, LOGGED = 0.13, 50, 5
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "longer_memory": {"adam_beta2": 0.999},
    "two_points": {"adam_beta2": 0.999, "attribution_steps": 2},
}
Head = Literal["sentence", "sequence"]
HEADS: tuple[Head, ...] = get_args(Head)


def largest_fall(values: Sequence[float], within: int) -> float:
    """How far a series falls below a value at most `within` places before; 0 where it never falls."""
    return max(
        (max(values[max(0, i - within) : i + 1]) - value for i, value in enumerate(values)), default=0.0
    )


def train(data: Any, head: Head, seed: int, settings: dict[str, Any]) -> list[float]:
    """The mean cosine of attributions and prior, every `LOGGED` steps."""
    logged = {"logging_strategy": "steps", "logging_steps": LOGGED}
    how = {"num_train_epochs": 20, "alignment_weight": 0.1, "head": head, "seed": seed}
    history = trained(data, **how, **logged, **settings).history
    return [entry["align_cosine"] for entry in history if "align_cosine" in entry]


def main() -> None:
    """Run what is missing, and print how many runs of each setting broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    quiet()
    rows = json.loads(given.output.read_text("utf-8")) if given.output.exists() else []
    done = {(row["setting"], row["head"], row["draw"], row["seed"]) for row in rows}
    for draw, seed in product(given.draws, given.seeds):
        setting = Setting(given.data, shots=5, draw=draw, cue="name", strength=1.0, classes=16)
        texts, _, cues = make_texts(setting, "test")
        data = with_prior(setting, texts, cues, METHODS["align_cap"])
        for head, (name, settings) in product(HEADS, SETTINGS.items()):
            if (name, head, draw, seed) in done:
                continue
            cosines = train(data, head, seed, settings)
            fall = largest_fall(cosines, WITHIN // LOGGED)
            row = {"setting": name, "head": head, "draw": draw, "seed": seed, "fall": round(fall, 4)}
            rows.append({**row, "cosines": [round(one, 4) for one in cosines]})
            print(row, flush=True)
            write_json(given.output, rows)
    for name, head in product(SETTINGS, HEADS):
        falls = [row["fall"] for row in rows if (row["setting"], row["head"]) == (name, head)]
        broken = sum(fall > FALL for fall in falls)
        print(f"{name}, {head}: {broken} of {len(falls)} broke, largest fall {max(falls):.2f}")


if __name__ == "__main__":
    main()
