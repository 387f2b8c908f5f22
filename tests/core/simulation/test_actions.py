"""Actions: constant bones, feet on the floor, smooth motion, at rest at both ends."""

import numpy as np
import pytest

from actrec.simulation import actions, actor, posture
from actrec.simulation.actions import CYCLE, Performance
from actrec.simulation.appearance import Appearance, body_shapes
from actrec.simulation.posture import IdleMotion, Physique, Style, curve_through
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.utils.errors import ConfigError

INDEX = KINECT_V2_25.index
# Finger joints approach the palm when the hand closes; all other bones are rigid.
RIGID = [(v, p) for v, p in KINECT_V2_25.edges if not KINECT_V2_25.joints[v].startswith(("hand_tip", "thumb"))]
STYLES = (Style(), Style("left", 1.1, 1.1, 0.3), Style("right", 0.9, 0.85, -0.3))


def track(action: actions.Action, style: Style, stature: float = 1.75, fps: float = 50.0) -> np.ndarray:
    times = np.arange(0.0, action.duration(style), 1 / fps)
    return np.stack([posture.pose(action.at(t, style), Physique(stature)).joints for t in times])


@pytest.mark.parametrize("name", sorted(actions.ACTIONS))
def test_action_bones_are_rigid_and_complete(name) -> None:
    for style in STYLES:
        joints = track(actions.get(name), style)
        assert np.isfinite(joints).all()
        for v, p in RIGID:
            length = np.linalg.norm(joints[:, v] - joints[:, p], axis=-1)
            assert np.ptp(length) < 1e-3, KINECT_V2_25.joints[v]


@pytest.mark.parametrize("name", sorted(actions.ACTIONS))
def test_action_feet_stay_on_floor(name) -> None:
    for stature in (1.6, 1.9):
        joints = track(actions.get(name), Style(), stature)
        scale = stature / 1.75
        feet = joints[:, [INDEX["foot_left"], INDEX["foot_right"]], 1]
        assert feet.min() > 0.029 * scale  # the ball of the foot is a sphere of 30 mm
        assert feet.min(axis=1).max() < 0.035 * scale  # one foot is always on the floor
        ankles = joints[:, [INDEX["ankle_left"], INDEX["ankle_right"]], 1]
        assert ankles.min() > 0.08 * scale


@pytest.mark.parametrize("name", sorted(actions.ACTIONS))
def test_action_standing_feet_do_not_slide(name) -> None:
    joints = track(actions.get(name), Style())
    feet = joints[:, [INDEX["foot_left"], INDEX["foot_right"]]]
    speed = np.linalg.norm(np.diff(feet[..., [0, 2]], axis=0), axis=-1) * 50
    low = feet[1:, :, 1] < 0.0305
    still = np.abs(np.diff(feet[..., 1], axis=0)) < 1e-6
    assert (speed[low & still] < 0.02).all()


@pytest.mark.parametrize("name", sorted(actions.ACTIONS))
def test_action_motion_is_smooth_and_human_speed(name) -> None:
    for style in STYLES[:2]:
        joints = track(actions.get(name), style, fps=125.0)
        velocity = np.diff(joints, axis=0) * 125
        assert np.linalg.norm(velocity, axis=-1).max() < (12.0 if name == "throw" else 7.0)
        assert np.linalg.norm(np.diff(velocity, axis=0), axis=-1).max() < 2.0  # m/s in 8 ms: no jump


@pytest.mark.parametrize("name", sorted(actions.ACTIONS))
def test_action_starts_and_ends_at_rest(name) -> None:
    action = actions.get(name)
    rest = {"standing": actions.STANDING, "seated": actions.SEATED}
    for style in STYLES:
        for elapsed, state in ((0.0, action.start), (action.duration(style), action.end)):
            reached = posture.pose(action.at(elapsed, style), Physique()).joints
            expected = posture.pose(
                posture.mirrored(rest[state]) if style.side == "left" else rest[state], Physique()
            ).joints
            np.testing.assert_allclose(reached, expected, atol=2e-3)


def test_action_left_side_mirrors_right() -> None:
    for name in ("wave", "throw", "pick_up"):
        right, left = track(actions.get(name), Style("right")), track(actions.get(name), Style("left"))
        mirrored = left[:, list(KINECT_V2_25.mirror)] * np.array([-1.0, 1.0, 1.0])
        np.testing.assert_allclose(right, mirrored, atol=1e-6)


