"""Charts as SVG text from plain data, drawn by matplotlib (extra `plots`).

A chart is 360 units wide and scales to its place. Its colours are CSS variables of `page/colours.css`, so
that it follows light and dark. It has no style, link or script that a strict content policy would refuse.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from hf_cap.cards import METRICS
from hf_cap.errors import import_extra
from hf_cap.report.contents import FUSED, estimate_text, number_text
from hf_cap.schema import CONTROL_PRIORS, PRIOR
from hf_cap.utils import printable, write_text

MARKERS = "●■◆▲✚▼"  # marks of the groups, in their order; beyond six, shapes and colours repeat
AUDIT_FIGURES = "log_odds rationales rank_correlation top_k_agreement mass class_overlap".split()
"""Parts of an audit that are drawn."""

_PAGE = Path(__file__).parent / "page"
_SHAPES = "osD^Pv"
_INK, _SOFT, _FOR, _AGAINST = "#22211d", "#66625a", "#2171b5", "#d9660a"
_GROUPS = ("#6d6a64", "#0067a3", "#c24d00", "#00805d", "#a8467f", "#8a6d00")
_VARIABLES = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _FOR: "rgb(var(--for))",
    _AGAINST: "rgb(var(--against))",
    "#e2ded5": "var(--line)",
    "#fbfaf7": "var(--paper)",
    **{colour: f"var(--g{number})" for number, colour in enumerate(_GROUPS)},
}
_NAMED_LABELS, _FEATURES, _DESCRIBED = 24, 16, 30
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


# --- Charts of the report and of an audit. `groups` are names, in the order of the values.


def interval_chart(measure: str, evaluations: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> Markup:
    """One measure over evaluation sets: a mark per group, with a line for its 95 % interval."""
    rows = [(o["name"], row) for o in evaluations for row in o["rows"] if row["measure"] == measure]
    lines = sum(1.8 + sum(value is not None for value in row["values"]) for _, row in rows)
    with _chart(30 + 16 * lines) as (figure, axes):
        place = 0.0
        for name, row in rows:
            percent, unit = row["percent"], 100 if row["percent"] else 1
            place += 1.3
            axes.text(0, place, _short(name), va="center", transform=axes.get_yaxis_transform())
            for group, value in ((g, value) for g, value in enumerate(row["values"]) if value):
                place += 1
                if value["low"] is not None:
                    ends = [unit * value["low"], unit * value["high"]]
                    axes.plot(ends, [place, place], color=_colour(group), alpha=0.6)
                tip = f"{name}, {groups[group]}: {estimate_text(value, percent)}"
                _mark(axes, unit * value["mean"], place, group, tip)
            place += 0.5
        axes.set(ylim=(place + 0.3, 0.4), yticks=[])
        _grid(axes, "x", 4)
        return _svg(figure, METRICS[measure])


def curve_chart(panel: Mapping[str, Any], groups: Sequence[str]) -> Markup:
    """A logged quantity over the training steps: mean of each group, and the range of its runs."""
    with _chart(216) as (figure, axes):
        for curve in panel["curves"]:
            group, steps, last = curve["group"], curve["step"], curve["mean"][-1]
            look = {"color": _colour(group), "alpha": 0.14, "linewidth": 0}
            axes.fill_between(steps, curve["min"], curve["max"], **look)
            axes.plot(steps, curve["mean"], color=_colour(group))
            tip = f"{groups[group]}: {last:.4g} at step {steps[-1]:g}"
            _mark(axes, steps[-1], last, group, tip)
        axes.set_xlim(left=0)
        axes.set_xlabel("training step", loc="right")
        _grid(axes, "both", 5)
        return _svg(figure, panel["title"])


def calibration_chart(calibrations: Mapping[int, Mapping[str, Any]], groups: Sequence[str]) -> Markup:
    """Accuracy over confidence: the closer to the diagonal, the better calibrated."""
    with _chart(310) as (figure, axes):
        axes.plot([0, 100], [0, 100], color=_SOFT, linewidth=1, linestyle=(0, (3, 4)))
        for group, found in calibrations.items():
            bins = [(100 * o["confidence"], 100 * o["accuracy"], o["texts"]) for o in found["bins"]]
            axes.plot([x for x, _, _ in bins], [y for _, y, _ in bins], color=_colour(group))
            for x, y, texts in bins:
                told = f"{x:.1f} % sure, {y:.1f} % right ({texts} texts)"
                _mark(axes, x, y, group, f"{groups[group]}: {told}")
        axes.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal", ylabel="right, %")
        axes.set_xlabel("confidence, %", loc="right")
        _grid(axes, "both", 5)
        return _svg(figure, "Calibration")


def confusion_chart(confusion: Mapping[str, Any], group: str) -> Markup:
    """Gold labels down, predicted labels across; each field is a share of the texts of its gold label.

    One scale of strength, from 0 to 100 %, holds for all fields of all charts; errors have another colour.
    """
    labels, counts = confusion["labels"], confusion["counts"]
    of = {gold: sum(n for (one, _), n in counts.items() if one == gold) for gold in labels}
    # names and numbers are drawn where there is room for them
    named = labels if len(labels) <= _NAMED_LABELS else []
    with _chart(376 if named else 360) as (figure, axes):
        for (gold, label), count in counts.items():
            share, place = count / of[gold], (labels.index(label), labels.index(gold))
            tip = f"{gold} predicted as {label}: {count} of {of[gold]}"
            colour = _FOR if gold == label else _AGAINST
            _box(axes, (place[0] - 0.48, place[1], 0.96, 0.96), colour, 0.8 * share, tip)
            if named and 100 * share >= 0.5:
                size = min(9.0, 110 / len(labels))
                axes.text(*place, f"{100 * share:.0f}", ha="center", va="center", fontsize=size)
        axes.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), aspect="equal")
        axes.xaxis.tick_top()
        for axis, turn in ((axes.xaxis, 90), (axes.yaxis, 0)):
            axis.set_ticks(range(len(named)), list(map(_short, named)), fontsize=9, rotation=turn)
        return _svg(figure, f"Confusion matrix: {group}")


def feature_chart(table: Mapping[str, Any], groups: Sequence[str]) -> Markup:
    """The largest features: a bar for the elicited score, a mark for what each group learned."""
    features = {feature["name"]: feature for feature in table["features"][:_FEATURES]}
    with _chart(34 + 24 * len(features)) as (figure, axes):
        for place, (name, feature) in enumerate(features.items()):
            if (score := feature["elicited_score"]) is not None:
                _bar(axes, place, score, f"{name} elicited {number_text(score)}")
            for group, value in feature["learned_gradient"].items():
                tip = f"{name}, {groups[group]}: {estimate_text(value)}"
                _mark(axes, value["mean"], place, group, tip)
        _name_bars(axes, list(features))
        return _svg(figure, f"Features for {table['output']}")


def audit_figures(audit: Mapping[str, Any]) -> dict[str, Markup]:
    """Every chart of `AUDIT_FIGURES` that the content of an `audit.json` has the facts for."""
    drawn = {}
    for name in (name for name in AUDIT_FIGURES if audit.get(name)):
        draw = _pairs if name in ("rank_correlation", "top_k_agreement") else _bars
        drawn[name] = draw(name.replace("_", " ").capitalize(), audit[name])
    return {name: chart for name, chart in drawn.items() if chart}


def _pairs(title: str, table: Mapping[str, Mapping[str, float | None]]) -> Markup:
    """A measure of each pair of sources in [-1, 1], as a number on a coloured square."""
    names = list(map(_named, table))
    zero = "0." if len(names) <= 6 else "."  # where there is little room
    with _chart(34 + min(36 * len(names), 270)) as (figure, axes):
        for y, row in enumerate(table.values()):
            for x, other in enumerate(list(table)[:y]):
                if (value := row.get(other)) is not None:
                    tip = f"{names[y]} and {names[x]}: {number_text(value)}"
                    look = (_FOR if value >= 0 else _AGAINST, 0.7 * abs(value), tip)
                    _box(axes, (x - 0.48, y, 0.96, 0.96), *look)
                    text = number_text(round(value, 2))[:-1].replace("0.", zero)
                    axes.text(x, y, text, ha="center", va="center", fontsize=9)
        axes.set(xlim=(-0.5, len(names) - 1.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
        axes.set_xticks(range(len(names) - 1), range(1, len(names)))
        axes.set_yticks(range(len(names)), [f"{_short(n)} {y}" for y, n in enumerate(names, 1)])
        return _svg(figure, title)


def _bars(title: str, found: Mapping[str, Any]) -> Markup | None:
    """What was found on each source as a bar, with its interval; controls are grey."""
    known = {_named(source): _value(one) for source, one in found.items()}
    values = {name: (value, half) for name, (value, half) in known.items() if value is not None}
    with _chart(34 + 24 * len(values)) as (figure, axes):
        for place, (name, (value, half)) in enumerate(values.items()):
            colour = _SOFT if name in CONTROL_PRIORS else ""
            _bar(axes, place, value, f"{name}: {number_text(value)}", colour)
            ends = [value - half, value + half] if half else []
            axes.plot(ends, [place] * len(ends), color=_INK, linewidth=1)
            look = {"textcoords": "offset points", "va": "center"}
            axes.annotate(number_text(value), (max(value + half, 0), place), (6, 0), **look)
        axes.margins(x=0.2)
        _name_bars(axes, list(values))
        return _svg(figure, title) if values else None


def _named(source: str) -> str:
    return FUSED if source == PRIOR else source


def _value(found: Any) -> tuple[float | None, float]:
    """A finding of an audit, with half the width of its interval (0 without one)."""
    if not isinstance(found, Mapping):
        return found, 0.0
    mean = found.get("rank_correlation") or {"value": found.get("stop word")}
    return mean["value"], mean.get("half_width") or 0.0


def save_figures(figures: Mapping[str, str], folder: Path) -> None:
    """Write each chart to an SVG file, which follows light and dark by itself."""
    colours = (_PAGE / "colours.css").read_text("utf-8")
    style = f"<style>{colours} svg {{ background: var(--paper); font-family: sans-serif }}</style>"
    for name, svg in figures.items():
        write_text(folder / f"{name}.svg", str(svg).replace("<title>", f"{style}<title>", 1))


# --- Parts of charts. A group is told by its shape as well as by its colour.


@contextmanager
def _chart(height: float) -> Iterator[tuple[Any, Any]]:
    """A figure of 360 by `height` units and its axes, in our own style whatever the user's is."""
    parts = ("matplotlib", "matplotlib.figure", "matplotlib.style")
    matplotlib = import_extra("plots", "Figures need", *parts)
    style = ["default", str(_PAGE / "figures.mplstyle")]
    with matplotlib.style.context(style), warnings.catch_warnings():
        # the font that is only measured here may lack what the reader's font has
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = matplotlib.figure.Figure(figsize=(5, height / 72), layout="constrained")
        yield figure, figure.subplots()


