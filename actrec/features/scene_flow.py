"""Scene flow as color images and joints in them (C3D-F and its attention, Eqs. 3 and 5), and the joint map (Res-TCN).

Magoulianitis & Psaltis, "Learning Scene Flow With Skeleton Guidance For 3D Action Recognition", Sections 3.2 and 4.2.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.features.crops import cut_rectangle
from actrec.features.skeleton import fill_missing
from actrec.features.specs import BodyView, Feature, FrameFeature, InputSpec, required, required_joints
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
    exact: bool = setting(
        False, "cut at fractions of the flow's pixels, not at whole ones as for packages without this key"
    )


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
    """Map velocities [h, w, 3] from [−max, max] to colors [0, 255] uint8; no or unknown (NaN) motion is 128."""
    coded = flow * (127.5 / np.asarray(max_speed_m_s, np.float32))
    np.nan_to_num(coded, copy=False, nan=0.0)
    coded += 128.0  # 127.5, and 0.5 so that truncation rounds
    return np.clip(coded, 0.0, 255.0, out=coded).astype(np.uint8)


class FlowRgb(FrameFeature):
    """RGB-coded scene flow, (3, T, size, size) float32."""

    config_class = FlowPreprocessing
    streams: ClassVar = {"flow": True}

    def options(self, spec: InputSpec) -> FlowPreprocessing:
        """Return the spec's preprocessing, validated."""
        options: FlowPreprocessing = super().options(spec)
        speeds = options.max_speed_m_s
        if len(speeds) != 3 or min(speeds) <= 0:
            raise ConfigError(f"FlowPreprocessing.max_speed_m_s is {list(speeds)}, expected three speeds above 0 m/s")
        return options

    def observe(self, view: BodyView, spec: InputSpec) -> np.ndarray:
        """Return the center crop of one frame's flow as an image, uint8 [120, 160, 3] for a 112×112 input.

        The crop is cut in the pixels of the color image, as for joints; without its size, flow pixels are square.
        """
        flow = view.flow
        if flow is None or flow.ndim != 3 or flow.shape[2] != 3 or min(flow.shape) < 3:
            shape = None if flow is None else list(flow.shape)
            raise InputError(f"scene flow is {shape}, expected [h, w, 3] in m/s for input '{spec.name}'")
        options = self.options(spec)
        height, width = flow.shape[:2]
        size = view.size or (width, height)
        left, top, across, down = options.center_crop(*size)
        right, below = width / size[0], height / size[1]  # px of the flow in a pixel of the color image
        crop = left * right, top * below, across * right, down * below
        if not options.exact:
            crop = round(crop[0]), round(crop[1]), max(round(crop[2]), 1), max(round(crop[3]), 1)
        return cut_rectangle(flow, crop, reduced(spec.shape[-1]), lambda part: colors(part, options.max_speed_m_s))

    def finish(self, frames: np.ndarray, spec: InputSpec) -> np.ndarray:
        """Return the square of each frame minus the mean, the input of C3D."""
        channels, count, size, _ = spec.shape
        expected = (count, *reversed(reduced(size)), channels)
        if frames.shape != expected:
            raise InputError(
                f"flow images are {list(frames.shape)}, expected {list(expected)} [T, H, W, 3] for input '{spec.name}'"
            )
        options = self.options(spec)
        left, top = options.corner(size)
        square = frames[:, top : top + size, left : left + size].astype(np.float32)
        clip = (square - np.float32(options.mean)) * np.float32(options.scale)
        return np.ascontiguousarray(clip.transpose(3, 0, 1, 2))  # (3, T, H, W)


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
        frames, count, _ = spec.shape
        most = count // len(layouts.get(spec.layout))
        pixels, size = required_joints(clip, "pixels", spec, most, frames, frames), required(clip, "size", spec)
        if size.shape != (2,) or not (size > 0).all():
            raise InputError(f"size is {size.tolist()}, expected the width and height of the color image in px")
        options: PixelPreprocessing = self.options(spec)
        far = np.float32(FAR * options.size)
        placed = np.rint(_in_square(pixels, (float(size[0]), float(size[1])), options))
        inside = (placed >= -MARGIN * options.size) & (placed <= (1 + MARGIN) * options.size)  # False for NaN
        placed = np.where(inside.all(axis=-1, keepdims=True), placed, far)
        made = np.full(spec.shape, far, np.float32)
        rows = placed.transpose(1, 0, 2, 3).reshape(frames, -1, 2)  # (T, M·V, 2)
        made[:, : rows.shape[1]] = rows
        return made


