"""Clips of unknown actions; an unusable unknown dataset raises before the training starts."""

import pickle

import numpy as np
import pytest

from actrec import datasets as core_datasets
from actrec.datasets.base import Clip, ClipDataset
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.data import unknown_clips
from actrec_models.training import trainer
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine
from tests.models.made_up import TINY, skeletons

OTHERS = ("Sway", "raise_arm", "jump")


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """Return the data folder; one action of utd_mhad has the name of a class."""
    clips, unknown = skeletons(classes=("sway", "stretch")), skeletons(classes=OTHERS)
    monkeypatch.setattr(core_datasets, "create", lambda name, *_, **__: unknown if name == "utd_mhad" else clips)
    monkeypatch.setattr(core_datasets, "create_unknown", lambda *_, **__: ClipDataset([], clips.classes))
    (tmp_path / "utd_mhad").mkdir()
    return tmp_path


def recipe(**changes):
    return config.build(Recipe, {**TINY, "unknown_dataset": "utd_mhad", "epochs": 1, **changes})


def test_missing_dataset_absent_folder_reported(tmp_path):
    message = unknown_clips.missing_dataset(recipe(), str(tmp_path))
    assert message == f"the unknown_dataset utd_mhad is not in {tmp_path}"
    (tmp_path / "utd_mhad").mkdir()
    assert not unknown_clips.missing_dataset(recipe(), str(tmp_path))
    assert not unknown_clips.missing_dataset(recipe(unknown_dataset="rendered"), str(tmp_path))


def test_unknown_clips_with_class_names_excluded(datasets, monkeypatch):
    assert set(loaded_actions(recipe())) == {"raise_arm", "jump"}
    settings = recipe(unknown_exclude=["jump"])
    assert unknown_clips.excluded_actions(settings, OTHERS, ("sway", "raise leg")) == ["Sway", "jump"]
    assert unknown_clips.excluded_actions(settings, OTHERS, ("sit", "Raise Arm")) == ["raise_arm", "jump"]
    monkeypatch.setattr(unknown_clips, "_MOST", 3)
    assert loaded_actions(settings) == ["raise_arm"] * 3


def loaded_actions(settings):
    """Return the actions of the loaded clips."""
    found = unknown_clips.load(settings, ("sway", "stretch"), "", "train").read()
    return [found.classes[label] for label in found.labels]


@pytest.mark.parametrize(
    ("excluded", "message"),
    [
        (["jmup"], "unknown_exclude names jmup, which utd_mhad does not have"),
        (
            ["raise_arm", "jump"],
            "no clip of the unknown_dataset utd_mhad shows an action outside the classes: choose another",
        ),
    ],
)
def test_train_unusable_unknown_dataset_raises_first(datasets, excluded, message):
    with pytest.raises(ConfigError, match=message):
        trainer.train(recipe(unknown_exclude=excluded), str(datasets), datasets / "run", machine=Machine("cpu"))
    assert not list((datasets / "run").rglob("*.ckpt"))


def test_train_one_class_raises_and_empty_class_warns(datasets, monkeypatch, caplog):
    clips, one_class = skeletons(classes=("sway", "stretch")), skeletons(classes=("sway",))
    monkeypatch.setattr(core_datasets, "create", lambda *_, **__: one_class)
    with pytest.raises(InputError, match="there is one class, sway: two actions are the least to tell apart"):
        trainer.train(recipe(), str(datasets), datasets / "run", machine=Machine("cpu"))
    one_class_missing = ClipDataset([clips[i] for i in range(0, 22, 2)], clips.classes)
    monkeypatch.setattr(core_datasets, "create", lambda *_, **__: one_class_missing)
    trainer.train(
        recipe(unknown_dataset=""), str(datasets), datasets / "run", machine=Machine("cpu"), progress=False, threads=1
    )
    assert "no clip of the training part shows stretch: this will not be learnt" in caplog.text


def test_train_class_only_in_validation_warns(datasets, monkeypatch, caplog):
    clips = skeletons(classes=("sway", "stretch")).subset([0, 2, 6, 8, 9])
    monkeypatch.setattr(core_datasets, "create", lambda *_, **__: clips)
    settings = recipe(unknown_dataset="", validation={"by": "subject", "only": [4]}, batch=2)
    trainer.train(settings, str(datasets), datasets / "run", machine=Machine("cpu"), progress=False, threads=1)
    assert "no clip of the training part shows stretch: this will not be learnt" in caplog.text


def test_load_unreadable_unknown_dataset_raises(tmp_path):
    (tmp_path / "utd_mhad").mkdir()
    with pytest.raises(DeviceError, match="unknown_dataset utd_mhad: .*; or choose another one, or none"):
        unknown_clips.load(recipe(), ("sway", "stretch"), str(tmp_path), "train")
    with pytest.raises(ConfigError, match="unknown_options cannot set 'part'"):
        recipe(unknown_options={"part": "test"}).check()


def test_unknown_clips_keep_layout_and_scene_flow(datasets, monkeypatch, tmp_path):
    bodies = np.zeros((1, 2, 22, 3), np.float32)
    hands = ClipDataset([Clip("a", 0, np.arange(2), bodies)], ("pinch",), "hand_22")
    hands.scene_flow = {"method": "dis"}
    monkeypatch.setattr(core_datasets, "create", lambda *_, **__: hands)
    found = unknown_clips.load(recipe(unknown_dataset="folder"), ("sway",), str(tmp_path), "train").read()
    assert (found.layout, found.scene_flow) == ("hand_22", {"method": "dis"})


def test_unknown_clips_can_be_sent_to_a_loader_process(datasets):
    read = unknown_clips.load(recipe(), ("sway", "stretch"), "", "train").read()
    assert len(pickle.loads(pickle.dumps(read.subset([0])))) == 1
