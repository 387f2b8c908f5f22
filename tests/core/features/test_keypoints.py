import cv2
import numpy as np
import pytest

from actrec import features
from actrec.features.clips import CAMERA, example_clip
from actrec.features.specs import InputSpec
from actrec.skeleton.layouts import HAND_21
from actrec.types import Intrinsics
from actrec.utils.camera_model import project
from actrec.utils.errors import ConfigError, InputError
from actrec.utils.geometry import motion_at_joints, motion_between_images

LAYOUTS = {"hands": ("hand_21", 42), "face": ("face_68", 68), "motion": ("kinect_v2_25", 25)}
KEYS = {"hands": "hand_pixels", "face": "face_pixels", "motion": "motion"}
FRAMES = 12
WRIST, THUMB, THUMB_PARENT = 0, 4, 3


def spec(modality, bodies=1, **preprocessing):
    layout, joints = LAYOUTS[modality]
    return InputSpec(modality, modality, layout, (bodies, 3, FRAMES, joints), "px", preprocessing)


@pytest.fixture(scope="module")
def clip():
    return example_clip([spec("hands"), spec("face"), spec("motion")], FRAMES)


def make(clip, modality, bodies=1, **preprocessing):
    return features.inputs(clip, [spec(modality, bodies, **preprocessing)])[modality]


@pytest.mark.parametrize("modality", LAYOUTS)
def test_keypoints_channels_are_x_y_and_sum(clip, modality):
    made = make(clip, modality, scale="none", **({} if modality == "motion" else {"center": "none"}))
    points = clip[KEYS[modality]].reshape(1, FRAMES, -1, 2)
    assert made.dtype == np.float32
    for t in range(FRAMES):
        for v in range(points.shape[2]):
            x, y = points[0, t, v]
            np.testing.assert_allclose(made[0, :, t, v], [x, y, x + y], rtol=1e-6)


@pytest.mark.parametrize("modality", LAYOUTS)
def test_keypoints_other_resolution_gives_same_input(clip, modality):
    doubled = {**clip, "motion": clip["motion"] * 2, "size": clip["size"] * 2}
    for key in ("pixels", "hand_pixels", "face_pixels"):
        doubled[key] = (clip[key] + 0.5) * 2 - 0.5
    np.testing.assert_allclose(make(doubled, modality), make(clip, modality), atol=1e-4)
    by_image = {"scale": "image"} if modality == "motion" else {"scale": "image", "center": "image"}
    np.testing.assert_allclose(make(doubled, modality, **by_image), make(clip, modality, **by_image), atol=0.01)


@pytest.mark.parametrize("modality", ["hands", "face"])
def test_keypoints_are_invariant_to_position_and_distance(clip, modality):
    moved = {**clip, **{key: clip[key] * 0.6 + [90, -20] for key in ("pixels", "hand_pixels", "face_pixels")}}
    np.testing.assert_allclose(make(moved, modality), make(clip, modality), atol=1e-3)
    assert np.abs(make(clip, modality)).max() < 6


@pytest.mark.parametrize("modality", LAYOUTS)
def test_keypoints_absent_stream_is_zero(clip, modality):
    without = {key: value for key, value in clip.items() if key != KEYS[modality]}
    lost = {**clip, KEYS[modality]: np.full_like(clip[KEYS[modality]], np.nan)}
    for changed in (without, lost):
        made = make(changed, modality, bodies=2)
        assert made.shape == (2, 3, FRAMES, LAYOUTS[modality][1])
        assert not made.any()
    assert features.streams([spec(modality)])[{"motion": "flow"}.get(modality, modality)] is False


def test_hands_absent_hand_is_zero(clip):
    holed = {**clip, "hand_pixels": clip["hand_pixels"].copy()}
    holed["hand_pixels"][:, 3:6, 0] = np.nan
    made, whole = make(holed, "hands"), make(clip, "hands")
    assert not made[:, :, 3:6, :21].any()
    np.testing.assert_array_equal(made[:, :, :, 21:], whole[:, :, :, 21:])
    np.testing.assert_array_equal(made[:, :, 6:], whole[:, :, 6:])


