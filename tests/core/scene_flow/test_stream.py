"""Scene flow of a stream: its image size and its color image."""

import numpy as np
import pytest

from actrec.scene_flow import ColorDepth, SceneFlow
from actrec.scene_flow.stream import FlowPairs, SceneFlowConfig, flow_image, resize
from actrec.types import EQUIDISTANT, Intrinsics, RgbdFrame
from actrec.utils.errors import ConfigError


class Still(SceneFlow):
    """No motion."""

    def _estimate(self, first: ColorDepth, second: ColorDepth, intrinsics: Intrinsics, dt: float) -> np.ndarray:
        return np.zeros((*first[1].shape, 3), np.float32)


@pytest.mark.parametrize(
    ("image", "height", "expected"),
    [
        ((640, 480), 240, (320, 240)),
        ((640, 480), 120, (160, 120)),
        ((848, 480), 240, (424, 240)),
        ((1280, 720), 240, (427, 240)),
        ((960, 540), 240, (427, 240)),  # NTU's color
        ((512, 424), 240, (290, 240)),
        ((720, 1280), 240, (240, 427)),
        ((64, 48), 240, (320, 240)),
    ],
)
def test_flow_of_any_image_size_keeps_its_aspect(image, height, expected) -> None:
    width, rows = image
    camera = Intrinsics(width, rows, 1.1 * rows, 1.1 * rows, width / 2, rows / 2)
    pairs = FlowPairs(Still(), SceneFlowConfig(height=height))
    color, depth = np.zeros((rows, width, 3), np.uint8), np.ones((rows, width), np.float32)
    found = [pairs.add(RgbdFrame(ns, color, depth, camera)) for ns in (0, 10**8)][1]
    assert found is not None and found.intrinsics == camera.resized(*expected)
    assert found.velocity.shape == (*expected[::-1], 3)
    assert found.intrinsics.fx == pytest.approx(found.intrinsics.fy, rel=2e-3)


@pytest.mark.parametrize(
    ("velocity", "color"),
    [
        ((1, 0, 0), (255, 0, 0)),
        ((-1, 0, 0), (0, 255, 255)),
        ((0, 0, -1), (255, 255, 255)),
        ((5, 0, 0), (255, 0, 0)),
        ((0.5, 0, 0), (128, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((np.nan, 0, 0), (60, 60, 60)),
    ],
)
def test_flow_image_direction_sets_color(velocity, color) -> None:
    flow = np.full((4, 6, 3), velocity, np.float32)
    np.testing.assert_allclose(flow_image(flow)[2, 3], color, atol=1)
    assert flow_image(flow).dtype == np.uint8


@pytest.mark.parametrize(
    ("distortion", "lens", "warns"),
    [
        ((), "", False),
        ((0.02, 0.0, 0.0, 0.0, 0.0), "", False),
        ((-0.3, 0.1, 0.0, 0.0, 0.0), "", True),
        ((0.0, 0.0, 0.0, 0.0), EQUIDISTANT, True),
    ],
)
def test_flow_of_a_lens_that_bends_the_image_warns(distortion: tuple[float, ...], lens: str, warns: bool) -> None:
    lines: list[str] = []
    pairs = FlowPairs(Still(), SceneFlowConfig(height=48), warn=lines.append)
    camera = Intrinsics(64, 48, 40.0, 40.0, 31.5, 23.5, distortion, lens)
    for ns in (0, 10**8, 2 * 10**8):
        pairs.add(RgbdFrame(ns, np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), np.float32), camera))
    assert ["publish undistorted images" in line for line in lines] == [True] * warns


def test_flow_of_a_recording_without_tf_is_refused_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="camera_motion is tf, and recordings have no TF here"):
        FlowPairs(Still(), SceneFlowConfig(camera_motion="tf"))
    pairs = FlowPairs(Still(), SceneFlowConfig(height=48))
    for size in (40.0, 41.0, 42.0):  # another lens each time
        camera = Intrinsics(64, 48, size, size, 31.5, 23.5, (0.0,) * 4, EQUIDISTANT)
        pairs.add(RgbdFrame(0, np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), np.float32), camera))
    assert 1 <= len(caplog.messages) == len({*caplog.messages}) and "publish undistorted images" in caplog.text


def test_resize_half_keeps_positions() -> None:
    camera = Intrinsics(320, 240, 262.5, 262.5, 159.5, 119.5)
    depth = np.full((240, 320), 2.0, np.float32)
    depth[:, :160] = np.nan
    color, small, intrinsics = resize(np.zeros((240, 320, 3), np.uint8), depth, camera, 160, 120)
    assert (color.shape, small.shape, intrinsics) == ((120, 160, 3), (120, 160), camera.resized(160, 120))
    assert np.isnan(small[:, :80]).all()
    assert (small[:, 80:] == 2.0).all()
