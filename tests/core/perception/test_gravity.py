"""The direction of gravity from the frame, the setting, and the people and the floor in view."""

import dataclasses

import numpy as np
import pytest

from actrec import cameras
from actrec.features.clips import example_clip
from actrec.features.specs import InputSpec
from actrec.perception import gravity as estimation
from actrec.perception.gravity import LEVEL, MAX_TRIES, GravityEstimator, angle_deg, search_floor
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils import camera_model, geometry, gravity
from actrec.utils.errors import ConfigError

CAMERA = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)
FLOOR_M, WALL_M, RATE_HZ = 1.0, 4.5, 10


def room() -> np.ndarray:
    """Return the depth [H, W] of a floor one meter under a level camera, and of a wall."""
    pixels = np.stack(np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height)), axis=-1)
    down = camera_model.rays(pixels, CAMERA)[..., 1]
    return np.where(down > 0, np.minimum(FLOOR_M / np.maximum(down, 1e-6), WALL_M), WALL_M).astype(np.float32)


def wall() -> np.ndarray:
    """Return the depth [H, W] of a wall, without a floor in view."""
    return np.full((CAMERA.height, CAMERA.width), WALL_M, np.float32)


def standing() -> np.ndarray:
    """Return the joints [25, 3] of a person on the floor."""
    spec = InputSpec("body", "body", "kinect_v2_25", (1, 3, 1, 25))
    return example_clip([spec], 1)["bodies"][0, 0]


def from_the_side(joints: np.ndarray) -> np.ndarray:
    """Return the joints [25, 3] of a person who stands and is turned by 90° about the vertical."""
    middle = joints.mean(axis=0)
    return (joints - middle) @ geometry.rotation(1, np.pi / 2).T + middle


DOWN, AHEAD = (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)


def arm_stretched(side: str, direction: tuple[float, float, float]) -> np.ndarray:
    """Return the joints [25, 3] of a person who stands and stretches this arm."""
    joints, place = standing(), KINECT_V2_25.index
    shoulder = joints[place[f"shoulder_{side}"]]
    for joint, reach in (("elbow", 0.28), ("wrist", 0.52), ("hand", 0.6), ("hand_tip", 0.68), ("thumb", 0.6)):
        joints[place[f"{joint}_{side}"]] = shoulder + reach * np.array(direction, np.float32)
    return joints


def lying() -> np.ndarray:
    """Return the joints [25, 3] of a person who lies across the image, on the floor."""
    joints = standing() @ geometry.rotation(2, np.pi / 2).T
    return joints + np.array([0.0, FLOOR_M - 0.05 - joints[:, 1].max(), 2.6 - joints[:, 2].mean()], np.float32)


def observe(
    estimator: GravityEstimator,
    joints: np.ndarray,
    seconds: float,
    turns: int = 0,
    depth: np.ndarray | None = None,
    speed: float = 0.0,
) -> None:
    """Show a person to a camera whose image must be turned by `turns` quarter turns; `speed` of a walk, m/s."""
    start, place = getattr(estimator, "shown", 0), KINECT_V2_25.index
    legs = [(place[f"{j}_{s}"], part * sign) for j, part in (("knee", 0.1), ("ankle", 0.2), ("foot", 0.2))
            for s, sign in (("left", 1), ("right", -1))]  # fmt: skip
    for k in range(start, start + round(seconds * RATE_HZ)):
        frame = RgbdFrame(k * 1_000_000_000 // RATE_HZ, None, depth, CAMERA)
        now = joints + np.array([speed * (k - start) / RATE_HZ, 0, 0], np.float32)
        for joint, way in legs:
            now[joint, 0] += way * np.sin(2 * np.pi * k / RATE_HZ) * (speed != 0)
        body = Body("body_1", "kinect_v2_25", now, np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32))
        estimator.update(gravity.turn_frame(frame, -turns), [gravity.turn_joints(body, CAMERA, -turns)])
    estimator.shown = start + round(seconds * RATE_HZ)  # type: ignore[attr-defined]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("with_depth", [True, False])
