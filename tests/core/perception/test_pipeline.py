"""From real frames to tracked bodies, hands and faces."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from actrec import cameras
from actrec.datasets.ntu.skeletons import read_ntu_skeleton
from actrec.perception import pipeline
from actrec.perception.pipeline import BodyPerception, Detection, FacePerception, HandPerception, with_whole_legs
from actrec.recognition.tracks import joints_by_id
from actrec.skeleton import layouts
from actrec.skeleton.layouts import FACE_68, HAND_21, KINECT_V2_25, MEDIAPIPE_33
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils import gravity
from actrec.utils.camera_model import project
from actrec.utils.errors import ConfigError, EndOfStream, InputError
from tests.core.perception.test_lifting import standing as standing_shape

J = KINECT_V2_25.index


def frames(path, count=1000, **options):
    found: list[RgbdFrame] = []
    with cameras.create("replay", path=str(path), rate=0.0, restamp=False, **options) as camera:
        try:
            while len(found) < count:
                found.append(camera.read(timeout_s=20.0))
        except EndOfStream:
            pass
    return found


@pytest.fixture(scope="module")
def turning(data_root):
    return frames(data_root / "rgbd/person_turning", intrinsics="525,525,319.5,239.5", depth_scale=0.001)


@pytest.fixture(scope="module")
def standing(data_root):
    return frames(data_root / "rgbd/pairs/person_standing", intrinsics="525,525,319.5,239.5", depth_scale=0.0002)


@pytest.fixture(scope="module")
def turned_bodies(turning):
    body = BodyPerception(min_hits=1)
    found = [body.process(frame) for frame in turning]
    body.close()
    return found


def without_depth(frame):
    return dataclasses.replace(frame, depth=None)


def blank(stamp_ns=0, size=(640, 480), value=127):
    width, height = size
    color = np.full((height, width, 3), value, np.uint8)
    return RgbdFrame(stamp_ns, color, None, Intrinsics(width, height, 525.0, 525.0, width / 2, height / 2))


def check(thing, layout, frame):
    count = len(layout)
    assert thing.layout == layout.name
    assert thing.positions.shape == (count, 3) and thing.pixels.shape == (count, 2) and thing.scores.shape == (count,)
    assert {a.dtype for a in (thing.positions, thing.pixels, thing.scores)} == {np.dtype(np.float32)}
    assert ((thing.scores >= 0) & (thing.scores <= 1)).all()
    missing = np.isnan(thing.positions).any(axis=1)
    assert not thing.scores[missing].any()


def test_body_perception_turning_person_keeps_one_body(turning, turned_bodies):
    assert len(turning) == 100
    assert [[body.body_id for body in bodies] for bodies in turned_bodies] == [["body_1"]] * 100
    for frame, (body,) in zip(turning, turned_bodies, strict=True):
        check(body, KINECT_V2_25, frame)
        # The chest's surface is 0.8 to 1.0 m away, the wall behind at 2.6 m.
        assert 0.75 < body.positions[J["spine_shoulder"], 2] < 1.15
        assert 0.75 < body.positions[J["head"], 2] < 1.15


def test_body_perception_turning_person_keeps_bone_lengths(turned_bodies):
    positions = np.array([bodies[0].positions for bodies in turned_bodies])

    def length(a, b):
        return np.linalg.norm(positions[:, J[a]] - positions[:, J[b]], axis=1)

    shoulders = length("shoulder_left", "shoulder_right")
    # Turned by 90 degrees one shoulder hides the other, whose depth lifting then has to refuse.
    assert 0.26 < np.median(shoulders) < 0.42
    assert np.percentile(shoulders, 5) > 0.7 * np.median(shoulders)
    assert length("spine_shoulder", "head").std() < 0.05
    assert length("spine_shoulder", "spine_mid").std() < 0.05


def test_body_perception_left_and_right_are_the_persons(turning, turned_bodies):
    first = turned_bodies[0][0].positions
    assert first[J["shoulder_left"], 0] > first[J["shoulder_right"], 0] + 0.2  # facing the camera
    back = turned_bodies[48][0].positions
    assert back[J["shoulder_left"], 0] < back[J["shoulder_right"], 0] - 0.2  # facing away


def test_body_perception_without_depth_lowers_scores(turning):
    body = BodyPerception(min_hits=1, smooth=False)
    with_depth = body.process(turning[0])[0]
    body.reset()
    (alone,) = body.process(without_depth(turning[0]))
    hollow = dataclasses.replace(turning[0], depth=np.full_like(turning[0].depth, np.nan))
    body.reset()
    (empty,) = body.process(hollow)
    body.close()
    np.testing.assert_array_equal(alone.positions, empty.positions)
    assert np.isfinite(alone.positions).all()
    assert (alone.scores <= 0.5 * with_depth.scores.max() + 1e-6).all()
    z = alone.positions[J["spine_shoulder"], 2]
    assert z == pytest.approx(with_depth.positions[J["spine_shoulder"], 2], rel=0.35)


def test_body_perception_stamp_jumps_back_resets(turning):
    body = BodyPerception(min_hits=1)
    assert [b.body_id for b in body.process(turning[30])] == ["body_1"]
    assert [b.body_id for b in body.process(turning[31])] == ["body_1"]
    assert [b.body_id for b in body.process(turning[0])] == ["body_2"]
    body.close()


def test_body_perception_two_people_returns_two_bodies(data_root):
    pair = frames(data_root / "rgbd/pairs/two_people_moving", intrinsics="525,525,319.5,239.5", depth_scale=0.0002)
    body = BodyPerception(min_hits=1)
    seen = [body.process(pair[k % 2]) for k in (0, 0, 0)]
    body.close()
    assert len(seen[-1]) == 2
    distances = sorted(float(np.nanmedian(b.positions[:4, 2])) for b in seen[-1])
    assert 0.8 < distances[0] < distances[1] < 4


@pytest.mark.slow
def test_body_perception_street_scene_keeps_ids(data_root):
    street = frames(data_root / "videos/street_720p.avi", count=60, hfov_deg=60.0)
    body = BodyPerception(num_poses=4)
    seen = [body.process(frame) for frame in street]
    body.close()
    assert np.mean([len(bodies) for bodies in seen[20:]]) > 1.5
    ids = [b.body_id for bodies in seen for b in bodies]
    longest = max(set(ids), key=ids.count)
    assert ids.count(longest) > 40
    # A body may leave and come back as another, but ids do not flicker.
    assert len(set(ids)) <= 8


def test_hand_and_face_perception_known_body_returns_hands_and_face(standing):
    body, hand, face = BodyPerception(min_hits=1), HandPerception(), FacePerception()
    frame = standing[0]
    bodies = body.process(frame)
    hands, faces = hand.process(frame, bodies), face.process(frame, bodies)
    assert sorted(h.side for h in hands) == ["left", "right"] and len(faces) == 1
    for found in hands:
        check(found, HAND_21, frame)
        assert found.body_id == "body_1"
        wrist = J[f"wrist_{found.side}"]
        assert np.linalg.norm(found.pixels[0] - bodies[0].pixels[wrist]) < 20
        assert np.linalg.norm(found.positions[0] - bodies[0].positions[wrist]) < 0.15
        # Raised hands, palms forward: fingertips above the wrist, a hand's length away.
        assert found.pixels[12, 1] < found.pixels[0, 1]
        assert 0.12 < np.linalg.norm(found.positions[12] - found.positions[0]) < 0.24
    left, right = sorted(hands, key=lambda h: h.side)
    assert left.pixels[0, 0] > right.pixels[0, 0]
    (only,) = faces
    check(only, FACE_68, frame)
    # The mouth is below the nose, the nose below the eyes; the right eye lies left in the image.
    assert only.pixels[57, 1] > only.pixels[33, 1] > only.pixels[[36, 45], 1].mean()
    assert only.pixels[36, 0] < only.pixels[45, 0]
    assert 0.07 < np.linalg.norm(only.positions[36] - only.positions[45]) < 0.12
    assert np.abs(only.positions[:, 2] - bodies[0].positions[J["head"], 2]).max() < 0.25
    for part in (body, hand, face):
        part.close()


def test_hand_and_face_perception_of_a_turned_camera_have_its_pixels_from_the_first_frame(standing):
    """As the upright image's, turned with it; `prepare` and single images have no later frame."""
    turned = gravity.turn_frame(dataclasses.replace(standing[0], up=np.array(gravity.LEVEL)), 1)
    body = BodyPerception(min_hits=1)
    bodies = body.process(standing[0])
    others = [gravity.turn_joints(each, standing[0].intrinsics, 1) for each in bodies]
    for make in (HandPerception, FacePerception):
        upright, rolled = make(), make()
        expected, found = upright.process(standing[0], bodies), rolled.process(turned, others)
        assert len(found) == len(expected) > 0
        for ours, theirs in zip(found, expected, strict=True):
            wanted = gravity.turn_joints(theirs, standing[0].intrinsics, 1)
            np.testing.assert_allclose(ours.pixels, wanted.pixels, atol=1.0)
        upright.close()
        rolled.close()
    body.close()


