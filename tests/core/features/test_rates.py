"""Frame rates: of sources, of a network's images, and the warning about a source that is too slow."""

import numpy as np
import pytest

from actrec.features import rates
from actrec.features.specs import InputSpec, WindowSpec
from actrec.types import NANOSECONDS

IMAGES = InputSpec("body_crop", "body_crop", "kinect_v2_25", (3, 64, 224, 224))
JOINTS = InputSpec("body", "body", "kinect_v2_25", (1, 3, 60, 25))
WINDOW = WindowSpec(128 / 30, 128, 64, 32, "max")


def test_frame_rate_of_uneven_stamps_is_the_mean() -> None:
    assert rates.frame_rate((np.arange(31) * NANOSECONDS / 15).astype(np.int64)) == pytest.approx(15, rel=1e-6)
    assert rates.frame_rate([0, NANOSECONDS // 30, NANOSECONDS]) == 2.0
    assert rates.frame_rate([7]) == rates.frame_rate([]) == rates.frame_rate([3, 3]) == 0.0


def test_with_rates_declares_images_only() -> None:
    image, joints = rates.with_rates([IMAGES, JOINTS], WINDOW)
    assert (image.rate, joints.rate) == (30.0, 0.0)
    assert rates.image_rate([JOINTS], WINDOW) == 0.0


@pytest.mark.parametrize(("source_hz", "differ"), [(60, 64), (30, 64), (20, 43), (15, 32), (10, 21), (7, 15)])
def test_fit_window_makes_every_image_another(source_hz: float, differ: int) -> None:
    warning = rates.describe_rate([IMAGES], WINDOW, source_hz)
    assert f"only {differ} of its 64 images differ" in warning if differ < 64 else not warning
    fitted = rates.fit_window([IMAGES, JOINTS], WINDOW, source_hz)
    assert not rates.describe_rate([IMAGES], fitted, source_hz)
    assert fitted.rate == pytest.approx(min(source_hz, 30), rel=1e-3)
    assert (fitted.frames, fitted.clip, fitted.stride) == (128, 64, 32)
    assert rates.fit_window([JOINTS], WINDOW, source_hz) == WINDOW, "joints are interpolated"


def test_describe_rate_names_rates_and_a_remedy_that_works() -> None:
    said = rates.describe_rate([IMAGES], WINDOW, 15.0)
    assert "come at 15 Hz" in said and "at 30 Hz: only 32 of its 64 images" in said
    seconds = float(said.split("window_s=")[1].rstrip(")"))
    remedied = WindowSpec(seconds, 128, 64, 32)
    assert not rates.describe_rate([IMAGES], remedied, 15.0)
    for hz in (0.0, 28.0, 30.0, 60.0):
        assert not rates.describe_rate([IMAGES], WINDOW, hz)
    assert not rates.describe_rate([JOINTS], WINDOW, 5.0)
    assert "come at 3 Hz: fast motion is lost; use a source of 5 Hz" in rates.describe_rate([JOINTS], WINDOW, 3.0)