def test_estimate_standing_person_gives_the_mounting(turns: int, with_depth: bool) -> None:
    estimator = GravityEstimator()
    speed = 0.0 if with_depth or turns % 2 == 0 else 0.4
    observe(estimator, standing(), 5, turns, room() if with_depth else None, speed)
    assert estimator.up is not None
    assert angle_deg(estimator.up, gravity.turn_vectors(LEVEL, -turns)) < (0.5 if with_depth else 8)


@pytest.mark.parametrize("pitch", [8, 25])
def test_estimate_small_tilt_without_floor_counts_as_exact_mounting(pitch: int) -> None:
    """People's axes are too inaccurate to tell 8° from level."""
    estimator, up = GravityEstimator(), gravity.up_from_angles(0, pitch)
    observe(estimator, standing() @ gravity.level_rotation(up), 5)
    assert angle_deg(estimator.up, LEVEL if pitch == 8 else up) < (0.1 if pitch == 8 else 8)


@pytest.mark.parametrize("lies_on", ["the back", "an arm ahead", "an arm along the trunk"])
@pytest.mark.parametrize("turns, name", [(1, "portrait_right"), (3, "portrait_left")])
def test_estimate_still_person_sideways_without_floor_waits(turns: int, name: str, lies_on: str, caplog) -> None:
    """A person who lies looks like one who stands before a turned camera; for that one the remedy is right."""
    estimator = GravityEstimator()
    side = {1: "right", 3: "left"}[turns]  # beneath
    postures = {
        "the back": from_the_side(standing()), "an arm ahead": arm_stretched(side, AHEAD),
        "an arm along the trunk": arm_stretched(side, DOWN),
    }  # fmt: skip
    if lies_on == "an arm along the trunk":  # without depth it hangs
        observe(estimator, postures[lies_on], 0.1, turns, wall())
    observe(estimator, postures[lies_on], 30, turns)
    assert estimator.up is None
    assert [r.getMessage().partition("set mount:=")[2] for r in caplog.records] == [name], "one warning"
    assert angle_deg(gravity.parse_mount(name), gravity.turn_vectors(LEVEL, -turns)) < 0.1
    observe(estimator, standing(), 5, turns, speed=0.4)
    assert angle_deg(estimator.up, gravity.turn_vectors(LEVEL, -turns)) < 8, "a person walks"


@pytest.mark.parametrize("turns", [1, 3])
def test_estimate_recorded_joints_of_a_still_person_sideways_turn_the_camera(turns: int, caplog) -> None:
    estimator = GravityEstimator()
    observe(estimator, arm_stretched({1: "right", 3: "left"}[turns], DOWN), 5, turns)
    assert angle_deg(estimator.up, gravity.turn_vectors(LEVEL, -turns)) < 8
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["if this is wrong, set mount:=level" in warning for warning in warnings] == [True]
    observe(estimator, standing(), 12)
    assert angle_deg(estimator.up, LEVEL) < 8, "someone stands upright: the first one lay"


@pytest.mark.parametrize("roll, beneath", [(-120, "left"), (-60, "left"), (60, "right"), (120, "right"), (75, "right")])
def test_estimate_recorded_joints_of_a_still_person_at_any_roll(roll: int, beneath: str) -> None:
    estimator, up = GravityEstimator(), gravity.up_from_angles(roll, 10)
    observe(estimator, arm_stretched(beneath, DOWN) @ gravity.level_rotation(up), 5)
    assert angle_deg(estimator.up, up) < 12


def raise_aside(estimator: GravityEstimator, side: str, seconds: float, turns: int, highest_m: float = 0.5) -> None:
    """Show a person who raises this arm aside and lowers it every two seconds, the other one before the body."""
    joints, place = arm_stretched({"left": "right", "right": "left"}[side], AHEAD), KINECT_V2_25.index
    sign = np.sign(joints[place[f"shoulder_{side}"], 0] - joints[place["spine_shoulder"], 0])
    for k in range(round(seconds * RATE_HZ)):
        now, lift = joints.copy(), 0.5 - 0.5 * np.cos(np.pi * k / RATE_HZ)
        for joint, length in (("elbow", 0.28), ("wrist", 0.52)):
            angle = lift * np.arcsin(min(highest_m / 0.52, 1.0))
            way = length * np.array([sign * np.sin(angle), np.cos(angle), 0], np.float32)
            now[place[f"{joint}_{side}"]] = joints[place[f"shoulder_{side}"]] + way
        observe(estimator, now, 1 / RATE_HZ, turns, wall())


