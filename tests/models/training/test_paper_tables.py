"""Tables of the papers: their figures and ours agree with their sources, rows are found by name."""

import csv
import shlex
from pathlib import Path

import pytest
import yaml

from actrec.cli import main
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.training import paper_tables, recipe

ROOT = Path(__file__).parents[3]


def results():
    """Return value and note of each measured figure."""
    found = {}
    for name in ("accuracy", "training"):
        with (ROOT / f"benchmarks/results/{name}.csv").open(encoding="utf-8", newline="") as file:
            found |= {row["figure"]: (float(row["value"]), row["note"]) for row in csv.DictReader(file)}
    return found


def test_tables_have_figures_of_known_columns_from_their_sources():
    figures = results()
    for table in paper_tables.tables().values():
        for key, row in table.rows.items():
            known = set(table.columns)
            assert set(row.paper) | set(row.counted) <= known, (table.name, key)
            assert all(0 < value <= 100 for value in row.paper.values())
            assert table.columns_of(key)
            for each in row.measured:
                assert each.column in known if each.column else each.data, (table.name, key)
                assert not each.recipe or each.recipe in recipe.shipped(), each.recipe
                if each.package:
                    package = yaml.safe_load((ROOT / f"models/zoo/{each.package}/model.yaml").read_text("utf-8"))
                    assert each.value == round(100 * package["provenance"]["accuracy"], 1)
                    continue
                value, note = figures[each.figure]
                assert each.value == value, each.figure
                assert each.deviation is None or note.startswith(f"± {each.deviation}"), each.figure


def test_find_experiment_by_row_and_column():
    row = paper_tables.find_experiment("papers/sem_spa:4:spa_3p1d:cv")
    assert (row.recipe, row.changes) == ("papers/spa_net_ntu60", {"split": "cross_view", "model": "spa_net_3p1d"})
    assert row.command == "actrec train papers/spa_net_ntu60 --set split=cross_view --set model=spa_net_3p1d"
    assert paper_tables.find_experiment("models/recipes/papers/vpn:7:vpn").name == "papers/vpn:7:vpn:v3"
    assert paper_tables.find_experiment("papers/vpn_ntu60") is None
    read = recipe.read(Path("papers/p_i3d:1:sum_2"), {"options.hidden": 16, "split": "cross_view"})
    assert read.options == {"attention": False, "aggregation": "sum_2", "hidden": 16} and read.split == "cross_view"


def test_command_of_row_reads_as_its_recipe():
    for table in paper_tables.tables().values():
        for row in table.experiments():
            words = shlex.split(row.command)
            assert words[:3] == ["actrec", "train", row.recipe]
            assert config.parse_pairs(words[4::2], "field") == row.changes, row.command


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("papers/sem_spa:9", "sem_spa:9 has several rows: name one: rows: st_gcn, sem, spa, sem_spa"),
        ("papers/sem_spa:9:sba", "sem_spa:9 has no row 'sba': did you mean spa? rows: st_gcn, sem, spa, sem_spa"),
        ("papers/sem_spa:9:spa:15", "sem_spa:9:spa has no column '15' to train; it has: 14, 28"),
        ("papers/p_i3d:1:sum_0:avg", "has no column 'avg' to train; it has: cs, cv"),
        ("papers/sem_spa:10:spa", "there is no table 'sem_spa:10'; known: sem_spa:1, sem_spa:2"),
        ("papers/spa:9:spa", "there is no table 'spa:9'; known: deepacts:1"),
        ("papers/sem_spa:9:spa:28:1", "has too many parts"),
    ],
)
def test_train_unknown_row_lists_known(name, message, tmp_path, capsys):
    assert main(["train", name, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_read_damaged_tables_refused(tmp_path):
    for content in ("", "deepacts: [1]", "datasets: {}\na: {title: b, tables: {1: {title: c}}}", "a: {"):
        (tmp_path / "tables.yaml").write_text(content)
        with pytest.raises(ConfigError, match="tables '.*' cannot be read: "):
            paper_tables.read(tmp_path / "tables.yaml")
