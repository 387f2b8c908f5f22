"""Pictures of a report, as PNG: confusion, reliability, risk against coverage. Drawn without a display.

Fonts of a report's pictures: what is installed, for labels in any script.
"""

import functools
import io
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from actrec_models.evaluation.figures import Report
from actrec_models.evaluation.metrics import at_coverage

_FIRST = "DejaVu Sans"
"""Comes with Matplotlib: Latin, Greek, Cyrillic, Arabic."""

_OTHERS = (
    "Noto Sans CJK",
    "Source Han Sans",
    "WenQuanYi",
    "IPA",
    "Nanum",
    "Droid Sans Fallback",
    "Hiragino",
    "PingFang",
    "Microsoft YaHei",
    "MS Gothic",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Noto Sans",
)


@functools.cache
def families() -> tuple[str, ...]:
    """Names of the fonts to take, in this order for each character."""
    installed = sorted(font_manager.get_font_names())
    return (_FIRST, *(name for start in _OTHERS for name in installed if name.startswith(start)))


@functools.cache
def _characters() -> frozenset[int]:
    found: set[int] = set()
    for family in families():
        found |= font_manager.get_font(font_manager.findfont(family)).get_charmap().keys()
    return frozenset(found)


def drawable(text: str) -> bool:
    """Whether the fonts have every character of a text."""
    return all(ord(character) in _characters() for character in text)


def spelt(text: str) -> str:
    """A text with "?" in place of the characters that no font has."""
    return "".join(character if drawable(character) else "?" for character in text)


DPI = 130

POINTS = 72

LONGEST_NAME = 34

SMALLEST_TEXT = 4.5
"""Points below which text in a cell or at an axis is left out."""

INK, ACCENT, WARNING, FAINT = "#1f2933", "#2563a8", "#c2410c", "#9aa5b1"


def draw(report: Report) -> dict[str, bytes]:
    """Every picture of a report by its name. Labels are people's own words: "$" is no formula, any script is drawn."""
    with matplotlib.rc_context({"text.parse_math": False, "font.family": list(families())}):
        return {name: drawn(report) for name, (_, drawn) in PICTURES.items()}


def confusion(report: Report) -> bytes:
    """The confusion matrix: each row is a true class, its colors the share of its clips that each class was given.

    Colors go by the square root of the share, so that rare confusions can be seen. Shares are written as per cent
    where they fit into the cells, class names where they fit along the axes; else every tenth class is numbered.
    """
    counts = report.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    side = float(np.clip(0.42 * classes, 3.6, 13.5))  # inches of the matrix itself
    cell = side / classes * POINTS
    figure, (axes,) = _figure(side, side)
    shown = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    _name_axes(axes, report.classes, cell)
    axes.set(xlabel="recognized as", ylabel="true action")
    axes.set_title(f"{spelt(report.name)}: {report.accuracy:.1%} of {len(report.labels)} clips", fontsize=11, color=INK)
    _write_cells(axes, shares, counts, min(0.36 * cell, 9.0))
    bar = figure.colorbar(shown, ax=axes, fraction=0.035, pad=0.02, format=lambda share, _: f"{share:.0%}")
    bar.set_label("share of the true action's clips", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return _png(figure)


def _name_axes(axes: Axes, classes: tuple[str, ...], cell: float) -> None:
    size = min(0.72 * cell, 10.0)
    if size >= SMALLEST_TEXT:
        names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in classes]
        names = [name if drawable(name) else f"class {number}" for number, name in enumerate(names, start=1)]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
    else:
        numbers = range(0, len(classes), 10)
        axes.set_xticks(numbers)
        axes.set_yticks(numbers)
    axes.tick_params(length=2)


def _write_cells(axes: Axes, shares: np.ndarray, counts: np.ndarray, size: float) -> None:
    if size < SMALLEST_TEXT:
        return
    for row, column in zip(*np.nonzero(counts), strict=True):
        share = shares[row, column]
        text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
        color = "white" if share > 0.4 else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)


def reliability(report: Report) -> bytes:
    """Accuracy against confidence, bin by bin, with how many clips each bin holds."""
    bins = report.bins
    width = np.diff(bins.edges)
    centers, held = bins.edges[:-1] + width / 2, bins.counts > 0
    figure, (axes, below) = _figure(5.0, 5.6, rows=(3, 1))
    axes.plot([0, 1], [0, 1], linestyle="--", color=FAINT, label="as sure as right")
    axes.bar(centers[held], bins.accuracy[held], width[held] * 0.92, color=ACCENT, alpha=0.85, label="share right")
    axes.plot(bins.confidence[held], bins.accuracy[held], "o", color=WARNING, markersize=4, label="mean confidence")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share right")
    axes.set_title(f"{spelt(report.name)}: expected calibration error {bins.ece:.3f}", fontsize=11, color=INK)
    axes.legend(loc="upper left", fontsize=8, framealpha=0.85)
    below.bar(centers, bins.counts, width * 0.92, color=FAINT)
    below.set(xlim=(0, 1), xlabel="confidence", ylabel="clips")
    return _png(figure)


def risk_coverage(report: Report) -> bytes:
    """Share of wrong answers against the share of clips that is answered, the most confident first."""
    risk = report.risk
    coverage = np.arange(1, len(risk) + 1) / len(risk)
    figure, (axes,) = _figure(5.0, 3.6)
    axes.plot(coverage, risk, color=ACCENT)
    if report.threshold:
        kept = float(report.accepted.mean())
        if kept:
            at = at_coverage(risk, kept)
            axes.plot([kept], [at], "o", color=WARNING, label=f"threshold {report.threshold:g}: {kept:.1%} answered")
            axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.set(xlim=(0, 1), ylim=(0, max(1.1 * float(risk.max()), 0.01)))
    axes.set(xlabel="share of clips answered", ylabel="share of answers wrong")
    axes.set_title(f"{spelt(report.name)}: area under the curve {risk.mean():.4f}", fontsize=11, color=INK)
    return _png(figure)


PICTURES: dict[str, tuple[str, Callable[[Report], bytes]]] = {
    "confusion": ("Confusion matrix, each row divided by the true action's clips", confusion),
    "reliability": ("Reliability: accuracy against confidence", reliability),
    "risk_coverage": ("Risk against coverage", risk_coverage),
}
"""Name of a picture's file to its caption and what draws it."""


def _figure(width: float, height: float, rows: tuple[int, ...] = (1,)) -> tuple[Figure, list[Axes]]:
    """A figure whose axes are about so many inches wide and high; what stands around them comes on top."""
    figure = Figure(figsize=(width + 1.5, height + 1.2), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0])
    for each in axes:
        each.tick_params(labelsize=9, colors=INK)
        for spine in each.spines.values():
            spine.set_color(FAINT)
    return figure, axes


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", bbox_inches="tight", pad_inches=0.12)
    return content.getvalue()
