"""The recognizer with more streams than joints: live equals offline, no blocking, reasons for missing streams."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actrec import inference
from actrec.features.clips import CAMERA
from actrec.features.specs import InputSpec, WindowSpec
from actrec.inference.session import Session
from actrec.recognition import ActionPrediction, ActionRecognizer
from actrec.recognition.tracks import BUFFERED_IMAGES, FRAMES_PER_SAMPLE
from actrec.skeleton.layouts import convert
from actrec.types import NANOSECONDS, Body
from actrec.utils.errors import InputError, PackageError
from tests.example_scene import (
    ALL,
    BODY,
    CROP,
    FACE,
    FLOW,
    FRAMES,
    HAND_CROP,
    HANDS,
    MOTION,
    PIXELS,
    PLACES,
    RATE_HZ,
    WINDOW,
    Scene,
    stamp,
    update,
)  # fmt: skip
from tests.tiny_model import RAW, note_runs, person_at, write_any, write_tiny


def load(folder: Path, *specs: InputSpec, **more: Any) -> Session:
    return inference.load(write_any(folder / "model", specs, more.pop("window", WINDOW), **more))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def by_label(label: ActionPrediction) -> np.ndarray:
    probabilities = dict(zip(label.top_labels, label.top_probabilities, strict=True))
    return np.array([probabilities[name] for name in sorted(probabilities)])


def expected(session: Session, clip: Mapping[str, np.ndarray]) -> np.ndarray:
    prediction = session.predict(clip)
    return prediction.probabilities[np.argsort(prediction.labels)]


def make(session: Session, **options: Any) -> ActionRecognizer:
    return ActionRecognizer(session, **{"interval_s": 0.0, **options})


@pytest.mark.parametrize(
    "specs",
    [[HANDS], [FACE], [MOTION], [FLOW], [FLOW, PLACES], [CROP], [CROP, HAND_CROP, BODY], ALL],
    ids=lambda specs: "+".join(spec.modality for spec in specs) if len(specs) < 8 else "all",
)
def test_predict_streams_equal_offline(
    tmp_path: Path, scene: Scene, specs: list[InputSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(tmp_path, *specs)
    recognizer = make(session)
    runs = note_runs(session, monkeypatch)
    for t in range(2 * FRAMES):
        scene.add_frame(recognizer, t)
    assert recognizer.missing == {}
    (label,) = recognizer.predict()
    assert label.reason == "" and len(label.top_labels) == 3
    for frames in (range(FRAMES, 2 * FRAMES), range(FRAMES)):
        session.predict(scene.offline(frames))
    live, offline, other_window = runs
    for name, value in live.items():
        scale = np.abs(offline[name]).max()
        np.testing.assert_allclose(value, offline[name], atol=1e-4 * scale, err_msg=name)
        assert np.abs(other_window[name] - offline[name]).max() > 0.005 * scale, "another window gives other inputs"


def test_recognizer_slow_images_warns_with_number_that_differ(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = WindowSpec(FRAMES / (2 * RATE_HZ), FRAMES)  # of a network that takes images at 30 Hz
    session = load(tmp_path, CROP, window=fast)
    recognizer, right = make(session), make(load(tmp_path / "right", CROP))
    runs = note_runs(session, monkeypatch)
    for t in range(2 * FRAMES):
        assert t > 2 or not recognizer.slow, "not known at once"
        scene.add_frame(recognizer, t)
        scene.add_frame(right, t)
    recognizer.predict()
    differing = len(np.unique(runs[0]["body_crop"][0], axis=1).transpose(1, 0, 2, 3))
    assert differing == FRAMES // 2
    assert recognizer.live_rate == pytest.approx(15) and recognizer.model_rate == 30
    assert f"only {differing} of its {FRAMES} images differ" in recognizer.slow
    assert right.model_rate == 15 and right.slow == ""


@pytest.mark.parametrize("spec", [FLOW, MOTION], ids=["required", "optional"])
@pytest.mark.parametrize(
    ("trained", "made", "message"),
    [
        ({"method": "pd_flow"}, {"method": "dis", "height": 240}, "method dis, trained with pd_flow"),
        ({"height": 240}, {}, "height 120, trained with 240"),
        ({"rate": 30.0}, {}, "rate 15, trained with 30; use a camera of 30 Hz"),
        ({"method": "dis", "height": 120, "rate": 15.0}, {"method": "dis", "height": 120}, ""),
    ],
)
def test_recognizer_other_scene_flow_warns_or_with_strict_inputs_refuses(
    tmp_path: Path, scene: Scene, spec: InputSpec, trained: dict[str, Any], made: dict[str, Any], message: str
) -> None:
    opened = load(tmp_path, spec)
    stated = replace(opened.package, provenance=replace(opened.package.provenance, scene_flow=trained))
    session = Session(stated, opened.backend, warm_up_runs=0)
    for strict in (False, True):
        recognizer = make(session, strict_inputs=strict)
        recognizer.set_scene_flow({**made, "rate_hz": 3.0})
        for t in range(2 * FRAMES):
            scene.add_frame(recognizer, t)
        (label,) = recognizer.predict()
        found = recognizer.other_flow()
        assert message in found and bool(found) == bool(message)
        refused = strict and bool(message)
        assert label.reason == (found if refused else "") and bool(label.top_labels) != refused
        recognizer.set_session(session)
        assert recognizer._buffers.flow_settings == made, "the node that makes the flow is the same"


def test_streams_and_image_size_follow_model(tmp_path: Path) -> None:
    session = load(tmp_path, HANDS, FLOW)
    recognizer = make(session)
    assert recognizer.streams == {"hands": False, "flow": True, "bodies": True}
    assert recognizer.needs_image_size and make(load(tmp_path / "b", FACE)).needs_image_size
    assert not make(load(tmp_path / "f", FLOW)).needs_image_size, "the flow's camera_info gives the aspect"
    assert not make(load(tmp_path / "c", CROP)).needs_image_size, "the images give the size"
    assert make(load(tmp_path / "d", MOTION)).needs_image_size and make(load(tmp_path / "e", PLACES)).needs_image_size


@pytest.mark.parametrize("spec", [HANDS, FACE, MOTION], ids=lambda spec: spec.modality)
def test_recognizer_absent_optional_stream_is_zero(tmp_path: Path, scene: Scene, spec: InputSpec) -> None:
    session = load(tmp_path, BODY, spec)
    recognizer = make(session)
    (stream,) = set(recognizer.streams) - {"bodies"}
    for t in range(FRAMES):
        scene.add_frame(recognizer, t, without=(stream,))
    assert list(recognizer.missing) == [stream] and "so far" in recognizer.missing[stream]
    (label,) = recognizer.predict()
    clip = scene.offline(range(FRAMES), without=(stream,))
    np.testing.assert_allclose(by_label(label), expected(session, clip), atol=2e-4)


@pytest.mark.parametrize(("spec", "stream"), [(FLOW, "flow"), (CROP, "color")])
def test_predict_required_stream_absent_is_unknown(tmp_path: Path, scene: Scene, spec: InputSpec, stream: str) -> None:
    recognizer = make(load(tmp_path, spec))
    for t in range(FRAMES):
        scene.add_frame(recognizer, t, without=(stream,))
    (label,) = recognizer.predict()
    assert (label.label, label.class_id, label.top_labels) == ("unknown", -1, ())
    reason = {"flow": "no scene flow so far", "color": "no color images so far"}[stream]
    assert label.reason == reason and recognizer.missing == {stream: reason}
    assert recognizer.counts.missing_input == 1 and recognizer.counts.labels == 0


def test_predict_required_stream_timeout_is_unknown_until_it_returns(tmp_path: Path, scene: Scene) -> None:
    recognizer = make(load(tmp_path, FLOW), stream_timeout_s=0.5)
    for t in range(FRAMES):
        scene.add_frame(recognizer, t)
    assert recognizer.predict()[0].reason == ""
    labels = []
    for t in range(FRAMES, 2 * FRAMES):
        scene.add_frame(recognizer, t, without=("flow",))
        labels += recognizer.predict()
    assert [label.reason for label in labels[:7]] == [""] * 7, "the last observation is kept for half a second"
    assert {label.reason for label in labels[8:]} == {"no recent scene flow"}
    scene.add_frame(recognizer, 2 * FRAMES)
    assert recognizer.predict()[0].reason == ""


@pytest.mark.parametrize("spec", [MOTION, PLACES], ids=lambda spec: spec.modality)
def test_recognizer_without_image_size_is_unknown(tmp_path: Path, scene: Scene, spec: InputSpec) -> None:
    recognizer = make(load(tmp_path, spec), min_seconds=0.0)
    recognizer.add_skeletons(stamp(0), scene.bodies(0))
    if "flow" in recognizer.streams:
        recognizer.add_scene_flow(stamp(0), scene.clip["flow"][0], CAMERA.resized(160, 120))
    assert "no camera_info so far" in recognizer.predict()[0].reason
    recognizer.set_image_size(320, 240)
    recognizer.add_skeletons(stamp(1), scene.bodies(1))
    assert recognizer.predict()[0].reason == ""


def test_recognizer_ignores_images_of_other_frames(tmp_path: Path, scene: Scene) -> None:
    """Color images whose stamps differ from the skeletons' do not match."""
    recognizer = make(load(tmp_path, CROP))
    for t in range(FRAMES):
        recognizer.add_color(stamp(t + 0.4), scene.clip["color"][t])
        recognizer.add_skeletons(stamp(t), scene.bodies(t))
    (label,) = recognizer.predict()
    assert "no color images match the stamps" in label.reason


