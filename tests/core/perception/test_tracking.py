"""Tracking of bodies: ids while people cross, leave, return, and stamps jump back."""

import numpy as np
import pytest

from actrec.perception.tracking import Tracker
from actrec.types import Body, Intrinsics
from actrec.utils.camera_model import project
from actrec.utils.errors import ConfigError, InputError

CAMERA = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
RATE = 15
SHAPE = np.random.default_rng(0).uniform([-0.25, -0.8, -0.1], [0.25, 0.9, 0.1], (25, 3)).astype(np.float32)


def person(x, z, noise=0.0, seed=0, positions=True):
    joints = SHAPE + np.array([x, 0, z], np.float32)
    joints = joints + np.random.default_rng(seed).normal(0, noise, joints.shape).astype(np.float32)
    pixels = project(joints, CAMERA)
    if not positions:
        joints = np.full_like(joints, np.nan)
    return Body("", "kinect_v2_25", joints, pixels, np.ones(25, np.float32))


def stamp(frame):
    return int(frame * 1e9 / RATE)


def play(tracker, frames, start=0):
    """Feeds frames of bodies; returns the ids of each."""
    return [[body.body_id for body in tracker.update(stamp(start + k), bodies)] for k, bodies in enumerate(frames)]


def test_tracker_one_person_keeps_id():
    tracker = Tracker(min_hits=1)
    frames = [[person(0.02 * k, 2.5, 0.02, k)] for k in range(60)]
    assert play(tracker, frames) == [["body_1"]] * 60


@pytest.mark.parametrize("positions", [True, False])
def test_tracker_two_people_pass_keeps_ids(positions):
    tracker = Tracker(min_hits=1, smooth=False)
    # 1 m/s each, at different depths, in alternating order; without positions the pixels decide.
    walk = np.linspace(-1.2, 1.2, 36)
    for k, x in enumerate(walk):
        there, back = person(x, 2.2, 0.02, k, positions), person(-x, 3.2, 0.02, 100 + k, positions)
        bodies = [there, back] if k % 2 else [back, there]
        named = {b.body_id: b for b in tracker.update(stamp(k), bodies)}
        assert set(named) == {"body_1", "body_2"}
        if k == 0:
            first = {id: b.pixels[0].copy() for id, b in named.items()}
            ours = min(first, key=lambda id: np.linalg.norm(first[id] - there.pixels[0]))
        np.testing.assert_array_equal(named[ours].pixels, there.pixels)


def test_tracker_occluded_person_keeps_id():
    tracker = Tracker(min_hits=1, smooth=False)
    walk = np.linspace(-1.0, 1.0, 31)
    for k, x in enumerate(walk):
        front, behind = person(x, 2.0, 0.02, k), person(-x, 3.2, 0.02, 50 + k)
        bodies = [front] if abs(x) < 0.3 else [behind, front]
        named = {b.body_id: b for b in tracker.update(stamp(k), bodies)}
        assert len(named) == len(bodies)
        if k == 0:
            ours = next(id for id, b in named.items() if b.positions[:, 2].mean() < 2.5)
        assert named[ours].positions[:, 2].mean() < 2.5
    assert set(named) == {"body_1", "body_2"}


def test_tracker_new_body_reported_from_second_frame():
    tracker = Tracker(min_hits=2)
    assert play(tracker, [[person(0, 2)]] * 3) == [[], ["body_1"], ["body_1"]]
    assert play(tracker, [[person(0, 2), person(1.5, 2)]] * 2, start=3) == [["body_1"], ["body_1", "body_2"]]


def test_tracker_short_loss_keeps_id_long_loss_new_id():
    tracker = Tracker(min_hits=1, max_lost_s=1.0)
    assert play(tracker, [[person(0, 2)]] * 5)[-1] == ["body_1"]
    assert play(tracker, [[]] * 10, start=5) == [[]] * 10
    assert play(tracker, [[person(0.1, 2)]], start=15) == [["body_1"]]
    assert play(tracker, [[]] * 20, start=16)[-1] == []
    assert play(tracker, [[person(0.1, 2)]], start=36) == [["body_2"]]