def test_keypoints_missing_points_move_to_parent_or_mean(clip):
    assert HAND_21.parents[THUMB] == THUMB_PARENT
    holed = {**clip, "hand_pixels": clip["hand_pixels"].copy()}
    holed["hand_pixels"][:, :, 1, [WRIST, THUMB]] = np.nan
    made, whole = make(holed, "hands"), make(clip, "hands")
    np.testing.assert_array_equal(made[..., 21 + THUMB], made[..., 21 + THUMB_PARENT])
    kept = [v for v in range(21) if v not in (WRIST, THUMB)]
    np.testing.assert_allclose(made[:, :, :, 21], whole[..., [21 + v for v in kept]].mean(axis=-1), atol=1e-5)


def test_motion_unknown_joint_moves_as_parent(clip):
    holed = {**clip, "motion": clip["motion"].copy()}
    holed["motion"][:, :, 7] = np.nan
    made = make(holed, "motion")
    np.testing.assert_array_equal(made[..., 7], made[..., 6])


@pytest.mark.parametrize("missing", [[0], [0, 20], [0, 20, 4, 8], range(25)])
def test_keypoints_partial_body_still_normalizes(clip, missing):
    holed = {**clip, "pixels": clip["pixels"].copy()}
    holed["pixels"][:, :, list(missing)] = np.nan
    made = make(holed, "hands")
    assert np.isfinite(made).all()
    assert 0.05 < np.abs(made).max() < 20


def test_keypoints_wrong_shape_raises(clip):
    with pytest.raises(InputError, match=r"hand_pixels is \[1, 9, 2, 21, 2\].*up to 1 bodies of 12 frames × 2 × 21"):
        make({**clip, "hand_pixels": clip["hand_pixels"][:, :9]}, "hands")
    with pytest.raises(InputError, match=r"face_pixels is \[1, 12, 60, 2\].*68 points \(face_68\)"):
        make({**clip, "face_pixels": clip["face_pixels"][:, :, :60]}, "face")
    with pytest.raises(InputError, match=r"motion is \[2, 12, 25, 2\].*up to 1 bodies"):
        make({**clip, "motion": np.concatenate([clip["motion"]] * 2)}, "motion")
    with pytest.raises(InputError, match=r"pixels are \[1, 12, 20, 2\].*kinect_v2_25"):
        make({**clip, "pixels": clip["pixels"][:, :, :20]}, "hands")
    with pytest.raises(InputError, match=r"'hands' \(hands\) needs 'pixels'"):
        make({"hand_pixels": clip["hand_pixels"]}, "hands")
    with pytest.raises(InputError, match=r"needs 'size'"):
        make({"motion": clip["motion"]}, "motion", scale="image")
    with pytest.raises(InputError, match=r"\[1, 3, 12, 21\].*2 × hand_21 gives \[M, 3, T, 42\]"):
        features.inputs(clip, [InputSpec("hands", "hands", "hand_21", (1, 3, FRAMES, 21))])
    with pytest.raises(ConfigError, match="center.*'wrist'"):
        make(clip, "hands", center="wrist")
    with pytest.raises(ConfigError, match="unknown skeleton layout|layout"):
        features.inputs(clip, [InputSpec("hands", "hands", "hand_5", (1, 3, FRAMES, 42))])


VELOCITY, DEPTH, SECONDS = np.array([0.5, -0.3, 0.8]), 2.0, 0.04
JOINTS = np.array([[x, y, DEPTH] for x in (-0.6, 0.0, 0.5) for y in (-0.4, 0.3)], np.float32)