@pytest.mark.parametrize(
    ("ahead_s", "reason"),
    [
        (0.5, ""),
        (1.5, "skeletons come 1.5 s after their color images (kept for 1 s): speed up depth"),
        (3600.0, "color images have stamps of another clock"),
    ],
)
def test_recognizer_images_ahead_of_skeletons_are_reported(
    tmp_path: Path, scene: Scene, ahead_s: float, reason: str
) -> None:
    recognizer = make(load(tmp_path, CROP), min_seconds=0.0)
    ahead = round(ahead_s * NANOSECONDS / (stamp(1) - stamp(0)))
    for t in range(max(ahead - 2 * FRAMES, 0), FRAMES + ahead):
        recognizer.add_color(stamp(t), scene.clip["color"][t % FRAMES])
    recognizer.add_skeletons(stamp(FRAMES - 1), scene.bodies(FRAMES - 1))
    assert recognizer.predict()[0].reason == reason


def test_predict_images_that_no_longer_match_are_unknown_with_the_reason(tmp_path: Path, scene: Scene) -> None:
    """Depth that becomes late, or stamps that drift apart: the last image is not repeated endlessly."""
    recognizer = make(load(tmp_path, CROP), stream_timeout_s=0.5)
    for t in range(FRAMES):
        scene.add_frame(recognizer, t)
    assert recognizer.predict()[0].reason == ""
    reasons = []
    for t in range(FRAMES, 3 * FRAMES):
        recognizer.add_color(stamp(t + 0.4), scene.clip["color"][t % FRAMES])
        recognizer.add_skeletons(stamp(t), scene.bodies(t % FRAMES))
        reasons += [label.reason for label in recognizer.predict()]
    assert reasons[0] == "" and "no color images match the stamps" in reasons[-1]


