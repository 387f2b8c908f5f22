"""The user's own recordings labeled `unknown`: in stores, and in the choice of the rejection."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml

from actrec import datasets
from actrec.cli import main
from actrec.datasets.base import ClipDataset
from actrec.inference import package
from actrec.utils import config
from actrec_models.data import unknown_clips
from actrec_models.export import exporter, rejection
from actrec_models.training.recipe import Recipe
from tests.models.made_up import TINY
from tests.models.own_recordings import body, write_bag
from tests.tiny_model import tiny_description

SPEEDS = {"wave": (0.1, 0.12, 0.15), "clap": (0.3, 0.33, 0.36), "unknown": (-0.2, -0.4, -0.5)}
PART = ("train", "train", "test")


@pytest.fixture(scope="module", params=["folder", "store"])
def recordings(request, tmp_path_factory):
    """Return three recordings per label, the last of each for the test, as files or prepared."""
    folder = tmp_path_factory.mktemp("mine") / "takes"
    lines = ["recording,label,part"]
    for label, speeds in SPEEDS.items():
        for take, (speed, part) in enumerate(zip(speeds, PART, strict=True)):
            write_bag(folder / f"{label}_{take}", lambda t, v=speed: [body(v * t)])
            lines.append(f"{label}_{take},{label},{part}")
    (folder / "labels.csv").write_text("\n".join(lines))
    if request.param == "folder":
        return folder
    store = folder.parent / "store"
    assert main(["prepare", "folder", "--root", str(folder), "--out", str(store), "--workers", "0", "--quiet"]) == 0
    return store


def test_unknown_clips_by_part_have_no_class(recordings):
    for part, count in (("train", 2), ("test", 1)):
        known = datasets.create("folder", recordings, split="part", part=part)
        others = datasets.create_unknown("folder", recordings, split="part", part=part)
        assert sorted(known.labels) == [0] * count + [1] * count and known.classes == ("clap", "wave")
        assert [(name[:7], label) for name, label in zip(others.names, others.labels, strict=True)] == [
            ("unknown", -1)
        ] * count
        assert all(others.recordings) and len(others[0].stamps_ns) == 20
    assert not len(datasets.create_unknown("folder", recordings, split="all", part="test"))


@pytest.fixture
def exported(recordings, tmp_path, caplog):
    """Return a folder with a training's "run", its package "made", and the options of both."""
    recipe = {**TINY, "dataset": "folder", "split": "part", "unknown_dataset": "utd_mhad", "clips": "stretched"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    common = ["--root", str(recordings), "--data", str(tmp_path / "no datasets")]
    train = ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--threads", "1", "--quiet"]
    assert main([*train, *common]) == 0
    assert "what to reject" not in caplog.text
    export = ["export", str(tmp_path / "run/last.ckpt"), "--float16", "--out", str(tmp_path / "made")]
    assert main([*export, *common]) == 0
    return tmp_path, common


@pytest.mark.slow
def test_export_chooses_threshold_on_unknown_recordings(recordings, exported, capsys):
    tmp_path, common = exported
    made = package.load(tmp_path / "made")
    assert "against 2 of its recordings labeled unknown" in made.rejection.calibrated_on
    assert made.rejection.threshold > 0 or "0.0% rejected" in made.rejection.calibrated_on
    assert made.provenance.figures["unknown_clips"] == 1
    assert "of 1 held-out clips of other actions are rejected" in (tmp_path / "made/README.md").read_text()
    learnt = {*datasets.create_unknown("folder", recordings, split="part").recordings}
    assert learnt < {*made.provenance.figures["recordings"]} and len(made.provenance.figures["recordings"]) == 6
    older = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    del older["actrec"]["provenance"]["recordings"]  # unknown, so none are stored
    torch.save(older, tmp_path / "older.ckpt")
    assert main(["export", str(tmp_path / "older.ckpt"), "--out", str(tmp_path / "older"), *common]) == 0
    assert "recordings" not in package.load(tmp_path / "older").provenance.figures
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "made"), "--root", str(recordings), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown_clips"] == 1


