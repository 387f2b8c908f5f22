"""Estimators by name, their regions and tables."""

import sys

import numpy as np
import pytest

from actrec import perception
from actrec.perception import hand_face
from actrec.perception.hand_face import BlazeHand
from actrec.perception.networks import Region, region_around
from actrec.skeleton.layouts import FACE_68, KINECT_V2_25, LAYOUTS
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils.errors import ConfigError, MissingLibraryError

CAMERA = Intrinsics(640, 480, 500.0, 500.0, 319.5, 239.5)
J = KINECT_V2_25.index


def body(z=2.0):
    pixels = np.zeros((25, 2), np.float32)
    pixels[J["head"]], pixels[J["neck"]] = (320, 100), (320, 140)
    pixels[J["elbow_left"]], pixels[J["wrist_left"]], pixels[J["hand_left"]] = (400, 250), (460, 250), (475, 250)
    positions = np.full((25, 3), z, np.float32)
    return Body("body_1", "kinect_v2_25", positions, pixels, np.ones(25, np.float32))


def test_create_known_kinds_returned_unknown_raises():
    assert perception.ESTIMATORS.names() == ["body", "face", "hand"]
    with pytest.raises(ConfigError, match="unknown estimator 'foot'; known: body, face, hand"):
        perception.create("foot")
    with pytest.raises(ConfigError, match="known: .*num_poses"):
        perception.create("body", num_people=2)


def test_create_onnxruntime_missing_raises_with_install(monkeypatch):
    importers = ("onnxruntime", "actrec.perception.", "actrec.inference.onnxruntime_backend")
    for module in [m for m in sys.modules if m.startswith(importers)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingLibraryError, match=r"pip install onnxruntime"):
        perception.create("body")


def test_hand_region_from_body_points_along_forearm():
    region = hand_face.hand_region_from_body(body(), "left", CAMERA, hand_m=0.36)
    assert region is not None
    assert (region.u, region.v) == (475, 250)
    assert region.size == pytest.approx(0.36 * 500 / 2)
    assert region.angle == pytest.approx(np.pi / 2)  # up in the region is right in the image
    without = hand_face.hand_region_from_body(body(z=np.nan), "left", CAMERA, 0.36)
    assert without is not None and without.size == pytest.approx(1.2 * 60)
    unsure = body()
    unsure.scores[J["wrist_left"]] = 0.1
    assert hand_face.hand_region_from_body(unsure, "left", CAMERA, 0.36) is None


def test_head_region_from_body_has_size_of_head():
    for z, size in ((2.0, 125), (np.nan, 120)):
        region = hand_face.head_region_from_body(body(z), CAMERA, 0.5)
        assert region is not None and region.size == pytest.approx(size)
    lost = body()
    lost.pixels[J["head"]] = np.nan
    assert hand_face.head_region_from_body(lost, CAMERA, 0.5) is None


def test_face_beside_a_surer_face_is_found(monkeypatch):
    """Such as a child's on an arm: the search finds both, the surest first."""
    neighbor, own = Region(370, 100, 60), Region(320, 100, 60)
    monkeypatch.setattr(hand_face, "_search", lambda *_: [neighbor, own])
    points = np.random.default_rng(0).uniform(-20, 20, (468, 3)).astype(np.float32)
    mesh = lambda self, image, region: points + np.float32([region.u, region.v, 0])  # noqa: E731
    monkeypatch.setattr(hand_face.BlazeFace, "_mesh", mesh)
    estimator = perception.create("face")
    (found,) = estimator.estimate(RgbdFrame(0, np.zeros((480, 640, 3), np.uint8), None, CAMERA), [body()])
    estimator.close()
    assert np.nanmedian(found.pixels[:, 0]) == pytest.approx(320, abs=10)


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0, 3.0])
def test_region_around_rotated_points_rotates(angle):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.array([[-2.0, -1], [2, -1], [2, 1], [-2, 1]])
    region = region_around(points @ turn.T + [50, 60], angle, 2.0)
    assert (region.u, region.v, region.size) == pytest.approx((50, 60, 8))
    moved = region_around(points @ turn.T, angle, 1.0, shift_down=-0.5)
    assert (moved.u, moved.v) == pytest.approx(tuple(turn @ [0, -2]))


def test_estimator_stamp_jump_resets(monkeypatch):
    estimator, resets = BlazeHand(hand_max_gap_s=1.0), []
    for stamp_ns in (10_000_000_000, 10_000_000_000, 10_900_000_000, 10_800_000_000, 10_850_000_000, 12_000_000_000):
        monkeypatch.setattr(estimator, "reset", lambda stamp_ns=stamp_ns: resets.append(stamp_ns))
        estimator.estimate(RgbdFrame(stamp_ns, np.zeros((480, 640, 3), np.uint8), None, CAMERA), [])
    assert resets == [10_800_000_000, 12_000_000_000]
    estimator.close()


def test_face_68_mesh_points_are_symmetric():
    points = hand_face.FACE_68
    assert len(points) == len(set(points)) == 68 and max(points) < 468
    counterpart = dict(zip(points, (points[v] for v in FACE_68.mirror), strict=True))
    # Pairs of the mesh that are the same on either side, from the canonical model.
    for right, left in ((127, 356), (33, 263), (133, 362), (61, 291), (98, 327), (105, 334), (78, 308)):
        assert counterpart[right] == left and counterpart[left] == right
    for middle in (152, 168, 4, 2, 0, 17, 13, 14):
        assert counterpart[middle] == middle


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_face_68_mirrored_twice_is_unchanged(layout):
    mirror = np.array(layout.mirror)
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(layout)))


def test_face_68_mirrored_keeps_parts():
    swap = {"brow_right": "brow_left", "brow_left": "brow_right", "eye_right": "eye_left", "eye_left": "eye_right"}
    for v, joint in enumerate(FACE_68.joints):
        part, other = joint.rsplit("_", 1)[0], FACE_68.joints[FACE_68.mirror[v]].rsplit("_", 1)[0]
        assert other == swap.get(part, part)
    assert FACE_68.mirror[8] == 8 and FACE_68.mirror[0] == 16 and FACE_68.mirror[36] == 45 and FACE_68.mirror[41] == 46
