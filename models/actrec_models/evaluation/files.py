"""The report of a study as files: HTML with its pictures in it, Markdown beside its pictures, JSON, and CSV by clip."""

import base64
import csv
import html
import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from actrec.errors import DeviceError
from actrec_models.evaluation import tables
from actrec_models.evaluation.pictures import PICTURES, draw
from actrec_models.evaluation.report import Report
from actrec_models.evaluation.study import Study
from actrec_models.evaluation.tables import Table

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
        figures = json.dumps(tables.as_dict(study), indent=2, allow_nan=False)
        (folder / "figures.json").write_text(figures + "\n", encoding="utf-8")
        (folder / "report.md").write_text(markdown(study), encoding="utf-8")
        page = folder / "report.html"
        page.write_text(_html(study, pictures), encoding="utf-8")
    except OSError as error:
        raise DeviceError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return page


def text(study: Study) -> str:
    """What the command prints."""
    lines = [" ".join(tables.facts(study)), "", *_aligned(tables.overview(study))]
    for report in study.main:
        lines += ["", report.name]
        for table in tables.of_report(report):
            lines += ["", f"{table.title}:", *_aligned(table)]
    return "\n".join(lines)


def markdown(study: Study) -> str:
    """The report; pictures are linked, not in it."""
    lines = [
        f"# {title(study)}",
        "",
        *(f"{fact}\n" for fact in tables.facts(study)),
        *_markdown(tables.overview(study)),
    ]
    for report in study.main:
        lines += ["", f"## {report.name}", ""]
        for name, (caption, _) in PICTURES.items():
            lines += [f"![{caption}]({_slug(study, report)}{name}.png)", ""]
        for table in tables.of_report(report):
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
    parts = [f"<h1>{name}</h1>", *(f"<p>{html.escape(fact)}</p>" for fact in tables.facts(study))]
    parts.append(_html_table(tables.overview(study)))
    for report, drawn in zip(study.main, pictures, strict=True):
        parts.append(f"<h2>{html.escape(report.name)}</h2>")
        parts += [_html_picture(PICTURES[key][0], content) for key, content in drawn.items()]
        for table in tables.of_report(report):
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
