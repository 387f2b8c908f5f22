"""Tables of the papers beside our figures, as text, Markdown and JSON; models are scored in their rows."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actrec import datasets
from actrec.utils.errors import ConfigError
from actrec.utils.folders import write_file
from actrec_models.evaluation import repetitions
from actrec_models.evaluation.evaluator import EvalOptions, evaluate_models
from actrec_models.evaluation.protocol import open_model
from actrec_models.evaluation.report import Table, aligned
from actrec_models.training import paper_tables, provenance, recipe
from actrec_models.training.paper_tables import PREFIX, PaperTable


@dataclass(frozen=True)
class RowScore:
    """The figure of a model in one row and column, in %.

    The mean of repetitions has their deviation, and their number and kind, such as "3 folds".
    """

    row: str
    column: str
    model: str
    value: float
    deviation: float | None = None
    repeated: str = ""

    @property
    def text(self) -> str:
        """The figure, with its deviation."""
        return f"{self.value:.1f}" + (f" ± {self.deviation:.1f} ({self.repeated})" if self.repeated else "")


def score(
    table: PaperTable, models: Sequence[str], data_root: str, *, root: str = "", progress: bool = False, **options: Any
) -> list[RowScore]:
    """RowScore models in rows of a table.

    Args:
        table: The table.
        models: `ROW=MODEL` or `ROW:COLUMN=MODEL`: a package, a checkpoint, or the folder of a training of several folds
            or seeds. Without a column, it is scored in each whose dataset and split it was trained for, if no two are
            of the same clips.
        data_root: Folder with a subfolder per dataset; `root`: folder of the dataset itself.
        options: Of `open_model`.

    Raises:
        ConfigError: No such row or column, or the model was trained on other data, or for one of several columns.
        PackageError: A model is missing or damaged.
    """
    found = []
    for text in models:
        place, equals, path = text.partition("=")
        row, _, column = place.partition(":")
        if not (equals and path) or row not in table.rows:
            raise ConfigError(
                f"'{text}' names no row of {table.name}: give ROW=MODEL, where ROW is one of {', '.join(table.rows)}"
            )
        columns = [column] if column else table.columns_of(row)
        experiments = {key: table.experiment(row, key) for key in columns}
        recipes = {key: recipe.read(each.recipe, each.changes) for key, each in experiments.items()}
        summary = repetitions.read_summary(Path(path))
        if summary is None:
            model = open_model(path, **options)
            known = model.package.provenance
            trained, split = known.dataset, known.split
            network = "" if "fused" in known.figures else model.package.family
            data = known.settings.get("dataset_options") if known.settings else None
        else:
            trained, split, network = summary.dataset, summary.split, summary.model
            data = summary.dataset_options if network else None
        fitting = {
            key: own
            for key, own in recipes.items()
            # A model is scored on merged classes; the figures of repetitions are of their own classes.
            if (trained == own.dataset if summary is not None else provenance.same_recordings(trained, own.dataset))
            and split == own.split
            and network in ("", own.model)
            and (data is None or _but_fold(data) == _but_fold(own.dataset_options))
        }
        if not fitting:
            of = [_training(own.model, own.dataset, own.split, own.dataset_options) for own in recipes.values()]
            raise ConfigError(
                f"{path} holds {_training(network, trained, split, data or {})}, but row {place} is of "
                + ", ".join(dict.fromkeys(of))
            )
        by_clips: dict[str, list[str]] = {}
        for key, own in fitting.items():
            by_clips.setdefault(json.dumps([own.dataset, own.split, own.dataset_options]), []).append(key)
        if same := next((keys for keys in by_clips.values() if len(keys) > 1), None):
            raise ConfigError(
                f"columns {', '.join(same)} of row {row} are of the same clips and differ in the training: name one, "
                f"e.g. {row}:{same[0]}={path}"
            )
        for key, own in fitting.items():
            if summary is not None:
                count = f"{len(summary.results)} {summary.kind}s"
                found.append(RowScore(row, key, path, 100 * summary.mean, 100 * summary.deviation, count))
                continue
            asked = EvalOptions(dataset=own.dataset, split=own.split, root=root)
            evaluation = evaluate_models([model], data_root, asked, progress)
            value = evaluation.results[0].summary()[evaluation.target.source.measure]
            found.append(RowScore(row, key, path, 100 * value))
    return found


def _but_fold(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "fold"}


def _training(network: str, dataset: str, split: str, options: Mapping[str, Any]) -> str:
    """Describe a training; `network` is empty if it is unknown or fused of several."""
    known = _but_fold(options)
    return f"{network or 'a training'} on split {split} of {dataset}" + (f" with {known}" if known else "")


def text(tables: Sequence[PaperTable], scores: Sequence[RowScore] = ()) -> str:
    """Return tables as aligned text: the paper's figures of each row, ours under it, and the commands that train it."""
    parts = []
    for table in tables:
        lines = [
            heading(table),
            *([f"Note: {table.note}."] if table.note else []),
            *map(str.rstrip, aligned(figures(table, scores))),
        ]
        parts.append("\n".join([*lines, *_commands(table)]))
    return "\n\n".join(parts)


