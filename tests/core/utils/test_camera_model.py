"""One camera model for messages, bags and files, compared with OpenCV."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from actrec.types import EQUIDISTANT, Intrinsics
from actrec.utils import camera_model
from actrec.utils.calibration_files import from_yaml, write_intrinsics
from actrec.utils.errors import InputError

K = [400.0, 0, 322.0, 0, 410.0, 238.0, 0, 0, 1]
FISHEYE = (0.05, -0.02, 0.008, -0.001)
LENSES: dict[str, tuple[float, ...]] = {
    "": (),
    "plumb_bob": (-0.25, 0.08, 0.001, -0.002, 0.01),
    "rational_polynomial": (0.3, -0.1, 0.001, -0.002, 0.05, 0.2, 0.05, 0.02),
    EQUIDISTANT: FISHEYE,
}


def camera(model: str) -> Intrinsics:
    return camera_model.make_intrinsics("test", 640, 480, K, model, LENSES[model])


def points() -> np.ndarray:
    return np.random.default_rng(0).uniform((-0.7, -0.5, 1.0), (0.7, 0.5, 1.4), (200, 3))


@pytest.mark.parametrize("model", LENSES)
def test_project_agrees_with_opencv(model: str) -> None:
    zero = np.zeros(3)
    matrix, d = camera(model).matrix, np.array(LENSES[model] or (0.0,) * 5)
    if model == EQUIDISTANT:
        expected = cv2.fisheye.projectPoints(points()[:, None], zero, zero, matrix, d)[0][:, 0]
    else:
        expected = cv2.projectPoints(points(), zero, zero, matrix, d)[0][:, 0]
    np.testing.assert_allclose(camera_model.project(points(), camera(model)), expected, atol=2e-3)


@pytest.mark.parametrize("model", LENSES)
def test_rays_invert_project(model: str) -> None:
    visible = camera_model.project(points(), camera(model))
    inside = ((visible >= 0) & (visible < (640, 480))).all(axis=1)
    found = camera_model.rays(visible[inside], camera(model))
    np.testing.assert_allclose(found, (points()[:, :2] / points()[:, 2:])[inside], atol=1e-4)


@pytest.mark.parametrize("model", LENSES)
def test_yaml_round_trip_keeps_the_lens(tmp_path: Path, model: str) -> None:
    write_intrinsics(tmp_path / "lens.yaml", camera(model), "test")
    assert from_yaml(tmp_path / "lens.yaml") == camera(model)


def test_yaml_of_a_fisheye_calibration_is_equidistant(tmp_path: Path) -> None:
    """OpenCV's fisheye calibration names the lens in `camera_model`."""
    content: dict[str, Any] = {
        "image_width": 640,
        "image_height": 480,
        "camera_model": "fisheye",
        "camera_matrix": {"rows": 3, "cols": 3, "data": K},
        "distortion_coefficients": {"rows": 1, "cols": 4, "data": list(FISHEYE)},
    }
    (tmp_path / "lens.yaml").write_text(yaml.safe_dump(content))
    assert from_yaml(tmp_path / "lens.yaml") == camera(EQUIDISTANT)


@pytest.mark.parametrize("name", ["fisheye", "kannala_brandt", "EQUIDISTANT"])
def test_make_intrinsics_knows_other_names(name: str) -> None:
    assert camera_model.make_intrinsics("test", 640, 480, K, name, FISHEYE) == camera(EQUIDISTANT)


@pytest.mark.parametrize("model", ["pinhole", "none", "None", "", "plumb_bob"])
def test_make_intrinsics_without_distortion(model: str) -> None:
    found = camera_model.make_intrinsics("test", 640, 480, K, model, [0.0] * 5)
    assert not found.is_distorted and found.distortion == ()


def changed(index: int, value: float) -> list[float]:
    return [value if place == index else other for place, other in enumerate(K)]


@pytest.mark.parametrize(
    "k, model, d, message",
    [
        ([0.0] * 9, "", (), "uncalibrated camera"),
        (changed(2, np.nan), "", (), "NaN"),
        (changed(0, np.inf), "", (), "infinite"),
        (K, "plumb_bob", (0.1, np.nan, 0, 0, 0), "NaN"),
        (changed(0, 4.0), "", (), "focal lengths of 4"),
        (changed(0, 4e5), "", (), "implausible"),
        (changed(0, -400.0), "", (), "uncalibrated camera"),
        (K, "ftheta", FISHEYE, "'ftheta' is not supported; known: plumb_bob"),
        (K, EQUIDISTANT, (0.1, 0.2), "4 coefficients"),
        (K, "plumb_bob", (0.1,) * 3, "3 distortion coefficients"),
        (K, "rational_polynomial", (0.1,) * 12, "12 distortion coefficients"),
        (K, "pinhole", (0.1, 0, 0, 0, 0), "D is not zero"),
        (K[:6], "", (), "K has 6 values"),
        ([2 * value for value in K], "", (), "K is of about 1[23][0-9]{2}×[0-9]+ images, .* stated for 640×480"),
        ([value / 2 for value in K], "", (), "calibrate at the size of the images"),
        (["a"] * 9, "", (), "not numbers"),
    ],
)
def test_make_intrinsics_impossible_values_raise(k: Any, model: str, d: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^source.*{message}"):
        camera_model.make_intrinsics("source", 640, 480, k, model, d)


def test_make_intrinsics_without_image_size_raises() -> None:
    with pytest.raises(InputError, match="size is missing"):
        camera_model.make_intrinsics("source", 0, 480, K)


def test_lifting_through_a_fisheye_is_exact() -> None:
    from actrec.perception.lifting import lift

    joints = points()[:25].astype(np.float32)
    pixels = camera_model.project(joints, camera(EQUIDISTANT))
    shape = joints - joints.mean(axis=0)
    found, *_ = lift(pixels, shape, np.ones(25, np.float32), None, camera(EQUIDISTANT))
    np.testing.assert_allclose(found, joints, atol=2e-3)


@pytest.mark.parametrize(
    ("size", "of", "is_far"),
    [((640, 480), (848, 480), True), ((640, 480), (640, 360), True), ((848, 480), (640, 480), True),
     ((960, 540), (1280, 720), True), ((640, 480), (640, 480), False), ((640, 480), (660, 470), False)],
)  # fmt: skip
def test_make_intrinsics_warns_once_of_k_of_another_size(size, of, is_far, caplog) -> None:
    camera_model._warned.clear()
    k = [600.0, 0.0, of[0] / 2 - 0.5, 0.0, 600.0, of[1] / 2 - 0.5, 0.0, 0.0, 1.0]
    for moved in range(2):
        k[2] += moved
        camera_model.make_intrinsics("camera_info", size[0], size[1], k)
    assert caplog.text.count("K is of another size") == is_far