def test_hand_and_face_perception_body_in_other_layout_converted(standing):
    body, hand, face = BodyPerception(), HandPerception(), FacePerception()
    (seen,) = body._estimator.estimate(standing[0])
    theirs = Body("person_7", seen.layout, np.full((33, 3), np.nan, np.float32), seen.pixels, seen.scores)
    hands, faces = hand.process(standing[0], [theirs]), face.process(standing[0], [theirs])
    assert sorted((h.body_id, h.side) for h in hands) == [("person_7", "left"), ("person_7", "right")]
    assert [f.body_id for f in faces] == ["person_7"]
    for part in (hand, face):
        with pytest.raises(InputError, match="no conversion from layout 'face_68'"):
            part.process(standing[0], faces)
        part.close()
    body.close()


def test_face_perception_person_facing_away_returns_no_face(turning, turned_bodies):
    face = FacePerception()
    found = [len(face.process(frame, bodies)) for frame, bodies in zip(turning, turned_bodies, strict=True)]
    face.close()
    assert sum(found[:12]) >= 11 and sum(found[-8:]) >= 7
    assert sum(found[40:60]) == 0


@pytest.mark.parametrize(("clip", "side"), [("G06_palm_clip01", "right"), ("G09_stop_clip01", "right")])
def test_hand_perception_without_body_uses_hand_depth(data_root, clip, side):
    clip = frames(data_root / "rgbd/realsense_hands" / clip, intrinsics="615,615,319.5,239.5", depth_scale=0.001)
    hand = HandPerception()
    for frame in clip:
        found = hand.process(frame, [])
        assert [h.side for h in found] == [side] and found[0].body_id == "hand_1"
        positions = found[0].positions
        check(found[0], HAND_21, frame)
        u, v = found[0].pixels[9].astype(int)
        palm = np.nanmedian(frame.depth[v - 8 : v + 9, u - 8 : u + 9])
        assert np.abs(positions[:, 2] - palm).max() < 0.12
        assert 0.13 < np.linalg.norm(positions[12] - positions[0]) < 0.24
        np.testing.assert_allclose(project(positions, frame.intrinsics), found[0].pixels, atol=0.5)
    hand.close()