def test_recognizer_fast_images_ahead_of_skeletons_are_reported(tmp_path: Path, scene: Scene) -> None:
    """At 60 Hz, half a second of images is kept."""
    recognizer = make(load(tmp_path, CROP), min_seconds=0.0)
    times = [round(k * NANOSECONDS / 60) for k in range(90)]
    for ns in times:
        recognizer.add_color(ns, scene.clip["color"][0])
    recognizer.add_skeletons(times[-1] - round(0.7 * NANOSECONDS), scene.bodies(0))
    expected = "skeletons come 0.7 s after their color images (kept for 0.52 s): speed up depth"
    assert recognizer.predict()[0].reason == expected


def test_predict_message_order_does_not_matter(tmp_path: Path, scene: Scene) -> None:
    """Color, hands, faces and flow arrive up to three frames late and in any order."""
    session = load(tmp_path, *ALL)
    recognizer = make(session)
    delayed: list[tuple[int, Callable[[], object]]] = []
    rng = np.random.default_rng(1)
    for t in range(2 * FRAMES + 4):
        if t < 2 * FRAMES:
            ns, flow = stamp(t), scene.clip["flow"][t]
            calls: list[Callable[[], object]] = [
                lambda t=t, ns=ns: recognizer.add_color(ns, scene.clip["color"][t]),  # type: ignore[misc]
                lambda t=t, ns=ns: recognizer.add_hands(ns, scene.hands(t)),  # type: ignore[misc]
                lambda t=t, ns=ns: recognizer.add_faces(ns, scene.faces(t)),  # type: ignore[misc]
                lambda f=flow, ns=ns: recognizer.add_scene_flow(ns, f, CAMERA.resized(160, 120)),  # type: ignore[misc]
            ]
            # The first frames arrive in order, as hands and faces need a known body.
            delayed += [(t + int(rng.integers(4 if t > 3 else 1)), call) for call in calls]
            if t < 4:
                recognizer.add_color(ns, scene.clip["color"][t])
            recognizer.add_skeletons(ns, scene.bodies(t))
        for frame, call in [item for item in delayed if item[0] <= t][::-1]:
            call()
            delayed.remove((frame, call))
    (label,) = recognizer.predict()
    np.testing.assert_allclose(by_label(label), expected(session, scene.offline(range(FRAMES, 2 * FRAMES))), atol=2e-4)


