import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest

from hf_cap.errors import MissingExtra
from hf_cap.report.figures import PALETTE, new_figure, save_figures


def draw_line(heights: list[float]) -> Any:
    figure = new_figure(3, 2)
    axes = figure.subplots()
    axes.plot(heights, color=PALETTE[0])
    axes.set_title("heights")
    return figure


def draw_nothing(_: list[float]) -> None:
    return None


def test_each_figure_is_a_png_and_an_svg_and_the_callers_style_stays(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 23}):
        before = dict(matplotlib.rcParams)
        files = save_figures({"line.v1": draw_line, "none": draw_nothing}, [1.0, 2.0], tmp_path)
        assert dict(matplotlib.rcParams) == before
    assert files == [tmp_path / "line.v1.png", tmp_path / "line.v1.svg"]
    assert sorted(tmp_path.iterdir()) == files
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(files[1]).getroot().tag.endswith("svg")


def test_equal_facts_give_equal_files_whatever_the_callers_style(tmp_path: Path) -> None:
    one = [file.read_bytes() for file in save_figures({"line": draw_line}, [1.0, 2.0], tmp_path)]
    with matplotlib.rc_context({"font.size": 23, "lines.linewidth": 9}):
        two = save_figures({"line": draw_line}, [1.0, 2.0], tmp_path)
    assert [file.read_bytes() for file in two] == one


def test_without_matplotlib_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'hf-cap\[plots\]'"):
        save_figures({"none": draw_nothing}, [], tmp_path)
