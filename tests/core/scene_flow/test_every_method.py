"""Input checks common to all scene flow methods."""

import numpy as np
import pytest

from actrec import scene_flow
from actrec.types import Intrinsics
from actrec.utils.errors import InputError

INTRINSICS = Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5)
DT = 1 / 30

pytestmark = pytest.mark.parametrize("name", scene_flow.METHODS.names())


def noise_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def plane(z: float = 2.0) -> np.ndarray:
    return np.full((48, 64), z, np.float32)


@pytest.mark.parametrize("wrong", range(4))
def test_estimate_wrong_size_or_type_raises(name: str, wrong: int) -> None:
    images = [noise_image(), plane(), noise_image(), plane()]
    images[wrong] = images[wrong][:20] if wrong % 2 else images[wrong].astype(np.float32)
    color0, depth0, color1, depth1 = images
    with pytest.raises(InputError, match=rf"{'first' if wrong < 2 else 'second'} (color|depth) is .*, expected"):
        scene_flow.create(name).estimate(color0, depth0, color1, depth1, INTRINSICS, DT)


@pytest.mark.parametrize("which", [1, 3])
def test_estimate_depth_in_millimeters_raises(name: str, which: int) -> None:
    images = [noise_image(), plane(), noise_image(), plane()]
    images[which] = images[which] * 1000
    color0, depth0, color1, depth1 = images
    with pytest.raises(InputError, match="2000 m.*millimeters"):
        scene_flow.create(name).estimate(color0, depth0, color1, depth1, INTRINSICS, DT)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, 0.0])
def test_estimate_invalid_depth_is_nan(name: str, value: float) -> None:
    depth = plane()
    depth[10:20, 10:30] = value
    flow = scene_flow.create(name).estimate(noise_image(), depth, noise_image(), depth, INTRINSICS, DT)
    assert np.isnan(flow[10:20, 10:30]).all()
    assert np.isfinite(flow[30:, 40:]).mean() > 0.9
    assert np.nanmax(np.abs(flow)) < 1e-3
