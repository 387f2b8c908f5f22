"""Reports of an evaluation: text, Markdown with plots, JSON, and a CSV of predictions per model."""

import base64
import csv
import io
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from actrec import features
from actrec.utils.errors import DeviceError
from actrec_models.evaluation.evaluator import Evaluation
from actrec_models.evaluation.metrics import EvaluationResult, risk_at_coverage
from actrec_models.evaluation.protocol import Model

METRIC_NAMES = {
    "accuracy": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_class_accuracy": "mean per-class accuracy",
    "mean_f1": "mean F1 of the classes",
    "mean_average_precision": "mean average precision",
    "ece": "expected calibration error (15 bins)",
    "nll": "negative log-likelihood, nats",
    "brier": "Brier score (0 to 2)",
    "aurc": "area under risk–coverage",
}
"""Key of `EvaluationResult.summary` to its name."""

PERCENTAGES = ("accuracy", "top5", "mean_class_accuracy", "mean_f1", "mean_average_precision")

CLIP_MODE_TEXT = {
    "live": "Of each recording, the window that the live recognizer has when it ends (live).",
    "whole": "Of each recording, windows over all of it, their scores combined as the package defines (whole).",
    "stretched": "Of each recording, one window into which all of it is stretched, however long it is (stretched).",
    "subsequences": "Of each recording, evenly spaced sub-sequences of its frames, every second frame of a long one, "
    "their scores combined as the package defines (subsequences).",
}

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=lambda name: name == "report.html.jinja",
    trim_blocks=True,
    lstrip_blocks=True,
)
"""Templates of the HTML page, which embeds its plots, and of the Markdown page, which links them."""


@dataclass(frozen=True)
class Table:
    """Rows of text cells under a title."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


# -- files -------------------------------------------------------------------------------------------------------------


def check_folder(folder: str | Path) -> None:
    """Raise DeviceError, before hours of scoring, if a report cannot be written to a folder."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DeviceError(f"cannot write the report to {folder}: {error.strerror or error}") from error


def write(evaluation: Evaluation, folder: str | Path) -> None:
    """Write report.html, report.md with plots, figures.json and predictions as CSV; raise DeviceError if it fails."""
    folder, names, sections = Path(folder), file_names(evaluation), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "figures.json").is_file():  # an earlier report's predictions would not match these figures
            for old in folder.glob("predictions_*.csv"):
                old.unlink()
        for result in evaluation.main_results:
            prefix, plots = f"{names[result.name]}_" if len(evaluation.main_results) > 1 else "", []
            for name, image in (draw_all(result) if result.readable.any() else {}).items():
                (folder / f"{prefix}{name}.png").write_bytes(image)
                plots.append((PLOTS[name][0], f"{prefix}{name}.png", base64.b64encode(image).decode()))
            sections.append((result.name, plots, result_tables(result)))
        for result in (*evaluation.results, *evaluation.fused):
            _write_predictions(folder / f"predictions_{names[result.name]}.csv", result)
        figures = json.dumps(as_dict(evaluation), indent=2, allow_nan=False)
        (folder / "figures.json").write_text(figures + "\n", encoding="utf-8")
        for name in ("report.md", "report.html"):
            page = TEMPLATES.get_template(f"{name}.jinja").render(
                title=title(evaluation), facts=facts(evaluation), overview=overview(evaluation), sections=sections
            )
            (folder / name).write_text(page.rstrip() + "\n", encoding="utf-8")
    except OSError as error:
        raise DeviceError(f"cannot write the report to {folder}: {error.strerror or error}") from error


def text(evaluation: Evaluation) -> str:
    """Return the report as aligned text."""
    lines = [" ".join(facts(evaluation)), "", *aligned(overview(evaluation))]
    for result in evaluation.main_results:
        lines += ["", result.name]
        for table in result_tables(result):
            lines += ["", f"{table.title}:", *aligned(table)]
    return "\n".join(lines)


