"""Draw the figure of the README from the results of the shortcut study, and print its alternative text.

python -m benchmarks.figure
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
RESULTS = _ROOT / "benchmarks/results/shortcuts.json"
FIGURE = _ROOT / "docs/images/shortcut.svg"
METHODS = {"none": "fine-tuning", "logistic_names": "logistic regression", "drop_found": "with hf_cap"}
TEST_SETS = {"clean": "test texts as they are", "shifted": "with the name of another class"}
_STYLE = """
text { font: 15px system-ui, sans-serif; fill: #1f2328 } .strong { font-weight: 600 }
.card { fill: #ffffff; stroke: #d1d9e0 } .clean { fill: #8c959f } .shifted { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .card { fill: #0d1117; stroke: #3d444d }
  .clean { fill: #7d8590 } .shifted { fill: #58a6ff }
}
"""
_SIZE, _LEFT, _FULL, _BAR = (480, 16, 390, 18)  # pixels: width, margin, length of 100 %, height of a bar


def percentages(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Method to test set to mean accuracy in percent, of the group of runs with the most draws, then texts.

    A method of `METHODS` takes part if it was run on all the draws of plain fine-tuning (`none`).
    """
    rows = [r for r in summary["accuracy"] if r["method"] in METHODS and r["test_set"] in TEST_SETS]
    draws = {(r["group"], r["method"]): r["n"] for r in rows}
    plain = {group: n for (group, method), n in draws.items() if method == "none"}
    whole = [group for group, n in plain.items() if draws.get((group, "drop_found")) == n]
    best = max(whole, key=lambda group: (plain[group], int(group.rpartition(" ")[2]), group))
    found: dict[str, dict[str, float]] = {method: {} for method in METHODS}
    for row in rows:
        if row["group"] == best and row["n"] == plain[best]:
            found[row["method"]][row["test_set"]] = 100 * row["mean"]
    return {method: values for method, values in found.items() if values}


def alternative_text(summary: Mapping[str, Any]) -> str:
    """The figure in words: one part per method with both numbers."""
    parts = [
        f"{METHODS[method]} {values['clean']:.0f} % and {values['shifted']:.0f} %"
        for method, values in percentages(summary).items()
    ]
    return f"Accuracy on {' and '.join(TEST_SETS.values())}: {', '.join(parts)}."


def draw(summary: Mapping[str, Any]) -> str:
    """The figure as SVG, which follows the colour scheme of the reader."""
    parts, y = [], 14
    for key, name in TEST_SETS.items():
        parts.append(f'<rect class="{key}" x="{_LEFT}" y="{y}" width="14" height="14" rx="3"/>')
        parts.append(f'<text x="{_LEFT + 22}" y="{y + 12}">{name}</text>')
        y += 22
    for method, values in percentages(summary).items():
        parts.append(f'<text class="strong" x="{_LEFT}" y="{y + 22}">{METHODS[method]}</text>')
        y += 32
        for key in TEST_SETS:
            length = round(_FULL * values[key] / 100)
            box = f'x="{_LEFT}" y="{y}" width="{length}" height="{_BAR}" rx="3"'
            number = f'x="{_LEFT + length + 8}" y="{y + 14}"'
            parts.append(f'<rect class="{key}" {box}/>')
            parts.append(f'<text class="strong" {number}>{values[key]:.0f} %</text>')
            y += _BAR + 2
    y += 16
    card = f'<rect class="card" x=".5" y=".5" width="{_SIZE - 1}" height="{y - 1}" rx="8"/>'
    size = f'viewBox="0 0 {_SIZE} {y}" width="{_SIZE}" height="{y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    title = f"<title>{alternative_text(summary)}</title>"
    return "\n".join([head, title, f"<style>{_STYLE}</style>", card, *parts, "</svg>", ""])


def main() -> None:
    """Write the figure."""
    summary = json.loads(RESULTS.read_text(encoding="utf-8"))
    FIGURE.write_text(draw(summary), encoding="utf-8")
    print(f"{FIGURE}: {alternative_text(summary)}")


if __name__ == "__main__":
    main()