def _in_square(pixels: np.ndarray, size: tuple[float, float], options: PixelPreprocessing) -> np.ndarray:
    """Map pixels [..., 2] of a camera image of `size` (width, height) to the network's square; NaN stays."""
    left, top, across, down = options.center_crop(*size)
    width, height = reduced(options.size)
    scale = np.array([width / across, height / down], np.float32)
    corner = np.array(options.corner(options.size), np.float32)
    # Pixel centers are at integers, half a pixel from the corner that the crop is relative to.
    return (pixels + np.float32(0.5) - np.array([left, top], np.float32)) * scale - corner - np.float32(0.5)


@dataclass(frozen=True)
class JointMapPreprocessing:
    """Range and scope of the joint map."""

    lower_m: tuple[float, ...] = setting((-2.5, -2.5, 0.0), "x, y and z that map to −1; less is clipped", unit="m")
    upper_m: tuple[float, ...] = setting((2.5, 2.5, 5.0), "x, y and z that map to 1; more is clipped", unit="m")
    scope: str = setting("clip", "the map covers the clip, or the whole window of the clip", choices=("clip", "window"))
    rate: int = setting(1, "columns per frame, interpolated linearly", range=(1, 30))


class JointMap(Feature):
    """Joints over time, body after body: (3·K, N) float32 in [−1, 1], K = M·V.

    Row 3k + d is dimension d of joint k (Eq. 2). Column 0 is the first frame with a body; earlier frames of a window,
    which repeat its pose, are skipped. Absent bodies and the columns after the last frame are zero.
    """

    config_class = JointMapPreprocessing
    streams: ClassVar = {"bodies": True}

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the map from "bodies" of any T with T · rate ≤ N."""
        options: JointMapPreprocessing = self.options(spec)
        joints = len(layouts.get(spec.layout))
        bodies = required_joints(
            clip, "bodies", spec, spec.shape[0] // (3 * joints), most=spec.shape[1] // options.rate
        )
        visible = _interpolate(bodies[:, first_visible_frame(bodies) :], options.rate)
        values = fill_missing(_to_unit_range(visible, options), spec.layout)
        rows = values.transpose(0, 2, 3, 1).reshape(-1, values.shape[1])  # (M·V·3, T)
        made = np.zeros(spec.shape, np.float32)
        made[: len(rows), : rows.shape[1]] = rows
        return made


def _to_unit_range(bodies: np.ndarray, options: JointMapPreprocessing) -> np.ndarray:
    """Map each dimension of [M, T, V, 3] linearly to [−1, 1]; NaN stays."""
    lower, upper = np.array(options.lower_m, np.float32), np.array(options.upper_m, np.float32)
    if lower.shape != (3,) or upper.shape != (3,) or (lower >= upper).any():
        raise ConfigError(
            f"JointMapPreprocessing maps {options.lower_m} to {options.upper_m} m, expected three lower bounds, "
            "each below its upper one"
        )
    return np.clip((bodies - lower) * (2 / (upper - lower)) - 1, -1, 1)


def first_visible_frame(bodies: np.ndarray) -> int:
    """Return the first frame of [M, T, V, 3] with a body, after any repetitions of its pose."""
    visible = np.isfinite(bodies).any(axis=(0, 2, 3))
    if not visible.any():
        return 0
    first = int(visible.argmax())
    pose = bodies[:, first : first + 1]
    same = ((bodies == pose) | (np.isnan(bodies) & np.isnan(pose))).all(axis=(0, 2, 3))
    others = np.flatnonzero(~same[first:])
    return first + (int(others[0]) if len(others) else len(same) - first) - 1


def _interpolate(bodies: np.ndarray, rate: int) -> np.ndarray:
    """Interpolate [M, T, V, 3] linearly to (T − 1) · rate + 1 frames."""
    at = np.arange((bodies.shape[1] - 1) * rate + 1) / rate
    before, after = np.floor(at).astype(int), np.ceil(at).astype(int)
    share = (at - before).astype(np.float32)[:, None, None]
    return bodies[:, before] * (1 - share) + bodies[:, after] * share