def test_face_perception_without_body_returns_face(standing):
    face = FacePerception()
    (found,) = face.process(standing[0], [])
    assert found.body_id == "face_1" and np.isfinite(found.positions).all()
    # Two regions that have drifted onto one face are one face again.
    face._estimator._unassigned["face_2"] = face._estimator._unassigned["face_1"]
    assert [found.body_id for found in face.process(standing[0], [])] == ["face_1"]
    face.reset()
    assert face.process(standing[0], [])[0].body_id == "face_2"
    face.close()


def test_body_perception_ntu_video_agrees_with_kinect(data_root):
    name = "S001C001P001R001A001"
    video = frames(data_root / f"ntu/rgb/{name}_rgb.avi", count=30)
    kinect = read_ntu_skeleton(data_root / f"ntu/skeleton/{name}.skeleton")
    body = BodyPerception(num_poses=1, min_hits=1)
    sure = [
        J[j] for j in ("head", "neck", "spine_shoulder", "spine_base", "shoulder_left", "shoulder_right", "elbow_right")
    ]
    for t, frame in enumerate(video):
        (found,) = body.process(frame)
        apart = np.linalg.norm(found.pixels - kinect.pixels[0, t], axis=1)
        assert np.median(apart[sure]) < 15  # shoulders are 65 px apart; left for right would be 65 off
        assert 2.5 < found.positions[0, 2] < 5.5
    body.close()


def test_perception_empty_scene_returns_nothing(data_root):
    body, hand, face = BodyPerception(), HandPerception(), FacePerception()
    for k in range(3):
        frame = blank(k * 33_000_000)
        assert body.process(frame) == [] and hand.process(frame, []) == [] and face.process(frame, []) == []
    for part in (body, hand, face):
        part.close()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 400), (2000, 8)])
def test_perception_extreme_image_sizes_return_nothing(size):
    body, hand, face = BodyPerception(), HandPerception(), FacePerception()
    frame = blank(size=size)
    assert body.process(frame) == [] and hand.process(frame, []) == [] and face.process(frame, []) == []
    for part in (body, hand, face):
        part.close()


