"""Test clips that are in the training part too: their detection, and the figures of evaluation and cards."""

import json
from dataclasses import replace

import numpy as np
import pytest

from actrec import datasets
from actrec import datasets as module
from actrec.cli import main
from actrec.datasets import find_copies, find_duplicates
from actrec.datasets.base import Clip, ClipDataset
from actrec.datasets.store import PreparedDataset
from actrec.inference import zoo
from actrec.utils.errors import DeviceError, InputError
from actrec_models.data.preparation import prepare
from actrec_models.export import exporter
from actrec_models.export.exporter import card
from actrec_models.training.recipe import Recipe
from tests.models.evaluation.test_eval import write
from tests.models.places import PlacesTrainToo

STAMPS = np.arange(3)


class PartlyDuplicated(PlacesTrainToo):
    """Three of eight test clips are in the training part too; one of them gets a wrong label."""

    def part(self, entry, split):
        if "train" not in entry.meta:
            return super().part(entry, split)
        return "train" if entry.name in ("train_left_1", "train_far_1", "train_far_unsure") else ""


@pytest.fixture(autouse=True)
def partly_duplicated(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS._targets, "places", f"{__name__}:PartlyDuplicated")


class Unreadable(ClipDataset):
    """A dataset whose first clip cannot be read."""

    def __getitem__(self, index):
        if index == 0:
            raise InputError("truncated")
        return super().__getitem__(index)


def clip(name, value):
    bodies = np.full((1, 3, 25, 3), value, np.float32)
    bodies[0, 1, 4] = np.nan
    return Clip(name, 0, STAMPS, bodies)


def test_find_duplicates_identical_joints_found():
    test = ClipDataset([clip("a", 1), clip("b", 2), clip("no_body", np.nan)], ("one",))
    similar = np.nextafter(np.float32(2), np.float32(3))
    training = ClipDataset([clip("c", similar), clip("d", 1), clip("e", 1), clip("empty", np.nan)], ("one",))
    assert find_duplicates(test, lambda: training) == {"a": "d"}


def test_find_copies_name_the_first_clip_with_the_same_joints():
    similar = np.nextafter(np.float32(2), np.float32(3))
    clips = [clip("a", 1), clip("b", 2), clip("c", 1), clip("d", similar), clip("e", 1), clip("f", 2)]
    empty = [clip("no_body", np.nan), clip("empty", np.nan)]
    assert find_copies(ClipDataset([*clips, *empty], ("one",))) == {"c": "a", "e": "a", "f": "b"}
    assert find_copies(Unreadable(clips, ("one",))) == {"e": "c", "f": "b"}, "the first clip cannot be read"


def test_find_duplicates_unreadable_or_missing_clip_ignored(monkeypatch):
    clips = [clip("a", 1), clip("b", 2)]
    assert find_duplicates(ClipDataset(clips, ("one",)), lambda: Unreadable(clips, ("one",))) == {"b": "b"}

    def missing_part():
        raise DeviceError("no such folder")

    assert find_duplicates(ClipDataset(clips, ("one",)), missing_part) == {}
    monkeypatch.setattr(module, "READ_AT_MOST", 1)
    assert find_duplicates(ClipDataset(clips, ("one",)), lambda: ClipDataset(clips, ("one",))) == {}


def test_find_duplicates_performances_do_not_count(monkeypatch):
    """They are no recordings: a training part of many has few to compare."""
    recorded = ClipDataset([clip("a", 1)], ("one",))
    training = ClipDataset([clip("b", 1), *(clip(f"acted {k}", 2) for k in range(3))], ("one",))
    training.entries = [replace(e, meta={"set": "acted" if "acted" in e.name else "nucla"}) for e in training.entries]
    monkeypatch.setattr(module, "READ_AT_MOST", 2)
    assert find_duplicates(recorded, lambda: training) == {"a": "b"}


