"""DIS scene flow against exactly known motion."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from actrec import scene_flow
from actrec.scene_flow.stream import resize
from actrec.types import Intrinsics
from actrec.utils.errors import ConfigError, InputError

INTRINSICS = Intrinsics(320, 240, 262.5, 262.5, 159.5, 119.5)
DT = 1 / 30


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(400, 480, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def view(texture: np.ndarray, du: int = 0, dv: int = 0) -> np.ndarray:
    """Return the texture moved by (du, dv) pixels."""
    return np.ascontiguousarray(texture[80 - dv : 320 - dv, 80 - du : 400 - du])


def plane(z: float) -> np.ndarray:
    return np.full((240, 320), z, np.float32)


@pytest.mark.parametrize(("du", "dv"), [(3, 0), (0, -2), (-4, 2)])
def test_dis_sliding_plane_matches_motion(texture, du: int, dv: int) -> None:
    flow = scene_flow.create("dis").estimate(
        view(texture), plane(2.0), view(texture, du, dv), plane(2.0), INTRINSICS, DT
    )
    expected = np.array([du, dv, 0]) / 262.5 * 2.0 / DT
    inner = flow[20:-20, 20:-20].reshape(-1, 3)
    np.testing.assert_allclose(np.median(inner, axis=0), expected, atol=0.03)
    assert flow.shape == (240, 320, 3)
    assert flow.dtype == np.float32


def test_dis_approaching_plane_matches_motion(texture) -> None:
    flow = scene_flow.create("dis").estimate(view(texture), plane(2.0), view(texture), plane(1.95), INTRINSICS, DT)
    assert np.median(flow[..., 2]) == pytest.approx(-1.5, abs=1e-3)


def test_dis_image_below_minimum_size_raises() -> None:
    for width, height in ((12, 11), (11, 400)):
        color, depth = np.zeros((height, width, 3), np.uint8), np.full((height, width), 2.0, np.float32)
        camera = Intrinsics(width, height, 20.0, 20.0, 6.0, 6.0)
        with pytest.raises(InputError, match=f"{width}×{height}.*12 px"):
            scene_flow.create("dis").estimate(color, depth, color, depth, camera, DT)


@pytest.mark.parametrize(("width", "height", "finest"), [(40, 12, 1), (200, 15, 1), (100, 31, 2), (640, 100, 5)])
def test_dis_low_image_uses_coarsest_possible_level(width, height, finest) -> None:
    """OpenCV itself crashes on these sizes."""
    random, depth = np.random.default_rng(0), np.full((height, width), 2.0, np.float32)
    color = random.integers(0, 255, (height, width, 3), np.uint8)
    camera = Intrinsics(width, height, 20.0, 20.0, width / 2, height / 2)
    flow = scene_flow.create("dis", finest_scale=finest).estimate(color, depth, color, depth, camera, DT)
    np.testing.assert_allclose(flow, 0, atol=1e-3)


def test_dis_identical_frames_give_zero_and_keep_missing_depth(texture) -> None:
    depth = plane(2.0)
    depth[100:140, 50:90] = np.nan
    flow = scene_flow.create("dis").estimate(view(texture), depth, view(texture), depth, INTRINSICS, DT)
    np.testing.assert_array_equal(np.isnan(flow).any(-1), np.isnan(depth))
    assert np.nanmax(np.abs(flow)) == 0


def test_dis_occluded_surface_is_nan(texture) -> None:
    behind = plane(3.0)
    hidden = behind.copy()
    hidden[60:180, 100:200] = 1.0
    flow = scene_flow.create("dis").estimate(view(texture), behind, view(texture), hidden, INTRINSICS, DT)
    assert np.isnan(flow[65:175, 105:195]).all()
    assert np.isfinite(flow[:50]).all()


def test_dis_smoothing_reduces_depth_noise(texture) -> None:
    rng = np.random.default_rng(2)
    noisy = [plane(3.0) + rng.normal(0, 0.012, (240, 320)).astype(np.float32) for _ in range(2)]
    spread = {}
    for radius in (0, 2):
        method = scene_flow.create("dis", smoothing_px=radius)
        flow = method.estimate(view(texture), noisy[0], view(texture), noisy[1], INTRINSICS, DT)
        spread[radius] = np.nanstd(flow[..., 2])
    assert spread[2] < 0.3 * spread[0]


def test_dis_without_depth_is_nan(texture) -> None:
    blind = plane(np.nan)
    flow = scene_flow.create("dis").estimate(view(texture), blind, view(texture), blind, INTRINSICS, DT)
    assert np.isnan(flow).all()


@pytest.mark.parametrize("dt", [0.0, -0.1, float("nan")])
def test_dis_time_not_advancing_raises(texture, dt: float) -> None:
    with pytest.raises(InputError, match="expected more than 0"):
        scene_flow.create("dis").estimate(view(texture), plane(2.0), view(texture), plane(2.0), INTRINSICS, dt)


def test_create_unknown_method_or_setting_raises() -> None:
    with pytest.raises(ConfigError, match="'x'.*dis"):
        scene_flow.create("x")
    with pytest.raises(ConfigError, match=r"smoothing_px.*99"):
        scene_flow.create("dis", smoothing_px=99)


def test_dis_recorded_people_move_faster_than_room(data_root: Path) -> None:
    folder = data_root / "rgbd" / "pairs" / "two_people_moving"
    pair = []
    for k in range(2):
        color = cv2.cvtColor(cv2.imread(str(folder / f"color{k}.png")), cv2.COLOR_BGR2RGB)
        depth = cv2.imread(str(folder / f"depth{k}.png"), cv2.IMREAD_UNCHANGED).astype(np.float32) / 5000
        depth[depth == 0] = np.nan
        pair.append(resize(color, depth, Intrinsics(640, 480, 525, 525, 319.5, 239.5), 320, 240))
    (c0, d0, small), (c1, d1, _) = pair
    flow = scene_flow.create("dis").estimate(c0, d0, c1, d1, small, DT)
    speed = np.linalg.norm(flow, axis=-1)
    assert not np.isfinite(speed[np.isnan(d0)]).any()
    assert np.nanpercentile(speed, 95) > 3 * np.nanmedian(speed)
