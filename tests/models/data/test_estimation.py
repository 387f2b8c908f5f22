"""Hands, face, motion, flow and bodies estimated from a clip's camera frames, as in the live nodes."""

import dataclasses
from itertools import islice

import numpy as np
import pytest

from actrec import datasets
from actrec.datasets.base import Clip, Entry, Source
from actrec.datasets.store import PreparedDataset
from actrec.recordings import RecordingConfig, open_recording
from actrec.types import Body, Hand, Intrinsics, RgbdFrame
from actrec.utils.config import build
from actrec.utils.errors import ConfigError, InputError
from actrec_models.data import estimation as estimate
from actrec_models.data.estimation import Estimation, PrepareConfig, shrunk
from actrec_models.data.preparation import prepare
from actrec_models.data.rendered import RenderedRgbd

FRAMES = 10
OPTIONS = {"width": 640, "height": 480, "actors": 2, "held_out": 1, "takes": 1, "fps": 15.0}


class CameraClip(RenderedRgbd):
    """One full-size clip of the simulated camera, without estimated streams."""

    def entries(self):
        return [entry for entry in super().entries() if entry.name == "wave_p1_v3_t1"]

    def read(self, entry):
        clip = super().read(entry)
        pixels = clip.streams["pixels"][:, :FRAMES]
        streams = {"pixels": pixels, "size": clip.streams["size"]}
        return dataclasses.replace(
            clip, stamps_ns=clip.stamps_ns[:FRAMES], bodies=clip.bodies[:, :FRAMES], streams=streams
        )

    def frames(self, entry):
        # One frame more than the clip has, and frame 4 is missing.
        for number, frame in enumerate(islice(super().frames(entry), FRAMES + 1)):
            if number != 4:
                yield frame


class Turning(Source):
    """A real recording of a person, with color and depth and without skeletons."""

    classes = ("turn",)
    splits = ("all",)

    def entries(self):
        return [Entry("turning", 0, {"subject": 1})]

    def read(self, entry):
        raise AssertionError("estimated bodies need no recorded ones")

    def frames(self, entry):
        config = build(RecordingConfig, {"intrinsics": "525,525,319.5,239.5", "depth_scale": 0.001})
        with open_recording(self.root, config) as recording:
            yield from islice(recording.frames(), 12)

    def part(self, entry, split):
        return "train"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name in ("CameraClip", "Turning"):
        monkeypatch.setitem(datasets.DATASETS._targets, name.lower(), f"{__name__}:{name}")


def test_estimation_known_bodies_gives_hands_face_motion_and_flow(tmp_path):
    settings = PrepareConfig(streams=["bodies"], estimate=["hands", "face", "motion", "flow"])
    prepare("cameraclip", tmp_path, tmp_path / "out", options=OPTIONS, settings=settings)
    store = PreparedDataset(tmp_path / "out")
    assert store.streams == {"bodies", "hands", "face", "flow"}
    output = store[0].streams
    assert output["flow"].shape == (FRAMES, 240, 320, 3), "the size of the live node"
    expected = RenderedRgbd(tmp_path, **OPTIONS).read(store_entry()).streams
    hands = np.linalg.norm(output["hands"] - expected["hands"][:, :FRAMES], axis=-1)
    assert np.isfinite(hands).mean() > 0.4 and np.nanmedian(hands) < 0.05
    assert np.isnan(output["hands"][:, 4]).all() and np.isnan(output["motion"][:, 4]).all(), "frame 4 is missing"
    pixels = expected["pixels"][:, : FRAMES + 1]
    velocity = np.diff(pixels, axis=1) * OPTIONS["fps"]
    fast = np.linalg.norm(velocity, axis=-1) > 30
    error = np.linalg.norm(output["motion"] - velocity, axis=-1)[fast]
    assert np.isfinite(error).sum() > 5
    assert np.nanmedian(error) < 0.6 * np.median(np.linalg.norm(velocity[fast], axis=-1))
    # The last frame repeats the flow of the frame before.
    np.testing.assert_array_equal(output["flow"][-1], output["flow"][-2])


def store_entry():
    return CameraClip("nowhere", **OPTIONS).entries()[0]


