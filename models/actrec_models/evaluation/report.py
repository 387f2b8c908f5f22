"""Reports of a study: text, HTML with embedded plots, Markdown beside its plots, JSON, and a CSV of predictions."""

import base64
import csv
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from actrec import features
from actrec.utils.errors import DeviceError
from actrec_models.evaluation.metrics import EvaluationResult
from actrec_models.evaluation.models import Model
from actrec_models.evaluation.plots import PLOTS, draw_all
from actrec_models.evaluation.study import Study

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
}

TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
{% macro show(table) %}
<div class="wide"><table><tr>{% for cell in table.columns %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endmacro %}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #8885; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; } figure { margin: 1.5rem 0; } figcaption { font-size: 0.9rem; }
</style></head>
<body>
<h1>{{ title }}</h1>
{% for fact in facts %}
<p>{{ fact }}</p>
{% endfor %}
{{ show(overview) }}
{% for section in sections %}
<h2>{{ section.name }}</h2>
{% for caption, image in section.plots %}
<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ image }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% for table in section.tables %}
<h3>{{ table.title }}</h3>
{{ show(table) }}
{% endfor %}
{% endfor %}
</body></html>
""")


@dataclass(frozen=True)
class Table:
    """Rows of text cells under a title."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


# -- files -------------------------------------------------------------------------------------------------------------


def check_folder(folder: str | Path) -> None:
    """Check, before hours of scoring, that a report can be written.

    Raises:
        DeviceError: The folder cannot be created or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DeviceError(f"cannot write the report to {folder}: {error.strerror or error}") from error


def write(study: Study, folder: str | Path) -> Path:
    """Write a study's report and replace the files of an earlier one.

    Args:
        study: The study.
        folder: Created if missing: report.html, report.md with its plots, figures.json, and a CSV of predictions per
            model.

    Returns:
        The HTML file.

    Raises:
        DeviceError: The folder cannot be written.
    """
    folder = Path(folder)
    plots = [draw_all(result) if result.readable.any() else {} for result in study.main_results]
    names = file_names(study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for result, drawn in zip(study.main_results, plots, strict=True):
            for name, content in drawn.items():
                (folder / _plot_file(study, result, name)).write_bytes(content)
        if (folder / "figures.json").is_file():  # an earlier report's predictions would not match these figures
            for old in folder.glob("predictions_*.csv"):
                old.unlink()
        for result in (*study.results, *study.fused):
            _write_predictions(folder / f"predictions_{names[result.name]}.csv", result)
        figures = json.dumps(as_dict(study), indent=2, allow_nan=False)
        (folder / "figures.json").write_text(figures + "\n", encoding="utf-8")
        (folder / "report.md").write_text(markdown(study), encoding="utf-8")
        page = folder / "report.html"
        page.write_text(_html(study, plots), encoding="utf-8")
    except OSError as error:
        raise DeviceError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return page


def text(study: Study) -> str:
    """Return the report as aligned text."""
    lines = [" ".join(facts(study)), "", *_aligned(overview(study))]
    for result in study.main_results:
        lines += ["", result.name]
        for table in result_tables(result):
            lines += ["", f"{table.title}:", *_aligned(table)]
    return "\n".join(lines)


def _aligned(table: Table) -> list[str]:
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    return [_aligned_row(row, widths) for row in (table.columns, *table.rows)]


def _aligned_row(row: Iterable[str], widths: list[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    return f"  {first[0]:<{first[1]}}  " + "  ".join(f"{cell:>{width}}" for cell, width in others)


def markdown(study: Study) -> str:
    """Return the report as Markdown that links its plots."""
    lines = [f"# {title(study)}", "", *(f"{fact}\n" for fact in facts(study)), *_markdown_table(overview(study))]
    for result in study.main_results:
        lines += ["", f"## {result.name}", ""]
        for name, (caption, _) in PLOTS.items():
            lines += [f"![{caption}]({_plot_file(study, result, name)})", ""]
        for table in result_tables(result):
            lines += [f"### {table.title}", "", *_markdown_table(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(table: Table) -> list[str]:
    rows = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _html(study: Study, plots: list[dict[str, bytes]]) -> str:
    sections = [
        {
            "name": result.name,
            "plots": [(PLOTS[name][0], base64.b64encode(content).decode()) for name, content in drawn.items()],
            "tables": result_tables(result),
        }
        for result, drawn in zip(study.main_results, plots, strict=True)
    ]
    return TEMPLATE.render(title=title(study), facts=facts(study), overview=overview(study), sections=sections) + "\n"


def _write_predictions(path: Path, result: EvaluationResult) -> None:
    """Write a row per clip: truth, prediction, confidence, and every class's probability."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "true", "predicted", "right", "confidence", "accepted", *result.classes])
        for index, clip in enumerate(result.clips):
            writer.writerow(
                [
                    clip,
                    result.classes[result.labels[index]],
                    result.classes[result.predicted[index]] if result.readable[index] else "unreadable",
                    int(result.correct[index]),
                    f"{result.confidence[index]:.6f}",
                    int(result.accepted[index]),
                    *(f"{p:.6f}" for p in result.probabilities[index]),
                ]
            )


