"""What is wrong with the actions that rejection is to be chosen against is said before a training, not after it."""

import pytest

from actrec import config
from actrec.errors import ConfigError, InputError
from actrec_models import data, other_actions, training
from actrec_models.data import ClipDataset
from actrec_models.recipe import Recipe
from actrec_models.training import Machine
from tests.models.made_up import TINY, skeletons

OTHERS = ("Sway", "raise", "jump")


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """Where utd_mhad is, of which an action is called as a class is."""
    known, others = skeletons(classes=("sway", "stretch")), skeletons(classes=OTHERS)
    monkeypatch.setattr(data, "create", lambda name, *_, **__: others if name == "utd_mhad" else known)
    monkeypatch.setattr(data, "others", lambda *_, **__: ClipDataset([], known.classes))
    (tmp_path / "utd_mhad").mkdir()
    return tmp_path


def recipe(**changes):
    return config.build(Recipe, {**TINY, "unknown_dataset": "utd_mhad", "epochs": 1, **changes})


def test_an_unknown_dataset_that_is_not_here_is_said(tmp_path):
    assert other_actions.missing(recipe(), str(tmp_path)) == f"the unknown_dataset utd_mhad is not in {tmp_path}"
    (tmp_path / "utd_mhad").mkdir()
    assert not other_actions.missing(recipe(), str(tmp_path))
    assert not other_actions.missing(recipe(unknown_dataset="rendered"), str(tmp_path))


def test_actions_called_as_a_class_is_are_left_out(datasets, monkeypatch):
    clips, kept = other_actions.taken(recipe(), ("sway", "stretch"), str(datasets), "test")
    assert {clips.classes[clips.labels[place]] for place in kept} == {"raise", "jump"}
    chosen = recipe(unknown_exclude=["jump"])
    assert other_actions.left_out(chosen, OTHERS, ("sway", "stretch")) == ["Sway", "jump"]
    monkeypatch.setattr(other_actions, "_MOST", 3)
    clips, kept = other_actions.taken(chosen, ("sway", "stretch"), str(datasets), "train")
    assert {clips.classes[clips.labels[place]] for place in kept} == {"raise"} and len(kept) == 3


@pytest.mark.parametrize(
    ("excluded", "said"),
    [
        (["jmup"], "unknown_exclude names jmup, which utd_mhad does not have"),
        (["raise", "jump"], "every action of the unknown_dataset utd_mhad is among the classes: name another one, or"),
    ],
)
def test_what_export_could_not_choose_by_is_refused_before_training(datasets, excluded, said):
    with pytest.raises(ConfigError, match=said):
        training.train(recipe(unknown_exclude=excluded), str(datasets), datasets / "run", machine=Machine("cpu"))
    assert not list((datasets / "run").rglob("*.ckpt"))


def test_one_class_is_refused_and_one_without_clips_is_told_of(datasets, monkeypatch, caplog):
    both, alone = skeletons(classes=("sway", "stretch")), skeletons(classes=("sway",))
    monkeypatch.setattr(data, "create", lambda *_, **__: alone)
    with pytest.raises(InputError, match="there is one class, sway: two actions are the least to tell apart"):
        training.train(recipe(), str(datasets), datasets / "run", machine=Machine("cpu"))
    absent = ClipDataset([both[i] for i in range(0, 22, 2)], both.classes)
    monkeypatch.setattr(data, "create", lambda *_, **__: absent)
    training.train(
        recipe(unknown_dataset=""), str(datasets), datasets / "run", machine=Machine("cpu"), progress=False, threads=1
    )
    assert "no clip of the training part shows stretch: this will not be learnt" in caplog.text
