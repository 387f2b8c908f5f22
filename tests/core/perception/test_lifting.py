"""Lifting on synthetic silhouettes: exact depth of simple shapes before a wall."""

import numpy as np
import pytest

from actrec.perception.lifting import joint_radii, lift, limb_links, with_less_lean
from actrec.skeleton.layouts import MEDIAPIPE_33 as LAYOUT
from actrec.skeleton.shape_fits import fit_similarity, fit_translation
from actrec.types import Intrinsics
from actrec.utils import gravity
from actrec.utils.camera_model import project, rays
from actrec.utils.errors import InputError
from actrec.utils.geometry import rotation

CAMERA = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
WALL = 3.5
J = LAYOUT.index


def standing(yaw=0.0):
    """A plausible standing person in `mediapipe_33`, hip-centered, metres, optical axes."""
    joints = np.zeros((33, 3), np.float32)
    left = {
        "shoulder": (0.18, -0.50, 0.0), "elbow": (0.25, -0.22, 0.02), "wrist": (0.28, 0.04, -0.05),
        "pinky": (0.29, 0.12, -0.06), "index": (0.28, 0.13, -0.08), "thumb": (0.26, 0.10, -0.09),
        "hip": (0.10, 0.0, 0.0), "knee": (0.11, 0.42, 0.0), "ankle": (0.11, 0.82, 0.05),
        "heel": (0.11, 0.87, 0.08), "foot_index": (0.13, 0.88, -0.10), "ear": (0.08, -0.72, 0.0),
        "eye": (0.03, -0.75, -0.09), "eye_inner": (0.02, -0.75, -0.095), "eye_outer": (0.045, -0.75, -0.08),
        "mouth": (0.025, -0.68, -0.09),
    }  # fmt: skip
    for stem, point in left.items():
        joints[J[f"{stem}_left"]] = point
        joints[J[f"{stem}_right"]] = np.array(point) * [-1, 1, 1]
    joints[J["nose"]] = (0, -0.71, -0.12)
    return joints @ rotation(1, yaw).T


def depth_of(points, radius, wall=WALL):
    """Return depth of balls at points [N, 3] and of the limbs between them, in front of a wall."""
    depth = np.full((CAMERA.height, CAMERA.width), wall, np.float32)
    for x, y, z in points:
        center, reach = project(np.array([x, y, z]), CAMERA), radius * CAMERA.fx / z
        (left, top), (right, bottom) = np.clip(center - reach, 0, None).astype(int), (center + reach + 2).astype(int)
        part = depth[top:bottom, left:right]
        v, u = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]]
        apart = np.hypot(u - center[0], v - center[1]) / reach
        front = z - radius * np.sqrt(np.clip(1 - apart**2, 0, None))
        np.minimum(part, front, out=part, where=apart < 1)
    return depth


def body_depth(joints, radius=0.06):
    links = limb_links("mediapipe_33")
    steps = np.linspace(0, 1, 12)[:, None]
    points = np.concatenate([joints[a] + steps * (joints[b] - joints[a]) for a, b in links])
    return depth_of(points, radius)


def error(found, truth):
    return np.linalg.norm(found - truth, axis=1)


def test_lift_person_before_wall_error_is_centimeters():
    world = standing()
    truth = world + np.array([0.2, -0.1, 2.4], np.float32)
    positions, scores, _ = lift(project(truth, CAMERA), world, np.ones(33), body_depth(truth), CAMERA, 0.06)
    assert positions.dtype == scores.dtype == np.float32
    assert np.median(error(positions, truth)) < 0.02
    assert error(positions, truth).max() < 0.12
    np.testing.assert_allclose(project(positions, CAMERA), project(truth, CAMERA), atol=0.5)


def test_lift_scaled_and_rotated_world_landmarks_same_result():
    truth = standing() + np.array([0, 0, 2.4], np.float32)
    world = 1.15 * standing(yaw=0.25)
    positions, *_ = lift(project(truth, CAMERA), world, np.ones(33), body_depth(truth), CAMERA, 0.06)
    assert np.median(error(positions, truth)) < 0.03


