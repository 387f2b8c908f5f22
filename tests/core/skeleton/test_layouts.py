import numpy as np
import pytest

from actrec.datasets.ntu.skeletons import read_ntu_skeleton
from actrec.datasets.nucla import read_nucla_npz
from actrec.skeleton import layouts
from actrec.skeleton.layouts import EXTRAPOLATED_SCORE, TABLES, convert, known_joints, matrix
from actrec.utils.errors import ConfigError, InputError

SIZES = {
    "kinect_v2_25": 25, "kinect_v1_20": 20, "azure_kinect_32": 32, "mediapipe_33": 33, "lcrnet_13": 13,
    "hand_21": 21, "hand_22": 22, "face_68": 68,
    "nite_15": 15, "bvh_21": 21, "asf_31": 31,
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_layout_is_tree_and_mirror_is_involution(name):
    layout = layouts.get(name)
    assert len(layout) == SIZES[name] == len(set(layout.joints))
    roots = [v for v, parent in enumerate(layout.parents) if v == parent]
    assert len(roots) == 1
    for v in range(len(layout)):
        hops = 0
        while layout.parents[v] != v:
            v, hops = layout.parents[v], hops + 1
            assert hops < len(layout)
        assert v == roots[0]
    assert [layout.mirror[m] for m in layout.mirror] == list(range(len(layout)))


def test_kinect_v2_25_has_ntu_order():
    # The order that NTU RGB+D documents, joint 1 to 25.
    names = layouts.KINECT_V2_25.joints
    assert names[:4] == ("spine_base", "spine_mid", "neck", "head")
    assert (names[20], names[21], names[24]) == ("spine_shoulder", "hand_tip_left", "thumb_right")
    assert layouts.KINECT_V2_25.mirror[7] == 11


def test_convert_lcrnet_to_kinect():
    # A person standing in front of the camera with hanging arms, in the optical frame: the right side has x < 0.
    sides = {"right": -1.0, "left": 1.0}
    rows = {"ankle": (0.1, 0.9), "knee": (0.1, 0.45), "hip": (0.1, 0.0), "wrist": (0.2, 0.0), "elbow": (0.2, -0.25),
            "shoulder": (0.18, -0.5)}  # fmt: skip
    points = {f"{joint}_{side}": (sign * x, y, 3.0) for joint, (x, y) in rows.items() for side, sign in sides.items()}
    points["head"] = (0.0, -0.75, 3.0)
    joints = np.array([points[joint] for joint in layouts.get("lcrnet_13").joints], np.float32)
    scores = np.ones(13, np.float32)
    converted, converted_scores = convert(joints, scores, "lcrnet_13")
    index = layouts.KINECT_V2_25.index
    expected = {"spine_base": (0, 0), "spine_mid": (0, -0.3), "spine_shoulder": (0, -0.5), "neck": (0, -0.61),
                "hand_right": (-0.2, 0.075), "hand_tip_left": (0.2, 0.125), "foot_left": (0.1, 0.945)}  # fmt: skip
    for joint, place in expected.items():
        np.testing.assert_allclose(converted[index[joint], :2], place, atol=1e-6, err_msg=joint)
    assert converted_scores[index["hand_left"]] == EXTRAPOLATED_SCORE and converted_scores[index["knee_left"]] == 1


def test_get_unknown_layout_lists_known():
    with pytest.raises(ConfigError, match=r"coco_17.*kinect_v2_25"):
        layouts.get("coco_17")


@pytest.mark.parametrize("source", TABLES)
def test_matrix_rows_sum_to_one(source):
    # Otherwise a conversion would not be invariant to translation; a joint without a source has no weights.
    np.testing.assert_allclose(matrix(source).sum(axis=1), known_joints(source), atol=1e-6)


@pytest.mark.parametrize(
    ("source", "absent"),
    [
        ("nite_15", "hand hand_tip thumb foot"),
        ("bvh_21", "hand hand_tip thumb"),
        ("asf_31", ""),
        ("kinect_v1_20", ""),
    ],
)
def test_convert_joints_without_source_are_missing(source, absent):
    positions, scores = convert(
        np.ones((2, len(layouts.get(source)), 3)), np.ones((2, len(layouts.get(source)))), source
    )
    missing = {layouts.KINECT_V2_25.joints[v] for v in np.flatnonzero(np.isnan(positions[0]).any(axis=-1))}
    assert missing == {f"{joint}_{side}" for joint in absent.split() for side in ("left", "right")}
    assert ((scores > 0) == known_joints(source)).all()


@pytest.mark.parametrize("source", TABLES)
def test_convert_commutes_with_mirroring(source):
    rng = np.random.default_rng(1)
    positions = rng.normal(size=(len(layouts.get(source)), 3)).astype(np.float32)
    scores = rng.uniform(size=len(positions)).astype(np.float32)
    flip = np.array([-1, 1, 1], np.float32)
    source_mirror = list(layouts.get(source).mirror)
    target_mirror = list(layouts.KINECT_V2_25.mirror)
    plain, plain_scores = convert(positions, scores, source)
    mirrored, mirrored_scores = convert((positions * flip)[source_mirror], scores[source_mirror], source)
    np.testing.assert_allclose((mirrored * flip)[target_mirror], plain, atol=1e-5)
    np.testing.assert_allclose(mirrored_scores[target_mirror], plain_scores, atol=1e-6)


def test_convert_missing_source_makes_only_its_joints_missing():
    positions = np.ones((33, 3), np.float32)
    positions[layouts.MEDIAPIPE_33.index["wrist_left"]] = np.nan
    found, scores = convert(positions, np.ones(33), "mediapipe_33")
    index = layouts.KINECT_V2_25.index
    missing = {v for v in range(25) if np.isnan(found[v]).any()}
    assert missing == {index["wrist_left"], index["hand_tip_left"], index["thumb_left"]}
    assert all(scores[v] == 0 for v in missing)
    assert scores[index["hand_tip_right"]] == EXTRAPOLATED_SCORE
    assert scores[index["hand_right"]] == 1


def test_convert_same_layout_missing_joint_scores_zero():
    positions = np.zeros((25, 3), dtype=np.float32)
    positions[7, 1] = np.nan
    same, scores = convert(positions, np.ones(25), "kinect_v2_25", "kinect_v2_25")
    assert np.isnan(same[7]).all() and np.isfinite(np.delete(same, 7, 0)).all()
    assert scores[7] == 0 and np.delete(scores, 7).all()


def test_convert_wrong_joint_count_raises():
    with pytest.raises(InputError, match=r"\[32, 3\].*mediapipe_33.*33 joints"):
        convert(np.zeros((32, 3)), np.ones(32), "mediapipe_33")
    with pytest.raises(InputError, match="no conversion from layout 'hand_21'"):
        convert(np.zeros((21, 3)), np.ones(21), "hand_21")
    with pytest.raises(InputError, match="only to kinect_v2_25"):
        convert(np.zeros((33, 3)), np.ones(33), "mediapipe_33", "kinect_v1_20")


def test_convert_kinect_v1_recordings_are_plausible(data_root):
    """Converted N-UCLA bodies have the segment lengths of a real Kinect v2 (NTU)."""
    ntu = read_ntu_skeleton(data_root / "ntu/skeleton/S001C001P001R001A001.skeleton").bodies[0]
    nucla = read_nucla_npz(data_root / "nucla/nucla_skeletons.npz")[0].bodies[0]

    def length(body, a, b):
        index = layouts.KINECT_V2_25.index
        return np.nanmedian(np.linalg.norm(body[:, index[a]] - body[:, index[b]], axis=-1))

    for a, b in (("spine_base", "spine_shoulder"), ("shoulder_left", "elbow_left"), ("knee_right", "ankle_right"),
                 ("spine_base", "spine_mid")):  # fmt: skip
        assert length(nucla, a, b) == pytest.approx(length(ntu, a, b), rel=0.35)
