import dataclasses

import numpy as np
import pytest

from actrec import features
from actrec.datasets.nucla import read_nucla_npz
from actrec.features.skeleton import (
    CANONICAL_LENGTHS,
    MODALITIES,
    SkeletonPreprocessing,
    bones,
    drawn,
    fill_missing,
    normalize,
    segment_frames,
    stack,
)
from actrec.features.specs import InputSpec
from actrec.skeleton.layouts import KINECT_V2_25 as LAYOUT
from actrec.utils import gravity
from actrec.utils.errors import ConfigError, InputError
from actrec.utils.geometry import rotation

AS_TRAINED = SkeletonPreprocessing()


@pytest.fixture(scope="module")
def clip(data_root):
    """A real person, [1, 60, 25, 3]."""
    sequence = next(s for s in read_nucla_npz(data_root / "nucla/nucla_skeletons.npz") if len(s) >= 60)
    return sequence.bodies[:, :60]


def test_normalize_is_invariant_to_position_rotation_size(clip):
    moved = (clip * 1.2) @ rotation(1, 1.1).T + np.array([0.4, -0.2, 1.5], np.float32)
    np.testing.assert_allclose(normalize(moved, AS_TRAINED), normalize(clip, AS_TRAINED), atol=2e-4)


def test_normalize_person_turned_away_faces_camera(clip):
    away = normalize(clip @ rotation(1, np.pi).T, AS_TRAINED)
    left, right = away[0, :, LAYOUT.index["shoulder_left"]], away[0, :, LAYOUT.index["shoulder_right"]]
    assert (left - right)[:, 0].mean() > 0.2
    assert away[0, :, LAYOUT.index["head"], 1].mean() < -0.5  # y is down


def test_normalize_torso_is_unit_and_spine_base_origin(clip):
    made = normalize(clip, AS_TRAINED)
    torso = np.linalg.norm(made[0, :, LAYOUT.index["spine_shoulder"]] - made[0, :, LAYOUT.index["spine_base"]], axis=-1)
    assert np.median(torso) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(made[0, :, 0].mean(axis=0), 0, atol=1e-4)


def test_normalize_steps_are_optional(clip):
    off = SkeletonPreprocessing("none", "none", "none")
    np.testing.assert_array_equal(normalize(clip, off), clip)
    with pytest.raises(ConfigError, match=r"align.*yaw, none"):
        features.inputs({"bodies": clip}, [spec("body", preprocessing={"align": "pitch"})])


def test_normalize_missing_joints_move_to_parents(clip):
    holed = clip.copy()
    arm = [LAYOUT.index[j] for j in ("wrist_left", "hand_left", "hand_tip_left", "thumb_left")]
    holed[:, 10:20, arm] = np.nan
    made = normalize(holed, AS_TRAINED)
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made[0, 10:20, arm[1]], made[0, 10:20, LAYOUT.index["elbow_left"]])
    assert (bones(made)[0, 10:20, arm] == 0).all()
    np.testing.assert_allclose(made[0, 30:], normalize(clip, AS_TRAINED)[0, 30:], atol=1e-4)


def test_normalize_without_bodies_is_zero():
    assert (normalize(np.full((2, 60, 25, 3), np.nan, np.float32), AS_TRAINED) == 0).all()


def test_normalize_partial_body_keeps_visible_joints():
    body = np.full((1, 60, 25, 3), np.nan, np.float32)
    body[:, :, 3] = [0.1, -0.3, 2.0]  # a head alone
    made = normalize(body, AS_TRAINED)
    assert np.isfinite(made).all()


def test_bones_are_target_minus_source(clip):
    made = bones(clip)
    for v, parent in LAYOUT.edges:
        np.testing.assert_array_equal(made[0, :, v], clip[0, :, v] - clip[0, :, parent])
    assert (made[..., 0, :] == 0).all()


def test_fill_missing_complete_body_is_unchanged(clip):
    np.testing.assert_array_equal(fill_missing(clip, LAYOUT.name), clip)


def spec(modality, bodies=1, frames=60, preprocessing=None):
    return InputSpec(modality, modality, LAYOUT.name, (bodies, 3, frames, 25), "m", preprocessing or {})


def test_inputs_have_spec_shape_and_pad_bodies(clip):
    made = features.inputs({"bodies": clip}, [spec("body", 2), spec("bones", 2)])
    assert {k: v.shape for k, v in made.items()} == {"body": (2, 3, 60, 25), "bones": (2, 3, 60, 25)}
    assert (made["body"][1] == 0).all()
    assert (made["bones"][1] == 0).all()
    np.testing.assert_array_equal(made["body"][:1], stack(normalize(clip, AS_TRAINED), "body"))


def test_motion_is_difference_to_previous_frame(clip):
    made = features.inputs({"bodies": clip}, [spec(modality, 2) for modality in MODALITIES])
    for modality in ("body", "bones"):
        values, moved = made[modality], made[f"{modality}_motion"]
        assert moved.shape == values.shape == (2, 3, 60, 25)
        assert (moved[:, :, 0] == 0).all() and (moved[1] == 0).all()
        assert np.abs(moved[0]).max() > 0
        np.testing.assert_allclose(moved.cumsum(axis=2) + values[:, :, :1], values, atol=1e-5)


