"""Word scores drawn with plain characters, for places that show neither colour nor HTML."""

import unicodedata
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_NOTHING = "·"


def heat_map(words: Sequence[str], scores: Sequence[float] | None, width: int = 76) -> str:
    """The words with a bar below each; a minus before the bar marks evidence against the label.

    Args:
        words: The words of a text.
        scores: One score a word; bars are in proportion to the largest absolute one. `None`: no bars.
        width: Columns of a line; longer texts go on in another pair of lines.
    """
    shown = [printable(word) for word in words]
    if scores is None:
        return " ".join(shown)
    largest = max(map(abs, scores), default=0.0)
    bars = [_bar(score, largest) for score in scores]
    lines, top, bottom = [], "", ""
    for word, bar in zip(shown, bars, strict=True):
        cell = max(_columns(word), len(bar)) + 2
        if top and _columns(top) + cell > width:
            lines += [top.rstrip(), bottom.rstrip(), ""]
            top = bottom = ""
        top += word + " " * (cell - _columns(word))
        bottom += bar + " " * (cell - len(bar))
    return "\n".join([*lines, top.rstrip(), bottom.rstrip()])


def sparkline(values: Sequence[float]) -> str:
    """One bar a value, from the smallest to the largest."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high == low:
        return _BARS[0] * len(values)
    return "".join(_BARS[round((v - low) / (high - low) * (len(_BARS) - 1))] for v in values)


def _bar(score: float, largest: float) -> str:
    if largest == 0 or abs(score) < largest / (2 * len(_BARS)):
        return _NOTHING
    bar = _BARS[min(int(abs(score) / largest * len(_BARS)), len(_BARS) - 1)]
    return f"-{bar}" if score < 0 else bar


def printable(word: str) -> str:
    """The word without characters that would break a line or turn the reading direction."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(c)[0] == "C" or c in "\n\u2028\u2029"
        else c
        for c in word
    )


def _columns(text: str) -> int:
    """Columns that the text takes in a fixed-width font."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