def file_names(study: Study) -> dict[str, str]:
    """Return a unique stem of file names for each result's name, also on file systems that ignore case."""
    names: dict[str, str] = {}
    for name in dict.fromkeys(result.name for result in (*study.results, *study.fused, *study.main_results)):
        stem = re.sub(r"[^\w.-]+", "_", name).strip("_")[:50]
        used, number = {other.lower() for other in names.values()}, 2
        names[name] = stem
        while names[name].lower() in used:
            names[name], number = f"{stem}_{number}", number + 1
    return names


def _plot_file(study: Study, result: EvaluationResult, plot: str) -> str:
    prefix = f"{file_names(study)[result.name]}_" if len(study.main_results) > 1 else ""
    return f"{prefix}{plot}.png"


# -- content -----------------------------------------------------------------------------------------------------------


def title(study: Study) -> str:
    """Return the report's title."""
    who = " + ".join(model.name for model in study.models) if len(study.models) < 4 else f"{len(study.models)} models"
    return f"{who} on {study.target.dataset}"


def facts(study: Study) -> list[str]:
    """Return a sentence on each fact about the evaluation."""
    target, options = study.target, _dataset_options(study)
    given = ", ".join(f"{name} {value}" for name, value in options.items())
    part = f"{target.part} part{f' ({given})' if given else ''}"
    protocol = f"the official protocol reports {METRIC_NAMES[target.source.measure]}"
    lines = [f"Dataset {target.dataset}, split {target.split}, {part}; {protocol}."]
    for mode in dict.fromkeys(study.clips):
        names = [model.name for model, clips in zip(study.models, study.clips, strict=True) if clips == mode]
        lines.append((f"{', '.join(names)}: " if len(set(study.clips)) > 1 else "") + CLIP_MODE_TEXT[mode])
    for model, draws in zip(study.models, study.draws, strict=True):
        if draws:
            lines.append(
                f"{model.name}: {draws} augmented versions of each recording besides, all scores combined; the live "
                "recognizer scores one version, for which confidence and rejection were fitted."
            )
    if study.fused:
        summed = "softmaxes" if study.fuse_method == "softmax" else "logits"
        lines.append(
            f"Fusion of {len(study.weights)} models, {_fused_streams(study)} input streams in all, by the weighted sum "
            f"of their {summed}: {', '.join(f'{w:.3g}' for w in study.weights)}."
        )
    if study.repetitions:
        lines.append(f"{len(study.repetitions)} {study.kind}; ± is the sample standard deviation.")
    return [*lines, *study.notes]


def stream_count(model: Model) -> int:
    """Return the number of a model's input streams, as on its card."""
    return len(features.modalities(model.package.inputs))


def _fused_streams(study: Study) -> int:
    return sum(map(stream_count, study.models)) // len(study.fused)


def overview(study: Study) -> Table:
    """Return a row per model, and one for their fusion or mean."""
    columns = ("", "streams", "seed", *(["fold"] if study.folds else []), "epochs", "clips", "top-1", "95 % interval")
    columns += ("top-5", "per class", "ECE")
    rows = []
    for number, (model, result) in enumerate(zip(study.models, study.results, strict=True)):
        trained, fold = model.package.provenance, [str(study.folds[number])] if study.folds else []
        inputs = f"{stream_count(model)}: {', '.join(features.modalities(model.package.inputs))}"
        rows.append((model.name, inputs, str(trained.seed), *fold, str(trained.epochs), *_headline(result)))
    for result in study.fused:
        name = "fusion" if len(study.fused) == 1 else f"fusion of {result.name}"
        rows.append((name, str(_fused_streams(study)), "", "", *_headline(result)))
    if study.spread:
        rows.append(_spread_row(study))
    return Table("Models", columns, rows)


def _headline(result: EvaluationResult) -> tuple[str, ...]:
    s = result.summary()
    return (
        str(s["clips"]),
        percent(s["accuracy"]),
        f"{percent(s['accuracy_low'])} to {percent(s['accuracy_high'])}",
        percent(s["top5"]),
        percent(s["mean_class_accuracy"]),
        decimals(s["ece"]),
    )


