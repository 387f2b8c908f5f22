"""Depth in another unit: found by the size of people, named with its remedy, and not used."""

import dataclasses
import logging
import math

import numpy as np
import pytest

from actrec import recordings
from actrec.cameras.simulated import SimulatedCamera
from actrec.perception.lifting import is_plausible, joint_radii, lift, limb_links
from actrec.perception.pipeline import SIZES, BodyPerception, SizeMonitor, create, describe_size
from actrec.recordings import RecordingConfig
from actrec.simulation.actions import Performance
from actrec.simulation.appearance import DEFAULT_APPEARANCES
from actrec.simulation.scene import CameraPose, ProceduralActor, Scene, furnished_room
from actrec.skeleton.layouts import MEDIAPIPE_33
from actrec.types import RgbdFrame

J = MEDIAPIPE_33.index
FRAME_NS = 100_000_000


@pytest.mark.parametrize(("people", "fps"), [(1, 15), (3, 30), (1, 60), (5, 15)])
def test_size_monitor_many_people_or_fast_camera_names_the_factor(people: int, fps: int) -> None:
    monitor = SizeMonitor()
    for k in range(5 * fps):
        for _ in range(people):
            monitor.add(round(k * 1e9 / fps), 10.0, 0.001)
    assert monitor.size == 10 and "depth_scale to 0.0001 m" in monitor.fault


def simulated(fps: float, **options) -> SimulatedCamera:
    return SimulatedCamera(width=320, height=240, realtime=False, fps=fps, start_stamp_ns=0, **options)


def play(count: int, fps: float = 0.5, **options) -> list[RgbdFrame]:
    with simulated(fps, **options) as camera:
        return [dataclasses.replace(camera.read(), depth_scale=0.001) for _ in range(count)]


def sizes(frames: list[RgbdFrame]) -> list[float]:
    estimator = create("body", num_poses=2)
    found = [measure(each, frame) for frame in frames for each in estimator.estimate(frame)]
    estimator.close()
    return [each.size for each in found]


def measure(found, frame: RgbdFrame, factor: float = 1.0):
    assert frame.depth is not None
    depth = frame.depth * np.float32(factor)
    body = found.pixels, found.world, found.scores, depth, frame.intrinsics
    return lift(*body, joint_radii(found.layout), limb_links(found.layout))


def height(positions: np.ndarray) -> float:
    return float(np.linalg.norm(positions[J["nose"]] - positions[J["heel_left"]]))


@pytest.fixture(scope="module")
def waving():
    """A frame and the person in it."""
    frame = play(1, actions=["wave"])[0]
    estimator = create("body", num_poses=1)
    (found,) = estimator.estimate(frame)
    estimator.close()
    return found, frame


@pytest.mark.parametrize("factor", [10, 4, 5, 1000, 0.1, 0.25, 0.2, 0.001])
def test_size_monitor_names_the_factor_and_its_remedy_gives_right_sizes(waving, factor: float, caplog) -> None:
    found, frame = waving
    right, wrong, monitor = measure(found, frame), measure(found, frame, factor), SizeMonitor()
    for k in range(3 * SIZES):
        monitor.add(k * FRAME_NS, wrong.size, frame.depth_scale)
    assert len(caplog.messages) == 1, "one warning"
    assert f"by a factor of {factor:g}; set depth_scale to {0.001 / factor:.3g} m (now 0.001 m)" in monitor.fault
    # Until it is mended, joints have the estimator's own size and less confidence.
    assert 0.8 < height(wrong.positions) / height(right.positions) < 1.2
    assert wrong.scores.max() <= 0.5 < np.median(right.scores)
    named = float(monitor.fault.split("depth_scale to ")[1].split()[0])
    mended = measure(found, frame, factor * named / frame.depth_scale)
    assert height(mended.positions) == pytest.approx(height(right.positions), rel=0.01)
    np.testing.assert_allclose(mended.scores, right.scores)


def test_body_perception_wrong_unit_warns_once_and_recovers(caplog) -> None:
    frames = play(SIZES + 1, fps=15.0, actions=["wave"])  # a little more than a second
    body = BodyPerception(num_poses=1, min_hits=1)
    for frame in frames:
        assert frame.depth is not None
        (found,) = body.process(dataclasses.replace(frame, depth=10 * frame.depth))
        assert found.scores.max() <= 0.5 and np.nanmax(found.positions[:, 2]) < 4
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "set depth_scale to 0.0001 m" in warning
    body.reset()
    assert body.process(frames[-1])[0].scores.max() > 0.5
    body.close()


def child(names: list[str], stature: float = 0.7 * 1.75) -> list[RgbdFrame]:
    with simulated(0.5, actions=names) as camera:
        look, pose = dataclasses.replace(DEFAULT_APPEARANCES[0], stature=stature), CameraPose()
        actor = ProceduralActor(Performance(tuple(names), physique=look), look, pose, (0.0, 2.9))
        camera.scene = Scene([actor], camera.intrinsics, pose, furnished_room(back=5.0, camera_height=pose.height))
        return [camera.read() for _ in range(2)]


SCENES = {
    "standing": {"actions": ["wave"]},
    "seated": {"actions": ["sit_down", "idle_seated"]},
    "half visible": {"actions": ["wave"], "distance": 1.2, "camera_height": 1.4},
    "two people": {"actions": ["all"], "actors": 2},
    "from above": {"actions": ["wave"], "camera_height": 2.5, "camera_pitch": 35.0, "distance": 2.5},
    "child": {},
}


@pytest.mark.parametrize("scene", SCENES)
def test_size_of_people_with_right_depth_is_plausible(scene: str) -> None:
    found = sizes(child(["wave"]) if scene == "child" else play(2, **SCENES[scene]))
    assert len(found) >= 2
    assert all(0.6 < size < 1.4 for size in found), "far from the limits of 0.4 and 2.5"


@pytest.mark.parametrize(("name", "unit"), [("person_turning", 0.001), ("pairs/person_standing", 0.0002),
                                            ("pairs/two_people_moving", 0.0002)])  # fmt: skip
def test_size_of_recorded_people_is_plausible(data_root, name: str, unit: float) -> None:
    config = RecordingConfig(intrinsics="525,525,319.5,239.5", depth_scale=unit)
    with recordings.open_recording(data_root / "rgbd" / name, config) as recording:
        frames = [frame for k, frame in enumerate(recording.frames()) if k % 40 == 0 or "pairs" in name]
    assert frames[0].depth_scale == unit
    found = sizes(frames)
    assert len(found) >= 2 and all(0.6 < size < 1.4 for size in found)


def test_size_monitor_ignores_few_short_or_mixed_readings() -> None:
    def fault(readings: list[float], step_ns: int = FRAME_NS) -> str:
        monitor = SizeMonitor()
        for k, size in enumerate(readings):
            monitor.add(k * step_ns, size, 1.0)
        return monitor.fault

    assert fault([10.0] * SIZES)
    assert not fault([10.0] * (SIZES - 1))
    assert not fault([10.0] * SIZES, step_ns=1000), "all at one moment"
    assert not fault([0.2, 1.0] * SIZES), "a person on a screen beside a real one"
    assert not fault([math.nan] * 100) and not fault([0.6] * 60)
    assert is_plausible(math.nan)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (4.7, "a factor of 4 or 5; set depth_scale to 0.00025 or 0.0002 m"),
        (30.0, "seems wrong; set depth_scale to about 3.3e-05 m"),
        (7.6, "a factor of 5 or 10"),
    ],
)
def test_describe_size_between_usual_units_names_both_or_none(size: float, words: str) -> None:
    assert words in describe_size(size, 0.001)