def test_perception_invalid_frame_raises_and_continues(turning):
    good = turning[0]
    bad = {
        "color is float32": dataclasses.replace(good, color=good.color.astype(np.float32)),
        r"color is uint8\[480, 640\]": dataclasses.replace(good, color=good.color[..., 0]),
        r"color is uint8\[240, 640, 3\]": dataclasses.replace(good, color=good.color[:240]),
        "register depth to color": dataclasses.replace(good, depth=good.depth[:240]),
        "needs a color image": dataclasses.replace(good, color=None),
    }
    body, hand, face = BodyPerception(min_hits=1), HandPerception(), FacePerception()
    for message, frame in bad.items():
        for process in (body.process, lambda f: hand.process(f, []), lambda f: face.process(f, [])):
            with pytest.raises(InputError, match=message):
                process(frame)
    assert len(body.process(good)) == 1
    for part in (body, hand, face):
        part.close()


def test_hand_and_face_perception_missing_joints_accepted(turning):
    nothing = Body(
        "body_1",
        "kinect_v2_25",
        np.full((25, 3), np.nan, np.float32),
        np.full((25, 2), np.nan, np.float32),
        np.ones(25, np.float32),
    )
    outside = dataclasses.replace(nothing, body_id="body_2", pixels=np.full((25, 2), 1e5, np.float32))
    near = dataclasses.replace(outside, body_id="body_3", positions=np.full((25, 3), 1e-9, np.float32))
    hand, face = HandPerception(), FacePerception()
    assert hand.process(turning[0], [nothing, outside, near]) == []
    assert face.process(turning[0], [nothing, outside, near]) == []
    hand.close()
    face.close()


def test_perception_options_passed_on_unknown_raises():
    body = BodyPerception(num_poses=3, window_m=0.1, gate_m=0.9)
    assert (body.config.num_poses, body.config.window_m, body.config.gate_m) == (3, 0.1, 0.9)
    body.close()
    with pytest.raises(ConfigError, match="unknown option poses of BodyPerceptionConfig; known: .*num_poses"):
        BodyPerception(poses=3)
    with pytest.raises(ConfigError, match="num_poses is 0"):
        BodyPerception(num_poses=0)
    with pytest.raises(ConfigError, match="hand_model"):
        HandPerception(hand_model="heavy")


def hands_of(data_root):
    clip = data_root / "rgbd/realsense_hands/G06_palm_clip01"
    return frames(clip, intrinsics="615,615,319.5,239.5", depth_scale=0.001)