def test_export_calibrate_chooses_threshold_again(recordings, exported, caplog):
    tmp_path, common = exported
    made = package.load(tmp_path / "made")
    (tmp_path / "other").mkdir()
    for file in (tmp_path / "made").iterdir():
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    described = yaml.safe_load((tmp_path / "made/model.yaml").read_text())
    described["rejection"] = {"threshold": 0.9, "temperature": 2.0, "calibrated_on": "a guess", "background": 3.0}
    described["events"] = {"begin": 0.7}
    described["provenance"]["figures"]["events"] = {"chosen": "on the former confidence"}
    described["provenance"]["figures"]["test_rejected"], described["float16"]["accuracy"] = 1.0, 0.123
    (tmp_path / "other/model.yaml").write_text(yaml.safe_dump(described))
    calibrate = ["export", str(tmp_path / "other"), "--out", str(tmp_path / "again"), "--calibrate"]
    assert main([*calibrate, *common]) == 0
    assert "other: thresholds of events fit the former confidence: choose new ones with --events" in caplog.text
    again = package.load(tmp_path / "again")
    assert again.events == package.EventThresholds()
    assert again.rejection == made.rejection and again.labels == made.labels
    assert again.provenance.figures == made.provenance.figures and again.float16 == made.float16
    assert again.read_onnx() == made.read_onnx() and (again.path / package.WEIGHTS).is_file()
    assert made.rejection.note in (tmp_path / "again/README.md").read_text()
    assert "expected calibration error" in (tmp_path / "again/README.md").read_text()
    assert main([*calibrate, str(tmp_path / "recipe.yaml"), "--overwrite", *common]) == 0
    if (recordings / "labels.csv").is_file():  # then without unknown recordings in the test part
        shutil.copytree(recordings, tmp_path / "fewer")
        rows = (recordings / "labels.csv").read_text().replace("unknown_2,unknown,test", "unknown_2,unknown,train")
        (tmp_path / "fewer/labels.csv").write_text(rows)
        assert main([*calibrate, "--overwrite", "--root", str(tmp_path / "fewer"), *common[2:]]) == 0
        figures = package.load(tmp_path / "again").provenance.figures
        assert "unknown_clips" not in figures and "unknown_rejected" not in figures and "test_ece" in figures