def test_action_joints_reach_expected_places() -> None:
    wrist, head, base = INDEX["wrist_right"], INDEX["head"], INDEX["spine_base"]
    wave = track(actions.get("wave"), Style())
    middle = wave[len(wave) // 3 : 2 * len(wave) // 3]
    assert (middle[:, wrist, 1] > middle[:, INDEX["shoulder_right"], 1]).all()
    swings = np.sign(np.diff(middle[:, wrist, 0]))
    assert (np.diff(swings) != 0).sum() >= 3
    assert track(actions.get("sit_down"), Style())[-1, base, 1] < 0.6
    assert track(actions.get("pick_up"), Style())[:, INDEX["hand_right"], 1].min() < 0.25
    drink = track(actions.get("drink"), Style())
    assert np.linalg.norm(drink[:, INDEX["hand_right"]] - drink[:, head], axis=-1).min() < 0.22
    point = track(actions.get("point"), Style())[75]
    arm = point[INDEX["hand_tip_right"]] - point[INDEX["shoulder_right"]]
    assert np.linalg.norm(arm) > 0.55 and abs(arm[1]) < 0.2
    walk = track(actions.get("walk"), Style())[:, base]
    assert np.ptp(walk[:, 0]) > 1.2 and np.ptp(walk[:, 2]) > 0.6
    throw = track(actions.get("throw"), Style())[:, INDEX["hand_right"]]
    assert np.linalg.norm(np.diff(throw, axis=0), axis=-1).max() * 50 > 3.0


def test_performance_is_continuous_and_labeled() -> None:
    performance = Performance(("all",), seed=4)
    times = np.arange(0.0, 45.0, 0.02)
    joints = np.stack([performance.pose(t).joints for t in times])
    assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() < 12.0 * 0.02
    labels = [performance.segment(t).label for t in times]
    assert set(labels) == {*CYCLE, "idle"}


def test_performance_inserts_stand_up_after_sit_down() -> None:
    performance = Performance(("sit_down",), seed=1)
    labels = [performance.segment(t).label for t in np.arange(0, 20, 0.1)]
    order = [a for a, b in zip(labels, ["", *labels], strict=False) if a != b and a != "idle"]
    assert order[:4] == ["sit_down", "stand_up", "sit_down", "stand_up"]


def test_performance_same_seed_repeats() -> None:
    a, b, c = (Performance(("throw", "wave"), seed=s) for s in (7, 7, 8))
    for t in (0.7, 3.1, 11.0):
        np.testing.assert_array_equal(a.pose(t).joints, b.pose(t).joints)
    assert not np.allclose(a.pose(3.1).joints, c.pose(3.1).joints)
    # The order of calls does not matter.
    np.testing.assert_array_equal(a.pose(0.7).joints, b.pose(0.7).joints)


def test_performance_unknown_action_raises() -> None:
    with pytest.raises(ConfigError, match=r"'juggle'.*drink.*wave"):
        Performance(("juggle",))
    with pytest.raises(ConfigError, match="no action"):
        Performance(())


def test_curve_through_keys_does_not_overshoot() -> None:
    keys = [np.array([v]) for v in (0.0, 1.0, 1.0, 0.2, 0.3)]
    values = curve_through((0.0, 0.5, 1.0, 1.2, 2.0), keys)(np.linspace(0.0, 2.0, 401))[:, 0]
    assert values.min() >= 0.0 and values.max() <= 1.0
    np.testing.assert_allclose(values[[0, 100, 200, 240, 400]], np.concatenate(keys))
    assert np.abs(np.diff(values, 2)).max() < 5e-3


def test_idle_motion_is_small_and_continuous() -> None:
    idle_motion = IdleMotion(3)
    moved = np.stack([idle_motion.add(actions.STANDING, t) - actions.STANDING for t in np.linspace(0, 60, 300)])
    assert np.abs(moved).max() < 0.08
    assert (np.abs(np.diff(moved, axis=0)).max(axis=1) > 0).all()


def test_body_frames_follow_bones_without_flips() -> None:
    appearance = Appearance()
    performance = Performance(("all",), seed=2)
    rest = actor.bone_lengths(performance.pose(0.0).joints)
    before = None
    for t in np.arange(0.0, 30.0, 0.03):
        pose = performance.pose(t)
        origins, axes = actor.body_frames(pose, rest, appearance.hand_length)
        np.testing.assert_allclose(origins[: len(rest)], pose.joints[actor.BONE_START], atol=1e-9)
        tips = origins[: len(rest)] + axes[: len(rest), :, 1] * rest[:, None]
        np.testing.assert_allclose(tips, pose.joints[actor.BONE_END], atol=1e-3)
        if before is not None:
            assert np.abs(axes - before).max() < 0.8, t
        before = axes
    assert len(body_shapes(appearance, rest, 0, 1)) > 60


def test_hand_joints_match_kinect_joints() -> None:
    pose = posture.pose(actions.get("point").at(1.5, Style()), Physique())
    hands = actor.hand_joints(pose, Physique().hand_length)
    for side, hand in zip(actor.SIDES, hands, strict=True):
        np.testing.assert_allclose(hand[0], pose.joints[INDEX[f"wrist_{side}"]])
        np.testing.assert_allclose(hand[4], pose.joints[INDEX[f"thumb_{side}"]])
        np.testing.assert_allclose(hand[12], pose.joints[INDEX[f"hand_tip_{side}"]])