@pytest.mark.parametrize("offset", [-6, -4, 4, 6])
def test_lift_joint_on_edge_of_arm_uses_arm(offset):
    # An upright arm 6 cm wide, 13 pixels at 2 m, in front of the wall; the pixel moves up to its edge.
    truth = np.stack([np.zeros(9), np.linspace(-0.4, 0.4, 9), np.full(9, 2.0)], axis=1).astype(np.float32)
    depth = depth_of(np.stack([np.zeros(99), np.linspace(-0.5, 0.5, 99), np.full(99, 2.0)], axis=1), 0.03)
    pixels = project(truth, CAMERA) + np.array([offset, 0], np.float32)
    positions, *_ = lift(pixels, truth - truth.mean(axis=0), np.ones(9), depth, CAMERA, 0.03)
    assert np.abs(positions[:, 2] - 2.0).max() < 0.02
    alone, *_ = lift(pixels, None, np.ones(9), depth, CAMERA, 0.03)
    assert np.abs(alone[:, 2] - 2.0).max() < 0.02


def test_lift_arm_before_torso_uses_arm():
    truth = standing() + np.array([0, 0, 2.2], np.float32)
    reach = {"elbow_right": (-0.15, -0.30, 1.95), "wrist_right": (-0.02, -0.25, 1.75)}
    for joint, point in reach.items():
        truth[J[joint]] = point
    for finger in ("pinky", "index", "thumb"):
        truth[J[f"{finger}_right"]] = (0.03, -0.24, 1.70)
    positions, *_ = lift(
        project(truth, CAMERA), truth - truth[23:25].mean(axis=0), np.ones(33), body_depth(truth), CAMERA, 0.06
    )
    assert error(positions, truth)[[J["wrist_right"], J["elbow_right"]]].max() < 0.06


def test_lift_occluded_shoulder_not_on_occluder():
    world = standing(yaw=np.pi / 2)
    truth = world + np.array([0, 0, 2.2], np.float32)
    shoulders = [J["shoulder_left"], J["shoulder_right"]]
    positions, scores, _ = lift(
        project(truth, CAMERA), world, np.ones(33), body_depth(truth), CAMERA, 0.06, limb_links("mediapipe_33")
    )
    assert error(positions, truth)[shoulders].max() < 0.08
    assert sorted(scores[shoulders].tolist()) == pytest.approx([0.6, 1.0])


def test_lift_hand_beside_hip_keeps_hip():
    world = standing()
    hand = [J[f"{joint}_left"] for joint in ("wrist", "index", "pinky", "thumb")]
    world[hand] = np.array([0.21, 0.0, -0.02]) + (world[hand] - world[hand[0]]) * 0.5
    truth = world + np.array([0, 0, 2.4], np.float32)
    wrong = world.copy()
    wrong[[J["hip_left"], J["hip_right"]], 2] += 0.17  # the estimator's own shape has the hips too far back
    arguments = project(truth, CAMERA), wrong, np.ones(33), body_depth(truth, 0.04), CAMERA, 0.04
    positions, scores, _ = lift(*arguments, limb_links("mediapipe_33"))
    assert error(positions, truth)[J["hip_left"]] < 0.05
    assert scores[J["hip_left"]] == 1.0


def test_lift_depth_holes_filled_from_world_landmarks():
    world = standing()
    truth = world + np.array([-0.3, 0, 2.5], np.float32)
    depth = body_depth(truth)
    lost = [J["wrist_left"], J["knee_right"]]
    for u, v in project(truth, CAMERA)[lost].astype(int):
        depth[v - 25 : v + 25, u - 25 : u + 25] = np.nan
    positions, scores, _ = lift(project(truth, CAMERA), world, np.ones(33), depth, CAMERA, 0.06)
    assert error(positions, truth)[lost].max() < 0.06
    np.testing.assert_allclose(scores[lost], 0.6)
    without, scores, _ = lift(project(truth, CAMERA), None, np.ones(33), depth, CAMERA, 0.06)
    assert np.isnan(without[lost]).all() and (scores[lost] == 0).all()
    assert np.isfinite(without[J["shoulder_left"]]).all()


