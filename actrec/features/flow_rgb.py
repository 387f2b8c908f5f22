"""Scene flow as colour pictures, the input of C3D-F, and the crop of the camera's picture that joints on it share.

Magoulianitis & Psaltis, "Learning Scene Flow With Skeleton Guidance For 3D Action Recognition", Sections 3.2 and 4.2.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from actrec.config import setting
from actrec.errors import ConfigError, InputError
from actrec.features.base import FrameFeature, View
from actrec.package import InputSpec

CENTRE_CROP = 240 / 424
"""Section 4.2 keeps the middle 320×240 of the Kinect's 512×424 pixels."""
WIDTH, HEIGHT, SIZE = 160, 120, 112
"""The middle is resized to 160×120, of which the network sees 112×112."""


@dataclass(frozen=True)
class PictureCrop:
    """Which part of the camera's picture the network sees; the same for the scene flow and for the joints on it."""

    share: float = setting(
        CENTRE_CROP, "share of the picture's height that is kept around its centre, 4/3 as wide", range=(0.05, 1.0)
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
    """How velocities become colours."""

    max_speed_m_s: tuple[float, ...] = setting(
        (2.0, 2.0, 2.0), "speed along x, y and z that maps to 255 (and its opposite to 0); faster is cut", unit="m/s"
    )
    mean: float = setting(128.0, "subtracted from the colours: the code of no motion", range=(0.0, 255.0))
    scale: float = setting(1.0, "what the colours are multiplied by afterwards; C3D takes them as they are")


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


def colours(flow: np.ndarray, max_speed_m_s: tuple[float, ...]) -> np.ndarray:
    """Each plane of motion on a colour channel, [−max, max] to [0, 255]; no motion and unknown motion are 128.

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
        return cv2.resize(colours(middle, options.max_speed_m_s), target, interpolation=interpolation)

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
