"""Numbers as text, with a true minus sign."""

from ...statistics import Interval


def number_text(value: float, percent: bool = False, *, signed: bool = False) -> str:
    """A value: three decimals, or percent with one. Trailing zeros stay, so that columns line up."""
    text = f"{100 * value:.1f}" if percent else f"{value:.3f}"
    if signed and not text.startswith("-"):
        text = f"+{text}"
    return text.replace("-", "\N{MINUS SIGN}")


def tick_text(value: float) -> str:
    """A value on an axis, as short as it can be."""
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def estimate_text(value: Interval, percent: bool = False, *, signed: bool = False) -> str:
    """A mean with its interval, such as `76.5 (75.2 to 77.8)`; percent carries its sign."""
    unit = " %" if percent else ""
    mean = number_text(value.mean, percent, signed=signed)
    if value.low is None or value.high is None:
        return f"{mean}{unit}"
    low, high = (number_text(end, percent, signed=signed) for end in (value.low, value.high))
    return f"{mean}{unit} ({low} to {high})"
