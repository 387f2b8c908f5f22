"""Held-out folds and classes of `actrec teach`: they do not influence the training."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from tqdm import tqdm

from actrec import datasets
from actrec.utils import config
from actrec_models.finetune import transfer
from actrec_models.finetune.cross_validation import Trainer
from actrec_models.finetune.recordings import Folds, Recordings, make_folds
from actrec_models.finetune.transfer import Steps, TeachConfig

pytestmark = pytest.mark.timeout(300)  # for a busy machine


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def utd(data_root):
    return datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="train")


@pytest.mark.slow
@pytest.mark.parametrize(("held_out", "same"), [(0, [1, 1, 0]), (None, [1, 0, 0])])
def test_train_is_independent_of_held_out_clips(utd, held_out, same):
    """Also as clips that augmentation prepends: of the fold, and of the held-out class."""
    asked = {"steps": 1, "batch": 4, "draws": 2, "augmentation": {"before": 1.0}}
    settings, base = config.build(TeachConfig, asked), transfer.open_pretrained("deepacts_graph_nucla")
    clips = [dataclasses.replace(utd[index], label=index % 3) for index in range(9)]
    folds = Folds(np.array([0, 0, 0, 1, 1, 1, 1, 1, 1]), ("fold 1", "fold 2"), "clip")
    networks = []
    for changed in (None, 1, 3, 4):  # of the fold, of the class, of neither
        shown = list(clips)
        if changed is not None:
            shown[changed] = dataclasses.replace(clips[changed], bodies=clips[changed].bodies[..., ::-1, :].copy())
        recordings = Recordings(shown, ("a", "b", "c"), ("",) * 9, (), "none")
        trainer = Trainer(base, recordings, folds, settings, progress=False)
        steps = Steps(1, time.monotonic() + 60, tqdm(disable=True)) if held_out is not None else None
        networks.append(trainer.train(0, held_out, steps).state_dict())
    first = networks[0]
    assert [all(torch.equal(value, first[name]) for name, value in one.items()) for one in networks[1:]] == [
        bool(each) for each in same
    ]


def test_make_folds_class_of_two_recordings_is_split():
    """With three recordings of two actions each, two folds would put all of one action into one fold."""
    labels, sources = np.repeat([0, 1, 2], 4), ["r1", "r1", "r2", "r2", "r2", "r2", "r3", "r3", "r1", "r1", "r3", "r3"]
    for seed in range(10):
        folds = make_folds(labels, [""] * 12, 2, seed, sources)
        assert (folds.by, folds.count) == ("recording", 3)
        _check_valid(folds, labels, sources)


def test_make_folds_random_recordings_give_valid_folds():
    """Each fold has known clips, no class is in one fold alone, and no recording in two."""
    rng = np.random.default_rng(5)
    for seed in range(200):
        shown = [np.unique(rng.integers(-1, 4, 2)) for _ in range(rng.integers(4, 9))]
        clips = [
            (int(label), f"r{source}") for source, labels in enumerate(shown) for label in labels for _ in range(2)
        ]
        # Two more recordings give every class several.
        clips += [(label, f"{label}{again}") for label in range(4) for again in range(seed % 2 + 1)]
        clips += [(label, "all") for label in range(4)]
        labels, sources = np.array([label for label, _ in clips]), [source for _, source in clips]
        folds = make_folds(labels, [""] * len(clips), 5, seed, sources)
        assert folds.by == "recording"
        _check_valid(folds, labels, sources)


def test_make_folds_person_with_unknown_clips_alone_in_one_fold():
    """Also a recording without a person."""
    labels, sources = np.array([0] * 4 + [1] * 4 + [-1] * 6), [*"abcdefgh"]
    known = ["a", "b"] * 4
    carol = make_folds(labels, [*known, *["carol"] * 6], 5, 1, [*sources, *["pacing"] * 3, *["standing"] * 3])
    assert (carol.by, carol.fold_of_clip.tolist()) == ("person", [0, 1] * 4 + [0] * 6)
    both = make_folds(labels, [*known, "carol", "dan", "", "", "", "carol"], 5, 1, [*sources, *"ij", *"kklm"])
    assert both.fold_of_clip.tolist()[8:] == [0, 1, 0, 0, 1, 0]
    unnamed = make_folds(labels, [*known, *[""] * 6], 5, 1)
    assert unnamed.fold_of_clip.tolist()[8:] == [0, 1] * 3


def _check_valid(folds, labels, sources):
    assert all(len(set(folds.fold_of_clip[labels == label].tolist())) > 1 for label in range(int(labels.max()) + 1))
    assert set(folds.fold_of_clip[labels >= 0].tolist()) == set(folds.fold_of_clip.tolist()) == set(range(folds.count))
    assert len(set(zip(sources, folds.fold_of_clip.tolist(), strict=True))) == len(set(sources))


def test_make_folds_by_person_needs_two_people_per_class():
    labels = np.array([0, 0, 1, 1, -1])
    by_person = make_folds(labels, ["a", "b", "a", "b", ""], 5, 1)
    assert (by_person.by, by_person.names, list(by_person.fold_of_clip[:4])) == ("person", ("a", "b"), [0, 1, 0, 1])
    for people in (["a", "a", "b", "b", "c"], ["a", "b", "a", "", "a"], ["a"] * 5):
        folds = make_folds(labels, people, 5, 1)
        assert (folds.by, folds.count) == ("recording", 2)
        assert sorted(folds.fold_of_clip[labels == 0]) == sorted(folds.fold_of_clip[labels == 1]) == [0, 1]
    many = make_folds(np.repeat([0, 1, 2], 11), [""] * 33, 5, 3)
    assert [np.bincount(many.fold_of_clip[np.repeat([0, 1, 2], 11) == k]).tolist() for k in range(3)] == [
        [3, 2, 2, 2, 2]
    ] * 3


def test_make_folds_keeps_recordings_together():
    labels, people = np.repeat([0, 1], 6), [""] * 12
    cut = make_folds(labels, people, 5, 1, [*"aabbcc", *"ddddee"])
    assert (cut.by, cut.count, cut.description) == ("recording", 2, "2-fold cross-validation")
    assert all(len(set(cut.fold_of_clip[start : start + 2])) == 1 for start in range(0, 12, 2))
    assert set(cut.fold_of_clip[labels == 0]) == set(cut.fold_of_clip[labels == 1]) == {0, 1}
    one = make_folds(labels, people, 5, 1, [*"aabbcc", *"dddddd"])
    assert (one.by, one.count, one.description) == ("clip", 5, "5-fold cross-validation within recordings")


def test_make_folds_many_people_share_folds():
    labels, people = np.tile([0, 1, -1], 12), [f"p{number // 3:02d}" for number in range(36)]
    folds = make_folds(labels, people, 5, 1)
    assert (folds.by, folds.count, folds.description) == ("person", 5, "5 folds of people")
    assert sorted(", ".join(folds.names).split(", ")) == sorted(set(people))
    _check_valid(folds, labels, people)