def test_train_folder_of_unknown_recordings_alone_refused(tmp_path, capsys):
    for number in range(2):
        write_bag(tmp_path / "takes" / "unknown" / f"take_{number}", lambda k: [body(0.0)])
    arguments = ["prepare", "folder", "--root", str(tmp_path / "takes"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--workers", "0", "--quiet"]) == 1
    assert "none of the 2 items of folder" in (told := capsys.readouterr().err)
    assert told.endswith("can be prepared: all that can be read show none of its classes (unknown)\n")


def test_export_calibrate_unfitting_recipe_refused(exported, data_root, capsys):
    tmp_path, common = exported
    described = yaml.safe_load((tmp_path / "made/model.yaml").read_text())
    export = ["export", str(tmp_path / "made"), "--out", str(tmp_path / "again")]
    other = {**TINY, "dataset": "nucla", "split": "view", "unknown_dataset": "utd_mhad"}
    (tmp_path / "nucla.yaml").write_text(yaml.safe_dump(other))
    elsewhere = [str(tmp_path / "nucla.yaml"), "--data", str(data_root)]

    def refused(words, *arguments):
        assert main([*export, *arguments]) != 0
        assert words in capsys.readouterr().err

    refused("was trained on folder, split part; the recipe is of nucla", "--calibrate", *elsewhere)
    refused("joint_tcn_open has other labels than made", "--calibrate", "--left-out", "joint_tcn_open")
    settings = described["provenance"]["settings"]
    clips = "live" if settings["clips"] == "stretched" else "stretched"
    for name, value in (("clips", clips), ("dataset_options", {**settings["dataset_options"], "bodies": 2})):
        (tmp_path / "other.yaml").write_text(yaml.safe_dump({**settings, name: value}))
        words = f"made was trained with another {name} than the recipe's"
        refused(words, "--calibrate", str(tmp_path / "other.yaml"), *common)
    for fields, words in (
        ({"batch": 7, "epochs": 9}, "wider has other batch than made: give networks of its recipe"),
        ({"epochs": 9, "split": "all"}, "wider was trained on every set in"),  # accepted as of the recipe
    ):
        shutil.copytree(tmp_path / "made", tmp_path / "wider", dirs_exist_ok=True)
        settings = {**described["provenance"]["settings"], **fields}
        changed = {**described, "provenance": {**described["provenance"], "settings": settings, "dataset": "everyday"}}
        (tmp_path / "wider/model.yaml").write_text(yaml.safe_dump(changed))
        refused(
            words, "--calibrate", "--left-out", str(tmp_path / "wider"), common[0], common[1], "--data", str(data_root)
        )
    for label in ("nod", "wave", "unknown"):
        write_bag(tmp_path / "takes" / label, lambda t: [body(0.1 * t)])
    lines = [f"{label},{label},train" for label in ("nod", "wave", "unknown")]
    (tmp_path / "takes/labels.csv").write_text("\n".join(["recording,label,part", *lines]))
    refused("knows clap, wave; folder has nod, wave", "--calibrate", "--root", str(tmp_path / "takes"))
    refused("use it without --float16", "--calibrate", "--float16", *common)
    described["provenance"] |= {"settings": {}}
    (tmp_path / "made/model.yaml").write_text(yaml.safe_dump(described))
    refused("pass one, --calibrate RECIPE", "--calibrate", *common)
    described["provenance"]["figures"]["evaluated_by"] = "leave one person out"
    (tmp_path / "made/model.yaml").write_text(yaml.safe_dump(described))
    refused("was taught", "--calibrate", *common)
    assert main(["export", str(tmp_path / "run/last.ckpt"), "--out", str(tmp_path / "x"), "--calibrate", *common]) == 2
    assert "calibrated anyway" in capsys.readouterr().err


def test_export_uses_unknown_recordings_of_another_folder(recordings, tmp_path):
    """Alone, or beside actions of no class; a later evaluation must not count them as new."""
    (tmp_path / "folder").symlink_to(recordings)
    chosen = config.build(Recipe, {**TINY, "dataset": "nucla", "unknown_dataset": "folder"})
    for classes, labels in ((("Clap", "wave"), [-1] * 3), (("wave",), [0, 0, 0, -1, -1, -1])):
        found = unknown_clips.load(chosen, classes, str(tmp_path), "train")
        assert found.read().labels.tolist() == labels
        told = found.identities()
        assert len(told) == len(labels) and all(told)
    assert not unknown_clips.load(chosen, ("clap", "wave"), str(tmp_path), "test").read()


def test_recordings_of_the_rejection_are_stored_for_a_published_dataset(monkeypatch):
    fitted = rejection.CalibratedRejection(0.5, 0.0, 1.0, 1.0, 1.0)
    monkeypatch.setattr(rejection, "calibration_obstacle", lambda *_: "")
    monkeypatch.setattr(rejection, "calibrate", lambda *_: (fitted, "mine"))
    monkeypatch.setattr(rejection, "calibration_recordings", lambda *_: ("abc",))
    monkeypatch.setattr(exporter, "find_duplicates", lambda *_: {})
    draft, chosen = tiny_description(), Recipe(dataset="nucla", unknown_dataset="folder")
    empty = ClipDataset([], draft.labels)
    made = exporter.with_evaluation(draft, chosen, SimpleNamespace(package=draft), empty, ("nowhere", ""))
    assert made.provenance.figures["recordings"] == ["abc"]