def test_hand_estimator_without_bodies_keeps_distinct_ids(data_root):
    hand, first = HandPerception(), None
    for frame in hands_of(data_root)[:8]:
        twice = dataclasses.replace(
            frame,
            color=np.hstack([frame.color, frame.color]),
            depth=np.hstack([frame.depth, frame.depth]),
            intrinsics=dataclasses.replace(frame.intrinsics, width=2 * frame.intrinsics.width),
        )
        found = {h.body_id: h for h in hand.process(twice, [])}
        assert sorted(found) == ["hand_1", "hand_2"]
        assert [h.side for h in found.values()] == ["right", "right"]
        places = {name: float(h.pixels[0, 0]) // frame.intrinsics.width for name, h in found.items()}
        first = first or places
        assert places == first
        # A recognizer of hands takes both, by their names.
        assert sorted(joints_by_id(list(found.values()), "hand_22")) == ["hand_1", "hand_2"]
    hand.close()


def test_hand_estimator_briefly_lost_hand_keeps_id(data_root):
    clip = hands_of(data_root)
    hand = HandPerception(hand_max_gap_s=0.5)

    def names(k, after_s=0.0, seen=True):
        color = clip[k].color if seen else np.zeros_like(clip[k].color)
        stamp_ns = clip[0].stamp_ns + int((k / 30 + after_s) * 1e9)
        found = hand.process(dataclasses.replace(clip[k], stamp_ns=stamp_ns, color=color), [])
        return [h.body_id for h in found]

    assert names(0) == names(1) == ["hand_1"]
    assert names(2, seen=False) == names(3, seen=False) == []
    assert names(4) == ["hand_1"]
    assert names(5, after_s=0.4, seen=False) == names(6, after_s=0.8, seen=False) == []
    assert names(7, after_s=1.0) == ["hand_2"]  # lost for longer: may be another hand
    hand.close()


def test_hand_estimator_side_is_majority_of_frames(data_root, monkeypatch):
    clip = hands_of(data_root)
    hand = HandPerception()
    seen = hand._estimator._hands
    flicker = iter("rrlrlrrlr")

    def judged(*args):
        found = seen(*args)
        for one in found:
            one.side = {"l": "left", "r": "right"}[next(flicker)]
        return found

    monkeypatch.setattr(hand._estimator, "_hands", judged)
    for frame in clip[:9]:
        (found,) = hand.process(frame, [])
        assert (found.body_id, found.side) == ("hand_1", "right")
    hand.close()


@pytest.mark.parametrize("layout", ["kinect_v2_25", "azure_kinect_32"])
@pytest.mark.parametrize("part", ["positions", "pixels"])
def test_hand_perception_infinite_coordinates_raises(layout, part):
    """Converted, they came out as 3·10³⁸."""
    joints = len(layouts.get(layout))
    body = Body("body_1", layout, np.ones((joints, 3), np.float32), np.ones((joints, 2), np.float32), np.ones(joints))
    getattr(body, part)[5] = np.inf
    with pytest.raises(InputError, match="'body_1' has infinite coordinates"):
        joints_by_id([body], "kinect_v2_25", with_pixels=True)


@pytest.mark.parametrize("pitch", [-30, 20])
def test_with_whole_legs_ankle_outside_of_the_image_hangs_below_its_knee(pitch):
    """The guess is short and far to the front; a leg in view, a lying person, and unknown gravity stay as they are."""
    up = gravity.up_from_angles(0, pitch)
    truth = standing_shape() @ gravity.level_rotation(up) + [0, 0, 2.5]
    guess, pixels = truth.copy(), np.full((33, 2), 100.0)
    hip, knee, ankle, toe = (MEDIAPIPE_33.index[f"{part}_left"] for part in ("hip", "knee", "ankle", "foot_index"))
    guess[knee] = (guess[hip] + guess[knee]) / 2
    guess[[ankle, toe]] += [0, -0.1, -0.3]
    pixels[ankle] = 100, 470
    found = Detection("mediapipe_33", pixels, guess, np.ones(33))
    frame = dataclasses.replace(blank(), up=up)
    moved = with_whole_legs(guess, found, frame)
    trunk = 0.5  # m, of `standing_shape`
    np.testing.assert_allclose(moved[knee] - moved[hip], 0.95 * trunk / 0.42 * (truth[knee] - truth[hip]), atol=2e-3)
    shank = moved[knee] - moved[ankle]
    np.testing.assert_allclose(shank / np.linalg.norm(shank), up, atol=1e-6)
    length = max(0.85 * trunk, float(np.linalg.norm(guess[knee] - guess[ankle])))
    np.testing.assert_allclose(np.linalg.norm(shank), length, rtol=1e-5)
    np.testing.assert_allclose(moved[toe] - moved[ankle], guess[toe] - guess[ankle], atol=1e-6)
    changed = np.flatnonzero((moved != guess).any(axis=1))
    legs = ["knee_left", "ankle_left", "heel_left", "foot_index_left"]
    assert [MEDIAPIPE_33.joints[v] for v in changed] == legs
    lying = dataclasses.replace(frame, up=gravity.up_from_angles(90, 0))
    for other, where in ((lying, pixels), (blank(), pixels), (frame, np.full((33, 2), 100.0))):
        unchanged = with_whole_legs(guess, dataclasses.replace(found, pixels=where), other)
        np.testing.assert_array_equal(unchanged, guess)


def test_face_perception_cup_before_the_face_does_not_pull_its_points(monkeypatch):
    """A reading 25 cm before the face is of another thing: `face_depth_m` is 10 cm."""
    x, y = (each.ravel()[:68] for each in np.meshgrid(np.linspace(-0.07, 0.07, 9), np.linspace(-0.09, 0.09, 8)))
    world = np.stack([x, y, np.zeros(68)], axis=1).astype(np.float32)
    world -= world.mean(axis=0)
    frame = blank()
    pixels = project(world + np.array([0, 0, 1], np.float32), frame.intrinsics)
    covered = (np.abs(x) < 0.04) & (y > 0.03)
    depth = np.ones((480, 640), np.float32)
    (left, top), (right, bottom) = pixels[covered].min(axis=0) - 6, pixels[covered].max(axis=0) + 7
    depth[round(top) : round(bottom), round(left) : round(right)] = 0.75
    found = Detection("face_68", pixels, world, np.ones(68, np.float32), body_id="face_1")
    estimator = SimpleNamespace(estimate=lambda *_: [found], reset=lambda: None)
    monkeypatch.setattr(pipeline, "create", lambda kind, **_: estimator)
    (face,) = FacePerception().process(dataclasses.replace(frame, depth=depth), [])
    np.testing.assert_allclose(face.positions[:, 2], 1.0, atol=0.05)
    assert face.scores[covered].max() < 1.0
