"""Registration of depth by calibration, compared with exact images of the scene and with single rays."""

import cv2
import numpy as np
import pytest

from actrec.types import Intrinsics
from actrec.utils.calibration_files import DepthGeometry
from actrec.utils.camera_model import rays
from actrec.utils.errors import InputError
from actrec.utils.registration import Registration
from tests.core.cameras.two_views import COLOR, DEPTH, TwoViews, share_within

BENT = (0.08, -0.12, 0.001, -0.0006, 0.05)
RATIONAL = (0.52, -2.4, 0.0006, -0.0002, 1.4, 0.4, -2.2, 1.3)


@pytest.fixture(scope="module")
def views() -> TwoViews:
    return TwoViews(depth=Intrinsics(640, 480, 381.0, 381.5, 318.0, 241.0))


def test_register_matches_exact_geometry(views):
    _, exact, depth = views.at(1.0)
    registered = Registration(views.depth, views.color, DepthGeometry(views.to_color)).register(depth)
    assert registered.dtype == np.float32 and np.isfinite(registered).mean() > 0.99
    assert share_within(registered, exact, pixels=1, meters=0.002) > 0.999
    assert np.nanmedian(np.abs(registered - exact)) < 1e-4


def test_register_coarse_depth_leaves_no_holes(views):
    coarse = TwoViews(depth=DEPTH)
    _, exact, depth = coarse.at(1.0)
    registered = Registration(DEPTH, COLOR, DepthGeometry(coarse.to_color)).register(depth)
    assert np.isfinite(registered).mean() > 0.99
    assert share_within(registered, exact, pixels=2, meters=0.002) > 0.998, "a depth pixel covers three color pixels"


@pytest.mark.parametrize("distortion", [BENT, RATIONAL])
def test_register_with_distortion(distortion):
    """The scene is a tilted plane with known depth along every ray of the color camera."""
    color = Intrinsics(640, 480, 600.0, 602.0, 316.0, 243.0, distortion)
    depth = Intrinsics(512, 424, 366.0, 366.0, 256.0, 208.0, BENT)
    to_color = np.eye(4)
    to_color[:3, :3] = cv2.Rodrigues(np.array([0.05, -0.03, 0.01]))[0]
    to_color[:3, 3] = [0.05, -0.002, 0.004]
    normal, distance = np.array([0.2, -0.3, 1.0]), 2.0  # n · p = d in the depth camera
    image = _plane(depth, normal, distance)
    registered = Registration(depth, color, DepthGeometry(to_color)).register(image)
    turned = to_color[:3, :3] @ normal
    expected = _plane(color, turned, distance + turned @ to_color[:3, 3])
    known = np.isfinite(registered)
    slope = np.abs(np.gradient(expected)[0]) + np.abs(np.gradient(expected)[1])
    assert known.mean() > 0.7 and known[120:-120, 160:-160].all()
    assert (np.abs(registered - expected)[known] <= (slope[known] + 0.0005)).all(), "within a pixel"


@pytest.mark.parametrize("distortion", [(-0.25, 0.06, 0, 0, -0.006), (-0.3, 0, 0, 0, 0)])
def test_register_lens_that_folds_back_before_corners(distortion):
    """The corners have no ray; pixels that the lens reaches have their depth, and no point from beyond appears."""
    color = Intrinsics(640, 480, 320.0, 320.0, 320.0, 240.0, distortion)
    depth = Intrinsics(400, 400, 90.0, 90.0, 200.0, 200.0)  # wider than the color camera
    out = np.linspace(0, 3, 30_001)
    bent = out * (1 + distortion[0] * out**2 + distortion[1] * out**4 + distortion[4] * out**6)
    fold = bent.argmax()
    u, v = np.meshgrid(np.arange(640), np.arange(480))
    reached = np.hypot(u - 320, v - 240) / 320 < bent[fold] - 0.01
    assert reached.mean() < 0.99
    u, v = np.meshgrid(np.arange(400), np.arange(400))
    image = np.where(np.hypot(u - 200, v - 200) / 90 < out[fold] + 0.01, 2.0, 1.0).astype(np.float32)
    registered = Registration(depth, color, DepthGeometry(np.eye(4))).register(image)
    assert (registered[reached] == 2).mean() > 0.999 and not (registered == 1).any()


@pytest.mark.parametrize("distortion", [(-0.1, 0.02, 0.012, -0.012, 0), (0.1, -0.2, 0.02, -0.02, 0.05)])
def test_register_decentered_lens_fills_corners(distortion):
    color = Intrinsics(640, 480, 303.0, 303.0, 320.0, 240.0, distortion)
    depth = Intrinsics(800, 800, 180.0, 180.0, 400.0, 400.0)  # wider than the color camera
    registered = Registration(depth, color, DepthGeometry(np.eye(4))).register(np.full((800, 800), 2, np.float32))
    assert (registered == 2).all()


def _plane(camera: Intrinsics, normal: np.ndarray, distance: float) -> np.ndarray:
    pixels = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), -1).astype(float)
    through = np.concatenate([rays(pixels, camera), np.ones((camera.height, camera.width, 1))], -1)
    return (distance / (through @ normal)).astype(np.float32)


def test_register_keeps_nearest_surface_and_applies_scale_and_bias():
    camera = Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5)
    depth = np.full((48, 64), 3.0, np.float32)
    depth[:, 20:40] = 1.0
    depth[0], depth[1, :5], depth[2, :5] = np.nan, np.inf, -1.0
    aside = np.eye(4)
    aside[0, 3] = 0.1
    registered = Registration(camera, camera, DepthGeometry(aside, scale=2.0, bias=-0.5)).register(depth)
    assert set(np.unique(registered[np.isfinite(registered)]).tolist()) == {1.5, 5.5}
    assert (registered[10:, 24:44] == 1.5).all() and np.isnan(registered[10:, 22:23]).all(), (
        "the surface behind the near one is missing"
    )
    assert np.isnan(registered[0]).all() and np.isnan(registered[1:3, :4]).all()


def test_register_drops_points_behind_or_far_outside():
    camera = Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5, (-0.3, 0.05, 0.0, 0.0, 0.0))
    wide = Intrinsics(64, 48, 15.0, 15.0, 31.5, 23.5)
    registered = Registration(wide, camera, DepthGeometry(np.eye(4))).register(np.full((48, 64), 2.0, np.float32))
    assert (registered == 2.0).mean() > 0.99
    back = np.diag([1.0, -1.0, -1.0, 1.0])
    assert np.isnan(Registration(wide, camera, DepthGeometry(back)).register(np.ones((48, 64), np.float32))).all()
    with pytest.raises(InputError, match=r"depth is \[3, 4\], but its intrinsics are for \[48, 64\]"):
        Registration(wide, camera, DepthGeometry(np.eye(4))).register(np.ones((3, 4), np.float32))
