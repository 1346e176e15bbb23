"""The examples as compact JSON that is safe inside a `<script>` element."""

import json
from collections.abc import Sequence
from typing import Any

from ...data import evenly
from .values import Example, Examples, Prediction

STEPS = 999
"""A score is kept as a whole number of this many parts of the largest score of its lane: three digits."""

# `</script>` and `<!--` must not end or change the element; the separators end a line in older JavaScript
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def script_json(value: Any) -> str:
    """JSON that HTML and JavaScript parsers leave alone, whatever the strings in it hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def embed_examples(examples: Examples, bytes_at_most: int) -> dict[str, Any]:
    """The examples as plain values, as many as there is room for.

    A row is `[set, gold, words, text, lanes, before, after]`: set and labels as indices, `text` null where
    it is the words with single spaces, a lane null or `[largest, part, part, ...]`, a prediction null or
    `[label, probability in thousandths]`.

    Args:
        examples: The examples.
        bytes_at_most: Room for the rows in UTF-8; evenly spread rows are left out until they fit.
    """
    labels: dict[str, int] = {}
    rows = [_row(row, labels) for row in examples.rows]
    kept = _fitting(rows, bytes_at_most)
    return {
        "labels": list(labels),
        "sets": list(examples.sets),
        "lanes": [
            {"name": lane.name, "kind": lane.kind, "note": lane.note} for lane in examples.lanes
        ],
        "steps": STEPS,
        "rows": kept,
        "total": examples.total,
    }


def _fitting(rows: Sequence[Any], room: int) -> list[Any]:
    sizes = [len(script_json(row).encode("utf-8", "replace")) + 1 for row in rows]
    numbers = list(range(len(rows)))
    while numbers and (size := sum(sizes[number] for number in numbers)) > room:
        numbers = evenly(numbers, min(len(numbers) - 1, len(numbers) * room // size))
    return [rows[number] for number in numbers]


def _row(row: Example, labels: dict[str, int]) -> list[Any]:
    return [
        row.set,
        labels.setdefault(row.label, len(labels)),
        list(row.words),
        None if row.text == " ".join(row.words) else row.text,
        [None if lane is None else _lane(lane) for lane in row.lanes],
        _prediction(row.before, labels),
        _prediction(row.after, labels),
    ]


def _lane(scores: Sequence[float]) -> list[float]:
    largest = max(map(abs, scores), default=0.0)
    parts = [round(score / largest * STEPS) if largest else 0 for score in scores]
    return [float(f"{largest:.3g}"), *parts]


def _prediction(prediction: Prediction | None, labels: dict[str, int]) -> list[int] | None:
    if prediction is None:
        return None
    label = labels.setdefault(prediction.label, len(labels))
    return [label, round(1000 * prediction.probability)]