@pytest.mark.parametrize("turns, beneath", [(1, "right"), (3, "left")])
def test_estimate_person_who_moves_an_arm_through_the_ground_turns_the_camera(turns: int, beneath: str, caplog) -> None:
    estimator = GravityEstimator()
    raise_aside(estimator, beneath, 16, turns)  # the floor is searched in three windows
    assert angle_deg(estimator.up, gravity.turn_vectors(LEVEL, -turns)) < 8
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["the camera is not upright" in warning for warning in warnings] == [True]
    observe(estimator, standing(), 12)
    assert angle_deg(estimator.up, LEVEL) < 8, "someone else stands upright"


def test_estimate_person_who_lies_and_moves_the_upper_arm_or_the_lower_one_little_waits() -> None:
    for side, highest_m in (("left", 0.5), ("right", 0.15)):
        estimator = GravityEstimator()
        raise_aside(estimator, side, 10, 1, highest_m)
        assert estimator.up is None


@pytest.mark.parametrize("legs", [True, False])
def test_estimate_arm_beneath_after_people_stood_is_of_one_who_fell(legs: bool) -> None:
    estimator, joints = GravityEstimator(), standing()
    if not legs:
        joints[[KINECT_V2_25.index[f"{joint}_{side}"] for joint in ("knee", "ankle") for side in ("left", "right")]] = (
            np.nan
        )
    observe(estimator, joints, 2)
    raise_aside(estimator, "right", 20, 1)
    assert estimator.up is None or angle_deg(estimator.up, LEVEL) < 8


def test_estimate_lying_person_before_a_robot_that_drives_waits() -> None:
    estimator = GravityEstimator()
    for k in range(80):
        joints = standing() + np.array([0, 0, -0.03 * k], np.float32)
        observe(estimator, joints, 1 / RATE_HZ, turns=1, depth=wall())
    assert estimator.up is None


@pytest.mark.parametrize("rolled_deg", [0, 30, 90])
@pytest.mark.parametrize("pitch", [20, 35])
def test_estimate_lying_person_before_a_camera_that_looks_down_finds_the_floor(pitch: int, rolled_deg: int) -> None:
    up = gravity.up_from_angles(0, pitch)
    estimator, to_camera = GravityEstimator(), gravity.level_rotation(up)
    joints = (
        (standing() - standing()[0])
        @ geometry.rotation(1, np.radians(rolled_deg)).T
        @ geometry.rotation(2, np.pi / 2).T
    )
    joints += np.array([0.0, 1.2 - 0.1 - joints[:, 1].max(), 2.4], np.float32)
    pixels = np.stack(np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height)), axis=-1)
    rays = camera_model.rays(pixels, CAMERA)
    down = -(rays @ up[:2] + up[2])
    depth = np.where(down > 0, np.minimum(1.2 / np.maximum(down, 1e-6), WALL_M), WALL_M).astype(np.float32)
    observe(estimator, (joints @ to_camera).astype(np.float32), 8, depth=depth)
    assert estimator.up is not None and angle_deg(estimator.up, up) < 1.5


def test_estimate_lying_person_on_the_floor_keeps_a_level_camera() -> None:
    estimator = GravityEstimator()
    observe(estimator, lying(), 6, depth=room())
    assert estimator.up is not None and angle_deg(estimator.up, LEVEL) < 0.5


@pytest.mark.parametrize("with_depth", [True, False])
def test_estimate_fall_does_not_turn_the_camera(with_depth: bool) -> None:
    estimator = GravityEstimator()
    depth = room() if with_depth else None
    observe(estimator, standing(), 5, depth=depth)
    observe(estimator, lying(), 30, depth=depth)
    assert estimator.up is not None and angle_deg(estimator.up, LEVEL) < 8