def test_lift_too_near_for_depth_is_not_on_the_wall():
    world = 0.2 * standing()
    truth = world + np.array([0, 0, 0.5], np.float32)
    pixels = project(truth, CAMERA)
    depth = np.full((CAMERA.height, CAMERA.width), np.nan, np.float32)  # nearer than the depth camera measures
    u, v = pixels[J["ear_left"]].astype(int)
    depth[v - 5 : v + 5, u - 5 : u + 5] = WALL
    positions, scores, _ = lift(pixels, world, np.ones(33), depth, CAMERA, 0.01)
    assert np.abs(positions[:, 2] - truth[:, 2]).max() < 0.1
    assert scores.max() == pytest.approx(0.5)


def test_lift_joint_on_wall_rejected():
    world = standing()
    truth = world + np.array([0, 0, 2.2], np.float32)
    pixels = project(truth, CAMERA)
    pixels[J["wrist_left"]] += [60, 0]
    positions, scores, _ = lift(pixels, world, np.ones(33), body_depth(truth), CAMERA, 0.06)
    assert abs(positions[J["wrist_left"], 2] - truth[J["wrist_left"], 2]) < 0.1
    assert scores[J["wrist_left"]] == pytest.approx(0.6)


def test_lift_noisy_depth_error_is_bounded():
    world = standing()
    truth = world + np.array([0, 0, 3.0], np.float32)
    random = np.random.default_rng(3)
    depth = body_depth(truth) + random.normal(0, 0.0025 * 9, (480, 640)).astype(np.float32)
    depth[random.random(depth.shape) < 0.3] = 0
    pixels = project(truth, CAMERA) + random.normal(0, 2, (33, 2)).astype(np.float32)
    positions, *_ = lift(pixels, world + random.normal(0, 0.03, (33, 3)), np.ones(33), depth, CAMERA, 0.06)
    assert np.median(error(positions, truth)) < 0.05


@pytest.mark.parametrize("depth", [None, np.full((480, 640), np.nan, np.float32), np.zeros((480, 640), np.float32)])
def test_lift_without_depth_uses_world_landmarks(depth):
    world = standing()
    truth = world + np.array([0.4, 0.1, 2.8], np.float32)
    positions, scores, _ = lift(project(truth, CAMERA), world, np.full(33, 0.8), depth, CAMERA, 0.06)
    assert error(positions, truth).max() < 0.01
    np.testing.assert_allclose(scores, 0.4, rtol=1e-6)
    nothing, scores, _ = lift(project(truth, CAMERA), None, np.ones(33), depth, CAMERA)
    assert np.isnan(nothing).all() and not scores.any()


def test_lift_unknown_joints_stay_nan():
    world = standing()
    truth = world + np.array([0, 0, 2.4], np.float32)
    pixels = project(truth, CAMERA)
    pixels[5:9] = np.nan
    positions, scores, _ = lift(pixels, None, np.ones(33), body_depth(truth), CAMERA)
    assert np.isnan(positions[5:9]).all() and not scores[5:9].any()
    assert np.isfinite(positions[J["hip_left"]]).all()
    off = project(truth, CAMERA)
    off[J["ankle_left"]] = [5000, -9000]
    positions, scores, _ = lift(off, world, np.ones(33), body_depth(truth), CAMERA)
    assert np.isfinite(positions[J["hip_left"]]).all() and scores[J["ankle_left"]] < 1
    nothing, scores, _ = lift(np.full((33, 2), np.nan), world, np.ones(33), body_depth(truth), CAMERA)
    assert np.isnan(nothing).all() and not scores.any()


def test_lift_distorted_lens_undistorted():
    import cv2

    bent = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5, (0.1, -0.2, 0.001, 0.001, 0.0))
    world = standing()
    truth = world + np.array([0.6, 0, 2.4], np.float32)
    pixels, _ = cv2.projectPoints(truth.astype(float), np.zeros(3), np.zeros(3), bent.matrix, np.array(bent.distortion))
    positions, *_ = lift(pixels[:, 0], world, np.ones(33), None, bent)
    assert error(positions, truth).max() < 0.01


