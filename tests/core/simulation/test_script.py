"""Scripts from recorded skeletons, with gaps and missing joints."""

import numpy as np
import pytest

from actrec.recordings.skeleton_files import open_sequence
from actrec.simulation import posture
from actrec.simulation.scene import scene_from_scripts
from actrec.simulation.script import estimate_ground, from_recording, scripts_from_recording
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.skeleton.sequence import SkeletonSequence, from_joints
from actrec.utils.errors import InputError

INDEX = KINECT_V2_25.index


def standing(frames: int, noise: float = 0.0) -> np.ndarray:
    """Return joints [T, 25, 3] of a body 2.5 m in front of a camera 1 m high that drifts to the right."""
    joints = posture.pose(posture.REST, posture.Physique()).joints * np.array([1.0, -1.0, -1.0]) + np.array(
        [0.0, 1.0, 2.5]
    )
    track = joints + np.arange(frames)[:, None, None] * np.array([0.01, 0.0, 0.0])
    return track + noise * np.random.default_rng(0).standard_normal(track.shape)


def times(frames: int) -> np.ndarray:
    return np.arange(frames) / 30


def test_pose_between_frames_keeps_bone_lengths() -> None:
    script = from_recording(standing(40, 0.02), times(40))
    for t in np.linspace(0, script.duration - 1e-6, 77):
        pose = script.pose(t)
        for joint, parent in KINECT_V2_25.edges:
            length = np.linalg.norm(pose.joints[joint] - pose.joints[parent])
            assert length == pytest.approx(script.lengths[joint], abs=1e-6)
        for axes in (pose.head, *pose.hands):
            np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)


def test_from_recording_smoothing_removes_noise_keeps_motion() -> None:
    clean, noisy = standing(60), standing(60, 0.01)
    before = np.abs(noisy - clean)[5:-5].mean()
    after = np.abs(from_recording(noisy, times(60)).joints - clean)[5:-5].mean()
    assert after < 0.75 * before
    exact = from_recording(clean, times(60)).joints
    np.testing.assert_allclose(exact[5:-5], clean[5:-5], atol=0.012)


def test_from_recording_fills_gaps_and_missing_joints() -> None:
    joints = standing(30)
    joints[10:14, INDEX["wrist_left"]] = np.nan
    joints[:, [INDEX["thumb_left"], INDEX["hand_tip_left"], INDEX["foot_right"]]] = np.nan
    script = from_recording(joints, times(30))
    assert np.isfinite(script.joints).all()
    np.testing.assert_allclose(script.joints[12, INDEX["wrist_left"]], standing(30)[12, INDEX["wrist_left"]], atol=0.02)
    assert script.present.all()


def test_pose_absent_frame_is_none() -> None:
    joints = standing(30)
    joints[10:20] = np.nan
    script = from_recording(joints, times(30))
    assert script.pose(0.1) is not None and script.pose(0.5) is None and script.pose(0.9) is not None


def test_from_recording_single_frame() -> None:
    script = from_recording(standing(1), times(1))
    assert script.duration == pytest.approx(1 / 30)
    assert script.pose(0.0) is not None and script.pose(5.0) is not None


def test_from_recording_invalid_input_raises() -> None:
    with pytest.raises(InputError, match=r"\[3, 20, 3\]"):
        from_recording(np.zeros((3, 20, 3)), times(3))
    with pytest.raises(InputError, match="frame 2 is not later"):
        from_recording(standing(3), np.array([0.0, 0.1, 0.1]))
    headless = standing(5)
    headless[:, INDEX["head"]] = np.nan
    with pytest.raises(InputError, match="head missing"):
        from_recording(headless, times(5))
    empty = np.full((1, 2, 25, 3), np.nan, np.float32)
    recording = SkeletonSequence("empty", np.array([0, 1]), empty, empty[..., 0], empty[..., :2], ("body_1",))
    with pytest.raises(InputError, match="'empty'"):
        scripts_from_recording(recording)


def test_estimate_ground_finds_height_and_pitch() -> None:
    tilt = np.radians(14.0)
    joints = standing(90)
    joints[..., 2] += np.linspace(-0.6, 0.8, 90)[:, None]  # walks away from the camera
    c, s = np.cos(tilt), np.sin(tilt)
    pitched = joints @ np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])
    height, pitch = estimate_ground(pitched, 1.75)
    assert np.degrees(pitch) == pytest.approx(14.0, abs=1.5)
    assert height == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("lies", [False, True], ids=["sits", "lies"])
def test_scene_of_a_level_recording_stays_level(intrinsics, lies: bool) -> None:
    """The direction from head to ankles tells nothing of the camera if the person sits or lies."""
    joints = standing(40)
    if lies:
        joints = joints[..., [0, 2, 1]] * [1, 1, 1] + [0, 1.0, 1.5]
    else:
        legs = [i for i, name in enumerate(KINECT_V2_25.joints) if name.startswith(("knee", "ankle", "foot"))]
        joints[:, legs, 2] -= 0.45
    recording = from_joints("seated", np.arange(40) * 33_000_000, joints[None], up=np.array([0.0, -1.0, 0.0]))
    scene = scene_from_scripts(intrinsics, scripts_from_recording(recording), "sit")
    np.testing.assert_allclose(scene.camera.up, [0, -1, 0], atol=0.01)


def test_scripted_scene_matches_recorded_pixels(data_root, intrinsics) -> None:
    recording = open_sequence(data_root / "nucla" / "raw" / "a01_s07_e00_v03.json")
    (script,) = scripts_from_recording(recording)
    scene = scene_from_scripts(intrinsics, [script], "pick up")
    errors = []
    for k in range(0, len(recording), 5):
        snapshot = scene.at(float(script.times[k]))
        (body,) = snapshot.bodies
        errors.append(np.linalg.norm(body.positions - recording.bodies[0, k], axis=-1))
        assert np.isfinite(body.positions).all()
        assert (snapshot.rendering.people == 0).sum() > 1000
    assert np.nanmedian(errors) < 0.05  # moved by the smoothing and by bones of one length, no more
    assert 1.4 < script.stature < 2.0
    assert scene.duration == pytest.approx(script.duration)


def test_scripts_from_recording_two_bodies(intrinsics) -> None:
    tracks = np.stack([standing(20), standing(20) + np.array([0.8, 0.0, 0.4])]).astype(np.float32)
    stamps = np.round(times(20) * 1e9).astype(np.int64)
    scores = np.ones(tracks.shape[:-1], np.float32)
    recording = SkeletonSequence("pair", stamps, tracks, scores, tracks[..., :2], ("body_1", "body_2"))
    scene = scene_from_scripts(intrinsics, scripts_from_recording(recording, 2), "together")
    snapshot = scene.at(0.2)
    assert [b.body_id for b in snapshot.bodies] == ["actor_1", "actor_2"]
    assert snapshot.labels == {"actor_1": "together", "actor_2": "together"}
