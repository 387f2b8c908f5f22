"""The direction of gravity: mountings, level axes, and quarter turns of images."""

import numpy as np
import pytest

from actrec.types import EQUIDISTANT, Intrinsics, RgbdFrame
from actrec.utils import camera_model, gravity
from actrec.utils.errors import ConfigError, InputError

CAMERA = Intrinsics(64, 48, 50.0, 55.0, 30.0, 25.0, (0.1, -0.05, 0.01, 0.02, 0.003))
FISHEYE = Intrinsics(64, 48, 30.0, 33.0, 30.0, 25.0, (0.05, -0.02, 0.03, -0.01), EQUIDISTANT)
ANGLES = [(roll, pitch) for roll in range(-165, 181, 15) for pitch in (-60, -30, 0, 30, 85)]


@pytest.mark.parametrize("roll, pitch", ANGLES)
def test_level_rotation_any_mounting_maps_up_to_minus_y(roll: float, pitch: float) -> None:
    up = gravity.up_from_angles(roll, pitch)
    rotation = gravity.level_rotation(up)
    np.testing.assert_allclose(rotation @ up, [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1)
    forward = rotation @ [0, 0, 1]
    assert abs(forward[0]) < 1e-6 and forward[2] > 0, "the heading of the camera stays"


@pytest.mark.parametrize("roll, pitch", ANGLES)
def test_angles_from_up_invert_up_from_angles(roll: float, pitch: float) -> None:
    found = gravity.angles_from_up(gravity.up_from_angles(roll, pitch))
    np.testing.assert_allclose(found, (roll, pitch), atol=1e-3)


@pytest.mark.parametrize("name, angles", [("level", (0, 0)), ("portrait_right", (90, 0)), ("portrait_left", (-90, 0))])
def test_parse_mount_name_equals_its_angles(name: str, angles: tuple[float, float]) -> None:
    np.testing.assert_allclose(gravity.parse_mount(name), gravity.up_from_angles(*angles), atol=1e-6)


def test_parse_mount_reads_roll_and_pitch() -> None:
    np.testing.assert_allclose(gravity.parse_mount("180, 20"), gravity.up_from_angles(180, 20), atol=1e-6)


@pytest.mark.parametrize("text", ["", "sideways", "10", "1,2,3", "nan,0", "0,100"])
def test_parse_mount_unknown_text_raises(text: str) -> None:
    with pytest.raises(ConfigError, match="upside_down"):
        gravity.parse_mount(text)


@pytest.mark.parametrize("up", [[0, 0, 0], [0, np.nan, 0], [0, 1], [np.inf, 0, 0]])
def test_check_up_no_direction_raises(up: list[float]) -> None:
    with pytest.raises(InputError, match="up is"):
        gravity.check_up(np.array(up))


@pytest.mark.parametrize("roll, turns", [(0, 0), (44, 0), (-44, 0), (50, 1), (90, 1), (180, 2), (-170, 2), (-90, 3)])
def test_quarter_turns_are_nearest_to_upright(roll: float, turns: int) -> None:
    assert gravity.quarter_turns(gravity.up_from_angles(roll, 20)) == turns


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_bring_the_mounting_upright(turns: int) -> None:
    up = gravity.up_from_angles(90 * turns, 10)
    np.testing.assert_allclose(gravity.turn_vectors(up, turns), gravity.up_from_angles(0, 10), atol=1e-6)


@pytest.mark.parametrize("camera", [CAMERA, FISHEYE], ids=["brown", "fisheye"])
@pytest.mark.parametrize("turns", range(5))
def test_turned_pixels_show_the_same_point(turns: int, camera: Intrinsics) -> None:
    points = np.random.default_rng(0).uniform((-0.4, -0.3, 1.0), (0.4, 0.3, 3.0), (50, 3))
    pixels = camera_model.project(points, camera)
    turned = camera_model.project(gravity.turn_vectors(points, turns), gravity.turn_intrinsics(camera, turns))
    np.testing.assert_allclose(gravity.turn_pixels(pixels, 64, 48, turns), turned, atol=1e-3)


@pytest.mark.parametrize("camera", [CAMERA, FISHEYE], ids=["brown", "fisheye"])
@pytest.mark.parametrize("turns", range(4))
def test_turned_intrinsics_keep_the_lens(turns: int, camera: Intrinsics) -> None:
    pixels = np.random.default_rng(1).uniform((0, 0), (63, 47), (50, 2))
    straight = camera_model.rays(pixels, camera)
    turned = camera_model.rays(gravity.turn_pixels(pixels, 64, 48, turns), gravity.turn_intrinsics(camera, turns))
    np.testing.assert_allclose(gravity.turn_vectors(straight, turns), turned, atol=1e-6)


@pytest.mark.parametrize("turns", range(4))
def test_turned_frame_moves_each_pixel(turns: int) -> None:
    color = np.random.default_rng(2).integers(0, 255, (48, 64, 3), np.uint8)
    frame = RgbdFrame(1, color, color[..., 0].astype(np.float32), CAMERA)
    turned = gravity.turn_frame(frame, turns)
    turned.check()
    assert turned.color is not None and turned.depth is not None
    u, v = gravity.turn_pixels(np.array([5.0, 7.0]), 64, 48, turns).astype(int)
    assert (turned.color[v, u] == color[7, 5]).all()
    assert turned.depth[v, u] == color[7, 5, 0]