def test_estimate_camera_turned_while_running_follows_the_floor() -> None:
    estimator = GravityEstimator()
    observe(estimator, standing(), 5, depth=room())
    observe(estimator, standing(), 10, turns=1, depth=room())
    assert estimator.up is not None and angle_deg(estimator.up, gravity.turn_vectors(LEVEL, -1)) < 0.5


@pytest.mark.parametrize("pitch", [0])
def test_estimate_tilted_camera_follows_within_two_windows(pitch: int, caplog) -> None:
    """The camera pitches by 12° while it runs, and back to level; the floor shows it."""
    estimator = GravityEstimator()
    ups = [gravity.up_from_angles(0, angle) for angle in (pitch, 12 - pitch)]
    for number, up in enumerate(ups):
        options = {"camera_pitch": float(gravity.angles_from_up(up)[1]), "camera_height": 1.3, "fps": 5}
        options |= {"width": 320, "height": 240, "gravity": False, "start_stamp_ns": number * 10**11}
        with cameras.create("simulated", realtime=False, **options) as camera:
            for _ in range(50):
                frame = camera.read(5.0)
                estimator.update(frame, frame.skeletons)
        assert angle_deg(estimator.up, up) < 1.0
    assert [r.getMessage().partition(":")[0] for r in caplog.records if r.levelname == "WARNING"] == [
        "the camera was moved"
    ]


def test_estimate_without_people_is_unknown() -> None:
    estimator = GravityEstimator()
    estimator.update(RgbdFrame(0, None, room(), CAMERA), [])
    assert estimator.up is None


def test_known_prefers_the_setting_to_the_frame_and_the_frame_to_people() -> None:
    up = gravity.parse_mount("portrait_left")
    frame = RgbdFrame(0, None, None, CAMERA, up=gravity.parse_mount("upside_down"))
    by_frame, by_setting = GravityEstimator(), GravityEstimator(mount="portrait_left")
    observe(by_frame, standing(), 5)
    np.testing.assert_array_equal(by_frame.known(frame), frame.up)
    np.testing.assert_array_equal(by_setting.known(frame), up)
    observe(by_setting, standing(), 5)
    np.testing.assert_array_equal(by_setting.known(dataclasses.replace(frame, up=None)), up)


@pytest.mark.parametrize(("turns", "speed", "warns"), [(0, 0, False), (1, 0, False), (1, 0.3, True), (2, 0, True)])
def test_stated_direction_that_people_contradict_warns_once_and_stays(
    turns: int, speed: float, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """People sideways in the image, who do not walk, may lie."""
    estimator = GravityEstimator(mount="level")
    observe(estimator, standing(), 5, turns, speed=speed)
    assert not estimator.warning, "once is no evidence"
    for _ in range(3):
        observe(estimator, standing(), 5, turns, speed=speed)
    assert caplog.text.count("was the camera mounted again?") == warns and bool(estimator.warning) == warns
    assert "set mount:=auto" in estimator.warning or not warns
    np.testing.assert_array_equal(estimator.up, LEVEL)
    observe(estimator, standing(), 10)
    assert not estimator.warning


def test_known_camera_turned_while_running_follows_at_once_with_one_message(caplog) -> None:
    estimator = GravityEstimator()
    ups = [gravity.up_from_angles(roll, 10) for roll in (0, 3, 88, 90, 100, 70)]
    for number, up in enumerate(ups):
        frame = RgbdFrame(number, None, None, CAMERA, up=up, up_source="accelerometer")
        np.testing.assert_array_equal(estimator.known(frame), up)
    assert [record.getMessage().partition(";")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "the camera was turned: by the accelerometer it is rolled by 88° and looks down by 10°"
    ]


def test_mount_unknown_name_raises() -> None:
    with pytest.raises(ConfigError, match="upside_down"):
        GravityEstimator(mount="sideways")


@pytest.mark.parametrize("roll, pitch", [(0, 20), (90, 0), (-150, 15)])
def test_estimate_rendered_room_is_within_a_degree(roll: float, pitch: float) -> None:
    estimator = GravityEstimator()
    options = {"camera_roll": roll, "camera_pitch": pitch, "camera_height": 1.6, "width": 320, "height": 240}
    with cameras.create("simulated", realtime=False, fps=5, gravity=False, start_stamp_ns=0, **options) as camera:
        for _ in range(25):
            frame = camera.read(5.0)
            estimator.update(frame, frame.skeletons)
    assert estimator.up is not None
    assert angle_deg(estimator.up, gravity.up_from_angles(roll, pitch)) < 1.0


@pytest.mark.parametrize("roll", [0, 90, 180])
def test_search_floor_under_people_who_bend_finds_it(roll):
    options = {"camera_height": 1.3, "camera_pitch": 17.0, "camera_roll": float(roll), "noise": False}
    with cameras.create("simulated", realtime=False, **options) as camera:
        frame = camera.read(5.0)
    leaning = gravity.up_from_angles(roll + 35, 10)
    found = search_floor(frame, frame.skeletons, leaning)
    assert found is not None and angle_deg(found, frame.up) < 1.0


def test_update_without_floor_searches_a_few_times_only(monkeypatch):
    searches = []
    monkeypatch.setattr(estimation, "search_floor", lambda *_: searches.append(1))
    estimator = GravityEstimator(gravity_window_s=0.5)
    lies = from_the_side(standing()) @ geometry.rotation(2, np.pi / 2).T.astype(np.float32)
    person = Body("body_1", "kinect_v2_25", lies, np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32))
    for k in range(100):
        estimator.update(RgbdFrame(k * 10**8, None, wall(), CAMERA), [person])
    assert estimator.up is None and len(searches) == 2 * MAX_TRIES  # about the people's axis, and about a level one


