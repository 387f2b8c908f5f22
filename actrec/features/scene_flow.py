"""Scene flow as color pictures, the input of C3D-F, and the crop of the camera's picture that joints on it share.

Magoulianitis & Psaltis, "Learning Scene Flow With Skeleton Guidance For 3D Action Recognition", Sections 3.2 and 4.2.

Joints in the flow picture, around which C3D-F's attention lies (Magoulianitis & Psaltis, Eqs. 3 and 5).
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from actrec.features.base import Feature, FrameFeature, View, absent
from actrec.features.specs import InputSpec
from actrec.skeleton import layouts
from actrec.types import Clip
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError

CENTER_CROP = 240 / 424
"""Section 4.2 keeps the middle 320×240 of the Kinect's 512×424 pixels."""

WIDTH, HEIGHT, SIZE = 160, 120, 112
"""The middle is resized to 160×120, of which the network sees 112×112."""


@dataclass(frozen=True)
class PictureCrop:
    """Which part of the camera's picture the network sees; the same for the scene flow and for the joints on it."""

    share: float = setting(
        CENTER_CROP, "share of the picture's height that is kept around its center, 4/3 as wide", range=(0.05, 1.0)
    )
    crop_x: float = setting(0.5, "where the square lies in what is kept: 0 left, 1 right", range=(0.0, 1.0))
    crop_y: float = setting(0.5, "where the square lies in what is kept: 0 top, 1 bottom", range=(0.0, 1.0))

    def middle(self, width: float, height: float) -> tuple[float, float, float, float]:
        """Left, top, width and height of what is kept of a picture, in its pixels, measured from its corner."""
        kept = min(self.share * height, width * HEIGHT / WIDTH)
        across = kept * WIDTH / HEIGHT
        return (width - across) / 2, (height - kept) / 2, across, kept

    def corner(self, size: int) -> tuple[int, int]:
        """Left and top pixel of the size×size square in the `reduced` middle."""
        width, height = reduced(size)
        return round(self.crop_x * (width - size)), round(self.crop_y * (height - size))


@dataclass(frozen=True)
class FlowPreprocessing(PictureCrop):
    """How velocities become colors."""

    max_speed_m_s: tuple[float, ...] = setting(
        (2.0, 2.0, 2.0), "speed along x, y and z that maps to 255 (and its opposite to 0); faster is cut", unit="m/s"
    )
    mean: float = setting(128.0, "subtracted from the colors: the code of no motion", range=(0.0, 255.0))
    scale: float = setting(1.0, "what the colors are multiplied by afterwards; C3D takes them as they are")


def reduced(size: int) -> tuple[int, int]:
    """Width and height that the middle is resized to, for a network that takes size×size: 160×120 for 112."""
    return round(size * WIDTH / SIZE), round(size * HEIGHT / SIZE)


def jittered(specs: Iterable[InputSpec], rng: np.random.Generator) -> list[InputSpec]:
    """The specs with the square at one random place, the same in each that has such a crop: the paper's jittering."""
    place = {"crop_x": float(rng.random()), "crop_y": float(rng.random())}
    return [
        dataclasses.replace(spec, preprocessing={**spec.preprocessing, **place})
        if place.keys() <= spec.preprocessing.keys()
        else spec
        for spec in specs
    ]


def colors(flow: np.ndarray, max_speed_m_s: tuple[float, ...]) -> np.ndarray:
    """Each plane of motion on a color channel, [−max, max] to [0, 255]; no motion and unknown motion are 128.

    Args:
        flow: [h, w, 3] m/s, NaN for missing.
        max_speed_m_s: Of x, y and z.

    Returns:
        [h, w, 3] uint8.
    """
    coded = flow * (127.5 / np.asarray(max_speed_m_s, np.float32))
    np.nan_to_num(coded, copy=False, nan=0.0)
    coded += 128.0  # 127.5, and a half so that cutting off the fraction rounds
    return np.clip(coded, 0.0, 255.0, out=coded).astype(np.uint8)


