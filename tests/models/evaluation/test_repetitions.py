"""Trainings over folds and seeds: one folder each, finished ones skipped, mean and deviation; rows of papers scored."""

import json
import statistics
from typing import ClassVar

import pytest

from actrec import datasets
from actrec.cli import main
from actrec.datasets.base import Entry, Source
from actrec.utils.errors import ConfigError, InputError
from actrec_models.evaluation import repetitions, table_report
from actrec_models.training import paper_tables, recipe, trainer
from tests.models.made_up import CLASSES, skeletons, write

TABLES = """
datasets: {folded: ""}
paper:
  title: A paper
  tables:
    1:
      title: Folds
      columns:
        half: {title: Half, data: folded, recipe: RECIPE}
        all: {title: All, data: folded, recipe: RECIPE, set: {split: all}}
        size: {title: Size, unit: M}
      rows:
        tiny:
          title: Tiny
          paper: {half: 90, all: 91.5}
          counted: {size: 1.2}
          measured: [{data: others, value: 80, recipe: mine}]
        wide: {title: Wide, set: {options.heads: 4}, blocked: not here}
"""


class Folded(Source):
    """Twenty clips of five subjects in three folds."""

    classes = CLASSES
    splits: ClassVar = ("half", "all")
    folds: ClassVar = 3
    made = skeletons(20)

    def __init__(self, root, **options):
        super().__init__(root)
        self.fold = options.get("fold", 1)

    def entries(self):
        return [
            Entry(clip.name, clip.label, {"number": n}) for n, clip in enumerate(map(self.made.__getitem__, range(20)))
        ]

    def read(self, entry):
        return self.made[entry.meta["number"]]

    def part(self, entry, split):
        self.check(split)
        return "test" if entry.meta["number"] // 2 % 3 == self.fold - 1 else "train"


@pytest.fixture
def folded(tmp_path, monkeypatch):
    """Return the path of a tiny recipe of a dataset with three folds."""
    monkeypatch.setitem(datasets.DATASETS._targets, "folded", "tests.models.evaluation.test_repetitions:Folded")
    (tmp_path / "folded").mkdir()
    return write(tmp_path / "tiny.yaml", dataset="folded", split="half", epochs=1, ema_decay=0.0)


def test_train_folds_skips_finished_and_writes_summary(folded, tmp_path, capsys, monkeypatch):
    command = ["train", str(folded), "--data", str(tmp_path), "--quiet", "--accelerator", "cpu", "--threads", "1"]
    out = tmp_path / "run"
    assert main([*command, "--out", str(out), "--folds", "2-3"]) == 0
    trained = []
    train = trainer.train

    def train_and_note(own, *rest, **more):
        trained.append(own)
        return train(own, *rest, **more)

    monkeypatch.setattr(trainer, "train", train_and_note)
    capsys.readouterr()
    assert main([*command, "--out", str(out), "--folds", "all", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [own.dataset_options for own in trained] == [{"fold": 1}]
    assert [each["number"] for each in summary["results"]] == [1, 2, 3]
    assert sum(each["clips"] for each in summary["results"]) == 20
    values = [each["accuracy"] for each in summary["results"]]
    assert summary["mean"] == pytest.approx(statistics.fmean(values))
    assert summary["std"] == pytest.approx(statistics.stdev(values))
    assert json.loads((out / "summary.json").read_text()) == summary
    assert sorted(path.name for path in out.iterdir()) == ["fold_1", "fold_2", "fold_3", "summary.json"]
    figures = out / "fold_1/figures.json"
    assert json.loads(figures.read_text())["recipe"]["dataset_options"] == {"fold": 1}

    assert main([*command, "--out", str(out), "--folds", "1", "--set", "epochs=2"]) == 2
    assert "fold_1 holds a run with another epochs: choose another --out, or --fresh" in capsys.readouterr().err
    figures.write_text("{")  # a finished training is only scored again
    assert main([*command, "--out", str(out), "--folds", "1"]) == 0
    assert f"fold 1: {100 * values[0]:.2f} % of" in capsys.readouterr().out

    # The run stands for a row of a table.
    path = tmp_path / "tables.yaml"
    path.write_text(TABLES.replace("RECIPE", str(folded)))
    monkeypatch.setattr(paper_tables, "tables", lambda: paper_tables.read(path))
    assert main([*command[:1], "papers/paper:1:tiny:half", *command[2:], "--out", str(out), "--folds", "all"]) == 0
    capsys.readouterr()
    assert main([*command[:1], "papers/paper:1:wide", *command[2:], "--out", str(tmp_path / "wide")]) == 2
    assert "papers/paper:1:wide:half cannot run: not here" in capsys.readouterr().err
    given = [f"tiny={out}", f"tiny:half={out / 'fold_2/last.ckpt'}"]
    report = ["--data", str(tmp_path), "--report", str(tmp_path / "report")]
    assert main(["eval", "--table", "paper:1", *given, *report, "--quiet"]) == 0
    shown = capsys.readouterr().out
    mean = f"{100 * summary['mean']:.1f} ± {100 * summary['std']:.1f}"
    assert mean in shown and f"{100 * values[1]:.1f}" in shown and "others: 80.0" in shown and "1.2" in shown
    assert "papers/paper:1:wide = actrec train" in shown and "cannot run: not here" in shown
    assert "mean of 3 folds: --folds all" in shown
    assert mean in (tmp_path / "report/tables.md").read_text()
    content = json.loads((tmp_path / "report/tables.json").read_text())["paper:1"]["rows"]["tiny"]
    assert [(each["column"], each["deviation"] is None) for each in content["given"]] == [
        ("half", False),
        ("half", True),
    ]
    (table,) = paper_tables.find("paper")
    for model, message in (
        ("narrow=x", "names no row of paper:1: give ROW=MODEL, where ROW is one of tiny, wide"),
        ("tiny:size=x", "paper:1:tiny has no column 'size' to train; it has: half, all"),
        (f"tiny:all={out}", "was trained on split half of folded, but row tiny:all is of split all of folded"),
    ):
        with pytest.raises(ConfigError, match=message):
            table_report.score(table, [model], str(tmp_path))
    (out / "summary.json").write_text('{"results": []}')
    with pytest.raises(InputError, match="is damaged"):
        repetitions.read_summary(out)


def test_train_seeds_and_wrong_numbers(folded, tmp_path, capsys):
    own = recipe.read(folded)
    assert repetitions.numbers(own, "seed", [3, 1]) == [3, 1]
    command = ["train", str(folded), "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    for arguments, message in (
        (["--folds", "0,2"], "dataset folded has folds 1 to 3; got 0, 2"),
        (["--folds", "1,1-2"], "--folds 1, 1, 2: one appears twice"),
        (
            ["--folds", "1", "--set", "dataset=utd_mhad"],
            "utd_mhad is not divided into folds: omit --folds, or repeat with --seeds",
        ),
        (["--seeds", "all"], "--seeds is 'all', expected numbers"),
    ):
        assert main([*command, *arguments]) == 2
        assert message in capsys.readouterr().err
    for wrong in ("some", "3-1", "1,"):
        assert main([*command, "--folds", wrong]) == 2
        assert f"'{wrong}', expected 'all' or numbers, e.g. 1,2,3 or 1-30" in capsys.readouterr().err