def test_predict_lost_messages_are_interpolated(tmp_path: Path, scene: Scene) -> None:
    session = load(tmp_path, *ALL)
    recognizer = make(session)
    for t in range(2 * FRAMES):
        scene.add_frame(recognizer, t, without=("hands", "color", "flow") if t % 3 == 1 else ())
    (label,) = recognizer.predict()
    offline_probabilities = expected(session, scene.offline(range(FRAMES, 2 * FRAMES)))
    assert label.reason == "" and np.abs(by_label(label) - offline_probabilities).max() < 0.3


def test_predict_hand_out_of_view_is_missing(tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path, replace(HANDS, preprocessing=PIXELS))
    recognizer = make(session, max_gap_s=0.3)
    runs = note_runs(session, monkeypatch)
    for t in range(FRAMES):
        scene.add_frame(recognizer, t, without=("hands",))
        recognizer.add_hands(stamp(t), [hand for hand in scene.hands(t) if hand.side == "right" or t < 4])
    recognizer.predict()
    visible = runs[0]["hands"][0, 0].any(axis=0).reshape(FRAMES, 2, 21).any(axis=-1)  # a missing hand is all zero
    assert visible[:, 1].all()
    assert visible[:8, 0].all() and not visible[-6:, 0].any(), "it is kept for 0.3 s after its last frame, 3"


def test_buffers_are_bounded(tmp_path: Path, scene: Scene) -> None:
    recognizer = make(load(tmp_path, *ALL))
    for t in range(20 * FRAMES):  # at ten times the camera's frame rate
        scene.add_frame(recognizer, t % (3 * FRAMES), at=t / 10)
    buffers = recognizer._buffers
    assert len(buffers.color) <= BUFFERED_IMAGES and len(buffers.flow) <= BUFFERED_IMAGES
    frames = [*buffers.frames.values(), *recognizer._tracks["body_1"].frames.values()]
    assert set(recognizer._tracks["body_1"].frames) == {"body_crop", "right"}
    assert all(FRAMES < len(buffer) <= FRAMES_PER_SAMPLE * FRAMES + 2 for buffer in frames)