@pytest.mark.parametrize(("max_lost_s", "step_s"), [(1.0, 1.25), (0.0, 1 / 30)])
def test_tracker_slow_frames_keep_id(max_lost_s, step_s):
    tracker = Tracker(max_lost_s=max_lost_s)

    def ids(frame, *bodies):
        return [body.body_id for body in tracker.update(int(frame * step_s * 1e9), list(bodies))]

    assert [ids(k, person(0, 2)) for k in range(5)] == [[], [], ["body_2"], ["body_2"], ["body_2"]]
    assert [ids(5), ids(6, person(0, 2)), ids(7, person(0, 2))] == [[], [], ["body_3"]]  # one frame was too long
    assert ids(100, person(0, 2)) == []  # as is a pause


@pytest.mark.parametrize("swapped", [False, True])
def test_tracker_duplicate_detection_merged(swapped):
    def seen(k, other=False):
        body = person(0.02 * other, 5, 0.03, k + 100 * other)
        if swapped and (k % 3 == 0) != other:  # left for right, as an estimator does with people far away
            body.positions = body.positions * np.array([-1, 1, 1], np.float32)
        return body

    tracker = Tracker(min_hits=1)
    frames = [[seen(k), seen(k, True)] if 5 <= k < 8 else [seen(k)] for k in range(60)]
    assert play(tracker, frames) == [["body_1"]] * 5 + [["body_1", "body_2"]] * 3 + [["body_1"]] * 52


@pytest.mark.parametrize("third", [False, True])
@pytest.mark.parametrize("swapped", range(3))
def test_tracker_triple_detection_merged(swapped, third):
    def seen(k, x=0.0, other=False, seed=0):
        body = person(0, 5, 0.01, k + seed)
        turn = np.array([-1 if other else 1, 1, 1], np.float32)
        body.positions = body.positions * turn + np.array([x, 0, 0], np.float32)
        return body

    tracker = Tracker(min_hits=1)
    three = [[seen(k), seen(k, 0.08, swapped == 1, 100), seen(k, 0.1, swapped == 2, 200)] for k in range(5, 8)]
    # What is left begins as the last of the three in some cases.
    after = [[seen(k, 0.1 * third, (k % 3 == 0) != third)] for k in range(8, 40)]
    assert play(tracker, [*[[seen(k)] for k in range(5)], *three, *after])[8:] == [["body_1"]] * 32


@pytest.mark.parametrize("unknown", [(), (6,)])
def test_tracker_duplicate_without_depth_for_a_frame_merged(unknown):
    tracker = Tracker(min_hits=1)
    frames = [[person(0, 5, 0.01, k)] for k in range(40)]
    for k in range(40):
        if k >= 8 and k % 3 == 0:  # left for right
            frames[k][0].positions = frames[k][0].positions * np.array([-1, 1, 1], np.float32)
        elif 5 <= k < 8:
            other = person(0, 5, 0.01, 100 + k, positions=k not in unknown)
            other.positions = other.positions * np.array([-1, 1, 1], np.float32)
            frames[k].append(other)
    assert play(tracker, frames)[8:] == [["body_1"]] * 32


def test_tracker_lost_near_other_person_keeps_id():
    tracker = Tracker(min_hits=1)
    # Both at first side by side; then one walks up and is lost behind the other.
    both = [[person(0, 2), person(0.8 - 0.05 * k, 2.1)] for k in range(14)]
    found = play(tracker, [*both, *[[person(0, 2)]] * 5, both[-1]])
    assert found == [["body_1", "body_2"]] * 14 + [["body_1"]] * 5 + [["body_1", "body_2"]]


@pytest.mark.parametrize(("turn_m", "ids"), [(0.7, ["body_1"]), (3.0, ["body_2"])])
def test_tracker_lost_person_who_turned_keeps_id_near_the_prediction(turn_m, ids):
    """A person runs at 2 m/s, is lost for half a second, and comes back beside the prediction."""
    tracker = Tracker(min_hits=1, smooth=False)
    play(tracker, [[person(2.0 * k / RATE - 1.5, 3.0)] for k in range(15)])
    assert play(tracker, [[]] * 7 + [[person(2.0 * 22 / RATE - 1.5 - turn_m, 3.0)]], start=15)[-1] == ids


def test_tracker_distant_person_gets_new_id():
    tracker = Tracker(min_hits=1)
    assert play(tracker, [[person(-1, 2)], [person(1, 2)]]) == [["body_1"], ["body_2"]]


