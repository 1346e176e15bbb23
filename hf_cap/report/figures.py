"""What every figure shares: matplotlib (extra `plots`) without a display, one style, two files."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from markupsafe import Markup

from hf_cap.errors import MissingExtra
from hf_cap.evaluation.results import Interval
from hf_cap.report.contents import (
    AuditTable,
    Calibration,
    Confusion,
    FeatureTable,
    Group,
    Panel,
    PriorAudit,
    Row,
)
from hf_cap.report.load import estimate_text, number_text, tick_text

Facts = TypeVar("Facts")

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
GREY = "#999999"
"""For what is not in the race: controls, the rest."""

_STYLE = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.titleweight": "bold",
    "svg.hashsalt": "hf_cap",  # equal facts give equal files
}


def save_figures(
    drawings: Mapping[str, Callable[[Facts], Any]], facts: Facts, folder: Path
) -> list[Path]:
    """Draw figures in our own style, which ends with the call, and save each as PNG and SVG.

    Args:
        drawings: File name without suffix -> what draws it with [`new_figure`]; it returns `None` where the
            facts do not suffice.
        facts: What every drawing is given.
        folder: Where the files go; it must exist.

    Returns:
        The files written.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    library = _matplotlib()
    written = []
    with library.style.context("default"), library.rc_context(_STYLE):
        for name, draw in drawings.items():
            if (figure := draw(facts)) is not None:
                written += _save(figure, folder / name)
    return written


def new_figure(width: float, height: float) -> Any:
    """A figure of its own, sizes in inches: `pyplot` would choose a backend and keep it."""
    return _matplotlib().figure.Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> list[Path]:
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    for file in files:
        # without a date, so that equal facts give equal files
        figure.savefig(file, dpi=160, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as error:
        raise MissingExtra("Figures need matplotlib: pip install 'hf-cap[plots]'") from error
    return matplotlib


# --- Building blocks of charts as inline SVG: escaped elements, scales, axes. No style but class names.


WIDTH = 360

_SHAPES = (
    "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0",
    "M-4,-4h8v8h-8z",
    "M0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z",
    "M0,-5l5,9h-10z",
    "M-5,-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z",
    "M0,5l5,-9h-10z",
)
"""Circle, square, diamond, triangles and cross, about 10 units wide, around the origin."""


class Scale(NamedTuple):
    """A linear map from values to places, with round tick values."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Place of a value."""
        part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def element(name: str, *content: str, **attributes: object) -> Markup:
    """An SVG element; attribute `class_` is `class`, other underscores are hyphens, values are escaped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, Markup("").join(content))


def figure(title: str, description: str, height: float, *content: str) -> Markup:
    """A chart with the accessible name `title` and what it shows in words."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *content,
        viewBox=f"0 0 {WIDTH} {_number(height)}",
        role="img",
        aria_label=f"{title}. {description}",
        class_="chart",
    )