def images_of_moving_wall():
    """Return two images of a textured wall at `DEPTH` that moves at `VELOCITY`, `SECONDS` apart."""
    noise = np.random.default_rng(5).normal(size=(700, 900)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 3)
    texture = np.clip(128 + 45 * texture / texture.std(), 0, 255)
    u, v = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    made = []
    for t in (0.0, SECONDS):
        x, y, z = VELOCITY * t + [0, 0, DEPTH]
        at = [(u - CAMERA.cx) / CAMERA.fx * z - x, (v - CAMERA.cy) / CAMERA.fy * z - y]  # m on the wall
        columns, rows = ((a * 180 + c).astype(np.float32) for a, c in zip(at, (450, 350), strict=True))
        gray = cv2.remap(texture, columns, rows, cv2.INTER_LINEAR)
        made.append(np.repeat(np.round(gray).astype(np.uint8)[..., None], 3, axis=2))
    return made


def test_motion_at_joints_is_derivative_of_projection():
    flow = np.broadcast_to(VELOCITY.astype(np.float32), (120, 160, 3))
    found = motion_at_joints(flow, JOINTS, project(JOINTS, CAMERA), (320, 240), CAMERA)
    h = 1e-3
    moved = [project(JOINTS.astype(np.float64) + sign * h * VELOCITY, CAMERA) for sign in (-1, 1)]
    np.testing.assert_allclose(found, (moved[1] - moved[0]) / (2 * h), atol=0.1)
    u = CAMERA.fx * (VELOCITY[0] - JOINTS[:, 0] / DEPTH * VELOCITY[2]) / DEPTH
    np.testing.assert_allclose(found[:, 0], u, rtol=1e-4)


def test_motion_between_images_agrees_with_scene_flow():
    pixels = project(JOINTS, CAMERA)
    before, after = images_of_moving_wall()
    by_images = motion_between_images(before, after, pixels, SECONDS)
    flow = np.broadcast_to(VELOCITY.astype(np.float32), (240, 320, 3))
    by_flow = motion_at_joints(flow, JOINTS, pixels, (320, 240), CAMERA)
    assert np.linalg.norm(by_flow, axis=1).min() > 40
    # A tenth of a pixel between the images, and the linearization error of the derivative.
    np.testing.assert_allclose(by_images, by_flow, atol=0.1 / SECONDS + 0.03 * np.abs(by_flow).max())


def test_motion_at_joints_is_independent_of_flow_size():
    flow = np.random.default_rng(1).normal(size=(24, 32, 3)).astype(np.float32)
    double = CAMERA.resized(640, 480)
    small = motion_at_joints(flow, JOINTS, project(JOINTS, CAMERA), (320, 240), CAMERA)
    large = motion_at_joints(flow, JOINTS, project(JOINTS, double), (640, 480), CAMERA)
    np.testing.assert_allclose(large, 2 * small, rtol=1e-4)


def test_motion_at_joints_unknown_is_nan():
    flow = np.ones((24, 32, 3), np.float32)
    flow[:, :10] = np.nan
    positions = np.array([[0, 0, 2], [np.nan, 0, 2], [0.1, 0, 2], [0, 0, 2], [0, 0, -1]], np.float32)
    pixels = np.array([[20, 12], [20, 12], [np.nan, 12], [-3, 5], [20, 12]], np.float32)
    camera = Intrinsics(32, 24, 30.0, 30.0, 16.0, 12.0)
    found = motion_at_joints(flow, positions, pixels, (32, 24), camera)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()
    in_hole = motion_at_joints(flow, positions[:1], np.array([[4.0, 12.0]]), (32, 24), camera)
    assert np.isnan(in_hole).all()
    black = np.zeros((24, 32, 3), np.uint8)
    assert np.isnan(motion_between_images(black, black, pixels, 0.1)[2:4]).all()


def test_motion_invalid_shapes_raise():
    with pytest.raises(InputError, match=r"flow is \[24, 32, 2\]"):
        motion_at_joints(np.zeros((24, 32, 2)), JOINTS, JOINTS[:, :2], (32, 24), CAMERA)
    black = np.zeros((24, 32, 3), np.uint8)
    with pytest.raises(InputError, match="is 0"):
        motion_between_images(black, black, JOINTS[:, :2], 0.0)
    with pytest.raises(InputError, match=r"\[24, 32, 3\] and \[24, 30, 3\]"):
        motion_between_images(black, black[:, :30], JOINTS[:, :2], 0.1)