def test_estimation_recording_without_skeletons_gives_bodies(data_root, tmp_path):
    settings = PrepareConfig(streams=["bodies", "color"], estimate=["bodies", "motion"], image_height=240)
    prepare("turning", data_root / "rgbd/person_turning", tmp_path / "out", settings=settings)
    clip = PreparedDataset(tmp_path / "out")[0]
    assert clip.bodies.shape[0] == 1 and 9 <= clip.bodies.shape[1] <= 12
    assert clip.bodies.shape[2:] == (25, 3) and 0.5 < np.nanmedian(clip.bodies[..., 2]) < 5.0
    frames = len(clip.stamps_ns)
    assert clip.streams["color"].shape == (frames, 240, 320, 3)
    np.testing.assert_array_equal(clip.streams["size"], [320, 240])
    assert np.nanmax(clip.streams["pixels"][..., 0]) < 400, "pixels of the stored image"
    assert np.isfinite(clip.streams["motion"][:, :-1]).mean() > 0.2
    assert (np.diff(clip.stamps_ns) > 0).all()


# -- limits and invalid inputs -----------------------------------------------------------------------------------------


def make_frames(count, depth=True, color=True):
    intrinsics = Intrinsics(160, 120, 130.0, 130.0, 79.5, 59.5)
    random = np.random.default_rng(0)
    gray = random.integers(0, 255, (120, 160, 3), dtype=np.uint8)
    plane = np.full((120, 160), 3.0, np.float32)
    return [
        RgbdFrame(k * 33_000_000, np.roll(gray, 2 * k, 1) if color else None, plane if depth else None, intrinsics)
        for k in range(count)
    ]


def body(frames, **streams):
    positions = np.tile(np.float32([0.1, 0.1, 3.0]), (1, frames, 25, 1))
    return Clip("clip", 0, np.arange(frames) * 33_000_000, positions, streams)


def test_estimation_motion_from_color_matches_image_shift():
    settings = PrepareConfig(estimate=["motion"], motion_from="color")
    found = Estimation(settings).run("clip", 0, make_frames(4, depth=False), body(4))
    motion = found.points["motion"][0, :3]  # 2 px in 33 ms
    np.testing.assert_allclose(np.median(motion, axis=(0, 1)), [2 / 0.033, 0], atol=6)
    assert np.isnan(found.points["motion"][0, 3]).all()
    np.testing.assert_array_equal(found.points["size"], [160, 120])
    expected = 130.0 * 0.1 / 3.0 + np.array([79.5, 59.5])
    np.testing.assert_allclose(found.points["pixels"][0, 0, 0], expected, rtol=1e-5)