def scale(values: Sequence[float], start: float, end: float, *, ticks: int = 5) -> Scale:
    """A scale from `start` to `end` that holds all values, with about `ticks` round ticks."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        pad = max(abs(high) * 0.1, 1e-6)
        low, high = low - pad, high + pad
    step = _round_step((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    marks = tuple(number * step for number in range(first, last + 1))
    return Scale(marks[0], marks[-1], start, end, marks)


def text(x: float, y: float, content: str, *, anchor: str = "start", kind: str = "tick") -> Markup:
    """A label at a place."""
    return element("text", content, x=x, y=y, text_anchor=anchor, class_=kind)


def x_axis(along: Scale, top: float, bottom: float, write: Callable[[float], str]) -> Markup:
    """Vertical grid lines with their values under them."""
    return Markup("").join(
        element("line", x1=along(tick), x2=along(tick), y1=top, y2=bottom, class_="grid")
        + text(along(tick), bottom + 14, write(tick), anchor="middle")
        for tick in along.ticks
    )


def y_axis(along: Scale, left: float, right: float, write: Callable[[float], str]) -> Markup:
    """Horizontal grid lines with their values on the left."""
    return Markup("").join(
        element("line", x1=left, x2=right, y1=along(tick), y2=along(tick), class_="grid")
        + text(left - 6, along(tick) + 4, write(tick), anchor="end")
        for tick in along.ticks
    )


def mark(group: int, x: float, y: float, title: str) -> Markup:
    """The mark of a group: its shape as well as its colour tells it from others."""
    return element(
        "path",
        element("title", title),
        d=_SHAPES[group % len(_SHAPES)],
        transform=f"translate({_number(x)},{_number(y)})",
        class_=group_class("mark", group),
    )


def group_class(kind: str, group: int) -> str:
    """CSS class of something that belongs to a group."""
    return f"{kind} g{group % len(_SHAPES)}"


def line(places: Sequence[tuple[float, float]], kind: str) -> Markup:
    """A line through some places."""
    return element("polyline", points=_path(places), class_=kind)


def band(places: Sequence[tuple[float, float]], kind: str) -> Markup:
    """A filled area."""
    return element("polygon", points=_path(places), class_=kind)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_number(float(x))},{_number(float(y))}" for x, y in places)


def _round_step(rough: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough - 1e-12)


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


# --- The charts of the report: pure functions from values to inline SVG.


_LEFT, _RIGHT, _TOP = 44.0, WIDTH - 10.0, 12.0
_SQUARE = 250.0
_NAMED_LABELS = 24
_BAR_NAMES = 130.0
_BARS = 16
"""Features that are drawn; the table beside the chart has all."""


def interval_chart(
    title: str, named_rows: Sequence[tuple[str, Row]], groups: Sequence[Group]
) -> Markup:
    """One measure over evaluation sets: a mark a group, with a line for its 95 % interval.

    Args:
        title: Name of the measure.
        named_rows: Name of an evaluation set and the row of the measure in it.
        groups: The groups, in the order of the values.
    """
    percent = named_rows[0][1].percent
    estimates = [value for _, row in named_rows for value in row.values if value]
    ends = [e for v in estimates for e in (v.mean, v.low, v.high) if e is not None]
    along = scale([100 * end if percent else end for end in ends], 14, _RIGHT - 10, ticks=4)
    parts: list[str] = []
    described = []
    y = 4.0
    for name, row in named_rows:
        parts.append(text(0, y + 12, name, kind="name"))
        y += 26
        for index, value in enumerate(row.values):
            if value:
                said = f"{name}, {groups[index].name}: {estimate_text(value, percent)}"
                described.append(said)
                parts.append(_interval(along, index, y, value, percent, said))
                y += 15
        y += 4
    return figure(title, "; ".join(described), y + 18, x_axis(along, 4, y, tick_text), *parts)


def _interval(
    along: Scale, group: int, y: float, value: Interval, percent: bool, said: str
) -> Markup:
    unit = 100 if percent else 1
    whisker = Markup("")
    if value.low is not None and value.high is not None:
        ends = [(along(unit * value.low), y), (along(unit * value.high), y)]
        whisker = line(ends, group_class("whisker", group))
    return whisker + mark(group, along(unit * value.mean), y, said)


def curve_chart(panel: Panel, groups: Sequence[Group]) -> Markup:
    """A logged quantity over the training steps: the mean of each group, and the range of its runs."""
    points = [point for curve in panel.curves for point in curve.points]
    across = scale([point.step for point in points] + [0.0], _LEFT, _RIGHT, ticks=4)
    up = scale([end for p in points for end in (p.low, p.high)], 180, _TOP)
    parts: list[str] = []
    described = []
    for curve in panel.curves:
        upper = [(across(p.step), up(p.high)) for p in curve.points]
        lower = [(across(p.step), up(p.low)) for p in reversed(curve.points)]
        middle = [(across(p.step), up(p.mean)) for p in curve.points]
        parts.append(band([*upper, *lower], group_class("band", curve.group)))
        parts.append(line(middle, group_class("curve", curve.group)))
        last = curve.points[-1]
        said = f"{groups[curve.group].name}: {tick_text(round(last.mean, 3))} at step {last.step:g}"
        parts.append(mark(curve.group, *middle[-1], said))
        described.append(said)
    axes = y_axis(up, _LEFT, _RIGHT, tick_text) + x_axis(across, 180, 180, tick_text)
    name = text(_RIGHT, 212, "training step", anchor="end", kind="axis")
    return figure(panel.title, f"Last values: {'; '.join(described)}", 216, axes, *parts, name)


def calibration_chart(calibrations: Sequence[Calibration], groups: Sequence[Group]) -> Markup:
    """Accuracy over confidence: the closer to the diagonal, the better calibrated."""
    across = scale([0.0, 100.0], _LEFT, _LEFT + _SQUARE, ticks=4)
    up = scale([0.0, 100.0], _TOP + _SQUARE, _TOP, ticks=4)
    parts = [line([(across(0), up(0)), (across(100), up(100))], "diagonal")]
    described = []
    for found in calibrations:
        name = groups[found.group].name
        places = [(across(100 * b.confidence), up(100 * b.accuracy)) for b in found.bins]
        parts.append(line(places, group_class("curve", found.group)))
        for place, b in zip(places, found.bins, strict=True):
            said = (
                f"{name}: {number_text(b.confidence, True)} % sure, {number_text(b.accuracy, True)} % right "
                f"({b.texts} texts)"
            )
            parts.append(mark(found.group, *place, said))
        described.append(f"{name}: expected calibration error {number_text(found.error, True)} %")
    bottom = _TOP + _SQUARE
    axes = y_axis(up, _LEFT, _LEFT + _SQUARE, tick_text) + x_axis(across, bottom, bottom, tick_text)
    names = text(_LEFT + _SQUARE, bottom + 32, "confidence, %", anchor="end", kind="axis")
    return figure("Calibration", "; ".join(described), bottom + 38, axes, *parts, names)


def confusion_chart(confusion: Confusion, group: Group) -> Markup:
    """Gold labels down, predicted labels across; errors stand out, the diagonal is pale."""
    size = len(confusion.labels)
    # names of labels are drawn at the rows where there is room for them
    left = 112.0 if size <= _NAMED_LABELS else 8.0
    cell = (WIDTH - left - 4) / size
    most = max((n for (g, p), n in confusion.counts.items() if g != p), default=1)
    totals: dict[int, int] = {}
    for (gold, _), count in confusion.counts.items():
        totals[gold] = totals.get(gold, 0) + count
    parts: list[str] = [
        element("rect", x=left, y=4.0, width=cell * size, height=cell * size, class_="frame")
    ]
    for (gold, said), count in confusion.counts.items():
        right = gold == said
        strength = count / totals[gold] if right else 0.25 + 0.75 * count / most
        title = f"{confusion.labels[gold]} predicted as {confusion.labels[said]}: {count} of {totals[gold]}"
        place = {"x": left + said * cell, "y": 4 + gold * cell, "width": cell, "height": cell}
        parts.append(
            element(
                "rect",
                element("title", title),
                **place,
                class_="right" if right else "wrong",
                fill_opacity=strength * (0.3 if right else 0.9),
            )
        )
    for number, label in enumerate(confusion.labels if size <= _NAMED_LABELS else ()):
        middle = 4 + (number + 0.5) * cell
        parts.append(text(left - 6, middle + 4, _shortened(label, 16), anchor="end", kind="label"))
    right_texts = sum(count for (g, p), count in confusion.counts.items() if g == p)
    described = f"{right_texts} of {sum(totals.values())} predictions lie on the diagonal"
    return figure(f"Confusion matrix: {group.name}", described, cell * size + 8, *parts)


def correlation_chart(audit: PriorAudit) -> Markup:
    """Rank correlation of each pair of sources, as a number on a coloured square."""
    size = len(audit.sources)
    left = 132.0
    cell = min((WIDTH - left - 4) / size, 48.0)
    parts: list[str] = []
    for row, one in enumerate(audit.sources):
        middle = (row + 0.5) * cell
        parts.append(text(left - 6, middle + 8, f"{one} {row + 1}", anchor="end", kind="label"))
        parts.append(
            text(left + middle, size * cell + 18, str(row + 1), anchor="middle", kind="label")
        )
        for column, other in enumerate(audit.sources[:row]):
            value = audit.correlations.get((one, other))
            if value is not None:
                parts.append(_correlation(left + column * cell, 4 + row * cell, cell, value))
    described = "; ".join(
        f"{one} and {other}: {number_text(value)}"
        for (one, other), value in audit.correlations.items()
        if audit.sources.index(one) > audit.sources.index(other)
    )
    return figure("Rank correlation between sources", described, size * cell + 24, *parts)


def _correlation(x: float, y: float, cell: float, value: float) -> Markup:
    square = element(
        "rect",
        x=x + 1,
        y=y + 1,
        width=cell - 2,
        height=cell - 2,
        rx=3,
        class_="for" if value >= 0 else "against",
        fill_opacity=0.7 * abs(value),
    )
    shown = f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    return square + text(x + cell / 2, y + cell / 2 + 4, shown, anchor="middle", kind="label")


def bar_chart(table: AuditTable) -> Markup:
    """One number a source, as a bar from zero."""
    values = [figure.value for figure in table.figures]
    along = scale([0.0, *values], _BAR_NAMES, _RIGHT - 46)
    parts: list[str] = []
    for number, found in enumerate(table.figures):
        y = 6.0 + 24 * number
        end = max(along(0), along(found.value))
        parts.append(text(_BAR_NAMES - 8, y + 13, found.source, anchor="end", kind="name"))
        parts.append(_bar(along, y + 2, found.value))
        parts.append(text(end + 6, y + 13, number_text(found.value), kind="value"))
    described = "; ".join(f"{f.source}: {number_text(f.value)}" for f in table.figures)
    zero = line([(along(0), 2), (along(0), 24.0 * len(values) + 4)], "zero")
    return figure(table.title, described, 24.0 * len(values) + 10, *parts, zero)


def feature_chart(table: FeatureTable, groups: Sequence[Group]) -> Markup:
    """What was told of each feature as a bar, what each group learnt as a mark; the strongest come first."""
    shown = table.features[:_BARS]
    values = [
        v for f in shown for v in (f.told, *(one.mean for one in f.learnt if one)) if v is not None
    ]
    along = scale([0.0, *values], _BAR_NAMES, _RIGHT, ticks=4)
    bottom = 6.0 + 24 * len(shown)
    parts: list[str] = [
        x_axis(along, 2, bottom, tick_text),
        line([(along(0), 2), (along(0), bottom)], "zero"),
    ]
    described = []
    for number, feature in enumerate(shown):
        y = 6.0 + 24 * number
        parts.append(
            text(_BAR_NAMES - 8, y + 13, _shortened(feature.name), anchor="end", kind="name")
        )
        if feature.told is not None:
            parts.append(
                _bar(
                    along, y + 2, feature.told, f"{feature.name}, told: {number_text(feature.told)}"
                )
            )
            described.append(f"{feature.name} told {number_text(feature.told)}")
        for group, learnt in enumerate(feature.learnt):
            if learnt:
                said = f"{feature.name}, {groups[group].name}: {estimate_text(learnt)}"
                parts.append(mark(group, along(learnt.mean), y + 9, said))
    return figure(f"Features for {table.output}", "; ".join(described), bottom + 20, *parts)


def _bar(along: Scale, y: float, value: float, said: str = "") -> Markup:
    """A bar from zero."""
    start, end = sorted((along(0), along(value)))
    return element(
        "rect",
        *([element("title", said)] if said else []),
        x=start,
        y=y,
        width=max(end - start, 1.0),
        height=14,
        rx=2,
        class_="for" if value >= 0 else "against",
        fill_opacity=0.75,
    )


def _shortened(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
