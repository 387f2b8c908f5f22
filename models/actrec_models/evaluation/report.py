"""The report of a study as files: HTML with its pictures in it, Markdown beside its pictures, JSON, and CSV by clip.

A study as tables: what the text, the Markdown and the HTML report all show, in the same words.
"""

import base64
import csv
import html
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actrec import features
from actrec.utils.errors import DeviceError
from actrec_models.evaluation.figures import Report
from actrec_models.evaluation.models import Model
from actrec_models.evaluation.plots import PICTURES, draw
from actrec_models.evaluation.study import Study

NAMES = {
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
"""Figure of `Report.summary` to what it is called."""

SHARES = ("accuracy", "top5", "mean_class_accuracy", "mean_f1", "mean_average_precision")


@dataclass(frozen=True)
class Table:
    """Rows under a heading; a column of numbers is a string already."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def facts(study: Study) -> list[str]:
    """What was scored on what, a sentence each."""
    target, options = study.target, _options(study)
    told = ", ".join(f"{name} {value}" for name, value in options.items())
    part = f"{target.part} part{f' ({told})' if told else ''}"
    protocol = f"the official protocol reports {NAMES[target.source.measure]}"
    lines = [f"Dataset {target.dataset}, split {target.split}, {part}; {protocol}."]
    for mode in dict.fromkeys(study.clips):
        ours = [model.name for model, clips in zip(study.models, study.clips, strict=True) if clips == mode]
        who = f"{', '.join(ours)}: " if len(set(study.clips)) > 1 else ""
        lines.append(who + TAKEN[mode])
    for model, looks in zip(study.models, study.draws, strict=True):
        if looks:
            lines.append(
                f"{model.name}: {looks} looks more at each recording, varied as in its training, all scores combined; "
                "the live recognizer has one, for which confidence and rejection were fitted."
            )
    if study.fused:
        summed = "softmaxes" if study.how == "softmax" else "logits"
        lines.append(
            f"Fusion of {len(study.weights)} models, {_streams_fused(study)} input streams in all, by the weighted sum "
            f"of their {summed}: {', '.join(f'{w:.3g}' for w in study.weights)}."
        )
    if study.repetitions:
        lines.append(f"{len(study.repetitions)} {study.kind}; ± is the sample standard deviation.")
    return [*lines, *study.notes]


TAKEN = {
    "live": "Of each recording, the window that the live recognizer has when it ends (live).",
    "whole": "Of each recording, windows over all of it, their scores combined as the package says (whole).",
    "stretched": "Of each recording, one window into which all of it is stretched, however long it is (stretched).",
}


def streams_of(model: Model) -> int:
    """How many input streams a model has, as its card counts them."""
    return len(features.modalities(model.package.inputs))


def _streams_fused(study: Study) -> int:
    """Input streams of all models that are fused with one another."""
    return sum(map(streams_of, study.models)) // len(study.fused)


def overview(study: Study) -> Table:
    """A row a model, and one for what they are together."""
    columns = ("", "streams", "seed", *(["fold"] if study.folds else []), "epochs", "clips", "top-1", "95 % interval")
    columns += ("top-5", "per class", "ECE")
    rows = []
    for number, (model, report) in enumerate(zip(study.models, study.reports, strict=True)):
        of, fold = model.package.provenance, [str(study.folds[number])] if study.folds else []
        inputs = f"{streams_of(model)}: {', '.join(features.modalities(model.package.inputs))}"
        rows.append((model.name, inputs, str(of.seed), *fold, str(of.epochs), *_headline(report)))
    for report in study.fused:
        name = "fusion" if len(study.fused) == 1 else f"fusion of {report.name}"
        rows.append((name, str(_streams_fused(study)), "", "", *_headline(report)))
    if study.spread:
        rows.append(_spread_row(study))
    return Table("Models", columns, rows)


def _headline(report: Report) -> tuple[str, ...]:
    s = report.summary()
    return (
        str(s["clips"]),
        percent(s["accuracy"]),
        f"{percent(s['accuracy_low'])} to {percent(s['accuracy_high'])}",
        percent(s["top5"]),
        percent(s["mean_class_accuracy"]),
        number(s["ece"]),
    )


def _spread_row(study: Study) -> tuple[str, ...]:
    def cell(figure: str) -> str:
        mean, std = study.spread[figure]["mean"], study.spread[figure]["std"]
        return f"{percent(mean)} ± {100 * std:.2f}" if figure in SHARES else f"{mean:.3f} ± {std:.3f}"

    blank = [""] * (4 if study.folds else 3)
    cells = [cell("accuracy"), "", cell("top5"), cell("mean_class_accuracy"), cell("ece")]
    return (f"mean of {len(study.repetitions)} {study.kind}", *blank, "", *cells)


def figures(report: Report) -> Table:
    """The figures that are one number each."""
    summary = report.summary()
    rows = [("clips", f"{summary['clips']}, {summary['right']} right")]
    if summary["unreadable"]:
        rows.append(("clips that could not be read", f"{summary['unreadable']}, counted as wrong"))
    low, high = summary["accuracy_low"], summary["accuracy_high"]
    rows.append(("95 % interval of top-1 (bootstrap)", f"{percent(low)} to {percent(high)}"))
    rows += [
        (name, percent(summary[figure]) if figure in SHARES else number(summary[figure]))
        for figure, name in NAMES.items()
    ]
    if "copies" in summary:
        value = f"{percent(summary['accuracy_without_copies'])} of {summary['clips'] - summary['copies']}"
        rows.insert(3 + bool(summary["unreadable"]), ("… of clips that the training part does not hold too", value))
    if "threshold" in summary:
        accepted = summary["accuracy_of_accepted"]
        rows += [
            ("rejection threshold", f"{summary['threshold']:g}"),
            ("rejected as unknown", percent(summary["rejected"])),
            ("right and accepted", percent(summary["right_and_accepted"])),
            ("right of those accepted", percent(accepted)),
        ]
    return Table("Figures", ("figure", "value"), rows)


def classes(report: Report) -> Table:
    """Recall, precision, F1 and average precision of each class."""
    columns = ("class", "clips", "predicted", "recall", "precision", "F1", "average precision")
    keys = ("recall", "precision", "f1", "average_precision")
    rows = [
        (name, str(row["clips"]), str(row["predicted"]), *(percent(row[key]) for key in keys))
        for name, row in report.per_class.items()
    ]
    return Table("Classes", columns, rows)


def pairs(report: Report) -> Table:
    """The most confused pairs."""
    rows = [(p["true"], p["predicted"], str(p["clips"]), percent(p["share"])) for p in report.pairs]
    return Table("Most confused", ("true", "recognized as", "clips", "of the true class"), rows)


def coverage(report: Report) -> Table:
    """Errors among the most confident clips."""
    risks = report.as_dict()["risk_at_coverage"]
    return Table(
        "Errors when only the most confident are answered",
        ("share answered", "share of answers wrong"),
        [(percent(float(share)), percent(risk)) for share, risk in risks.items()],
    )


def unread(report: Report) -> Table:
    """What could not be read, and why."""
    return Table("Clips that could not be read", ("clip", "why"), list(report.unread.items()))


def of_report(report: Report) -> list[Table]:
    """Every table about one report that has rows."""
    tables = [figures(report), classes(report), pairs(report), coverage(report), unread(report)]
    return [table for table in tables if table.rows]


def as_dict(study: Study) -> dict[str, Any]:
    """Every figure, for `--json`: flat for one model; else the models in a list, and what they are together."""
    target = study.target
    options = _options(study)
    head: dict[str, Any] = {"dataset": target.dataset, "split": target.split, "part": target.part}
    head |= {"dataset_options": options} if options else {}
    models = [
        {"package": model.name, "clips_of_recording": mode, **_origin(study, number), **report.as_dict()}
        for number, (model, mode, report) in enumerate(zip(study.models, study.clips, study.reports, strict=True))
    ]
    head |= {"measure": target.source.measure, "notes": list(study.notes)}
    head |= {"copies_of_training_clips": dict(study.copies)} if study.copies else {}
    if study.kind == "single":
        return {**head, **models[0]}
    made: dict[str, Any] = {**head, "kind": study.kind, "models": models}
    if study.fused:
        fused = [{"package": report.name, **report.as_dict()} for report in study.fused]
        made |= {"fuse": study.how, "weights": list(study.weights), "streams": _streams_fused(study)}
        made |= {"fusion": fused[0]} if len(fused) == 1 else {"fusions": fused}
    return {**made, "spread": study.spread} if study.spread else made


def _options(study: Study) -> dict[str, Any]:
    """Of the dataset; without the fold where each model has its own."""
    return {name: value for name, value in study.target.options.items() if not (study.folds and name == "fold")}


def _origin(study: Study, index: int) -> dict[str, Any]:
    package = study.models[index].package
    fold = {"fold": study.folds[index]} if study.folds else {}
    draws = {"draws": study.draws[index]} if study.draws[index] else {}
    unknown = study.unknown[index] if study.unknown else None
    others = {"unknown_clips": unknown.clips, "unknown_rejected": unknown.rejected} if unknown else {}
    return {
        "family": package.family,
        "variant": package.variant,
        "streams": streams_of(study.models[index]),
        "inputs": [spec.modality for spec in package.inputs],
        "seed": package.provenance.seed,
        "epochs": package.provenance.epochs,
        **fold,
        **draws,
        **others,
    }


def percent(share: float | None) -> str:
    """A share to a hundredth of a per cent, which tells one clip of ten thousand; "–" for none."""
    return "–" if share is None else f"{100 * share:.2f} %"


def number(value: float | None) -> str:
    """Four decimals; "–" for none."""
    return "–" if value is None else f"{value:.4f}"


STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #8885; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; } figure { margin: 1.5rem 0; } figcaption { font-size: 0.9rem; }
"""


def check(folder: str | Path) -> None:
    """Makes sure, before hours of scoring, that a report can be written.

    Raises:
        DeviceError: The folder cannot be made or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DeviceError(f"cannot write the report to {folder}: {error.strerror or error}") from error


def write(study: Study, folder: str | Path) -> Path:
    """Writes the report of a study; files of an earlier one are replaced.

    Args:
        study: What to report.
        folder: Made where it is not there: report.html, report.md, figures.json, and for each model a CSV of its
            predictions; the pictures of report.md beside them.

    Returns:
        The HTML file.

    Raises:
        DeviceError: The folder cannot be written.
    """
    folder = Path(folder)
    pictures, stems = [_pictures(report) for report in study.main], slugs(study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for report, drawn in zip(study.main, pictures, strict=True):
            for name, content in drawn.items():
                (folder / f"{_slug(study, report)}{name}.png").write_bytes(content)
        if (folder / "figures.json").is_file():  # predictions of other models, beside these figures, would mislead
            for old in folder.glob("predictions_*.csv"):
                old.unlink()
        for report in (*study.reports, *study.fused):
            _predictions(folder / f"predictions_{stems[report.name]}.csv", report)
        figures = json.dumps(as_dict(study), indent=2, allow_nan=False)
        (folder / "figures.json").write_text(figures + "\n", encoding="utf-8")
        (folder / "report.md").write_text(markdown(study), encoding="utf-8")
        page = folder / "report.html"
        page.write_text(_html(study, pictures), encoding="utf-8")
    except OSError as error:
        raise DeviceError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return page


def text(study: Study) -> str:
    """What the command prints."""
    lines = [" ".join(facts(study)), "", *_aligned(overview(study))]
    for report in study.main:
        lines += ["", report.name]
        for table in of_report(report):
            lines += ["", f"{table.title}:", *_aligned(table)]
    return "\n".join(lines)


def markdown(study: Study) -> str:
    """The report; pictures are linked, not in it."""
    lines = [
        f"# {title(study)}",
        "",
        *(f"{fact}\n" for fact in facts(study)),
        *_markdown(overview(study)),
    ]
    for report in study.main:
        lines += ["", f"## {report.name}", ""]
        for name, (caption, _) in PICTURES.items():
            lines += [f"![{caption}]({_slug(study, report)}{name}.png)", ""]
        for table in of_report(report):
            lines += [f"### {table.title}", "", *_markdown(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def title(study: Study) -> str:
    """Of the report."""
    who = " + ".join(model.name for model in study.models) if len(study.models) < 4 else f"{len(study.models)} models"
    return f"{who} on {study.target.dataset}"


def slugs(study: Study) -> dict[str, str]:
    """The name of each report to a part of files' names that no other one has, whatever a file system makes of case."""
    made: dict[str, str] = {}
    for name in dict.fromkeys(report.name for report in (*study.reports, *study.fused, *study.main)):
        stem = re.sub(r"[^\w.-]+", "_", name).strip("_")[:50]
        others, number = {other.lower() for other in made.values()}, 2
        made[name] = stem
        while made[name].lower() in others:
            made[name], number = f"{stem}_{number}", number + 1
    return made


def _slug(study: Study, report: Report) -> str:
    """What the pictures of several reports are told apart by."""
    return f"{slugs(study)[report.name]}_" if len(study.main) > 1 else ""


def _pictures(report: Report) -> dict[str, bytes]:
    if not report.read.any():
        return {}
    return draw(report)


def _predictions(path: Path, report: Report) -> None:
    """A row a clip: truth, prediction, confidence, and every class's probability."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "true", "predicted", "right", "confidence", "accepted", *report.classes])
        for index, clip in enumerate(report.clips):
            known = report.read[index]
            writer.writerow(
                [
                    clip,
                    report.classes[report.labels[index]],
                    report.classes[report.predicted[index]] if known else "unreadable",
                    int(report.right[index]),
                    f"{report.confidence[index]:.6f}",
                    int(report.accepted[index]),
                    *(f"{p:.6f}" for p in report.probabilities[index]),
                ]
            )


def _aligned(table: Table) -> list[str]:
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    return [_line(row, widths) for row in (table.columns, *table.rows)]


def _line(row: Iterable[str], widths: list[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    return f"  {first[0]:<{first[1]}}  " + "  ".join(f"{cell:>{width}}" for cell, width in others)


def _markdown(table: Table) -> list[str]:
    rows = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _html(study: Study, pictures: list[dict[str, bytes]]) -> str:
    name = html.escape(title(study))
    parts = [f"<h1>{name}</h1>", *(f"<p>{html.escape(fact)}</p>" for fact in facts(study))]
    parts.append(_html_table(overview(study)))
    for report, drawn in zip(study.main, pictures, strict=True):
        parts.append(f"<h2>{html.escape(report.name)}</h2>")
        parts += [_html_picture(PICTURES[key][0], content) for key, content in drawn.items()]
        for table in of_report(report):
            parts += [f"<h3>{html.escape(table.title)}</h3>", _html_table(table)]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _html_picture(caption: str, content: bytes) -> str:
    encoded = base64.b64encode(content).decode()
    words = html.escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{encoded}"><figcaption>{words}</figcaption></figure>'


def _html_table(table: Table) -> str:
    def row(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = "\n".join(row(cells, "td") for cells in table.rows)
    return f'<div class="wide"><table>{row(table.columns, "th")}\n{rows}</table></div>'
