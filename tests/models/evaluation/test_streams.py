"""Scores of events on continuous recordings: put together from clips, played, and compared with their labels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actrec import cli, datasets, inference
from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import example_clip
from actrec.features.specs import InputSpec
from actrec.inference.session import Session
from actrec.perception.gravity import angle_deg
from actrec.recognition import ActionEvent, ActionPrediction
from actrec.recordings import RecordingConfig
from actrec.recordings.labels import LabeledClip, write_labels
from actrec.skeleton.sequence import SkeletonSequence
from actrec.types import NANOSECONDS
from actrec.utils import gravity
from actrec.utils.errors import DeviceError, InputError
from actrec_models.data.continuous import ActionStream, join_clips, person_streams
from actrec_models.evaluation import streams
from tests.models import own_recordings
from tests.tiny_model import person_at, write_tiny


def ns(seconds: float) -> int:
    return round(seconds * NANOSECONDS)


def clip(x: float, seconds: float, z: float = 2.0) -> Clip:
    frames = round(10 * seconds) + 1
    return Clip("clip", 0, np.arange(frames) * ns(0.1), np.tile(person_at(x, z), (1, frames, 1, 1)))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return inference.load(write_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def test_join_clips_continues_from_pose_to_pose() -> None:
    joined = join_clips("joined", [clip(0.0, 2), clip(3.0, 2, z=5.0)], ["left", "unknown"], rate_hz=10.0)
    bodies, stamps = joined.sequence.bodies[0], joined.sequence.stamps_ns
    assert [(each.label, each.start_s, each.end_s) for each in joined.actions] == [
        ("left", 3.0, 5.0),
        ("unknown", 5.8, 7.8),
    ]
    assert np.diff(stamps).tolist() == [ns(0.1)] * (len(stamps) - 1) and len(stamps) == 109
    assert np.abs(np.diff(bodies, axis=0)).max() == 0.0  # the second clip is moved to where the first one ended


def test_join_clips_moves_smoothly_between_poses() -> None:
    first, second = clip(0.0, 1), clip(0.0, 1)
    second.bodies[..., :12, 1] -= 0.5
    joined = join_clips("joined", [first, second], ["left", "left"], rate_hz=30.0)
    steps = np.abs(np.diff(joined.sequence.bodies[0], axis=0))
    assert 0 < steps.max() < 0.05


def test_person_streams_joins_known_and_unknown_clips_with_waiting() -> None:
    known = ClipDataset([clip(x, 2) for x in (-1.0, 1.0)] * 2, LABELS)
    for index, entry in enumerate(known.entries):
        known.entries[index] = replace(entry, label=index % 2, meta={"subject": index // 2})
    made = person_streams(known, ClipDataset([clip(0.0, 1)], ()), clips=3)
    assert sorted(action.label for each in made for action in each.actions) == [
        "left",
        "left",
        "right",
        "right",
        "unknown",
    ]
    assert len(made) == 3 and not np.isnan(made[0].sequence.bodies).any()
    first, second = made[0].actions
    assert second.start_s - first.end_s >= 0.9  # waiting of 0.3 s and 0.7 s to the next pose
    assert len(person_streams(known, known.subset([]), people=1)) == 1


def stream(*actions: tuple[str, float, float], minutes: float = 1.0, body: str = "") -> ActionStream:
    stamps = np.array([0, ns(60 * minutes)])
    empty = np.zeros((1, 2, 25, 3), np.float32)
    sequence = SkeletonSequence("s", stamps + ns(5), empty, empty[..., 0], empty[..., :2], ("body_1",))
    return ActionStream(
        sequence, tuple(LabeledClip("s", label, start, end, body=body) for label, start, end in actions)
    )


def event(label: str, at_s: float, kind: str = "began", body_id: str = "body_1") -> ActionEvent:
    stamp = ns(5 + at_s)
    return ActionEvent(1, kind, body_id, label, 0, 0.9, stamp, stamp, stamp, (0.0, 0.0, 0.0), "tiny")


def label(name: str, at_s: float, body_id: str = "body_1") -> ActionPrediction:
    return ActionPrediction(body_id, name, 0, 0.9, (), (), 0, ns(5 + at_s), "tiny")


LABELS = ("left", "right", "far")


def test_score_counts_found_false_and_repeated_events() -> None:
    recording = stream(("left", 10, 12), ("left", 14, 16), ("right", 20, 22), ("unknown", 30, 40), ("wave", 50, 52))
    events = [event("left", 11), event("left", 12), event("left", 16.5), event("right", 23.5), event("far", 35)]
    found = streams.score(recording, [*events, event("far", 36, kind="ended")], [], LABELS)
    assert (found.actions, found.found) == ({"left": 2, "right": 1}, {"left": 2})
    assert (found.false_events, found.repeated) == ({"left": 1, "right": 1, "far": 1}, 1)
    assert (found.start_delays_s, found.end_delays_s) == ([1.0, 2.5], [-1.0, 0.5])
    figures = found.figures()
    assert figures["found_share"] == pytest.approx(2 / 3) and figures["false_events_per_minute"] == 3.0
    assert figures["median_delay_from_end_s"] == -0.25


def test_score_event_of_other_body_is_false() -> None:
    recording = stream(("left", 10, 12), body="body_2")
    found = streams.score(recording, [event("left", 11), event("left", 11.5, body_id="body_2")], [], LABELS)
    assert (found.found, found.false_events) == ({"left": 1}, {"left": 1})


def test_score_label_of_another_spelling_is_the_models() -> None:
    found = streams.score(stream(("Far_", 10, 12), ("lift", 20, 22)), [event("far", 11)], [], LABELS)
    assert (found.actions, found.found, found.false_events) == ({"far": 1}, {"far": 1}, {})


def test_score_labels_time_and_changes() -> None:
    recording = stream(("left", 10, 20))
    labels = [label("unknown", 0), label("left", 12), label("right", 15), label("left", 18), label("unknown", 30)]
    found = streams.score(recording, [event("left", 13)], labels, LABELS)
    assert found.labeled_s == pytest.approx(18) and found.wrong_s == pytest.approx(3)
    assert (found.label_changes, found.changes_in_actions) == (4, 3)


def test_score_counts_changes_of_the_acting_body_in_actions() -> None:
    recording = stream(("left", 10, 20), body="body_1")
    labels = [label(name, at, body) for body in ("body_1", "body_2") for name, at in (("unknown", 0), ("left", 12))]
    found = streams.score(recording, [event("left", 13)], labels, LABELS)
    assert (found.label_changes, found.changes_in_actions) == (2, 1)


def test_evaluate_recording_of_tiny_model(session: Session) -> None:
    places = [person_at(0.0, 4.0)] * 40 + [person_at(-1.0)] * 40 + [person_at(0.0, 4.0)] * 40
    bodies = np.stack(places)[None]
    stamps = np.arange(120) * ns(0.1)
    sequence = SkeletonSequence("walk", stamps, bodies, np.ones_like(bodies[..., 0]), bodies[..., :2], ("body_1",))
    acted = (LabeledClip("walk", "left", 4, 8),)
    found, idle = (streams.evaluate(session, [ActionStream(sequence, actions)]) for actions in (acted, ()))
    assert (found.found, found.false_events) == ({"left": 1}, {}) and 0 < found.start_delays_s[0] < 2
    assert (idle.found, idle.false_events) == ({}, {"left": 1})


def test_evaluate_model_of_other_streams_raises(tmp_path: Path) -> None:
    hands = inference.load("sem_net_shrec17")
    with pytest.raises(InputError, match="takes hands"):
        streams.evaluate(hands, [])


def test_eval_stream_prints_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skeletons = np.random.default_rng(0).normal(size=(60, 20, 3)) * 0.1 + [0, 0, 3]
    for name in ("a01_s01_e00_v03", "a02_s01_e00_v03"):
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"file_name": name, "skeletons": skeletons.tolist(), "label": 1})
        )
    names = ("a01_s01_e00_v03.json", "a02_s01_e00_v03.json")
    write_labels(tmp_path / "labels.csv", [LabeledClip(name, "throw", 1, 3) for name in names])
    arguments = [
        "eval",
        "deepacts_graph_nucla",
        "--stream",
        str(tmp_path),
        "--recording",
        "fps=12",
        "--json",
        "--quiet",
    ]
    assert cli.main(arguments) == 0
    figures = json.loads(capsys.readouterr().out)["deepacts_graph_nucla"]
    assert figures["actions"] == 2 and figures["minutes"] == pytest.approx(2 * 59 / 12 / 60, abs=0.01)
    assert cli.main([*arguments[:-2], "--quiet"]) == 0
    assert "throw: " in capsys.readouterr().out


def test_open_streams_of_a_bag_has_its_bodies_and_spans(tmp_path: Path) -> None:
    own_recordings.write_bag(tmp_path / "monday", own_recordings.walker)
    write_labels(tmp_path / "labels.csv", [LabeledClip("monday", "walk", 0.5, 1.5)])
    (stream,) = streams.open_streams(tmp_path)
    assert stream.minutes == pytest.approx(1.9 / 60) and stream.sequence.body_ids == ("body_1",)
    assert [(each.label, each.start_s, each.end_s) for each in stream.actions] == [("walk", 0.5, 1.5)]
    write_labels(tmp_path / "labels.csv", [LabeledClip("gone", "walk", 0.5, 1.5)])
    with pytest.raises(DeviceError, match="gone'"):
        streams.open_streams(tmp_path)


@pytest.mark.parametrize(
    ("body", "start_s", "message"),
    [
        ("body_7", 0.5, "monday' has no body 'body_7' for 'walk'; it has body_1"),
        ("", 30.0, "monday' lasts 1.90 s, but its 'walk' starts at 30 s: give start_s and end_s in seconds"),
    ],
)
def test_open_streams_action_outside_the_recording_raises(
    body: str, start_s: float, message: str, tmp_path: Path
) -> None:
    own_recordings.write_bag(tmp_path / "monday", own_recordings.walker)
    write_labels(tmp_path / "labels.csv", [LabeledClip("monday", "walk", start_s, start_s + 1, body=body)])
    with pytest.raises(InputError, match=message):
        streams.open_streams(tmp_path)


def test_evaluate_warns_of_labels_and_pauses_that_leave_nothing_to_find(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    bodies = np.tile(person_at(0.0, 4.0), (1, 30, 1, 1))
    sequence = SkeletonSequence(
        "slow", np.arange(30) * ns(0.6), bodies, np.ones_like(bodies[..., 0]), bodies[..., :2], ("body_1",)
    )
    found = streams.evaluate(session, [ActionStream(sequence, (LabeledClip("slow", "wave", 1, 3),))])
    assert found.labeled_s == 0 and "model tiny has no class wave: events in these actions are false" in caplog.text
    assert "slow: windows restart too often to be labeled: skeletons are more than max_gap_s" in caplog.text


def test_eval_stream_without_labels_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "deepacts_graph_nucla", "--stream", str(tmp_path)]) == 1
    assert "labels.csv" in capsys.readouterr().err
    (tmp_path / "labels.csv").write_text("recording,label\n")
    assert cli.main(["eval", "deepacts_graph_nucla", "--stream", str(tmp_path)]) == 1
    assert "labels no recording" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--stream", "x", "--report", "r", "--skip-unreadable", "--option", "fold=1"], "--skip-unreadable, --option"),
        (["--labels", "x.csv"], "--labels is for continuous recordings"),
    ],
)
def test_eval_option_without_effect_is_refused(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", "deepacts_graph_nucla", *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_utd_mhad_person_finds_most_actions(data_root: Path) -> None:
    clips = datasets.create("utd_mhad", data_root / "utd_mhad", part="test")
    chosen = [i for i, meta in enumerate(clips.metas) if meta["subject"] == 2 and meta["trial"] == 1][:14]
    joined = join_clips("p", [clips[i] for i in chosen], [clips.classes[clips.labels[i]] for i in chosen])
    found = streams.evaluate(inference.load("deepacts_graph_utd_mhad"), [joined])
    assert found.found.total() >= 12 and found.false_events.total() <= 1


def test_open_streams_levels_recordings_of_a_tilted_camera(tmp_path: Path) -> None:
    up = gravity.up_from_angles(0, 30)
    spec = InputSpec("body", "body", "kinect_v2_25", (1, 3, 1, 25))
    joints = np.tile(example_clip([spec], 1)["bodies"][0, 0], (60, 1, 1)) @ gravity.level_rotation(up)
    np.savez(tmp_path / "a.npz", positions=joints, layout="kinect_v2_25", fps=20.0)
    write_labels(tmp_path / "labels.csv", [LabeledClip("a.npz", "left", 0.0, 1.0)])
    for config, expected, error in (None, up, 8.0), (RecordingConfig(mount="0,28"), gravity.up_from_angles(0, 28), 0.1):
        (opened,) = streams.open_streams(tmp_path, config=config)
        assert opened.sequence.up is not None and angle_deg(opened.sequence.up, expected) < error


def test_join_clips_after_a_person_out_of_view_shows_the_next_clip() -> None:
    first, second = clip(0.0, 2), clip(3.0, 2)
    first.bodies[:, -8:] = np.nan
    joined = join_clips("joined", [first, second], ["left", "right"], rate_hz=10.0)
    begin = round(10 * joined.actions[1].start_s)
    assert np.isfinite(joined.sequence.bodies[0, begin : begin + 21]).all()
    assert joined.sequence.bodies.dtype == np.float32


def test_person_streams_joins_known_and_unknown_clips_of_person_0() -> None:
    known, unknown = ClipDataset([clip(0.0, 2)], LABELS), ClipDataset([clip(0.0, 1)], ())
    for part in (known, unknown):
        part.entries = [replace(entry, meta={"subject": 0}) for entry in part.entries]
    (made,) = person_streams(known, unknown)
    assert sorted(action.label for action in made.actions) == ["left", "unknown"]


def test_score_time_with_wrong_labels_of_two_bodies_counts_once() -> None:
    found = streams.score(stream(), [], [label("left", 0, body) for body in ("body_1", "body_2")], LABELS)
    assert found.figures()["wrong_share_of_time"] == 1.0
