"""Scene flow as color images, the input of C3D-F, and the joints in them, for its attention (Eqs. 3 and 5).

Magoulianitis & Psaltis, "Learning Scene Flow With Skeleton Guidance For 3D Action Recognition", Sections 3.2 and 4.2.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from actrec.features.base import Feature, FrameFeature, View, missing_key_error
from actrec.features.specs import InputSpec
from actrec.skeleton import layouts
from actrec.types import Clip
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError

CENTER_CROP = 240 / 424
"""Section 4.2 keeps the middle 320×240 of the Kinect's 512×424 pixels."""

WIDTH, HEIGHT, SIZE = 160, 120, 112
"""The center crop is resized to 160×120; the network's input is a 112×112 crop of it."""


@dataclass(frozen=True)
class FlowCrop:
    """Crop of the camera's image, common to scene flow and joints."""

    share: float = setting(
        CENTER_CROP, "height of the center crop (4:3), as a share of the image height", range=(0.05, 1.0)
    )
    crop_x: float = setting(0.5, "position of the square in the center crop: 0 left, 1 right", range=(0.0, 1.0))
    crop_y: float = setting(0.5, "position of the square in the center crop: 0 top, 1 bottom", range=(0.0, 1.0))

    def center_crop(self, width: float, height: float) -> tuple[float, float, float, float]:
        """Return left, top, width and height of the center crop of an image, px."""
        kept = min(self.share * height, width * HEIGHT / WIDTH)
        across = kept * WIDTH / HEIGHT
        return (width - across) / 2, (height - kept) / 2, across, kept

    def corner(self, size: int) -> tuple[int, int]:
        """Return left and top of the size×size square in the `reduced` center crop, px."""
        width, height = reduced(size)
        return round(self.crop_x * (width - size)), round(self.crop_y * (height - size))


@dataclass(frozen=True)
class FlowPreprocessing(FlowCrop):
    """Mapping of velocities to colors."""

    max_speed_m_s: tuple[float, ...] = setting(
        (2.0, 2.0, 2.0), "speed along x, y and z that maps to 255 (and its negative to 0); more is clipped", unit="m/s"
    )
    mean: float = setting(128.0, "subtracted from the colors: the code for no motion", range=(0.0, 255.0))
    scale: float = setting(1.0, "factor on the colors afterwards; 1 for C3D")


def reduced(size: int) -> tuple[int, int]:
    """Return the resized width and height of the center crop for a size×size input: 160×120 for 112."""
    return round(size * WIDTH / SIZE), round(size * HEIGHT / SIZE)


def jittered(specs: Iterable[InputSpec], rng: np.random.Generator) -> list[InputSpec]:
    """Return the specs with all squares at the same random position: the paper's jittering."""
    place = {"crop_x": float(rng.random()), "crop_y": float(rng.random())}
    return [
        dataclasses.replace(spec, preprocessing={**spec.preprocessing, **place})
        if place.keys() <= spec.preprocessing.keys()
        else spec
        for spec in specs
    ]


def colors(flow: np.ndarray, max_speed_m_s: tuple[float, ...]) -> np.ndarray:
    """Map each velocity component from [−max, max] to a color channel [0, 255]; no or unknown motion is 128.

    Args:
        flow: [h, w, 3] m/s, NaN for missing.
        max_speed_m_s: Of x, y and z.

    Returns:
        [h, w, 3] uint8.
    """
    coded = flow * (127.5 / np.asarray(max_speed_m_s, np.float32))
    np.nan_to_num(coded, copy=False, nan=0.0)
    coded += 128.0  # 127.5, and 0.5 so that truncation rounds
    return np.clip(coded, 0.0, 255.0, out=coded).astype(np.uint8)


