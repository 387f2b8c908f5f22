"""Trainings over folds and seeds: one folder each, finished ones skipped, mean and deviation; rows of papers scored."""

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from actrec import datasets
from actrec.cli import main
from actrec.datasets.base import Entry, Source
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.evaluation import repetitions, table_report
from actrec_models.training import paper_tables, recipe, trainer
from actrec_models.training.callbacks import TrainingInterrupted
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
        more: {title: Half after all, data: folded, recipe: RECIPE, init: "the run of all"}
        size: {title: Size, unit: M}
      rows:
        tiny:
          title: Tiny
          paper: {half: 90, all: 91.5}
          counted: {size: 1.2}
          measured: [{data: others, value: 80, recipe: mine}]
        twice: {title: Twice, paper: {half: 90, more: 92}}
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
        if (Path(self.root) / f"no_{self.fold}").exists():
            raise ConfigError(f"fold {self.fold} tests on a set that is not merged here")
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
    assert (
        f"{mean} (3 folds)" in shown
        and f"{100 * values[1]:.1f}" in shown
        and "others: 80.0" in shown
        and "1.2" in shown
    )
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
        ("narrow=x", "names no row of paper:1: give ROW=MODEL, where ROW is one of tiny, twice, wide"),
        (f"twice={out}", f"columns half, more of row twice are of the same clips.*: name one, e.g. twice:half={out}"),
        ("tiny:size=x", "paper:1:tiny has no column 'size' to train; it has: half, all"),
        (
            f"tiny:all={out}",
            "holds sem_net on split half of folded, but row tiny:all is of sem_net on split all of folded",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            table_report.score(table, [model], str(tmp_path))
    for changes, message in (
        ({"model": "joint_tcn"}, "holds joint_tcn on split half of folded, but row tiny:half is of sem_net on"),
        ({"dataset_options": {"trim": 1}}, "split half of folded with {'trim': 1}, but row tiny:half is of sem_net on"),
    ):
        (out / "summary.json").write_text(json.dumps({**summary, **changes}))
        with pytest.raises(ConfigError, match=message):
            table_report.score(table, [f"tiny:half={out}"], str(tmp_path))
    (out / "summary.json").write_text('{"results": []}')
    with pytest.raises(InputError, match="is damaged"):
        repetitions.read_summary(out)


def test_train_folds_of_other_data_or_weights_are_not_mixed(folded, tmp_path, capsys, monkeypatch):
    command = ["train", str(folded), "--data", str(tmp_path), "--quiet", "--accelerator", "cpu", "--threads", "1"]
    out, base = tmp_path / "run", tmp_path / "base"
    assert main([*command, "--out", str(base)]) == 0
    assert main([*command, "--out", str(out), "--folds", "1"]) == 0
    assert main([*command, "--out", str(out), "--folds", "2"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert sorted(each["number"] for each in summary["results"]) == [1, 2], "the first one is not lost"
    assert main([*command, "--out", str(out), "--folds", "1", "--init", str(base / "last.ckpt")]) == 2
    assert "began from random weights, not from last.ckpt" in capsys.readouterr().err
    monkeypatch.setattr(Folded, "entries", lambda source, whole=Folded.entries: whole(source)[:-1])  # it tests fold 1
    assert main([*command, "--out", str(out), "--folds", "all"]) == 2
    assert "fold_2 holds a run with another data, although it is called the same" in capsys.readouterr().err
    assert not (out / "fold_3").exists()
    shutil.rmtree(out / "fold_2")
    capsys.readouterr()
    assert main([*command, "--out", str(out), "--folds", "1", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["clips"] == summary["results"][1]["clips"] - 1, "scored again on the test part of now"
    assert main([*command, "--out", str(out), "--folds", "3", "--fresh"]) == 0
    summary = repetitions.read_summary(out)
    assert summary and [each.number for each in summary.results] == [3]


def test_train_all_folds_skips_the_ones_that_the_data_lacks(folded, tmp_path, capsys):
    command = ["train", str(folded), "--data", str(tmp_path), "--quiet", "--accelerator", "cpu", "--threads", "1"]
    (tmp_path / "folded/no_2").touch()
    out = tmp_path / "run"
    assert main([*command, "--out", str(out), "--folds", "1,2"]) == 2  # before any training
    assert "has test clips in folds 1, 3 of" in capsys.readouterr().err and not out.exists()
    assert main([*command, "--out", str(out), "--folds", "all"]) == 0
    summary = repetitions.read_summary(out)
    assert summary and [result.number for result in summary.results] == [1, 3]


def test_train_seeds_and_wrong_numbers(folded, tmp_path, capsys):
    own = recipe.read(folded)
    assert repetitions.numbers(own, "seed", [3, 1]) == [3, 1]
    command = ["train", str(folded), "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    for arguments, message in (
        (["--folds", "0,2"], "split half of folded has test clips in folds 1, 2, 3 of "),
        (["--folds", "1,1-2"], "--folds 1, 1, 2: one appears twice"),
        (
            ["--folds", "1", "--set", "dataset=utd_mhad"],
            "utd_mhad is not divided into folds: omit --folds, or repeat with --seeds",
        ),
        (
            ["--folds", "all", "--set", "dataset=nucla", "--set", "split=view"],
            "split view of nucla has no folds, which split subject has: choose it, or omit --folds",
        ),
        (["--seeds", "all"], "--seeds is 'all', expected numbers"),
    ):
        assert main([*command, *arguments]) == 2
        assert message in capsys.readouterr().err
    for wrong in ("some", "3-1", "1,"):
        assert main([*command, "--folds", wrong]) == 2
        assert f"'{wrong}', expected 'all' or numbers, e.g. 1,2,3 or 1-30" in capsys.readouterr().err


@pytest.mark.slow
def test_train_all_folds_are_of_the_sets_in_the_store(data_root, tmp_path, capsys):
    """Else the last folds would be refused after the trainings of the first ones."""
    store, out = tmp_path / "store", tmp_path / "run"
    options = ["--option", "sets=[nucla,kard]", "--option", "classes=shown", "--option", "every=60"]
    command = ["prepare", "rendered_everyday", "--data", str(data_root), *options, "--streams", "bodies"]
    assert main([*command, "--workers", "1", "--quiet", "--out", str(store)]) == 0
    path = write(
        tmp_path / "tiny.yaml", dataset="rendered_everyday", split="leave_one_set_out", epochs=1, ema_decay=0.0,
        dataset_options={"sets": ["nucla", "kard"], "classes": "shown", "every": 60},
    )  # fmt: skip
    command = ["train", str(path), "--root", str(store), "--out", str(out), "--threads", "1", "--accelerator", "cpu"]
    assert main([*command, "--folds", "1,5"]) == 2
    assert "has test clips in folds 1, 3 of " in capsys.readouterr().err and not out.exists()
    assert main([*command, "--folds", "all", "--quiet"]) == 0
    assert "mean accuracy of the clips whose class has training clips: " in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert [each["number"] for each in summary["results"]] == [1, 3]
    assert all(each["accuracy_of_learned"] >= each["accuracy"] for each in summary["results"])
    models = [str(out / f"fold_{number}/last.ckpt") for number in (1, 3)]
    capsys.readouterr()
    assert main(["eval", *models, "--root", str(store), "--folds", "all", "--quiet", "--json"]) == 0
    spread = json.loads(capsys.readouterr().out)["spread"]["accuracy_of_learned"]
    assert spread["mean"] == pytest.approx(summary["mean_of_learned"])


def test_train_folds_on_several_devices_scores_after_the_last_training(folded, tmp_path, monkeypatch):
    """Else the other processes would wait for the first one's scores within the next training, until a timeout."""
    done, train, score = [], trainer.train, repetitions._score

    def train_and_note(*arguments, machine, **options):
        done.append("train")
        return train(*arguments, machine=trainer.Machine(accelerator="cpu"), **options)

    def score_and_note(*arguments):
        done.append("score")
        return score(*arguments)

    monkeypatch.setattr(trainer, "train", train_and_note)
    monkeypatch.setattr(repetitions, "_score", score_and_note)
    machine = trainer.Machine(accelerator="cpu", devices=2)
    own = recipe.read(folded)
    out = tmp_path / "run"
    summary = repetitions.train(own, "fold", [3, 1], str(tmp_path), out, machine=machine, threads=1, progress=False)
    assert done == ["train", "train", "score", "score"]
    assert [each.number for each in summary.results] == [3, 1] and (out / "fold_1/figures.json").is_file()


def test_fresh_folds_that_are_stopped_keep_nothing_of_the_earlier_run(folded, tmp_path, monkeypatch):
    out = tmp_path / "run"
    for number in (1, 2, 3):
        (out / f"fold_{number}").mkdir(parents=True)
        for name in ("figures.json", "last.ckpt"):
            (out / f"fold_{number}" / name).touch()

    def stop(*_, **__):
        raise TrainingInterrupted(15, out / "fold_1/last.ckpt", 1)

    (out / "summary.json").write_text("{}")
    monkeypatch.setattr(trainer, "train", stop)
    with pytest.raises(TrainingInterrupted):
        repetitions.train(recipe.read(folded), "fold", [], str(tmp_path), out, resume=False)
    assert not (out / "summary.json").exists()
    assert not [*out.glob("fold_*/figures.json"), *out.glob("fold_*/last.ckpt")]


def test_table_has_no_figure_of_finer_classes_in_a_coarser_column(tmp_path):
    (table,) = paper_tables.find("sem_spa:9")
    own = recipe.read("papers/sem_spa:9:spa:28")
    one = repetitions.Repetition(1, 0.9, 0.9, 840, "seed_1/last.ckpt")
    made = repetitions.Repetitions("seed", own.dataset, own.split, "accuracy", (one,), own.model, {})
    (tmp_path / "summary.json").write_text(json.dumps(made.as_dict()))
    found = table_report.score(table, [f"spa={tmp_path}"], str(tmp_path))
    assert [each.column for each in found] == ["28"]
    with pytest.raises(ConfigError, match="on split official of shrec17_28, but row spa:14 is of .* of shrec17_14"):
        table_report.score(table, [f"spa:14={tmp_path}"], str(tmp_path))


HOLD = """
import fcntl, os, sys
fcntl.lockf(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


def test_fresh_folds_keep_the_checkpoints_of_a_training_in_progress(folded, tmp_path, monkeypatch):
    out = tmp_path / "run"
    for number in (1, 2):
        (out / f"fold_{number}").mkdir(parents=True)
        (out / f"fold_{number}/last.ckpt").touch()
    monkeypatch.setattr(trainer, "train", lambda *_, **__: pytest.fail("trained first"))
    command = [sys.executable, "-c", HOLD, str(out / "fold_2/.training.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(DeviceError, match="another actrec train is writing to .*fold_2"):
            repetitions.train(recipe.read(folded), "fold", [1, 2], str(tmp_path), out, resume=False)
    assert len([*out.glob("fold_*/last.ckpt")]) == 2


def test_summary_has_repetitions_that_another_command_has_finished_meanwhile(folded, tmp_path, monkeypatch):
    own, out = recipe.read(folded), tmp_path / "run"

    def train(_, data_root, folder, **__):
        if folder.name == "fold_1":
            repetitions.train(own, "fold", [2], data_root, out, progress=False)
        return folder / "last.ckpt"

    def scored(number, checkpoint, *_):
        return repetitions.Repetition(number, 0.5, 0.5, 4, str(checkpoint))

    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(repetitions, "_score", scored)
    summary = repetitions.train(own, "fold", [1], str(tmp_path), out, progress=False)
    assert [each.number for each in summary.results] == [1, 2]
    assert len(json.loads((out / "summary.json").read_text())["results"]) == 2