class FlowRgb(FrameFeature):
    """RGB-coded scene flow, (3, T, size, size) float32."""

    config_class = FlowPreprocessing
    streams: ClassVar = {"flow": True}

    def observe(self, view: View, spec: InputSpec) -> np.ndarray:
        """The middle of one frame's flow as a picture, uint8 [120, 160, 3] for a network that takes 112×112."""
        flow = view.flow
        if flow is None or flow.ndim != 3 or flow.shape[2] != 3 or min(flow.shape) < 3:
            shape = None if flow is None else list(flow.shape)
            raise InputError(f"scene flow is {shape}, expected [h, w, 3] in m/s for input '{spec.name}'")
        options = self._checked(spec)
        height, width = flow.shape[:2]
        left, top, across, down = options.middle(width, height)
        x, y = round(left), round(top)
        middle = flow[y : y + max(round(down), 1), x : x + max(round(across), 1)]
        target = reduced(spec.shape[-1])
        shrinks = middle.shape[1] > target[0]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(colors(middle, options.max_speed_m_s), target, interpolation=interpolation)

    def finish(self, frames: np.ndarray, spec: InputSpec) -> np.ndarray:
        """The square of each frame, less the mean, as C3D takes it."""
        channels, count, size, _ = spec.shape
        width, height = reduced(size)
        if frames.shape != (count, height, width, channels):
            raise InputError(
                f"flow pictures are {list(frames.shape)}, expected {[count, height, width, channels]} "
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
"""Where an absent joint is put, both coordinates, in sizes of the square: so far outside that no area reaches in."""

MARGIN = 0.25
"""A joint farther outside the square than this, in its sizes, counts as absent."""


@dataclass(frozen=True)
class PixelPreprocessing(PictureCrop):
    """In which square of the picture the joints are."""

    size: int = setting(SIZE, "width and height of the network's picture", unit="px", range=(1, 1024))


class JointPixels(Feature):
    """2D joints in the coordinates of `flow_rgb`'s square: (T, K, 2) float32, K = M·V, body after body.

    They lie on whole pixels (counted from 0), so that the areas around them are the same in half precision; absent
    joints are at `FAR`.
    """

    config_class = PixelPreprocessing
    streams: ClassVar = {"bodies": True}

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """From "pixels" and "size"."""
        pixels, picture = _checked(clip, spec)
        options: PixelPreprocessing = self.options(spec)
        far = np.float32(FAR * options.size)
        placed = np.rint(place(pixels, picture, options))
        inside = (placed >= -MARGIN * options.size) & (placed <= (1 + MARGIN) * options.size)  # False for NaN
        placed = np.where(inside.all(axis=-1, keepdims=True), placed, far)
        bodies, frames, joints, _ = placed.shape
        made = np.full(spec.shape, far, np.float32)
        made[:, : bodies * joints] = placed.transpose(1, 0, 2, 3).reshape(frames, -1, 2)  # (T, M·V, 2)
        return made


def place(pixels: np.ndarray, picture: tuple[float, float], options: PixelPreprocessing) -> np.ndarray:
    """Pixels [..., 2] of a camera's picture of that width and height in the network's square; NaN stays."""
    left, top, across, down = options.middle(*picture)
    width, height = reduced(options.size)
    scale = np.array([width / across, height / down], np.float32)
    corner = np.array(options.corner(options.size), np.float32)
    # A pixel's center is at its integer, half a pixel from the corner that the crop is measured from.
    return (pixels + np.float32(0.5) - np.array([left, top], np.float32)) * scale - corner - np.float32(0.5)


def _checked(clip: Clip, spec: InputSpec) -> tuple[np.ndarray, tuple[float, float]]:
    for key in ("pixels", "size"):
        if key not in clip:
            raise absent(spec, key, clip)
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