def _mark(axes: Any, x: float, y: float, group: int, tip: str) -> None:
    look = {"color": _colour(group), "clip_on": False, "zorder": 3, "gid": printable(tip)}
    axes.plot([x], [y], _SHAPES[group % len(_SHAPES)], **look)


def _bar(axes: Any, place: float, value: float, tip: str, colour: str = "") -> None:
    _box(axes, (0, place, value, 0.58), colour or (_FOR if value >= 0 else _AGAINST), 0.75, tip)


def _box(axes: Any, box: tuple[float, ...], colour: str, alpha: float, tip: str) -> None:
    left, middle, *size = box
    look = {"color": colour, "alpha": alpha, "linewidth": 0, "clip_on": False}
    (patch,) = axes.barh(middle, *size, left, **look, gid=printable(tip))
    patch.set_in_layout(False)  # a matrix has thousands


def _name_bars(axes: Any, names: Sequence[str]) -> None:
    axes.axvline(0, color=_SOFT, linewidth=1)
    axes.set_yticks(range(len(names)), map(_short, names), color=_INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    _grid(axes, "x", 4)


def _grid(axes: Any, along: str, ticks: int) -> None:
    axes.grid(axis=along)
    axes.locator_params(axis=along, nbins=ticks)


def _colour(group: int) -> str:
    return _GROUPS[group % len(_GROUPS)]


def _short(name: str, most: int = 18) -> str:
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _svg(figure: Any, title: str) -> Markup:
    """The figure as one SVG element: each `gid` is a tooltip, and the first ones its description."""
    import matplotlib

    tips = [gid for artist in figure.findobj() if (gid := artist.get_gid())]
    title, description, out = printable(title), "; ".join(tips[:_DESCRIBED]), StringIO()
    # ids are unique on the page, and the same whenever the same is drawn
    with matplotlib.rc_context({"svg.hashsalt": title + description}):
        figure.savefig(out, format="svg", facecolor="none", metadata={"Date": None})
    root = ElementTree.fromstring(out.getvalue())
    view = f"0 0 360 {root.get('viewBox', '').split()[-1]}"
    for element in list(root.iter()):
        _simplify(element, set(tips))
    root.attrib = {"xmlns": _SVG, "viewBox": view, "class": "chart", "role": "img"}
    root.set("aria-label", f"{title}. {description}")
    _insert(root, "desc", description)
    _insert(root, "title", title)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _insert(parent: ElementTree.Element, tag: str, text: str) -> None:
    element = ElementTree.Element(tag)
    element.text = text
    parent.insert(0, element)


def _simplify(element: ElementTree.Element, tips: set[str]) -> None:
    """Styles become attributes, which a policy allows, colours variables, and a `gid` a tooltip."""
    element.tag, element.tail = element.tag.removeprefix(f"{{{_SVG}}}"), None
    element.text = (element.text or "").strip() or None
    for child in [child for child in element if child.tag.endswith(("}metadata", "}style"))]:
        element.remove(child)
    for part in element.attrib.pop("style", "").split(";"):
        name, _, value = (text.strip() for text in part.partition(":"))
        if name and name != "font-family":  # text is drawn in the font of the page
            element.set(name, _VARIABLES.get(value, value))
    if target := element.attrib.pop(f"{{{_XLINK}}}href", None):
        element.set("href", target)
    if element.tag == "g" and (name := element.attrib.pop("id", "")) in tips:
        _insert(element, "title", name)
    for name in element.attrib.keys() & {"d", "x", "y", "transform"}:
        element.set(name, re.sub(r"(\.\d\d)\d+|\s(?=\s)", r"\1", element.attrib[name]))
