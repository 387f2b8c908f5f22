import numpy as np
import pytest

from actrec.scene_flow.stream import flow_image


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