@pytest.mark.parametrize(
    "lens",
    [(-0.4, 0.15, 0.0, 0.0, 0.0), (-0.28, 0.07, 0.0, 0.0, 0.0), (0.52, -2.4, 6e-4, -2e-4, 1.4, 0.4, -2.2, 1.3)],
    ids=["webcam", "wide", "azure_kinect"],
)
def test_rays_outside_valid_lens_model_continue(lens):
    """Joints of a partly visible person are estimated outside the image, beyond the valid range of the lens model."""
    bent = Intrinsics(640, 480, 400.0, 400.0, 319.5, 239.5, lens)
    across = rays(np.stack([np.arange(-1000.0, 1640.0, 5), np.full(528, 200.0)], -1), bent)[:, 0]
    assert (np.diff(across) > 0.5 * 5 / 400).all()
    assert (np.diff(across)[:195] < 1.1 * 5 / 400).all() and (np.diff(across)[-195:] < 1.1 * 5 / 400).all()
    assert np.isnan(rays(np.array([[np.nan, 3.0]]), bent)[0, 0])


def test_lift_invalid_input_raises():
    pixels, scores = np.zeros((33, 2)), np.ones(33)
    with pytest.raises(InputError, match="do not fit"):
        lift(pixels, np.zeros((32, 3)), scores, None, CAMERA)
    with pytest.raises(InputError, match="register depth to color"):
        lift(pixels, None, scores, np.zeros((240, 320), np.float32), CAMERA)


@pytest.mark.parametrize(("kind", "error"), [(np.uint16, "depth is uint16, expected float32"), (np.float32, "2500 m")])
def test_lift_depth_in_millimeters_raises(kind, error):
    """Depth in mm that is taken for m would put joints without a known shape two kilometers away."""
    pixels = project(standing() + np.array([0, 0, 2.5], np.float32), CAMERA)
    with pytest.raises(InputError, match=error):
        lift(pixels, None, np.ones(33), np.full((480, 640), 2500, kind), CAMERA)


def test_body_radii_and_torso_use_layout_joints():
    assert joint_radii("mediapipe_33").max() == pytest.approx(0.09)
    links = limb_links("mediapipe_33")
    assert links.min() >= 0 and links.max() < 33 and (J["shoulder_left"], J["hip_right"]) in map(tuple, links)


def test_place_fewer_than_three_points_returns_nan():
    world = standing()
    rays = np.ones((33, 3), np.float32)
    weights = np.zeros(33)
    weights[:2] = 1
    assert np.isnan(fit_translation(world, rays, weights)).all()


def test_similarity_outliers_or_few_points_fits():
    source = standing()
    target = 1.1 * source @ rotation(1, 0.4).T + np.array([1, 0, 2], np.float32)
    spoiled = target.copy()
    spoiled[:6] += 1.0
    fitted = fit_similarity(source, spoiled, np.ones(33), 0.35)
    assert error(fitted, target).max() < 0.03
    spoiled[3:] = np.nan
    assert np.isfinite(fit_similarity(source, spoiled, np.ones(33), 0.35)).all()
    np.testing.assert_array_equal(fit_similarity(source, np.full((33, 3), np.nan), np.ones(33), 0.35), source)


def test_with_less_lean_upright_person_is_straightened_and_a_bow_remains():
    above = np.flatnonzero(standing()[:, 1] < -0.3)  # shoulders and head
    for lean, least, most in ((12, 0.0, 0.25), (75, 0.85, 1.0)):
        shape = standing()
        shape[above] = shape[above] @ rotation(0, np.radians(lean)).T  # toward the camera
        found = with_less_lean(shape.astype(np.float32), "mediapipe_33", None)
        assert shape[J["shoulder_left"], 2] < -0.09
        assert least < found[J["shoulder_left"], 2] / shape[J["shoulder_left"], 2] < most
        np.testing.assert_allclose(found[:, :2], shape[:, :2], atol=1e-6)
        np.testing.assert_allclose(found[J["knee_left"]], shape[J["knee_left"]], atol=1e-6)


def test_with_less_lean_of_a_pitched_camera_refers_to_gravity():
    up = gravity.up_from_angles(0, 25)
    upright = (standing() @ gravity.level_rotation(up)).astype(np.float32)  # as the camera sees the person
    np.testing.assert_allclose(with_less_lean(upright, "mediapipe_33", up), upright, atol=0.01)
    assert np.abs(with_less_lean(upright, "mediapipe_33", None) - upright).max() > 0.05
