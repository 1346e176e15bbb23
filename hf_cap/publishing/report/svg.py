"""Building blocks of charts as inline SVG: escaped elements, scales, axes. No style but class names.

All charts are 360 units wide, so that they can be read on a phone and stand beside one another elsewhere.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

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
