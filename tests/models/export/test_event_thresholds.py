"""Choice of the thresholds of events on continuous recordings, for a rate of false events."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from actrec import inference
from actrec.inference.package import Rejection
from actrec.inference.session import Session
from actrec.recordings.labels import LabeledClip
from actrec.skeleton.sequence import SkeletonSequence
from actrec.types import NANOSECONDS
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.data.continuous import ActionStream
from actrec_models.export import event_thresholds
from actrec_models.training.recipe import Recipe
from tests.tiny_model import person_at, write_tiny


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return inference.load(write_tiny(tmp_path_factory.mktemp("models") / "tiny", threshold=0.0))


def recording(*places: tuple[float, str]) -> ActionStream:
    """Return a recording with a person at each x for 4 s, 4 m away between, with the labels of the actions."""
    frames, actions = [], []
    for x, label in places:
        frames += [person_at(0.0, 4.0)] * 40
        if label:
            actions.append(LabeledClip("r", label, len(frames) / 10, len(frames) / 10 + 4))
        frames += [person_at(x)] * 40
    bodies = np.stack(frames)[None]
    stamps = np.arange(len(frames)) * (NANOSECONDS // 10)
    sequence = SkeletonSequence("r", stamps, bodies, np.ones_like(bodies[..., 0]), bodies[..., :2], ("body_1",))
    return ActionStream(sequence, tuple(actions))


def choose(session: Session, *places: tuple[float, str], per_minute: float):
    played = event_thresholds.play(session, [recording(*places)])
    material = event_thresholds.Material(played, "people")
    return event_thresholds.choose(session.package, material, per_minute, ())


@pytest.mark.slow
def test_choose_class_that_fires_falsely_gets_higher_threshold(session: Session) -> None:
    """Someone slightly to the left does not act "left", someone far to the left or slightly to the right does act."""
    acted = [(-1.0, "left"), (-0.08, ""), (0.05, "right"), (-0.08, ""), (0.05, "right")] * 6
    chosen, score = choose(session, *acted, per_minute=1.0)
    thresholds = dict.fromkeys(session.package.labels, chosen.begin) | chosen.classes
    assert thresholds["left"] > thresholds["right"]
    assert score.found == {"left": 6, "right": 12} and not score.false_events
    assert "recordings of 1 people, 4 min" in chosen.chosen_on
    assert "100.0% of 18 actions found, 0.00 false events a minute" in chosen.chosen_on
    assert not {"wrong_share_of_time", "label_changes_per_minute"} & score.event_figures().keys(), "without labels"
    assert score.event_figures().items() < score.figures().items()


@pytest.mark.slow
def test_choose_uses_the_rest_of_the_rate_for_a_class(session: Session) -> None:
    """One more false event for two more found, alike for both classes: the rate allows it for one of them."""
    acted = [(-0.08, "left"), (0.08, "right"), (-0.08, "left"), (0.08, "right"), (-0.08, ""), (0.08, "")] * 3
    for per_minute, found in ((1.0, 0), (1.5, 6), (3.0, 12)):
        score = choose(session, *acted, per_minute=per_minute)[1]
        assert (score.found.total(), score.false_events.total()) == (found, found / 2)


def test_choose_unreachable_rate_names_the_lowest_one(session: Session) -> None:
    with pytest.raises(ConfigError, match=r"no threshold up to 0.99 keeps to 0.1 false events a minute \(at least"):
        choose(session, *[(-1.0, "")] * 4, per_minute=0.1)


def test_motions_are_classes_without_a_rest_in_their_actions() -> None:
    """Arms move throughout "left" and only at the start of "right"; "far" has too few actions."""
    frames, actions = [person_at(0.0, 2.0)] * 10, []
    for label, moving in (("left", 20), ("right", 5)) * 5 + (("far", 20),):
        start_s = len(frames) / 10
        for frame in range(20):
            frames.append(frames[-1] + np.where(np.arange(25)[:, None] < 12, 0.1 * (frame < moving), 0.0))
        actions.append(LabeledClip("r", label, start_s, len(frames) / 10))
        frames += [frames[-1]] * 10
    stamps = np.arange(len(frames)) * (NANOSECONDS // 10)
    bodies = np.stack(frames)[None].astype(np.float32)
    sequence = SkeletonSequence("r", stamps, bodies, np.ones_like(bodies[..., 0]), bodies[..., :2], ("body_1",))
    recordings = [ActionStream(sequence, tuple(actions))]
    assert event_thresholds.motions(recordings, ("left", "right", "far")) == ("left",)


def test_training_streams_of_everyday_hold_people_of_the_training_part(data_root: Path) -> None:
    recipe = config.build(
        Recipe, {"model": "joint_tcn", "dataset": "everyday", "split": "own", "dataset_options": {"sets": ["kard"]}}
    )
    made = event_thresholds.training_streams(recipe, (), str(data_root))
    assert {stream.sequence.name for stream in made} == {f"kard_kard_{person}" for person in range(2, 11)}


def marked(label: str) -> ActionStream:
    """Return a short recording with one action."""
    stamps, bodies = np.arange(3) * NANOSECONDS, np.stack([person_at(0.0, 2.0)] * 3)[None].astype(np.float32)
    sequence = SkeletonSequence("r", stamps, bodies, np.ones_like(bodies[..., 0]), bodies[..., :2], ("body_1",))
    return ActionStream(sequence, (LabeledClip("r", label, 0.5, 1.5),))


def test_left_out_plays_the_training_people_of_the_set_that_did_not_train(
    session: Session, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the 7th of the sets; two of its five people test."""
    monkeypatch.setattr(event_thresholds, "LEFT_OUT_MINUTES", 0.05)
    monkeypatch.setattr(session, "package", session.package)
    trained = {"dataset": "everyday", "split": "leave_one_set_out", "settings": {"dataset_options": {"fold": 7}}}
    base = session.package
    other = dataclasses.replace(base.provenance, **trained)
    session.package = dataclasses.replace(base, provenance=other, rejection=Rejection(0.9, 2.0, "own clips"))
    material = event_thresholds.left_out([session], base, str(data_root))
    assert session.package.rejection == base.rejection, "the confidence is the package's"
    assert material.source == "people of hdm05, each left out of training"
    assert [stream.sequence.name for stream, _ in material.played] == [
        f"hdm05_hdm05_{name}" for name in ("bd", "bk", "dg")
    ]
    absent = dataclasses.replace(other, figures={"absent_classes": ["left"]})
    for of, expected in ((other, {"left", "unknown"}), (absent, {"unknown"})):
        session.package = dataclasses.replace(base, provenance=of)
        monkeypatch.setattr(event_thresholds.elsewhere, "recordings", lambda *a, **b: [marked("left"), marked("walk")])
        found = event_thresholds.left_out([session], base, str(data_root))
        assert {action.label for stream, _ in found.played for action in stream.actions} == expected
    session.package = dataclasses.replace(base, provenance=dataclasses.replace(other, split="own"))
    with pytest.raises(ConfigError, match="tiny was trained on every set"):
        event_thresholds.left_out([session], base, str(data_root))