def aligned(table: Table) -> list[str]:
    """Return the lines of a table, columns aligned."""
    first, *others = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    return [
        "  ".join([f"  {row[0]:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], others, strict=True))])
        for row in (table.columns, *table.rows)
    ]


def _write_predictions(path: Path, result: EvaluationResult) -> None:
    """Write a row per clip: truth, prediction, confidence, and every class's probability."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "true", "predicted", "right", "confidence", "accepted", *result.classes])
        for index, clip in enumerate(result.clips):
            predicted = result.classes[result.predicted[index]] if result.readable[index] else "unreadable"
            facts = [clip, result.classes[result.labels[index]], predicted, int(result.correct[index])]
            confidence = [f"{result.confidence[index]:.6f}", int(result.accepted[index])]
            writer.writerow([*facts, *confidence, *(f"{p:.6f}" for p in result.probabilities[index])])


def file_names(evaluation: Evaluation) -> dict[str, str]:
    """Return a unique stem of file names for each result's name, also on file systems that ignore case."""
    names: dict[str, str] = {}
    for result in (*evaluation.results, *evaluation.fused, *evaluation.main_results):
        if result.name not in names:
            stem = unique = re.sub(r"[^\w.-]+", "_", result.name).strip("_")[:50]
            used, number = {other.lower() for other in names.values()}, 2
            while unique.lower() in used:
                unique, number = f"{stem}_{number}", number + 1
            names[result.name] = unique
    return names


# -- content -----------------------------------------------------------------------------------------------------------


def title(evaluation: Evaluation) -> str:
    """Return the report's title."""
    models = evaluation.models
    who = " + ".join(model.name for model in models) if len(models) < 4 else f"{len(models)} models"
    return f"{who} on {evaluation.target.dataset}"


def facts(evaluation: Evaluation) -> list[str]:
    """Return a sentence on each fact about the evaluation."""
    target, models, modes = evaluation.target, evaluation.models, evaluation.clips
    options = ", ".join(f"{name} {value}" for name, value in _dataset_options(evaluation).items())
    lines = [
        f"Dataset {target.dataset}, split {target.split}, {target.part} part{f' ({options})' if options else ''}; the "
        f"official protocol reports {METRIC_NAMES[target.source.measure]}."
    ]
    for mode in dict.fromkeys(modes):
        names = [model.name for model, own in zip(models, modes, strict=True) if own == mode]
        lines.append((f"{', '.join(names)}: " if len(set(modes)) > 1 else "") + CLIP_MODE_TEXT[mode])
    lines += [
        f"{model.name}: {draws} augmented versions of each recording besides, all scores combined; the live recognizer "
        "scores one version, for which confidence and rejection were fitted."
        for model, draws in zip(models, evaluation.draws, strict=True)
        if draws
    ]
    if evaluation.fused:
        summed = "softmaxes" if evaluation.fuse_method == "softmax" else "logits"
        weights = ", ".join(f"{weight:.3g}" for weight in evaluation.weights)
        lines.append(
            f"Fusion of {len(evaluation.weights)} models, {_fused_streams(evaluation)} input streams in all, by the "
            f"weighted sum of their {summed}: {weights}."
        )
    if evaluation.repetitions:
        lines.append(f"{len(evaluation.repetitions)} {evaluation.kind}; ± is the sample standard deviation.")
    return [*lines, *evaluation.notes]


def _stream_count(model: Model) -> int:
    """Return the number of a model's input streams, as on its card."""
    return len(features.modalities(model.package.inputs))


def _fused_streams(evaluation: Evaluation) -> int:
    return sum(map(_stream_count, evaluation.models)) // len(evaluation.fused)


def overview(evaluation: Evaluation) -> Table:
    """Return a row per model, and one for their fusion or mean."""
    fold = ["fold"] if evaluation.folds else []
    columns = ("", "streams", "seed", *fold, "epochs", "clips", "top-1", "95 % interval", "top-5", "per class", "ECE")
    rows = []
    for number, (model, result) in enumerate(zip(evaluation.models, evaluation.results, strict=True)):
        trained, fold = model.package.provenance, [str(evaluation.folds[number])] if evaluation.folds else []
        inputs = f"{_stream_count(model)}: {', '.join(features.modalities(model.package.inputs))}"
        rows.append((model.name, inputs, str(trained.seed), *fold, str(trained.epochs), *_headline(result)))
    for result in evaluation.fused:
        name = "fusion" if len(evaluation.fused) == 1 else f"fusion of {result.name}"
        rows.append((name, str(_fused_streams(evaluation)), "", "", *_headline(result)))
    if spread := evaluation.spread:
        shares = {key: f"{percent(each['mean'])} ± {100 * each['std']:.2f}" for key, each in spread.items()}
        ece = f"{spread['ece']['mean']:.3f} ± {spread['ece']['std']:.3f}"
        blank = [""] * (5 if evaluation.folds else 4)
        cells = [shares["accuracy"], "", shares["top5"], shares["mean_class_accuracy"], ece]
        rows.append((f"mean of {len(evaluation.repetitions)} {evaluation.kind}", *blank, *cells))
    return Table("Models", columns, rows)


def _headline(result: EvaluationResult) -> tuple[str, ...]:
    s = result.summary()
    shares = [percent(s[name]) for name in ("top5", "mean_class_accuracy")]
    return (str(s["clips"]), percent(s["accuracy"]), _interval(s), *shares, decimals(s["ece"]))


def _interval(summary: dict[str, Any]) -> str:
    return f"{percent(summary['accuracy_low'])} to {percent(summary['accuracy_high'])}"


def result_tables(result: EvaluationResult) -> list[Table]:
    """Return the tables about one result that have rows."""
    class_columns = ("class", "clips", "predicted", "recall", "precision", "F1", "average precision")
    keys = ("recall", "precision", "f1", "average_precision")
    unlearned = {result.classes[label] for label in result.labels[~result.learned]} if len(result.learned) else set()
    class_rows = [
        (
            f"{name} (no training clip)" if name in unlearned else name,
            str(row["clips"]),
            str(row["predicted"]),
            *(percent(row[key]) for key in keys),
        )
        for name, row in result.per_class.items()
    ]
    pair_rows = [(p["true"], p["predicted"], str(p["clips"]), percent(p["share"])) for p in result.confused]
    risk_rows = [(percent(float(share)), percent(risk)) for share, risk in result.risk_at_coverages.items()]
    risk_title, risk_columns = "Errors if only the most confident are answered", ("answered", "answers wrong")
    tables = [
        _metrics_table(result),
        Table("Classes", class_columns, class_rows),
        Table("Most confused", ("true", "recognized as", "clips", "of the true class"), pair_rows),
        Table(risk_title, risk_columns, risk_rows),
        Table("Unreadable clips", ("clip", "cause"), list(result.unreadable.items())),
    ]
    return [table for table in tables if table.rows]


def _metrics_table(result: EvaluationResult) -> Table:
    s = result.summary()
    rows = [("clips", f"{s['clips']}, {s['right']} right")]
    rows += [("unreadable clips", f"{s['unreadable']}, counted as wrong")] if s["unreadable"] else []
    rows.append(("95 % interval of top-1 (bootstrap)", _interval(s)))
    for metric, name in METRIC_NAMES.items():
        rows.append((name, percent(s[metric]) if metric in PERCENTAGES else decimals(s[metric])))
        if metric == "accuracy" and "copies" in s:
            value = f"{percent(s['accuracy_without_copies'])} of {s['clips'] - s['copies']}"
            rows.append(("… of clips that are not in the training part too", value))
        if metric == "accuracy" and "clips_of_learned" in s:
            value = f"{percent(s['accuracy_of_learned'])} of {s['clips_of_learned']}"
            rows.append(("… of clips whose class has training clips", value))
    if "threshold" in s:
        rows += [
            ("rejection threshold", f"{s['threshold']:g}"),
            ("rejected as unknown", percent(s["rejected"])),
            ("right and accepted", percent(s["right_and_accepted"])),
            ("right among the accepted", percent(s["accuracy_of_accepted"])),
        ]
    return Table("Metrics", ("metric", "value"), rows)


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return every figure, for `--json`: flat for one model, else a list of models and their fusion or spread."""
    target, options = evaluation.target, _dataset_options(evaluation)
    head: dict[str, Any] = {"dataset": target.dataset, "split": target.split, "part": target.part}
    head |= {"dataset_options": options} if options else {}
    models = [_model_figures(evaluation, index) | result.as_dict() for index, result in enumerate(evaluation.results)]
    head |= {"measure": target.source.measure, "notes": list(evaluation.notes)}
    head |= {"copies_of_training_clips": dict(evaluation.duplicates)} if evaluation.duplicates else {}
    if evaluation.kind == "single":
        return {**head, **models[0]}
    figures: dict[str, Any] = {**head, "kind": evaluation.kind, "models": models}
    if evaluation.fused:
        fused = [{"package": result.name, **result.as_dict()} for result in evaluation.fused]
        figures |= {"fuse": evaluation.fuse_method, "weights": list(evaluation.weights)}
        figures |= {"streams": _fused_streams(evaluation)}
        figures |= {"fusion": fused[0]} if len(fused) == 1 else {"fusions": fused}
    return {**figures, "spread": evaluation.spread} if evaluation.spread else figures


def _dataset_options(evaluation: Evaluation) -> dict[str, Any]:
    """Return the options of the dataset; without the fold if each model has its own."""
    options = evaluation.target.options
    return {name: value for name, value in options.items() if not (evaluation.folds and name == "fold")}


def _model_figures(evaluation: Evaluation, index: int) -> dict[str, Any]:
    model = evaluation.models[index]
    figures: dict[str, Any] = {
        "package": model.name,
        "clips_of_recording": evaluation.clips[index],
        "family": model.package.family,
        "variant": model.package.variant,
        "streams": _stream_count(model),
        "inputs": [spec.modality for spec in model.package.inputs],
        "seed": model.package.provenance.seed,
        "epochs": model.package.provenance.epochs,
    }
    if evaluation.folds:
        figures["fold"] = evaluation.folds[index]
    if evaluation.draws[index]:
        figures["draws"] = evaluation.draws[index]
    if evaluation.unknown and (unknown := evaluation.unknown[index]) is not None:
        figures["unknown_clips"], figures["unknown_rejected"] = unknown
    return figures


def percent(share: float | None) -> str:
    """Format a share with two decimals of a percent, enough to see one clip of ten thousand; "–" for None."""
    return "–" if share is None else f"{100 * share:.2f} %"


def decimals(value: float | None) -> str:
    """Format a value with four decimals; "–" for None."""
    return "–" if value is None else f"{value:.4f}"


# -- plots ------------------------------------------------------------------------------------------------------------

DPI = 130
POINTS_PER_INCH = 72
LONGEST_NAME = 34
SMALLEST_TEXT = 4.5
"""Font size in points; smaller text is omitted."""

INK, ACCENT, WARNING, FAINT = "#1f2933", "#2563a8", "#c2410c", "#9aa5b1"


def draw_all(result: EvaluationResult) -> dict[str, bytes]:
    """Draw every plot of a result, by name; "$" in a label is no formula."""
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a character that the font lacks is drawn as a box
        return {name: draw(result) for name, (_, draw) in PLOTS.items()}


def plot_confusion(result: EvaluationResult) -> bytes:
    """Plot the confusion matrix: a row per true class, colored by the square root of the share of its clips.

    Percentages and class names are written if they fit; otherwise every tenth class is numbered.
    """
    counts = result.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    side = float(np.clip(0.42 * classes, 3.6, 13.5))  # inches of the matrix itself
    cell = side / classes * POINTS_PER_INCH
    figure, (axes,) = _figure(side, side)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    if (size := min(0.72 * cell, 10.0)) >= SMALLEST_TEXT:
        names = [n if len(n) <= LONGEST_NAME else f"{n[: LONGEST_NAME - 1]}…" for n in result.classes]
        axes.set_xticks(range(classes), names, rotation=90, fontsize=size)
        axes.set_yticks(range(classes), names, fontsize=size)
    else:
        axes.set_xticks(range(0, classes, 10))
        axes.set_yticks(range(0, classes, 10))
    axes.tick_params(length=2)
    axes.set(xlabel="recognized as", ylabel="true action")
    axes.set_title(f"{result.name}: {result.accuracy:.1%} of {len(result.labels)} clips", fontsize=11, color=INK)
    if (size := min(0.36 * cell, 9.0)) >= SMALLEST_TEXT:
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            text, color = f"{100 * share:.0f}" if share >= 0.005 else "<1", "white" if share > 0.4 else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    bar = figure.colorbar(image, ax=axes, fraction=0.035, pad=0.02, format=lambda share, _: f"{share:.0%}")
    bar.set_label("share of the true action's clips", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return _png(figure)


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
