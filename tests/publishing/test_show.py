"""Heat maps in a notebook and in the terminal: values, signs, hostile words."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from hf_cap import pipelines as show
from hf_cap.errors import PriorError
from hf_cap.pipelines import HeatMaps, show_attributions
from hf_cap.report import page as report_page
from tests.report.runs import HOSTILE


def in_terminal(shown: HeatMaps) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=200)
    console.print(shown)
    output: str = console.file.getvalue()  # type: ignore[attr-defined]
    return output


def test_each_word_has_its_value_in_the_notebook() -> None:
    page = show_attributions(["lost", "card"], [0.5, -1.25])._repr_html_()
    assert 'aria-label="lost: +0.5" title="+0.5"' in page
    assert 'aria-label="card: -1.25" title="-1.25"' in page


def test_sign_is_colour_and_line() -> None:
    page = show_attributions(["for", "against", "neither"], [1.0, -1.0, 0.0])._repr_html_()
    assert "rgba(33,113,181,0.62);border-bottom:2px solid rgba(33,113,181,1.00)" in page
    assert "rgba(217,102,10,0.62);border-bottom:2px dashed rgba(217,102,10,1.00)" in page
    assert page.count("background") == 2


def test_strength_is_a_part_of_the_largest_of_the_row() -> None:
    small, large = (show_attributions(["a", "b"], [s, 2 * s])._repr_html_() for s in (0.01, 7.0))
    assert "rgba(33,113,181,0.31)" in small
    assert small.count("0.31)") == large.count("0.31)") == 1


def test_rows_have_names_and_a_title() -> None:
    shown = show_attributions(["a"], {"before": [1.0], "after": [-1.0]}, title="renew_loan")
    for output in (shown._repr_html_(), in_terminal(shown), repr(shown)):
        assert all(name in output for name in ("before", "after", "renew_loan"))


@pytest.mark.parametrize("text", [*HOSTILE, "red \x1b[31m text \x07"])
def test_hostile_words_show_as_text(text: str) -> None:
    words = text.split()
    shown = show_attributions(words, {text: [1.0] * len(words)}, title=text)
    page = shown._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in repr(shown)
    assert "\x1b[31m" not in in_terminal(shown)
    assert "\u202e" not in in_terminal(shown)


def test_the_terminal_underlines_what_speaks_for_the_label() -> None:
    output = in_terminal(show_attributions(["for", "against", "neither"], [1.0, -1.0, 0.0]))
    assert "\x1b[4;38;2;0;0;0;48;2;117;167;209mfor\x1b[0m" in output
    assert "\x1b[38;2;0;0;0;48;2;231;160;103magainst\x1b[0m" in output
    assert "neither\x1b" not in output


def test_plain_text_has_bars() -> None:
    assert repr(show_attributions(["lost", "a"], [1.0, 0.0])).splitlines() == ["lost  a", "█     ·"]


def test_the_colours_are_those_of_the_report() -> None:
    style = (Path(report_page.__file__).parent / "page" / "colours.css").read_text()
    assert (
        f"--for: {' '.join(map(str, show.FOR))}; --against: {' '.join(map(str, show.AGAINST))};"
        in style
    )


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PriorError, match="'after': 1 scores for 2 words"):
        show_attributions(["a", "b"], {"after": [1.0]})
    with pytest.raises(PriorError, match="is nan"):
        show_attributions(["a"], [float("nan")])
