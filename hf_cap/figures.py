"""What every figure shares: matplotlib (extra `plots`) without a display, one style, two files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import MissingExtra

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