@pytest.mark.parametrize("frames", [8, 22, 37, 1000])
def test_predict_stamps_jump_back_equals_offline(tmp_path: Path, scene: Scene, frames: int) -> None:
    """A jump back restarts the windows, also one as short as a looping recording."""
    session = load(tmp_path, *ALL)
    recognizer = make(session)
    for t in range(FRAMES, 3 * FRAMES):
        scene.add_frame(recognizer, t, at=t + 0.1 - 3 * FRAMES + frames)
    for t in range(FRAMES):
        scene.add_frame(recognizer, t)
    (label,) = recognizer.predict()
    assert recognizer.counts.restarts == 1 and label.window_start_ns == stamp(0)
    np.testing.assert_allclose(by_label(label), expected(session, scene.offline(range(FRAMES))), atol=2e-4)


def test_set_session_other_streams_equals_offline(tmp_path: Path, scene: Scene) -> None:
    recognizer = make(load(tmp_path / "a", BODY))
    for t in range(FRAMES):
        scene.add_frame(recognizer, t)
    assert recognizer.predict()[0].reason == "" and set(recognizer.streams) == {"bodies"}
    for number, spec in enumerate((CROP, FLOW, HANDS, BODY)):
        session = load(tmp_path / str(number), spec)
        recognizer.set_session(session)
        for t in range(FRAMES):
            scene.add_frame(recognizer, t, at=(number + 1) * FRAMES + t)
        (label,) = recognizer.predict()
        np.testing.assert_allclose(by_label(label), expected(session, scene.offline(range(FRAMES))), atol=2e-4)


def test_set_session_pending_frame_is_labeled_by_new_model(tmp_path: Path, scene: Scene) -> None:
    """A frame that was added before the change of models still gets a label."""
    recognizer = make(load(tmp_path / "a", BODY), min_seconds=0.0)
    scene.add_frame(recognizer, 0)
    other = load(tmp_path / "b", BODY)
    recognizer.set_session(other)
    recognizer.set_session(other)
    (label,) = recognizer.predict()
    assert (label.stamp_ns, label.window_start_ns) == (stamp(0), stamp(0))
    assert recognizer.predict() == []


def test_predict_running_network_does_not_block_messages(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(tmp_path, CROP)
    recognizer = make(session)
    running, resume = threading.Event(), threading.Event()
    run = session.backend.run

    def run_blocked(inputs: dict[str, np.ndarray]) -> np.ndarray:
        running.set()
        assert resume.wait(30)
        return run(inputs)

    for t in range(FRAMES):
        scene.add_frame(recognizer, t)
    monkeypatch.setattr(session.backend, "run", run_blocked)
    labels: list[ActionPrediction] = []
    thread = threading.Thread(target=lambda: labels.extend(recognizer.predict()))
    thread.start()
    assert running.wait(30)
    for t in range(FRAMES, 2 * FRAMES):
        scene.add_frame(recognizer, t)  # hangs if the running network blocks it
    resume.set()
    thread.join(30)
    assert [label.stamp_ns for label in labels] == [stamp(FRAMES - 1)]
    assert recognizer.counts.skipped == 2 * (FRAMES - 1)
    (label,) = recognizer.predict()
    assert label.stamp_ns == stamp(2 * FRAMES - 1) and label.reason == ""


def test_add_hands_and_faces_invalid_points_raise(tmp_path: Path, scene: Scene) -> None:
    recognizer = make(load(tmp_path, HANDS, FACE))
    scene.add_frame(recognizer, 0)
    hand, face = scene.hands(1)[0], scene.faces(1)[0]
    with pytest.raises(InputError, match=r"hand of 'body_1' has positions \[20, 3\]"):
        recognizer.add_hands(stamp(1), [replace(hand, positions=hand.positions[:20])])
    with pytest.raises(InputError, match="infinite"):
        recognizer.add_faces(stamp(1), [replace(face, positions=face.positions + np.inf)])
    recognizer.add_hands(stamp(1), [replace(hand, body_id="unknown_body")])
    scene.add_frame(recognizer, 2)
    assert recognizer.predict()[0].reason == ""


def test_add_skeletons_pixels_of_other_layout_are_converted(tmp_path: Path) -> None:
    recognizer = make(load(tmp_path, FACE, PLACES), min_seconds=0.0)
    joints = np.tile(person_at(0.0)[:1], (32, 1))
    recognizer.set_image_size(320, 240)
    recognizer.add_skeletons(
        stamp(0), [Body("a", "azure_kinect_32", joints, joints[:, :2] + 100, np.ones(32, np.float32))]
    )
    assert recognizer.predict()[0].reason == ""
    with pytest.raises(InputError, match=r"pixels \[25, 2\], expected \[32, 2\] of azure_kinect_32"):
        recognizer.add_skeletons(
            stamp(1), [Body("a", "azure_kinect_32", joints, joints[:25, :2], np.ones(32, np.float32))]
        )


def test_recognizer_model_of_full_images_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path, BODY)
    session.__dict__["keys"] = frozenset({"bodies", "color"})
    with pytest.raises(PackageError, match="full images"):
        ActionRecognizer(session)