def test_tracker_stamp_jumps_back_resets_ids_continue():
    tracker = Tracker(min_hits=1)
    assert play(tracker, [[person(0, 2)]] * 2, start=100) == [["body_1"]] * 2
    assert play(tracker, [[person(0, 2)]] * 2, start=0) == [["body_2"]] * 2


def test_tracker_empty_scene_or_nan_bodies_returns_nothing():
    tracker = Tracker(min_hits=1)
    nothing = Body("", "kinect_v2_25", np.full((25, 3), np.nan), np.full((25, 2), np.nan), np.zeros(25))
    assert play(tracker, [[], [nothing], []]) == [[], [], []]


def test_tracker_smooth_option_filters_joints():
    raw = [person(0, 2, 0.02, k) for k in range(20)]
    plain, filtered = Tracker(min_hits=1, smooth=False), Tracker(min_hits=1)
    for k, body in enumerate(raw):
        exact = plain.update(stamp(k), [body])[0]
        smooth = filtered.update(stamp(k), [body])[0]
        np.testing.assert_array_equal(exact.positions, body.positions)
        np.testing.assert_array_equal(smooth.pixels, body.pixels)
    assert (
        np.abs(smooth.positions - person(0, 2).positions).mean()
        < 0.7 * np.abs(body.positions - person(0, 2).positions).mean()
    )


@pytest.mark.filterwarnings("error")
def test_tracker_no_common_joints_gets_new_id():
    tracker = Tracker(min_hits=1)
    by_pixels, by_joints = person(0, 2, positions=False), person(0, 2)
    by_joints.pixels = np.full_like(by_joints.pixels, np.nan)
    assert play(tracker, [[by_pixels], [by_joints]]) == [["body_1"], ["body_2"]]


def test_tracker_repeated_stamp_absent_body_not_reported():
    tracker = Tracker(min_hits=1)
    assert play(tracker, [[person(0, 2)]] * 2) == [["body_1"]] * 2
    assert tracker.update(stamp(1), []) == []
    assert [body.body_id for body in tracker.update(stamp(1), [person(1.5, 2)])] == ["body_2"]


def test_tracker_mixed_layouts_or_unknown_option_raises():
    tracker = Tracker()
    other = Body("", "kinect_v1_20", np.zeros((20, 3), np.float32), np.zeros((20, 2), np.float32), np.ones(20))
    with pytest.raises(InputError, match="different layouts"):
        tracker.update(0, [person(0, 2), other])
    with pytest.raises(ConfigError, match="known: .*gate_m"):
        Tracker(gate=1)


def test_tracker_greedy_assignment_would_swap_ids_optimal_keeps_them():
    tracker = Tracker(min_hits=1, smooth=False, gate_m=1.0)
    tracker.update(stamp(0), [person(0.0, 2.5), person(0.4, 2.5)])
    # The second person's detection lies nearest to the first track, but only the optimal pairs keep both ids.
    bodies = tracker.update(stamp(1), [person(0.25, 2.5), person(0.7, 2.5)])
    assert [body.body_id for body in bodies] == ["body_1", "body_2"]
    np.testing.assert_allclose(bodies[0].positions, person(0.25, 2.5).positions)


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 3), (3, 3), (5, 3), (3, 0), (0, 3)])
def test_tracker_number_of_bodies_changes_keeps_ids_of_the_others(before, after):
    tracker = Tracker(min_hits=1, smooth=False)
    first = tracker.update(stamp(0), [person(2.0 * k, 2.5) for k in range(before)])
    second = tracker.update(stamp(1), [person(2.0 * k, 2.5) for k in reversed(range(after))])
    assert len(first) == before and len(second) == after
    places = {body.body_id: body.positions[:, 0].mean() for body in first}
    for body in second:
        if body.body_id in places:
            assert body.positions[:, 0].mean() == pytest.approx(places[body.body_id])
    assert len({body.body_id for body in second} & set(places)) == min(before, after)


@pytest.mark.parametrize("gate_m", [0.6, 1.5])
def test_tracker_wide_gate_is_still_a_gate(gate_m):
    tracker = Tracker(min_hits=1, gate_m=gate_m)
    assert play(tracker, [[person(-3, 3)], [person(3, 6)]]) == [["body_1"], ["body_2"]]