def test_find_duplicates_prepared_part_compares_checksums(tmp_path, monkeypatch):
    prepare("places", tmp_path, tmp_path / "store")
    monkeypatch.setattr(module, "READ_AT_MOST", 0)
    read_indices, read_clip = [], PreparedDataset.__getitem__

    def record_index(self, index):
        read_indices.append(index)
        return read_clip(self, index)

    monkeypatch.setattr(PreparedDataset, "__getitem__", record_index)
    parts = {part: datasets.create("places", tmp_path / "store", split="all", part=part) for part in datasets.PARTS}
    expected = {"left_1": "train_left_1", "far_1": "train_far_1", "far_unsure": "train_far_unsure"}
    assert find_duplicates(parts["test"], lambda: parts["train"]) == expected
    assert len(read_indices) == 2 * len(expected)  # clips with equal checksums are compared


def test_find_duplicates_nucla_finds_two_clips(data_root):
    folder = data_root / "nucla"
    parts = {part: datasets.create("nucla", folder, split="view", part=part) for part in datasets.PARTS}
    found = find_duplicates(parts["test"], lambda: parts["train"])
    names = [name for name in parts["test"].names if name.startswith(("a02", "a03"))]
    assert found == {name: name.replace("v03", "v02") for name in names}
    assert len(found) == 95


@pytest.mark.parametrize("dataset", ["utd_mhad", "shrec17_28"])
def test_find_duplicates_other_datasets_find_none(data_root, dataset):
    folder = datasets.folder(data_root, dataset)
    test = datasets.create(dataset, folder, part="test")
    assert find_duplicates(test, lambda: datasets.create(dataset, folder)) == {}


def test_eval_with_copies_reports_accuracy_without_copies(tmp_path, capsys):
    models = [write(tmp_path / name, seed=seed) for name, seed in (("one", 1), ("two", 2))]
    evaluate = ["eval", "--data", str(tmp_path), "--quiet", "--threads", "1"]
    assert main([*evaluate, "--json", models[0]]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["right"], figures["copies"], figures["accuracy_without_copies"]) == (6, 3, 0.8)
    assert figures["copies_of_training_clips"]["left_1"] == "train_left_1"
    assert main([*evaluate, *models]) == 0
    output = capsys.readouterr().out
    assert "3 of the 8 clips are in the training part too" in output and "80.00 % of 10" in output
    assert main([*evaluate, "--json", *models]) == 0
    assert json.loads(capsys.readouterr().out)["spread"]["accuracy_without_copies"]["mean"] == 0.8
    assert main([*evaluate, "--json", "--fuse", "softmax", models[0], write(tmp_path / "three")]) == 0
    assert json.loads(capsys.readouterr().out)["fusion"]["accuracy_without_copies"] == 0.8


def test_eval_of_copies_only_reports_no_accuracy_without_copies(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS._targets, "places", "tests.models.places:PlacesTrainToo")
    models = [write(tmp_path / name, seed=seed) for name, seed in (("one", 1), ("two", 2))]
    assert main(["eval", "--data", str(tmp_path), "--quiet", "--threads", "1", "--json", *models]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["models"][0]["accuracy_without_copies"] is None
    assert "accuracy_without_copies" not in figures["spread"]
    assert main(["eval", "--data", str(tmp_path), "--quiet", "--threads", "1", *models]) == 0
    assert "– of 0" in capsys.readouterr().out


def test_export_with_copies_reports_accuracy_without_copies(tmp_path):
    recipe = Recipe(model="sem_net", dataset="places", split="all")
    test = datasets.create("places", tmp_path, split="all", part="test")
    correct = np.array([True] * 7 + [False])
    assert exporter.duplicate_figures(recipe, test, correct, (str(tmp_path), str(tmp_path))) == {
        "copies": 3,
        "accuracy_without_copies": 1.0,
    }
    assert exporter.duplicate_figures(replace(recipe, dataset="folder"), test, correct, (str(tmp_path), "")) == {}
    assert "92.1% of the 369 that are not in the training part as well" in card(zoo.find("deepacts_graph_nucla"), "it")


def test_eval_of_training_part_skips_comparison(tmp_path, capsys):
    model = write(tmp_path / "one")
    assert main(["eval", "--data", str(tmp_path), "--part", "train", "--quiet", "--threads", "1", "--json", model]) == 0
    assert "copies" not in json.loads(capsys.readouterr().out)
