"""Figures of an audit, as PNG and SVG files."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_cap.priors.audit import KINDS, Agreement, Audit
from hf_cap.report.figures import GREY, PALETTE, new_figure, save_figures
from hf_cap.schema import CONTROL_PRIORS

_KIND_COLOURS = dict(zip(KINDS[::-1], (*PALETTE[:3], GREY), strict=True))


def draw_figures(audit: Audit, folder: Path) -> list[Path]:
    """Draw every figure that the audit has the facts for.

    Args:
        audit: The facts.
        folder: Where the files go; it must exist.

    Returns:
        The files written.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    return save_figures(FIGURES, audit, folder)


def draw_rank_correlation(audit: Audit) -> Any:
    """Heat map of the rank correlation between sources."""
    return _heat_map(
        audit.rank_correlation,
        "Do the sources say the same?",
        "Spearman's rank correlation over the words of a text, mean over texts",
        low=-1,
    )


def draw_top_k(audit: Audit) -> Any:
    """Heat map of the agreement of the highest words."""
    plural = f"{audit.top_k} highest words" if audit.top_k > 1 else "highest word"
    return _heat_map(
        audit.top_k_agreement,
        "Do the sources pick the same words?",
        f"Share of the {plural} of a text that two sources have in common",
        low=0,
    )


def draw_log_odds(audit: Audit) -> Any:
    """Bars: rank correlation with the log-odds of the reference."""
    return _agreement_bars(
        audit.log_odds,
        "How well does a prior order the words, before any training?",
        "class log-odds",
    )


def draw_rationales(audit: Audit) -> Any:
    """Bars: rank correlation with what people marked."""
    return _agreement_bars(
        audit.rationales, "Does a prior agree with people?", "what people marked"
    )


def draw_mass(audit: Audit) -> Any:
    """Stacked bars: where the scores of each source go."""
    sources = list(audit.mass)[::-1]
    figure, axes = _bars(len(sources))
    left = [0.0] * len(sources)
    for kind, colour in _KIND_COLOURS.items():
        shares = [audit.mass[source][kind] for source in sources]
        axes.barh(sources, shares, left=left, color=colour, label=kind)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set(xlim=(0, 1), xlabel="Share of the absolute scores, mean over texts")
    axes.set_title("Which kinds of words get the scores?", pad=28)
    axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0.2)
    return figure


def draw_confused_classes(audit: Audit) -> Any:
    """Bars of the pairs of classes that share most keywords, for the fused prior or else the first source."""
    source = "prior" if "prior" in audit.sources else audit.sources[0]
    pairs = audit.confused_classes[source][::-1]
    if not pairs:
        return None
    figure, axes = _bars(len(pairs), width=9)
    names = [" / ".join(pair.classes) for pair in pairs]
    bars = axes.barh(names, [pair.overlap for pair in pairs], color=PALETTE[0])
    shared = [" " + _shorten(", ".join(pair.shared), 48) for pair in pairs]
    axes.bar_label(bars, shared, fontsize=8)
    axes.set(xlim=(0, max(pair.overlap for pair in pairs) * 1.8))
    axes.set_xlabel("Jaccard index of the keywords; the words are those that both classes have")
    axes.set_title(f"Which classes share keywords? (source: {source})")
    return figure


def draw_certainty(audit: Audit) -> Any:
    """Histograms of the diagnostic columns."""
    if not audit.certainty:
        return None
    columns = min(3, len(audit.certainty))
    rows = math.ceil(len(audit.certainty) / columns)
    figure = new_figure(3.6 * columns, 2.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(audit.certainty) :]:
        axes.set_visible(False)
    for axes, (name, found) in zip(grid.flat, audit.certainty.items(), strict=False):
        axes.stairs(found.counts, found.edges, fill=True, color=PALETTE[0])
        axes.axvline(found.quantiles[2], color="black", linestyle="--", linewidth=1)
        axes.set(title=name, ylabel="texts")
    figure.suptitle("Diagnostics of the sources (dashed: median)", x=0.01, ha="left")
    return figure


FIGURES: Mapping[str, Callable[[Audit], Any]] = {
    "rank_correlation": draw_rank_correlation,
    "top_k_agreement": draw_top_k,
    "log_odds": draw_log_odds,
    "rationales": draw_rationales,
    "mass": draw_mass,
    "confused_classes": draw_confused_classes,
    "certainty": draw_certainty,
}


def _heat_map(
    table: Mapping[str, Mapping[str, float | None]], title: str, meaning: str, low: float
) -> Any:
    names = list(table)
    values = [[_number(table[row][column]) for column in names] for row in names]
    size = 2.6 + 0.75 * len(names)
    figure = new_figure(max(size, 6.5), max(size - 0.6, 4))
    axes = figure.subplots()
    image = axes.imshow(values, cmap="cividis", vmin=low, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for row, numbers in enumerate(values):
        for column, value in enumerate(numbers):
            dark = value < (low + 1) / 2
            text = "–" if math.isnan(value) else f"{value:.2f}"
            axes.text(
                column, row, text, ha="center", va="center", color="white" if dark else "black"
            )
    axes.set_title(title)
    axes.set_xlabel(meaning, fontsize=9)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, shrink=0.8)
    return figure


def _agreement_bars(found: Mapping[str, Agreement] | None, title: str, standard: str) -> Any:
    if found is None:
        return None
    ordered = sorted(found, key=lambda source: _number(found[source].rank_correlation.value, -1))
    means = [found[source].rank_correlation for source in ordered]
    figure, axes = _bars(len(ordered))
    bars = axes.barh(
        ordered,
        [_number(one.value, 0) for one in means],
        xerr=[_number(one.half_width, 0) for one in means],
        color=[GREY if source in CONTROL_PRIORS else PALETTE[0] for source in ordered],
        error_kw={"capsize": 3, "linewidth": 1},
    )
    axes.bar_label(bars, [f"{_number(one.value):.2f}" for one in means], padding=4, fontsize=9)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_xlabel(
        f"Spearman's rank correlation with {standard}, mean over texts, 95 % interval (grey: controls)",
        fontsize=9,
    )
    axes.set_title(title)
    return figure


def _bars(count: int, width: float = 7.5) -> tuple[Any, Any]:
    figure = new_figure(width, 1.6 + 0.36 * count)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _number(value: float | None, otherwise: float = math.nan) -> float:
    return otherwise if value is None else value


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
