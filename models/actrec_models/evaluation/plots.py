"""Plots of an evaluation result as PNG: confusion, reliability, risk against coverage. No display is needed."""

import io
import warnings
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from actrec_models.evaluation.metrics import EvaluationResult, risk_at_coverage

DPI = 130
POINTS_PER_INCH = 72
LONGEST_NAME = 34
SMALLEST_TEXT = 4.5
"""Font size in points below which text in a cell or at an axis is omitted."""

INK, ACCENT, WARNING, FAINT = "#1f2933", "#2563a8", "#c2410c", "#9aa5b1"


def draw_all(result: EvaluationResult) -> dict[str, bytes]:
    """Draw every plot of a result, by name; "$" in a label is no formula."""
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a character that the font lacks is drawn as a box
        return {name: draw(result) for name, (_, draw) in PLOTS.items()}


def plot_confusion(result: EvaluationResult) -> bytes:
    """Plot the confusion matrix: a row per true class, colored by the share of its clips.

    The color scale is the square root of the share, which makes rare confusions visible. Percentages and class names
    are written if they fit; otherwise every tenth class is numbered.
    """
    counts = result.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    side = float(np.clip(0.42 * classes, 3.6, 13.5))  # inches of the matrix itself
    cell = side / classes * POINTS_PER_INCH
    figure, (axes,) = _figure(side, side)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    _label_classes(axes, result.classes, min(0.72 * cell, 10.0))
    axes.set(xlabel="recognized as", ylabel="true action")
    axes.set_title(f"{result.name}: {result.accuracy:.1%} of {len(result.labels)} clips", fontsize=11, color=INK)
    _write_cells(axes, shares, counts, min(0.36 * cell, 9.0))
    bar = figure.colorbar(image, ax=axes, fraction=0.035, pad=0.02, format=lambda share, _: f"{share:.0%}")
    bar.set_label("share of the true action's clips", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return _png(figure)


def _label_classes(axes: Axes, classes: tuple[str, ...], size: float) -> None:
    if size >= SMALLEST_TEXT:
        names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in classes]
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


def plot_reliability(result: EvaluationResult) -> bytes:
    """Plot accuracy against confidence, and the number of clips in each bin."""
    bins = result.bins
    width = np.diff(bins.edges)
    centers, used = bins.edges[:-1] + width / 2, bins.counts > 0
    figure, (axes, below) = _figure(5.0, 5.6, rows=(3, 1))
    axes.plot([0, 1], [0, 1], linestyle="--", color=FAINT, label="perfectly calibrated")
    axes.bar(centers[used], bins.accuracy[used], width[used] * 0.92, color=ACCENT, alpha=0.85, label="accuracy")
    axes.plot(bins.confidence[used], bins.accuracy[used], "o", color=WARNING, markersize=4, label="mean confidence")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_title(f"{result.name}: expected calibration error {bins.ece:.3f}", fontsize=11, color=INK)
    axes.legend(loc="upper left", fontsize=8, framealpha=0.85)
    below.bar(centers, bins.counts, width * 0.92, color=FAINT)
    below.set(xlim=(0, 1), xlabel="confidence", ylabel="clips")
    return _png(figure)


def plot_risk_coverage(result: EvaluationResult) -> bytes:
    """Plot the share of wrong answers against the share of answered clips, most confident first."""
    risk = result.risk
    coverage = np.arange(1, len(risk) + 1) / len(risk)
    figure, (axes,) = _figure(5.0, 3.6)
    axes.plot(coverage, risk, color=ACCENT)
    accepted = float(result.accepted.mean())
    if result.threshold and accepted:
        label = f"threshold {result.threshold:g}: {accepted:.1%} answered"
        axes.plot([accepted], [risk_at_coverage(risk, accepted)], "o", color=WARNING, label=label)
        axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.set(xlim=(0, 1), ylim=(0, max(1.1 * float(risk.max()), 0.01)))
    axes.set(xlabel="share of clips answered", ylabel="share of answers wrong")
    axes.set_title(f"{result.name}: area under the curve {risk.mean():.4f}", fontsize=11, color=INK)
    return _png(figure)


PLOTS: dict[str, tuple[str, Callable[[EvaluationResult], bytes]]] = {
    "confusion": ("Confusion matrix, each row divided by the true action's clips", plot_confusion),
    "reliability": ("Reliability: accuracy against confidence", plot_reliability),
    "risk_coverage": ("Risk against coverage", plot_risk_coverage),
}
"""File name of a plot to its caption and function."""


def _figure(width: float, height: float, rows: tuple[int, ...] = (1,)) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes of about `width` by `height` inches, one below the other."""
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