def _spread_row(study: Study) -> tuple[str, ...]:
    def cell(metric: str) -> str:
        mean, std = study.spread[metric]["mean"], study.spread[metric]["std"]
        return f"{percent(mean)} ± {100 * std:.2f}" if metric in PERCENTAGES else f"{mean:.3f} ± {std:.3f}"

    blank = [""] * (4 if study.folds else 3)
    cells = [cell("accuracy"), "", cell("top5"), cell("mean_class_accuracy"), cell("ece")]
    return (f"mean of {len(study.repetitions)} {study.kind}", *blank, "", *cells)


def result_tables(result: EvaluationResult) -> list[Table]:
    """Return every table about one result that has rows."""
    class_columns = ("class", "clips", "predicted", "recall", "precision", "F1", "average precision")
    keys = ("recall", "precision", "f1", "average_precision")
    class_rows = [
        (name, str(row["clips"]), str(row["predicted"]), *(percent(row[key]) for key in keys))
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
    if s["unreadable"]:
        rows.append(("unreadable clips", f"{s['unreadable']}, counted as wrong"))
    interval = f"{percent(s['accuracy_low'])} to {percent(s['accuracy_high'])}"
    rows.append(("95 % interval of top-1 (bootstrap)", interval))
    for metric, name in METRIC_NAMES.items():
        rows.append((name, percent(s[metric]) if metric in PERCENTAGES else decimals(s[metric])))
        if metric == "accuracy" and "copies" in s:
            value = f"{percent(s['accuracy_without_copies'])} of {s['clips'] - s['copies']}"
            rows.append(("… of clips that are not in the training part too", value))
    if "threshold" in s:
        rows += [
            ("rejection threshold", f"{s['threshold']:g}"),
            ("rejected as unknown", percent(s["rejected"])),
            ("right and accepted", percent(s["right_and_accepted"])),
            ("right among the accepted", percent(s["accuracy_of_accepted"])),
        ]
    return Table("Metrics", ("metric", "value"), rows)


def as_dict(study: Study) -> dict[str, Any]:
    """Return every figure, for `--json`: flat for one model, else a list of models and their fusion or spread."""
    target, options = study.target, _dataset_options(study)
    head: dict[str, Any] = {"dataset": target.dataset, "split": target.split, "part": target.part}
    head |= {"dataset_options": options} if options else {}
    models = [
        {"package": model.name, "clips_of_recording": mode, **_model_figures(study, number), **result.as_dict()}
        for number, (model, mode, result) in enumerate(zip(study.models, study.clips, study.results, strict=True))
    ]
    head |= {"measure": target.source.measure, "notes": list(study.notes)}
    head |= {"copies_of_training_clips": dict(study.duplicates)} if study.duplicates else {}
    if study.kind == "single":
        return {**head, **models[0]}
    figures: dict[str, Any] = {**head, "kind": study.kind, "models": models}
    if study.fused:
        fused = [{"package": result.name, **result.as_dict()} for result in study.fused]
        figures |= {"fuse": study.fuse_method, "weights": list(study.weights), "streams": _fused_streams(study)}
        figures |= {"fusion": fused[0]} if len(fused) == 1 else {"fusions": fused}
    return {**figures, "spread": study.spread} if study.spread else figures


def _dataset_options(study: Study) -> dict[str, Any]:
    """Return the options of the dataset; without the fold if each model has its own."""
    return {name: value for name, value in study.target.options.items() if not (study.folds and name == "fold")}


def _model_figures(study: Study, index: int) -> dict[str, Any]:
    package = study.models[index].package
    figures: dict[str, Any] = {
        "family": package.family,
        "variant": package.variant,
        "streams": stream_count(study.models[index]),
        "inputs": [spec.modality for spec in package.inputs],
        "seed": package.provenance.seed,
        "epochs": package.provenance.epochs,
    }
    if study.folds:
        figures["fold"] = study.folds[index]
    if study.draws[index]:
        figures["draws"] = study.draws[index]
    if study.unknown and (unknown := study.unknown[index]) is not None:
        figures |= {"unknown_clips": unknown.clips, "unknown_rejected": unknown.rejected}
    return figures


def percent(share: float | None) -> str:
    """Format a share with two decimals of a percent, enough to see one clip of ten thousand; "–" for None."""
    return "–" if share is None else f"{100 * share:.2f} %"


def decimals(value: float | None) -> str:
    """Format a value with four decimals; "–" for None."""
    return "–" if value is None else f"{value:.4f}"