def test_estimation_motion_repeated_images_moves_once():
    """A video with half the frame rate repeats images; the motion has the right speed."""
    images = make_frames(3, depth=False)
    frames = [dataclasses.replace(images[k // 2], stamp_ns=k * 33_000_000) for k in range(6)]
    found = Estimation(PrepareConfig(estimate=["motion"], motion_from="color")).run("clip", 0, frames, body(6))
    motion = np.median(found.points["motion"][0], axis=1)  # 2 px in 66 ms
    np.testing.assert_allclose(motion[:4], [[2 / 0.066, 0]] * 4, atol=3)
    np.testing.assert_array_equal(motion[0], motion[1])
    assert np.isnan(motion[4:]).all()


class FakeHandPerception:
    """Return a hand at the body's first joint."""

    def reset(self):
        pass

    forget_camera = reset

    def process(self, frame, bodies):
        positions, pixels = np.tile(bodies[0].positions[:1], (21, 1)), np.zeros((21, 2), np.float32)
        return [Hand(bodies[0].body_id, "hand_21", positions, pixels, np.ones(21, np.float32), side="left")]


def test_estimation_other_camera_offset_applied(monkeypatch):
    monkeypatch.setattr(estimate, "HandPerception", FakeHandPerception)
    estimation = Estimation(PrepareConfig(estimate=["hands"]))
    offset = np.float32([-0.05, 0.0, 0.0])
    found = estimation.run("clip", 0, make_frames(2), body(2), offset).points["hands"]
    np.testing.assert_allclose(found[0, 0, 0], np.tile(np.float32([0.15, 0.1, 3.0]), (21, 1)), atol=1e-6)


def test_estimation_each_clip_may_be_of_another_camera():
    """Else a clip would be leveled by the direction of gravity of the clip before."""
    estimation = Estimation(PrepareConfig(estimate=["bodies"]))
    people = estimation._body
    people._turns, people.gravity._estimate = 2, np.float32([0, 1, 0])
    with pytest.raises(InputError, match="shows a body in 0 of 3 frames"):
        estimation.run("clip", 0, make_frames(3), None)
    assert people._turns == 0 and people.gravity.conclude() is None


def test_estimation_labeled_body_of_several_is_first():
    """A recording shows two people, and the label is of the one who is in view for less time."""
    pose = np.zeros((25, 3), np.float32)

    def shown(name, x):
        positions = pose + np.float32([x, 0, 3])
        return Body(name, "kinect_v2_25", positions, pose[:, :2], np.ones(25, np.float32))

    seen = [estimate.Seen(k * 33_000_000, (160, 120), [shown("long", 1.0)]) for k in range(10)]
    for now in seen[3:]:
        now.bodies.append(shown("labeled", -1.0))
    stamps = np.arange(10) * 33_000_000 + 1_000_000
    joints = np.where(np.arange(10)[:, None, None] < 3, np.nan, pose + np.float32([-1.1, 0.1, 3.1]))
    person = Clip("clip", 0, stamps, joints[None].astype(np.float32))
    seen[4].bodies.append(shown("twice", -1.1))  # nearer, in one frame
    assert estimate._nearest_body(person, seen, 0.5) == "labeled"
    estimation = Estimation(PrepareConfig(max_bodies=1))
    assert estimation._main("clip", seen, "labeled") == (["labeled"], seen[3:])
    assert estimation._main("clip", seen) == (["long"], seen)
    away = dataclasses.replace(person, bodies=person.bodies + np.float32([0, 0, 2]))
    with pytest.raises(InputError, match="no estimated body is where the labeled one is"):
        estimate._nearest_body(away, seen, 0.5)
    for now in seen[:6]:
        now.bodies = now.bodies[:1]
    assert estimation._main("clip", seen, "labeled") == (["labeled"], seen[6:]), "in view for 40 % of the time"


def test_estimation_finds_gravity_before_the_bodies(monkeypatch):
    """As live after some seconds, and as the recordings of `actrec teach` and `actrec label`."""
    estimation, calls = Estimation(PrepareConfig(estimate=["bodies"])), []
    monkeypatch.setattr(estimation._body, "find_gravity", lambda frames: calls.append(len(frames)))
    with pytest.raises(InputError, match="shows a body in 0 of 3 frames"):
        estimation.run("clip", 0, make_frames(3), None, first=make_frames(2))
    assert calls == [2]


def test_estimation_body_in_single_frames_not_kept():
    """A false person, or a new id after a lost track, would else be a second body of the clip."""
    pose = np.zeros((25, 3), np.float32)
    people = [Body(name, "kinect_v2_25", pose, pose[:, :2], np.ones(25, np.float32)) for name in ("a", "b", "c")]
    one, _, false = people
    shown = [[one, false], *[people[:2]] * 5, *[[one]] * 4]  # "b" is in half of the frames
    seen = [estimate.Seen(k * 33_000_000, (160, 120), bodies) for k, bodies in enumerate(shown)]
    for min_seen, expected in ((0.5, ["a", "b"]), (0.6, ["a"]), (0.0, ["a", "b", "c"])):
        estimation = Estimation(PrepareConfig(min_seen=min_seen, max_bodies=3))
        assert estimation._main("clip", seen) == (expected, seen)


@pytest.mark.parametrize(
    ("settings", "frames", "bodies", "message"),
    [
        ({"estimate": ["motion"]}, make_frames(3, depth=False), body(3), "has no depth, .*motion_from=color"),
        ({"estimate": ["flow"]}, make_frames(1), body(1), "no two frames near enough"),
        ({"estimate": ["flow"]}, make_frames(2, color=False), body(2), "a frame without color"),
        ({"estimate": ["flow"]}, [], body(2), "has no camera frames, or none at the time of its joints"),
        (
            {"estimate": ["flow"]},
            make_frames(2),
            body(2, pixels=np.zeros((1, 2, 25, 2), np.float32), size=np.float32([640, 480])),
            r"counts pixels in \[640.0, 480.0\] px, but its frames are \[160.0, 120.0\]",
        ),
        ({"estimate": ["bodies"]}, make_frames(3), None, "shows a body in 0 of 3 frames"),
    ],
)
def test_estimation_unsuitable_frames_raises(settings, frames, bodies, message):
    with pytest.raises(InputError, match=message):
        Estimation(PrepareConfig(**settings)).run("clip", 0, frames, bodies)


def test_prepare_face_of_hand_dataset_raises(data_root, tmp_path):
    with pytest.raises(ConfigError, match="has joints hand_22"):
        prepare("shrec17_14", data_root / "shrec17", tmp_path, settings=PrepareConfig(estimate=["face"]))


def test_prepare_invalid_estimator_settings_raises(tmp_path):
    settings = PrepareConfig(estimate=["flow"], flow={"wings": 2})
    with pytest.raises(ConfigError, match="unknown option wings of SceneFlowConfig"):
        prepare("cameraclip", tmp_path, tmp_path / "out", options=OPTIONS, settings=settings)


def test_shrunk_small_image_not_enlarged():
    image = np.zeros((120, 160, 3), np.uint8)
    assert shrunk(image, 60).shape == (60, 80, 3)
    assert shrunk(image, 0) is image and shrunk(image, 240) is image
