"""The papers' results tables: each row as a recipe with changes, beside the paper's figures and ours.

The tables are in `models/recipes/papers/tables.yaml`. An experiment is one row in one column (a dataset and split),
called `papers/PAPER:TABLE:ROW:COLUMN`; without a column it is the row's first.
"""

import dataclasses
import difflib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec.utils.folders import installed, read_file

PLACE = "models/recipes"
FILE = "papers/tables.yaml"
PREFIX = "papers/"


@dataclass(frozen=True)
class Measurement:
    """A figure of this project, with its source: a figure's name in benchmarks/results, or a package of the zoo."""

    value: float
    deviation: float | None = None
    column: str = ""  # if it is of the paper's data
    data: str = ""  # else of these
    recipe: str = ""
    note: str = ""
    figure: str = ""
    package: str = ""

    @property
    def text(self) -> str:
        """The figure, with its deviation."""
        return decimals(self.value) + ("" if self.deviation is None else f" ± {self.deviation:g}")

    @property
    def how(self) -> str:
        """Recipe and note."""
        return "; ".join(filter(None, (self.recipe, self.note)))


@dataclass(frozen=True)
class Column:
    """A column: a protocol on `data`, with its recipe and fields; or, without data, a size or a mean."""

    title: str
    data: str = ""
    recipe: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    init: str = ""
    unit: str = "%"


