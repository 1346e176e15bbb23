"""Word scores as a heat map in a notebook, in the terminal and as plain text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from ..cards.heat_map import heat_map, printable
from ..schema import check_prior

if TYPE_CHECKING:
    from rich.table import Table

Colour = tuple[int, int, int]

FOR: Colour = (33, 113, 181)
AGAINST: Colour = (217, 102, 10)
"""Blue and orange, which colour-blind people tell apart; the same as in the report."""
_STRONGEST = 0.62
_FAINT = 0.04


@dataclass(frozen=True, repr=False)
class HeatMaps:
    """One text with rows of word scores. A notebook shows colours, `rich.print` too, `print` bars.

    Attributes:
        words: The words of the text.
        rows: Name of a row to one score a word, positive = evidence for the label.
        title: What the scores speak of, such as the label.
    """

    words: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    title: str = ""

    def __repr__(self) -> str:
        """The rows in plain characters: a bar below each word, a minus before those against the label."""
        maps = [
            "\n".join(filter(None, [printable(name), heat_map(self.words, scores)]))
            for name, scores in self.rows.items()
        ]
        return "\n\n".join(filter(None, [printable(self.title), *maps]))

    def _repr_html_(self) -> str:
        """The rows for a notebook. Every word has its value as a tooltip and for a screen reader."""
        rows = Markup("").join(
            Markup('<tr><th scope="row" style="{}">{}</th><td style="{}">{}</td></tr>').format(
                _CELL, name, _CELL, _html_words(self.words, scores)
            )
            for name, scores in self.rows.items()
        )
        caption = Markup('<caption style="{}">{}</caption>').format(_CELL, self.title)
        return str(Markup("<table>{}{}</table>").format(caption if self.title else "", rows))

    def __rich__(self) -> "Table":
        """The rows for the terminal; words that speak for the label are underlined too."""
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(printable(self.title)) if self.title else None,
            show_header=False,
            box=None,
            padding=(0, 2, 1, 0),
        )
        for name, scores in self.rows.items():
            shown = Text()
            for word, score, part in _parts(self.words, scores):
                shown.append(printable(word), style=_style(score, part))
                shown.append(" ")
            table.add_row(Text(printable(name), style="bold"), shown)
        return table


def show_attributions(
    words: Sequence[str],
    scores: Sequence[float] | Mapping[str, Sequence[float]],
    *,
    title: str = "",
) -> HeatMaps:
    """Show which words matter, as a heat map.

    The strength of a colour is the score as a part of the largest absolute one of its row.

    Args:
        words: The words of a text, as in the column `words`.
        scores: One score a word, positive = evidence for the label; or several rows of them by name, such
            as `{"cap": ..., "before": ..., "after": ...}`.
        title: What the scores speak of, such as the label.

    Returns:
        A value that a notebook draws when it is the last line of a cell, and that `rich.print` and `print`
        draw in a terminal.

    Raises:
        PriorError: a row has not one finite score a word.
    """
    rows = scores if isinstance(scores, Mapping) else {"": scores}
    for name, row in rows.items():
        check_prior(row, words, column=name or "scores")
    return HeatMaps(tuple(words), {name: tuple(row) for name, row in rows.items()}, title)


_CELL = "text-align:left;vertical-align:top;padding:0.3em 1em 0.3em 0;line-height:2"
_WORD = "padding:0.1em 0.25em;border-radius:3px;unicode-bidi:isolate;"


def _html_words(words: Sequence[str], scores: Sequence[float]) -> Markup:
    return Markup(" ").join(
        Markup('<span role="img" aria-label="{}: {}" title="{}" style="{}">{}</span>').format(
            word, written := f"{score:+.3g}", written, _WORD + _css(score, part), word
        )
        for word, score, part in _parts(words, scores)
    )


def _css(score: float, part: float) -> str:
    if part < _FAINT:
        return ""
    red, green, blue = FOR if score > 0 else AGAINST
    line = "solid" if score > 0 else "dashed"
    return (
        f"background:rgba({red},{green},{blue},{_STRONGEST * part:.2f});"
        f"border-bottom:2px {line} rgba({red},{green},{blue},{part:.2f})"
    )


def _style(score: float, part: float) -> str:
    """Style for rich: the colour on white, in black letters, so that it is the same on any terminal."""
    if part < _FAINT:
        return ""
    mixed = [round(255 + (c - 255) * _STRONGEST * part) for c in (FOR if score > 0 else AGAINST)]
    underline = "underline " if score > 0 else ""
    return f"{underline}rgb(0,0,0) on rgb({mixed[0]},{mixed[1]},{mixed[2]})"


def _parts(words: Sequence[str], scores: Sequence[float]) -> list[tuple[str, float, float]]:
    """Word, score, and the size of the score as a part of the largest, in [0, 1]."""
    largest = max(map(abs, scores), default=0.0) or 1.0
    return [(word, s, abs(s) / largest) for word, s in zip(words, scores, strict=True)]
