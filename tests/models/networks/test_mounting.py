"""Inputs of every network are the same however the camera is mounted, if the clip has "up"."""

from functools import partial

import numpy as np
import pytest

import actrec_models
from actrec.features.clips import example_clip, window_inputs
from actrec.types import Clip, LazyClip
from actrec.utils import gravity
from tests.models.small import SMALL

ROUNDING = {"joint_pixels": 1.0, "body_crop": 1 / 127}
"""Tolerance of inputs in whole pixels or gray levels."""


def mounted(clip: Clip, roll: float, pitch: float) -> dict[str, np.ndarray]:
    """Return the clip that a camera with this mounting would record instead of a level camera."""
    up = gravity.up_from_angles(roll, pitch)
    to_camera, turns = gravity.level_rotation(up), -gravity.quarter_turns(up)
    found = {"up": up}
    for key, value in clip.items():
        if key in ("bodies", "hands", "face"):
            value = value @ to_camera
        elif key in ("pixels", "hand_pixels", "face_pixels"):
            width, height = (int(side) for side in clip["size"])
            value = gravity.turn_pixels(value, width, height, turns)
        elif key == "motion":
            value = gravity.turn_vectors(value, turns)
        elif key in ("color", "flow"):
            value = gravity.turn_image(value if key == "color" else value @ to_camera, turns, axis=1)
        elif key == "size" and turns % 2:
            value = value[::-1]
        found[key] = value.astype(clip[key].dtype)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", actrec_models.list_models())
@pytest.mark.parametrize("roll, pitch", [(0, 25), (90, 0), (180, 0), (-90, 0), (180, -30)])
def test_window_inputs_any_mounting_equal_level_camera(name: str, roll: float, pitch: float) -> None:
    network = actrec_models.create(name, num_classes=3, **SMALL[name])
    specs, window = network.input_specs, network.window
    level = example_clip(specs, window.frames, getattr(network.config, "bodies", 1))
    level["size"] = level.get("size", np.array([320, 240], np.float32))
    turned = mounted(level, roll, pitch)
    lazy = LazyClip({key: partial(turned.__getitem__, key) for key in turned})
    expected = window_inputs(level, specs, window)
    for found in (window_inputs(turned, specs, window), window_inputs(lazy, specs, window)):
        for made, wanted in zip(found, expected, strict=True):
            for key, value in made.items():
                np.testing.assert_allclose(value, wanted[key], atol=ROUNDING.get(key, 2e-4), err_msg=key)
