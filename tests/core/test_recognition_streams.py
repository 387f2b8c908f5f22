"""The recognizer with models that need more than joints: live is offline, nothing waits, what is missing is said."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actrec import inference
from actrec.errors import InputError, PackageError
from actrec.features.base import STREAMS
from actrec.features.example import CAMERA, example_clip
from actrec.features.keypoints import motion_at_joints
from actrec.frames import NANOSECONDS, Body, Face, Hand
from actrec.inference import Session
from actrec.observations import FRAMES_A_SAMPLE, PICTURES
from actrec.package import InputSpec, WindowSpec
from actrec.recognition import LabelledWindow, Recognizer
from actrec.skeleton.conversions import convert
from tests.tiny_model import RAW, note_runs, person_at, write_any, write_tiny

RATE_HZ = 15
FRAMES = 16
WINDOW = WindowSpec(FRAMES / RATE_HZ, FRAMES)
START_NS = 1_700_000_000_000_000_000
PIXELS = {"centre": "image", "scale": "image"}

BODY = InputSpec("joints", "body", "kinect_v2_25", (1, 3, FRAMES, 25), "m", RAW)
HANDS = InputSpec("hands", "hands", "hand_21", (1, 3, FRAMES, 42), "px")
FACE = InputSpec("mien", "face", "face_68", (1, 3, FRAMES, 68), "px", PIXELS)
MOTION = InputSpec("motion", "motion", "kinect_v2_25", (1, 3, FRAMES, 25), "px/s")
FLOW = InputSpec("flow_rgb", "flow_rgb", "CTHW", (3, FRAMES, 32, 32), "m/s")
PLACES = InputSpec("joint_pixels", "joint_pixels", "kinect_v2_25", (FRAMES, 25, 2), "px", {"size": 32})
CROP = InputSpec("body_crop", "body_crop", "kinect_v2_25", (3, FRAMES, 24, 24))
HAND_CROP = InputSpec("right", "right_hand_crop", "kinect_v2_25", (3, FRAMES, 24, 24))
ALL = [BODY, HANDS, FACE, MOTION, FLOW, PLACES, CROP, HAND_CROP]


def stamp(frame: float) -> int:
    return START_NS + round(frame * NANOSECONDS / RATE_HZ)


def load(folder: Path, *specs: InputSpec, **more: Any) -> Session:
    return inference.load(write_any(folder / "model", specs, more.pop("window", WINDOW), **more))


@dataclass
class Scene:
    """Example people, told message by message as the nodes would."""

    clip: Mapping[str, np.ndarray] = field(default_factory=lambda: example_clip(ALL, 3 * FRAMES, bodies=2, seed=3))

    def bodies(self, t: int, count: int = 1) -> list[Body]:
        ones = np.ones(25, np.float32)
        joints, pixels = self.clip["bodies"], self.clip["pixels"]
        return [Body(f"body_{m + 1}", "kinect_v2_25", joints[m, t], pixels[m, t], ones) for m in range(count)]

    def hands(self, t: int) -> list[Hand]:
        points, pixels, ones = self.clip["hands"][0, t], self.clip["hand_pixels"][0, t], np.ones(21, np.float32)
        return [Hand("body_1", "hand_21", points[s], pixels[s], ones, side) for s, side in enumerate(("left", "right"))]

    def faces(self, t: int) -> list[Face]:
        points, pixels = self.clip["face"][0, t], self.clip["face_pixels"][0, t]
        return [Face("body_1", "face_68", points, pixels, np.ones(68, np.float32))]

    def tell(self, recognizer: Recognizer, t: int, leave_out: tuple[str, ...] = (), at: float | None = None) -> None:
        """All of one frame, pictures first, as a camera's frame spreads through the graph."""
        ns = stamp(t if at is None else at)
        streams = [stream for stream in recognizer.streams if stream not in leave_out]
        if recognizer.needs_size:
            recognizer.set_size(CAMERA.width, CAMERA.height)
        if "colour" in streams:
            recognizer.add_colour(ns, self.clip["colour"][t])
        if recognizer.subject == "bodies":
            recognizer.observe(ns, self.bodies(t))
        if "hands" in streams and recognizer.subject == "bodies":
            recognizer.add_hands(ns, self.hands(t))
        if "face" in streams:
            recognizer.add_faces(ns, self.faces(t))
        if "flow" in streams:
            recognizer.add_flow(ns, self.clip["flow"][t], CAMERA.resized(160, 120))

    def offline(self, frames: range, leave_out: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """The same as a clip of the first body, cut from a recording."""
        left_out = {key for stream in leave_out for key in STREAMS[stream]}
        part = slice(frames.start, frames.stop)
        clip = {}
        for key, value in self.clip.items():
            if key not in left_out:
                clip[key] = value if key == "size" else value[part] if key in ("colour", "flow") else value[:1, part]
        if "motion" in clip:
            clip["motion"] = np.stack(
                [
                    motion_at_joints(
                        self.clip["flow"][t],
                        self.clip["bodies"][0, t],
                        self.clip["pixels"][0, t],
                        (CAMERA.width, CAMERA.height),
                        CAMERA.resized(160, 120),
                    )
                    for t in frames
                ]
            )[None]
        return clip


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def by_label(label: LabelledWindow) -> np.ndarray:
    found = dict(zip(label.top_labels, label.top_probabilities, strict=True))
    return np.array([found[name] for name in sorted(found)])


def expected(session: Session, clip: Mapping[str, np.ndarray]) -> np.ndarray:
    prediction = session.predict(clip)
    return prediction.probabilities[np.argsort(prediction.labels)]


def eager(session: Session, **options: Any) -> Recognizer:
    return Recognizer(session, **{"interval_s": 0.0, **options})


@pytest.mark.parametrize(
    "specs",
    [[HANDS], [FACE], [MOTION], [FLOW], [FLOW, PLACES], [CROP], [CROP, HAND_CROP, BODY], ALL],
    ids=lambda specs: "+".join(spec.modality for spec in specs) if len(specs) < 8 else "all",
)
def test_live_is_offline(tmp_path: Path, scene: Scene, specs: list[InputSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path, *specs)
    recognizer = eager(session)
    runs = note_runs(session, monkeypatch)
    for t in range(2 * FRAMES):
        scene.tell(recognizer, t)
    assert recognizer.waiting == {}
    (label,) = recognizer.judge()
    assert label.reason == "" and len(label.top_labels) == 3
    for frames in (range(FRAMES, 2 * FRAMES), range(FRAMES)):
        session.predict(scene.offline(frames))
    live, wanted, elsewhere = runs
    for name, value in live.items():
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(value, wanted[name], atol=1e-4 * scale, err_msg=name)
        assert np.abs(elsewhere[name] - wanted[name]).max() > 0.005 * scale, "another window looks otherwise"


def test_only_the_streams_that_count_are_asked_for(tmp_path: Path) -> None:
    session = load(tmp_path, HANDS, FLOW)
    recognizer = eager(session)
    assert recognizer.streams == {"hands": False, "flow": True, "bodies": True}
    assert not recognizer.needs_size and eager(load(tmp_path / "b", FACE)).needs_size
    assert not eager(load(tmp_path / "c", CROP)).needs_size, "the pictures say it"
    assert eager(load(tmp_path / "d", MOTION)).needs_size and eager(load(tmp_path / "e", PLACES)).needs_size


@pytest.mark.parametrize("spec", [HANDS, FACE, MOTION], ids=lambda spec: spec.modality)
def test_what_it_can_do_without_is_zero(tmp_path: Path, scene: Scene, spec: InputSpec) -> None:
    session = load(tmp_path, BODY, spec)
    recognizer = eager(session)
    (stream,) = set(recognizer.streams) - {"bodies"}
    for t in range(FRAMES):
        scene.tell(recognizer, t, leave_out=(stream,))
    assert list(recognizer.waiting) == [stream] and "so far" in recognizer.waiting[stream]
    (label,) = recognizer.judge()
    clip = scene.offline(range(FRAMES), leave_out=(stream,))
    np.testing.assert_allclose(by_label(label), expected(session, clip), atol=2e-4)


@pytest.mark.parametrize(("spec", "stream"), [(FLOW, "flow"), (CROP, "colour")])
def test_required_stream_that_never_came(tmp_path: Path, scene: Scene, spec: InputSpec, stream: str) -> None:
    recognizer = eager(load(tmp_path, spec))
    for t in range(FRAMES):
        scene.tell(recognizer, t, leave_out=(stream,))
    (label,) = recognizer.judge()
    assert (label.label, label.class_id, label.top_labels) == ("unknown", -1, ())
    words = {"flow": "no scene flow so far", "colour": "no colour images so far"}[stream]
    assert label.reason == words and recognizer.waiting == {stream: words}
    assert recognizer.counts.waiting == 1 and recognizer.counts.labels == 0


def test_required_stream_that_falls_silent_and_comes_back(tmp_path: Path, scene: Scene) -> None:
    recognizer = eager(load(tmp_path, FLOW), stream_timeout_s=0.5)
    for t in range(FRAMES):
        scene.tell(recognizer, t)
    assert recognizer.judge()[0].reason == ""
    said = []
    for t in range(FRAMES, 2 * FRAMES):
        scene.tell(recognizer, t, leave_out=("flow",))
        said += recognizer.judge()
    assert [label.reason for label in said[:7]] == [""] * 7, "what was seen last stands in for half a second"
    assert {label.reason for label in said[8:]} == {"no scene flow any more"}
    scene.tell(recognizer, 2 * FRAMES)
    assert recognizer.judge()[0].reason == ""


def test_pictures_of_other_frames_are_not_taken_for_a_bodys(tmp_path: Path, scene: Scene) -> None:
    """A colour camera on another clock."""
    recognizer = eager(load(tmp_path, CROP))
    for t in range(FRAMES):
        recognizer.add_colour(stamp(t + 0.4), scene.clip["colour"][t])
        recognizer.observe(stamp(t), scene.bodies(t))
    (label,) = recognizer.judge()
    assert "no colour images of a frame in which this body was seen" in label.reason


def test_messages_may_come_in_any_order(tmp_path: Path, scene: Scene) -> None:
    """Pictures before, with or after the skeletons, flow three frames late, hands the other way round."""
    session = load(tmp_path, *ALL)
    recognizer = eager(session)
    delayed: list[tuple[int, Callable[[], None]]] = []
    rng = np.random.default_rng(1)
    for t in range(2 * FRAMES + 4):
        if t < 2 * FRAMES:
            ns, flow = stamp(t), scene.clip["flow"][t]
            todo: list[Callable[[], None]] = [
                lambda t=t, ns=ns: recognizer.add_colour(ns, scene.clip["colour"][t]),  # type: ignore[misc]
                lambda t=t, ns=ns: recognizer.add_hands(ns, scene.hands(t)),  # type: ignore[misc]
                lambda t=t, ns=ns: recognizer.add_faces(ns, scene.faces(t)),  # type: ignore[misc]
                lambda f=flow, ns=ns: recognizer.add_flow(ns, f, CAMERA.resized(160, 120)),  # type: ignore[misc]
            ]
            # The first frames in order: a body must be known before what belongs to it can be kept.
            delayed += [(t + int(rng.integers(4 if t > 3 else 1)), step) for step in todo]
            if t < 4:
                recognizer.add_colour(ns, scene.clip["colour"][t])
            recognizer.observe(ns, scene.bodies(t))
        for due, step in [item for item in delayed if item[0] <= t][::-1]:
            step()
            delayed.remove((due, step))
    (label,) = recognizer.judge()
    np.testing.assert_allclose(by_label(label), expected(session, scene.offline(range(FRAMES, 2 * FRAMES))), atol=2e-4)


def test_lost_messages_are_bridged(tmp_path: Path, scene: Scene) -> None:
    session = load(tmp_path, *ALL)
    recognizer = eager(session)
    for t in range(2 * FRAMES):
        scene.tell(recognizer, t, leave_out=("hands", "colour", "flow") if t % 3 == 1 else ())
    (label,) = recognizer.judge()
    near = expected(session, scene.offline(range(FRAMES, 2 * FRAMES)))
    assert label.reason == "" and np.abs(by_label(label) - near).max() < 0.3


def test_hand_out_of_view_is_missing_not_held(tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path, replace(HANDS, preprocessing=PIXELS))
    recognizer = eager(session, max_gap_s=0.3)
    runs = note_runs(session, monkeypatch)
    for t in range(FRAMES):
        scene.tell(recognizer, t, leave_out=("hands",))
        recognizer.add_hands(stamp(t), [hand for hand in scene.hands(t) if hand.side == "right" or t < 4])
    recognizer.judge()
    seen = runs[0]["hands"][0, 0].any(axis=0).reshape(FRAMES, 2, 21).any(axis=-1)  # an absent hand is all zero
    assert seen[:, 1].all()
    assert seen[:8, 0].all() and not seen[-6:, 0].any(), "held for 0.3 s after it was last seen at frame 3"


def test_memory_is_bounded(tmp_path: Path, scene: Scene) -> None:
    recognizer = eager(load(tmp_path, *ALL))
    for t in range(20 * FRAMES):  # ten times the camera's rate
        scene.tell(recognizer, t % (3 * FRAMES), at=t / 10)
    kept = recognizer._observations
    assert len(kept._colour) <= PICTURES and len(kept._flow) <= PICTURES
    frames = [*kept._scene.values(), *(kept._bodies["body_1"][name] for name in ("body_crop", "right"))]
    assert all(FRAMES < len(series) <= FRAMES_A_SAMPLE * FRAMES + 2 for series in frames)


def test_time_that_jumps_back_forgets_the_future(tmp_path: Path, scene: Scene) -> None:
    session = load(tmp_path, *ALL)
    recognizer = eager(session)
    for t in range(FRAMES):
        scene.tell(recognizer, t, at=t + 1000)
    for t in range(FRAMES):
        scene.tell(recognizer, t)
    (label,) = recognizer.judge()
    assert recognizer.counts.restarts == 1 and label.window_start_ns == stamp(0)
    np.testing.assert_allclose(by_label(label), expected(session, scene.offline(range(FRAMES))), atol=2e-4)


def test_models_of_other_streams_are_swapped_in(tmp_path: Path, scene: Scene) -> None:
    recognizer = eager(load(tmp_path / "a", BODY))
    for t in range(FRAMES):
        scene.tell(recognizer, t)
    assert recognizer.judge()[0].reason == "" and set(recognizer.streams) == {"bodies"}
    for number, spec in enumerate((CROP, FLOW, HANDS, BODY)):
        session = load(tmp_path / str(number), spec)
        recognizer.use(session)
        for t in range(FRAMES):
            scene.tell(recognizer, t, at=(number + 1) * FRAMES + t)
        (label,) = recognizer.judge()
        np.testing.assert_allclose(by_label(label), expected(session, scene.offline(range(FRAMES))), atol=2e-4)


def test_frame_under_way_is_the_new_models(tmp_path: Path, scene: Scene) -> None:
    """A model swapped in between a frame's coming and its judgement does not lose the frame's label."""
    recognizer = eager(load(tmp_path / "a", BODY), min_seconds=0.0)
    scene.tell(recognizer, 0)
    other = load(tmp_path / "b", BODY)
    recognizer.use(other)
    recognizer.use(other)
    (label,) = recognizer.judge()
    assert (label.stamp_ns, label.window_start_ns) == (stamp(0), stamp(0))
    assert recognizer.judge() == []


def test_others_observe_while_the_network_runs(tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path, CROP)
    recognizer = eager(session)
    running, go = threading.Event(), threading.Event()
    run = session.backend.run

    def slow(inputs: dict[str, np.ndarray]) -> np.ndarray:
        running.set()
        assert go.wait(30)
        return run(inputs)

    for t in range(FRAMES):
        scene.tell(recognizer, t)
    monkeypatch.setattr(session.backend, "run", slow)
    said: list[LabelledWindow] = []
    judge = threading.Thread(target=lambda: said.extend(recognizer.judge()))
    judge.start()
    assert running.wait(30)
    for t in range(FRAMES, 2 * FRAMES):
        scene.tell(recognizer, t)  # would hang if the network's run held them up
    go.set()
    judge.join(30)
    assert [label.stamp_ns for label in said] == [stamp(FRAMES - 1)]
    assert recognizer.counts.skipped == 2 * (FRAMES - 1)
    (label,) = recognizer.judge()
    assert label.stamp_ns == stamp(2 * FRAMES - 1) and label.reason == ""


def test_bad_hands_and_faces_are_refused(tmp_path: Path, scene: Scene) -> None:
    recognizer = eager(load(tmp_path, HANDS, FACE))
    scene.tell(recognizer, 0)
    hand, face = scene.hands(1)[0], scene.faces(1)[0]
    with pytest.raises(InputError, match=r"hand of 'body_1' has positions \[20, 3\]"):
        recognizer.add_hands(stamp(1), [replace(hand, positions=hand.positions[:20])])
    with pytest.raises(InputError, match="infinite"):
        recognizer.add_faces(stamp(1), [replace(face, positions=face.positions + np.inf)])
    recognizer.add_hands(stamp(1), [replace(hand, body_id="somebody")])
    scene.tell(recognizer, 2)
    assert recognizer.judge()[0].reason == ""


def test_pixels_of_another_layout_are_converted(tmp_path: Path) -> None:
    recognizer = eager(load(tmp_path, FACE, PLACES), min_seconds=0.0)
    joints = np.tile(person_at(0.0)[:1], (32, 1))
    recognizer.set_size(320, 240)
    recognizer.observe(stamp(0), [Body("a", "azure_kinect_32", joints, joints[:, :2] + 100, np.ones(32, np.float32))])
    assert recognizer.judge()[0].reason == ""
    with pytest.raises(InputError, match=r"pixels \[25, 2\], expected \[32, 2\] of azure_kinect_32"):
        recognizer.observe(stamp(1), [Body("a", "azure_kinect_32", joints, joints[:25, :2], np.ones(32, np.float32))])


def test_model_of_whole_pictures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path, BODY)
    session.__dict__["keys"] = frozenset({"bodies", "colour"})
    with pytest.raises(PackageError, match="whole pictures"):
        Recognizer(session)


@pytest.mark.parametrize("layout", ["hand_21", "hand_22"])
def test_model_of_hands_labels_each_hand(tmp_path: Path, scene: Scene, layout: str) -> None:
    joints = int(layout[-2:])
    session = load(tmp_path, InputSpec("body", "body", layout, (1, 3, FRAMES, joints), "m", RAW))
    recognizer = eager(session)
    assert recognizer.subject == "hands" and recognizer.streams == {"hands": True}
    for t in range(FRAMES):
        labels = recognizer.update(stamp(t), scene.hands(t))
    by_id = {label.body_id: label for label in labels}
    assert set(by_id) == {"body_1_left", "body_1_right"}
    clip = scene.clip["hands"][:1, :FRAMES, 1]
    if layout == "hand_22":
        clip = convert(clip, np.ones(clip.shape[:-1]), "hand_21", "hand_22")[0]
        np.testing.assert_allclose(clip[..., 1, :], (clip[..., 0, :] + clip[..., 10, :]) / 2, atol=1e-6)
    np.testing.assert_allclose(by_label(by_id["body_1_right"]), expected(session, {"bodies": clip}), atol=1e-4)


def test_body_model_after_a_hand_model(tmp_path: Path, scene: Scene) -> None:
    hands = load(tmp_path / "h", InputSpec("body", "body", "hand_22", (1, 3, FRAMES, 22), "m", RAW))
    recognizer = eager(hands, lost_after_s=0.2)
    recognizer.update(stamp(0), scene.hands(0), predict=False)
    recognizer.use(inference.load(write_tiny(tmp_path / "tiny")))
    assert recognizer.judge() == []
    said = [label for t in range(1, FRAMES) for label in recognizer.update(stamp(t), scene.bodies(t))]
    assert {label.label for label in said if label.body_id.startswith("body_1_")} == {"unknown"}
    assert any(label.body_id == "body_1" and label.top_labels for label in said)
