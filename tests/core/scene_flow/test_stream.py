"""Scene flow of a stream: its image size and its color image."""

import numpy as np
import pytest

from actrec.scene_flow.stream import flow_image, resize
from actrec.types import Intrinsics


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


def test_resize_half_keeps_positions() -> None:
    camera = Intrinsics(320, 240, 262.5, 262.5, 159.5, 119.5)
    depth = np.full((240, 320), 2.0, np.float32)
    depth[:, :160] = np.nan
    color, small, intrinsics = resize(np.zeros((240, 320, 3), np.uint8), depth, camera, 160, 120)
    assert (color.shape, small.shape, intrinsics) == ((120, 160, 3), (120, 160), camera.resized(160, 120))
    assert np.isnan(small[:, :80]).all()
    assert (small[:, 80:] == 2.0).all()