class FlowRgb(FrameFeature):
    """RGB-coded scene flow, (3, T, size, size) float32."""

    config_class = FlowPreprocessing
    streams: ClassVar = {"flow": True}

    def observe(self, view: View, spec: InputSpec) -> np.ndarray:
        """Return the center crop of one frame's flow as an image, uint8 [120, 160, 3] for a 112×112 input."""
        flow = view.flow
        if flow is None or flow.ndim != 3 or flow.shape[2] != 3 or min(flow.shape) < 3:
            shape = None if flow is None else list(flow.shape)
            raise InputError(f"scene flow is {shape}, expected [h, w, 3] in m/s for input '{spec.name}'")
        options = self._checked(spec)
        height, width = flow.shape[:2]
        left, top, across, down = options.center_crop(width, height)
        x, y = round(left), round(top)
        crop = flow[y : y + max(round(down), 1), x : x + max(round(across), 1)]
        target = reduced(spec.shape[-1])
        shrinks = crop.shape[1] > target[0]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(colors(crop, options.max_speed_m_s), target, interpolation=interpolation)

    def finish(self, frames: np.ndarray, spec: InputSpec) -> np.ndarray:
        """Return the square of each frame minus the mean, the input of C3D."""
        channels, count, size, _ = spec.shape
        width, height = reduced(size)
        if frames.shape != (count, height, width, channels):
            raise InputError(
                f"flow images are {list(frames.shape)}, expected {[count, height, width, channels]} "
                f"[T, H, W, 3] for input '{spec.name}'"
            )
        options = self._checked(spec)
        left, top = options.corner(size)
        square = frames[:, top : top + size, left : left + size].astype(np.float32)
        clip = (square - np.float32(options.mean)) * np.float32(options.scale)
        return np.ascontiguousarray(clip.transpose(3, 0, 1, 2))  # (3, T, H, W)

    def _checked(self, spec: InputSpec) -> FlowPreprocessing:
        options: FlowPreprocessing = self.options(spec)
        speeds = options.max_speed_m_s
        if len(speeds) != 3 or min(speeds) <= 0:
            raise ConfigError(f"FlowPreprocessing.max_speed_m_s is {list(speeds)}, expected three speeds above 0 m/s")
        return options


FAR = -0.5
"""Coordinates of an absent joint, in sizes of the square: outside the reach of any attention area."""

MARGIN = 0.25
"""Joints farther outside the square than this, in its sizes, are absent."""


@dataclass(frozen=True)
class PixelPreprocessing(FlowCrop):
    """Square that the joints are relative to."""

    size: int = setting(SIZE, "width and height of the network's image", unit="px", range=(1, 1024))


class JointPixels(Feature):
    """2D joints in the coordinates of `flow_rgb`'s square: (T, K, 2) float32, K = M·V, body after body.

    Rounded to whole pixels, so that the areas around them are equal in half precision; absent joints are at `FAR`.
    """

    config_class = PixelPreprocessing
    streams: ClassVar = {"bodies": True}

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the input from "pixels" and "size"."""
        pixels, size = _checked(clip, spec)
        options: PixelPreprocessing = self.options(spec)
        far = np.float32(FAR * options.size)
        placed = np.rint(place(pixels, size, options))
        inside = (placed >= -MARGIN * options.size) & (placed <= (1 + MARGIN) * options.size)  # False for NaN
        placed = np.where(inside.all(axis=-1, keepdims=True), placed, far)
        bodies, frames, joints, _ = placed.shape
        made = np.full(spec.shape, far, np.float32)
        made[:, : bodies * joints] = placed.transpose(1, 0, 2, 3).reshape(frames, -1, 2)  # (T, M·V, 2)
        return made


def place(pixels: np.ndarray, size: tuple[float, float], options: PixelPreprocessing) -> np.ndarray:
    """Map pixels [..., 2] of a camera image of `size` (width, height) to the network's square; NaN stays."""
    left, top, across, down = options.center_crop(*size)
    width, height = reduced(options.size)
    scale = np.array([width / across, height / down], np.float32)
    corner = np.array(options.corner(options.size), np.float32)
    # Pixel centers are at integers, half a pixel from the corner that the crop is relative to.
    return (pixels + np.float32(0.5) - np.array([left, top], np.float32)) * scale - corner - np.float32(0.5)


def _checked(clip: Clip, spec: InputSpec) -> tuple[np.ndarray, tuple[float, float]]:
    for key in ("pixels", "size"):
        if key not in clip:
            raise missing_key_error(spec, key, clip)
    pixels, size = np.asarray(clip["pixels"], np.float32), np.asarray(clip["size"])
    frames, count, _ = spec.shape
    joints = len(layouts.get(spec.layout))
    most = count // joints
    if pixels.ndim != 4 or pixels.shape[1:] != (frames, joints, 2) or len(pixels) > most:
        raise InputError(
            f"pixels are {list(pixels.shape)} [M, T, V, 2] but input '{spec.name}' takes up to {most} bodies of "
            f"{frames} frames × {joints} joints ({spec.layout})"
        )
    if size.shape != (2,) or not (size > 0).all():
        raise InputError(f"size is {size.tolist()}, expected the width and height of the color image in px")
    return pixels, (float(size[0]), float(size[1]))