def test_inputs_wrong_shape_raises(clip):
    with pytest.raises(InputError, match=r"\[1, 30, 25, 3\].*up to 1 bodies of 60 frames × 25 joints"):
        features.inputs({"bodies": clip[:, :30]}, [spec("body")])
    with pytest.raises(InputError, match=r"\[2, 60, 25, 3\].*up to 1 bodies"):
        features.inputs({"bodies": np.concatenate([clip, clip])}, [spec("body")])
    with pytest.raises(ConfigError, match="'sound'.*bones"):
        features.inputs({"bodies": clip}, [spec("sound")])
    with pytest.raises(InputError, match="'body'.*'bodies'.*hands"):
        features.inputs({"hands": clip}, [spec("body")])


def test_hand_preprocessing_centers_and_scales_hand():
    rng = np.random.default_rng(0)
    hand = rng.normal(size=(22, 3)).astype(np.float32) * 0.05
    path = np.linspace([0, 0, 0.5], [0.3, 0, 0.5], 8, dtype=np.float32)
    clip = (hand + path[:, None])[None]
    options = SkeletonPreprocessing(center="palm", align="none", scale="hand", root_bone="origin")
    made = normalize(clip, options, "hand_22")
    np.testing.assert_allclose(made[0, :, 1].mean(0), 0, atol=1e-4)
    unit = np.linalg.norm(hand[10] - hand[0])
    np.testing.assert_allclose(made[0, -1, 0] - made[0, 0, 0], [0.3 / unit, 0, 0], atol=1e-3)
    vectors = bones(made, "hand_22", "origin")
    np.testing.assert_array_equal(vectors[..., 0, :], made[..., 0, :])
    np.testing.assert_array_equal(vectors[..., 1:, :], bones(made, "hand_22")[..., 1:, :])
    assert (bones(made, "hand_22")[..., 0, :] == 0).all()


def test_normalize_with_pitch_is_as_seen_by_a_camera_that_looks_down(clip):
    seen = clip @ gravity.level_rotation(gravity.up_from_angles(0.0, 15.0))
    pitched = normalize(clip, SkeletonPreprocessing(pitch_deg=15.0))
    np.testing.assert_allclose(pitched, normalize(seen, AS_TRAINED), atol=1e-5)
    assert np.abs(pitched - normalize(clip, AS_TRAINED)).max() > 0.1


def test_normalize_canonical_lengths_keep_directions_and_the_motion_of_the_root(clip):
    own, same = (normalize(clip, SkeletonPreprocessing(lengths=lengths)) for lengths in ("own", "canonical"))
    parents = list(LAYOUT.parents)
    vectors, before = same - same[..., parents, :], own - own[..., parents, :]
    lengths = np.linalg.norm(vectors, axis=-1)
    wrist = LAYOUT.index["wrist_left"]
    np.testing.assert_allclose(lengths[..., wrist], CANONICAL_LENGTHS["wrist"], rtol=1e-4)
    np.testing.assert_allclose(
        vectors[..., wrist, :] / lengths[..., wrist, None],
        before[..., wrist, :] / np.linalg.norm(before[..., wrist, :], axis=-1, keepdims=True),
        atol=1e-3,
    )
    np.testing.assert_allclose(same[..., 0, :], own[..., 0, :], atol=1e-6)


def test_normalize_canonical_lengths_leave_missing_limbs_at_their_parents(clip):
    lost = clip.copy()
    lost[..., LAYOUT.index["wrist_left"], :] = np.nan
    placed = normalize(lost, SkeletonPreprocessing(lengths="canonical"))
    wrist, elbow = (LAYOUT.index[f"{joint}_left"] for joint in ("wrist", "elbow"))
    np.testing.assert_allclose(placed[..., wrist, :], placed[..., elbow, :], atol=1e-6)


def published_segments(count, step):
    """Split the frames of a recording as P-I3D's authors do; −1 is a pose of zeros."""
    frames, extra = np.arange(count), count % step
    if extra < step / 2:
        frames = frames[: count - extra]
    else:
        frames = np.concatenate([frames, np.full(step * (count // step + 1) - count, -1)])
    return np.split(frames, step)


@pytest.mark.parametrize("poses", [5, 20])
def test_segment_frames_equal_published_segments(poses):
    for count in range(1, 130):
        middle = segment_frames(count, poses)
        random = np.array([segment_frames(count, poses, draw) for draw in range(1, 40)])
        for k, segment in enumerate(published_segments(count, poses)):
            known = set(segment[segment >= 0]) or {count - 1}  # a pose of zeros is the last pose here
            if segment.size:
                assert middle[k] in known | {count - 1}
                assert set(random[:, k]) <= known | ({count - 1} if -1 in segment else set())
    assert segment_frames(3, poses).tolist()[-1] == 2  # too short for the published code, which finds no frame


def test_drawn_poses_change_segments_only():
    segments = InputSpec("pose", "pose", "kinect_v2_25", (3, 4, 25), preprocessing={"choice": "segments"})
    even = dataclasses.replace(segments, preprocessing={"choice": "even"})
    rng = np.random.default_rng(0)
    first, kept = drawn([segments, even], rng)
    assert kept is even
    bodies = np.random.default_rng(1).normal(0, 1, (1, 40, 25, 3)).astype(np.float32)
    middle, varied, again = (
        features.inputs({"bodies": bodies}, [spec])["pose"] for spec in (segments, first, drawn([segments], rng)[0])
    )
    assert middle.shape == varied.shape == (3, 4, 25)
    assert (middle != varied).any() and (varied != again).any()