def heading(table: PaperTable) -> str:
    """Return paper, number and title of a table."""
    return f"{table.paper}, Table {table.name.split(':')[1]}: {table.title}"


def figures(table: PaperTable, scores: Sequence[RowScore] = ()) -> Table:
    """Return a line of the paper's figures for each row, and one for each of our trainings."""
    head = [f"{column.title}, {column.unit}" for column in table.columns.values()]
    elsewhere = any(each.data for row in table.rows.values() for each in row.measured)
    rows: list[tuple[str, ...]] = []
    for key, row in table.rows.items():
        lines = [(f"{key}: {row.title}", _decimals(row.paper), "")]
        lines += [("    this code", _decimals(row.counted), "")] if row.counted else []
        for (how, data), values in paper_tables.merged(row.measured).items():
            lines.append((f"    ours: {how or 'a script'}", values, f"{data}: {values['']}" if data else ""))
        for model in dict.fromkeys(each.model for each in scores if each.row == key):
            own = {each.column: each.text for each in scores if (each.row, each.model) == (key, model)}
            lines.append((f"    {model}", own, ""))
        for name, values, other in lines:
            cells = [values.get(column, "") for column in table.columns]
            rows.append((name, *cells, *((other,) if elsewhere else ())))
    return Table(heading(table), ("row", *head, *(("other data, %",) if elsewhere else ())), rows)


def _decimals(values: dict[str, float]) -> dict[str, str]:
    return {column: paper_tables.decimals(value) for column, value in values.items()}


def _commands(table: PaperTable) -> list[str]:
    """Return a line for each row with its command, columns and initial weights, and the data that are not at hand."""
    lines = ["", f"Train a row: actrec train {PREFIX}{table.name}:ROW:COLUMN --out FOLDER (default: the first column)"]
    for key, row in table.rows.items():
        first, *_ = columns = table.columns_of(key)
        own = table.experiment(key, first)
        remarks = [f"columns {', '.join(columns)}"]
        remarks += [f"--init: {own.init}"] if own.init else []
        folds = datasets.DATASETS.get(recipe.read(own.recipe, own.changes).dataset).folds
        remarks += [f"mean of {folds} folds: --folds all"] if folds else []
        remarks += [f"cannot run: {row.blocked}"] if row.blocked else []
        lines.append(f"  {PREFIX}{table.name}:{key} = {own.command}   # {'; '.join(remarks)}")
    needs = dict.fromkeys(each.needs for each in table.experiments() if each.needs)
    return [*lines, *(f"Needs {each}." for each in needs)]


def as_dict(tables: Sequence[PaperTable], scores: Sequence[RowScore] = ()) -> dict[str, Any]:
    """Return tables for JSON by `PAPER:NUMBER`, with the scores of given models."""
    found = {table.name: paper_tables.as_dict(table) for table in tables}
    for each in scores:
        found[tables[0].name]["rows"][each.row].setdefault("given", []).append(dataclasses.asdict(each))
    return found


def write(folder: Path, tables: Sequence[PaperTable], scores: Sequence[RowScore] = ()) -> None:
    """Write tables.md and tables.json; raise DeviceError if it fails."""
    parts = []
    for table in tables:
        made = figures(table, scores)
        lines = [made.columns, ["---"] * len(made.columns), *made.rows]
        rows = "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)
        parts.append(f"## {made.title}\n\n{rows}\n\n```\n" + "\n".join(_commands(table)).strip() + "\n```\n")
    write_file(folder / "tables.md", "\n".join(parts).encode())
    content = json.dumps(as_dict(tables, scores), indent=2, ensure_ascii=False)
    write_file(folder / "tables.json", f"{content}\n".encode())