@pytest.mark.parametrize("layout", ["hand_21", "hand_22"])
def test_add_hands_hand_model_labels_each_hand(tmp_path: Path, scene: Scene, layout: str) -> None:
    joints = int(layout[-2:])
    session = load(tmp_path, InputSpec("body", "body", layout, (1, 3, FRAMES, joints), "m", RAW))
    recognizer = make(session)
    assert recognizer.tracked_stream == "hands" and recognizer.streams == {"hands": True}
    assert recognizer.missing == {"hands": "no hands so far"}
    for t in range(FRAMES):
        labels = update(recognizer, stamp(t), scene.hands(t))
    assert recognizer.missing == {}
    by_id = {label.body_id: label for label in labels}
    assert set(by_id) == {"body_1_left", "body_1_right"}
    clip = scene.clip["hands"][:1, :FRAMES, 1]
    if layout == "hand_22":
        clip = convert(clip, np.ones(clip.shape[:-1]), "hand_21", "hand_22")[0]
        np.testing.assert_allclose(clip[..., 1, :], (clip[..., 0, :] + clip[..., 10, :]) / 2, atol=1e-6)
    np.testing.assert_allclose(by_label(by_id["body_1_right"]), expected(session, {"bodies": clip}), atol=1e-4)


def test_set_session_body_model_after_hand_model(tmp_path: Path, scene: Scene) -> None:
    hands = load(tmp_path / "h", InputSpec("body", "body", "hand_22", (1, 3, FRAMES, 22), "m", RAW))
    recognizer = make(hands, lost_after_s=0.2)
    update(recognizer, stamp(0), scene.hands(0), predict=False)
    recognizer.set_session(inference.load(write_tiny(tmp_path / "tiny")))
    assert recognizer.predict() == []
    labels = [label for t in range(1, FRAMES) for label in update(recognizer, stamp(t), scene.bodies(t))]
    assert {label.label for label in labels if label.body_id.startswith("body_1_")} == {"unknown"}
    assert any(label.body_id == "body_1" and label.top_labels for label in labels)


def test_set_session_hand_model_takes_hands_that_lag_behind_the_skeletons(tmp_path: Path, scene: Scene) -> None:
    recognizer = make(inference.load(write_tiny(tmp_path / "tiny")))
    for t in range(4):
        update(recognizer, stamp(t), scene.bodies(t))
    recognizer.set_session(load(tmp_path, InputSpec("body", "body", "hand_22", (1, 3, FRAMES, 22), "m", RAW)))
    assert recognizer.missing == {"hands": "no hands so far"}
    for t in range(2, 5):
        update(recognizer, stamp(t), scene.hands(t))
    assert (recognizer.counts.restarts, recognizer.counts.duplicates) == (0, 0)


def test_set_session_hand_model_of_other_layout_predicts_both_hands(tmp_path: Path, scene: Scene) -> None:
    first, second = (
        load(tmp_path / layout, InputSpec("body", "body", layout, (1, 3, FRAMES, int(layout[-2:])), "m", RAW))
        for layout in ("hand_21", "hand_22")
    )
    recognizer = make(first)
    update(recognizer, stamp(0), scene.hands(0), predict=False)
    recognizer.set_session(second)
    assert recognizer.predict() == []
    for t in range(1, FRAMES):
        labels = update(recognizer, stamp(t), scene.hands(t))
    assert {label.body_id for label in labels if label.top_labels} == {"body_1_left", "body_1_right"}