@pytest.mark.parametrize(
    ("times", "degrees"),
    [([0, 1, 1.6, 10], [0, 0, 90, 90]), ([0, 5, 6, 11, 12, 40], [0, 0, 90, 90, 0, 0])],
    ids=["falls at once", "falls and gets up"],
)
def test_estimate_fall_without_floor_is_no_walk(times: list[float], degrees: list[float]) -> None:
    """The hips of who falls or gets up move across the axis of a person who lies."""
    estimator, joints = GravityEstimator(), standing()
    feet = joints[joints[:, 1].argmax()]
    for k in range(round(times[-1] * RATE_HZ)):
        lean = np.radians(np.interp(k / RATE_HZ, times, degrees))
        observe(estimator, (joints - feet) @ geometry.rotation(2, lean).T + feet, 1 / RATE_HZ)
    if degrees[-1]:
        assert estimator.up is None
    else:
        assert estimator.up is not None and angle_deg(estimator.up, LEVEL) < 8


def lying_at_a_wall() -> tuple[np.ndarray, np.ndarray]:
    """Return joints and depth of a person who lies with the feet 5 cm from a side wall."""
    joints, pixels = lying(), np.stack(np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height)), axis=-1)
    across, wall = camera_model.rays(pixels, CAMERA)[..., 0], joints[:, 0].min() - 0.05
    depth = np.where(across < 0, wall / np.minimum(across, -1e-6), np.inf)
    return joints, np.minimum(room(), depth).astype(np.float32)


@pytest.mark.parametrize("stands_first", [True, False])
def test_estimate_lying_person_with_feet_at_a_wall_keeps_a_level_camera(stands_first: bool) -> None:
    estimator, (joints, depth) = GravityEstimator(), lying_at_a_wall()
    if stands_first:
        observe(estimator, standing(), 5, depth=depth)
    observe(estimator, joints, 12, depth=depth)
    assert estimator.up is not None and angle_deg(estimator.up, LEVEL) < 0.5


def test_stated_direction_lying_person_with_feet_at_a_wall_does_not_warn() -> None:
    estimator, (joints, depth) = GravityEstimator(mount="level"), lying_at_a_wall()
    observe(estimator, joints, 12, depth=depth)
    assert not estimator.warning


def test_estimate_warning_of_a_lying_person_ends_when_people_stand_again() -> None:
    estimator = GravityEstimator()
    observe(estimator, standing(), 5)
    observe(estimator, lying(), 10)
    assert "people lie sideways" in estimator.warning
    observe(estimator, standing(), 10)
    assert estimator.up is not None and angle_deg(estimator.up, LEVEL) < 8 and not estimator.warning