@dataclass(frozen=True)
class Row:
    """A row: the fields that it changes, and its figures by column."""

    title: str
    recipe: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    init: str = ""
    blocked: str = ""
    paper: dict[str, float] = field(default_factory=dict)
    counted: dict[str, float] = field(default_factory=dict)
    measured: tuple[Measurement, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """One row in one column.

    Attributes:
        name: `papers/PAPER:TABLE:ROW:COLUMN`.
        recipe: Name of a shipped recipe.
        changes: Fields that differ from it, as `actrec train --set` takes them.
        init: Initial weights that it starts from, in words; "" for random ones.
        needs: Data that are not public or not at hand, in words; "" if they are.
        blocked: Reason why it cannot run even with the data; "" if it can.
    """

    name: str
    recipe: str
    changes: dict[str, Any]
    init: str = ""
    needs: str = ""
    blocked: str = ""

    @property
    def command(self) -> str:
        """The command without the table: recipe and changes."""
        changes = [f"--set {shlex.quote(f'{key}={_flow(value)}')}" for key, value in self.changes.items()]
        return " ".join(["actrec train", self.recipe, *changes])


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper.

    Attributes:
        name: `PAPER:NUMBER`.
        paper: Title, authors and year of the paper.
        title: Subject of the table.
        note: Remark on the figures.
        datasets: What rows of a dataset need, in words.
    """

    name: str
    paper: str
    title: str
    columns: Mapping[str, Column]
    rows: Mapping[str, Row]
    note: str = ""
    datasets: Mapping[str, str] = field(default_factory=dict)

    def columns_of(self, row: str) -> list[str]:
        """Return the columns in which a row can be trained: the ones with its figures, or all if it has none."""
        trained = [key for key, column in self.columns.items() if column.data]
        return [key for key in trained if key in self.rows[row].paper] or trained

    def experiment(self, row: str, column: str = "") -> Experiment:
        """Return a row in a column; raise ConfigError, which lists the known ones, if there is none."""
        if row not in self.rows:
            raise ConfigError(
                f"{self.name} has {f'no row {row!r}' if row else 'several rows: name one'}: "
                f"{_choose(row, [f'{PREFIX}{self.name}:{key}' for key in self.rows], self.name)}"
            )
        columns = self.columns_of(row)
        if column and column not in columns:
            raise ConfigError(f"{self.name}:{row} has no column '{column}' to train; it has: {', '.join(columns)}")
        column = column or columns[0]
        own, where = self.rows[row], self.columns[column]
        return Experiment(
            f"{PREFIX}{self.name}:{row}:{column}", own.recipe or where.recipe, {**where.set, **own.set},
            own.init or where.init, self.datasets[where.data], own.blocked,
        )  # fmt: skip

    def experiments(self) -> list[Experiment]:
        """Return every row in every column."""
        return [self.experiment(row, column) for row in self.rows for column in self.columns_of(row)]


def read(path: Path) -> dict[str, PaperTable]:
    """Read tables by `PAPER:NUMBER`.

    Raises:
        ConfigError: The file is missing, not YAML, or has unknown keys.
    """
    try:
        content = config.parse_yaml(read_file(path).decode())
        needs = content.pop("datasets")
        return {
            f"{paper}:{number}": _table(f"{paper}:{number}", entry["title"], table, needs)
            for paper, entry in content.items()
            for number, table in entry["tables"].items()
        }
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        cause = (str(error).splitlines() or ["it is empty"])[0]
        raise ConfigError(f"the papers' tables '{path}' cannot be read: {cause}") from error


def _table(name: str, paper: str, table: Mapping[str, Any], needs: Mapping[str, str]) -> PaperTable:
    columns = {str(key): config.build(Column, value) for key, value in table["columns"].items()}
    rows = {str(key): _row(value) for key, value in table["rows"].items()}
    return PaperTable(name, paper, table["title"], columns, rows, table.get("note", ""), needs)


def _row(entry: Mapping[str, Any]) -> Row:
    figures = {name: {str(key): value for key, value in entry.get(name, {}).items()} for name in ("paper", "counted")}
    measured = [Measurement(**{**each, "column": str(each.get("column", ""))}) for each in entry.get("measured", ())]
    return Row(**{**entry, **figures, "measured": tuple(measured)})


@cache
def tables() -> dict[str, PaperTable]:
    """Return the shipped tables by `PAPER:NUMBER`."""
    places = [place / FILE for place in installed(PLACE)]
    return read(next((path for path in places if path.is_file()), places[-1]))


def find(name: str) -> list[PaperTable]:
    """Return the table `PAPER:NUMBER`, or all tables of `PAPER`; raise ConfigError, which lists the known ones."""
    known, wanted = tables(), str(name).removeprefix(PREFIX)
    if wanted in known:
        return [known[wanted]]
    if of_paper := [table for table in known.values() if table.name.split(":")[0] == wanted]:
        return of_paper
    paper = wanted.split(":")[0]
    listed = [key for key in known if key.split(":")[0] == paper] or list(known)
    raise ConfigError(f"there is no table '{wanted}'; known: {', '.join(listed)}")


def find_experiment(name: str | Path) -> Experiment | None:
    """Return the experiment of a name `papers/PAPER:TABLE:ROW[:COLUMN]`; None if it is no such name, but a recipe's.

    Raises:
        ConfigError: There is no such table, row or column; the known ones are listed.
    """
    text = Path(name).as_posix().removeprefix(f"{PLACE}/")
    if ":" not in text or Path(name).is_file() or not text.startswith(PREFIX):
        return None
    paper, number, row, column, *more = [*text.removeprefix(PREFIX).split(":"), "", "", ""][:5]
    if more and more[0]:
        raise ConfigError(f"'{text}' has too many parts, expected {PREFIX}PAPER:TABLE:ROW:COLUMN")
    (table,) = find(f"{paper}:{number}")
    return table.experiment(row, column)


def _choose(wanted: str, names: list[str], table: str) -> str:
    rows = [name.rpartition(":")[2] for name in names]
    similar = difflib.get_close_matches(wanted, rows, n=1, cutoff=0.6) if wanted else []
    hint = f"did you mean {similar[0]}? " if similar else ""
    return f"{hint}rows: {', '.join(rows)} (actrec train {PREFIX}{table}:{rows[0]}; actrec eval --table {table})"


def _flow(value: Any) -> str:
    """Return a value as `config.parse_pairs` reads it."""
    if isinstance(value, str):
        return value if config.parse_pairs([f"text={value}"], "")["text"] == value else json.dumps(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("\n...\n").strip()


def decimals(value: float) -> str:
    """Return a figure with one decimal at least."""
    text = f"{value:g}"
    return text if "." in text else f"{text}.0"


def merged(measured: Iterable[Measurement]) -> dict[tuple[str, str], dict[str, str]]:
    """Return figures by (how they were measured, other data), each by column; "" is the column of other data."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for each in measured:
        found.setdefault((each.how, each.data), {})[each.column] = each.text
    return found


def as_dict(table: PaperTable) -> dict[str, Any]:
    """Return a table for JSON, each row with its experiments."""
    content = dataclasses.asdict(table)
    for key in table.rows:
        content["rows"][key]["experiments"] = [
            {**dataclasses.asdict(each), "command": each.command}
            for each in (table.experiment(key, column) for column in table.columns_of(key))
        ]
    return content
