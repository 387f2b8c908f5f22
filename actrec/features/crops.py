"""Crops of body and hands around the 2D joints in the color image: P-I3D's glimpse sensor (Eq. 1).

Das et al., "Where to Focus on for Human Action Recognition?", WACV 2019. VPN uses the body crop, too.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from actrec.features.specs import BodyView, FrameFeature, InputSpec, missing_key_error
from actrec.skeleton import layouts
from actrec.utils.config import setting
from actrec.utils.errors import InputError

LENGTHS = {
    ("spine_base", "spine_shoulder"): 0.52, ("shoulder_left", "shoulder_right"): 0.36,
    ("shoulder_left", "elbow_left"): 0.29, ("shoulder_right", "elbow_right"): 0.29,
    ("elbow_left", "wrist_left"): 0.25, ("elbow_right", "wrist_right"): 0.25,
    ("hip_left", "knee_left"): 0.42, ("hip_right", "knee_right"): 0.42,
    ("knee_left", "ankle_left"): 0.40, ("knee_right", "ankle_right"): 0.40,
}  # fmt: skip
"""Distances (m) between joints of an adult. Foreshortening makes a segment shorter in the image, never longer."""

Box = tuple[float, float, float]
"""Center (u, v) and side of a square in the color image, px; pixel centers are at integers."""

JITTER = (256 - 224) / 2 / 224
"""Maximum shift of the square, as a share of its side: I3D is trained on random 224×224 px crops of 256×256."""


@dataclass(frozen=True)
class SquarePreprocessing:
    """Shift and mirroring of a square, used in training only (see `jittered`)."""

    shift_x: float = setting(0.0, "shift of the square to the right, as a share of its side", range=(-0.5, 0.5))
    shift_y: float = setting(0.0, "shift of the square downward, as a share of its side", range=(-0.5, 0.5))
    mirror: bool = setting(False, "mirror the square")


@dataclass(frozen=True)
class BodyCropPreprocessing(SquarePreprocessing):
    """Square around a body."""

    margin: float = setting(
        1.2, "side of the square, relative to the longer side of the joints' bounding box", range=(1.0, 3.0)
    )


@dataclass(frozen=True)
class HandCropPreprocessing(SquarePreprocessing):
    """Square around a hand."""

    side: float = setting(0.45, "side of the square at the body's distance", unit="m", range=(0.1, 2.0))


OTHER_SIDE = {"left_hand_crop": "right_hand_crop", "right_hand_crop": "left_hand_crop"}
"""Modality of the other hand, which shows the same hand in a mirrored image."""


def jittered(specs: Iterable[InputSpec], rng: np.random.Generator, mirror: bool | None = None) -> list[InputSpec]:
    """Return the specs with all squares shifted and mirrored alike at random, as in I3D's training.

    With `mirror`, half of the clips are mirrored; by default if `may_mirror`. If both hands are inputs, a mirrored
    right hand becomes the left hand's input, as in a mirrored video.
    """
    specs = list(specs)
    shift_x, shift_y = rng.uniform(-JITTER, JITTER, 2)
    mirrored = bool(rng.random() < 0.5) and (may_mirror(specs) if mirror is None else mirror)
    varied = {"shift_x": float(shift_x), "shift_y": float(shift_y), "mirror": mirrored}
    exchanged = OTHER_SIDE if mirrored and OTHER_SIDE.keys() <= {spec.modality for spec in specs} else {}

    def vary(spec: InputSpec) -> InputSpec:
        modality = exchanged.get(spec.modality, spec.modality)
        return dataclasses.replace(spec, modality=modality, preprocessing={**spec.preprocessing, **varied})

    return [vary(spec) if _is_square(spec) else spec for spec in specs]


def may_mirror(specs: Iterable[InputSpec]) -> bool:
    """Return whether inputs may be mirrored: all are image squares. Poses beside them would show the other side."""
    return all(map(_is_square, specs))


def _is_square(spec: InputSpec) -> bool:
    return {field.name for field in dataclasses.fields(SquarePreprocessing)} <= spec.preprocessing.keys()


def cut(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Cut a square from an image [H, W, 3] uint8, black outside it, and scale it to [size, size, 3]."""
    side = max(box[2], 1.0)
    return cut_rectangle(image, (box[0] + 0.5 - side / 2, box[1] + 0.5 - side / 2, side, side), (size, size))


def cut_rectangle(
    image: np.ndarray,
    rectangle: tuple[float, float, float, float],
    size: tuple[int, int],
    convert: Callable[[np.ndarray], np.ndarray] = lambda part: part,
) -> np.ndarray:
    """Cut a rectangle from an image, exact to fractions of a pixel, and scale it: averaged if smaller, else linearly.

    Args:
        image: [H, W, 3].
        rectangle: Left, top, width and height, px from the image's corner.
        size: Width and height of the result.
        convert: Conversion of the part that is used to uint8.

    Returns:
        [height, width, 3] uint8, black outside the image.
    """
    corner, sides, target = np.array(rectangle[:2]), np.array(rectangle[2:]), np.array(size)
    scale, limits = sides / target, np.array(image.shape[1::-1])
    margin = np.where(scale < 1, 1, 0)  # the neighbors of the outermost pixels
    low = np.clip(np.floor(corner) - margin, 0, limits).astype(int)
    high = np.clip(np.ceil(corner + sides) + margin, 0, limits).astype(int)
    if (low >= high).any():
        return np.zeros((size[1], size[0], 3), np.uint8)
    part = convert(image[low[1] : high[1], low[0] : high[0]])
    smaller = np.maximum(np.round((high - low) / np.maximum(scale, 1)), 1).astype(int)
    if (smaller < high - low).any():
        part = cv2.resize(part, (int(smaller[0]), int(smaller[1])), interpolation=cv2.INTER_AREA)
    step = (high - low) / smaller  # px of the image in a pixel of the part
    start = (corner + scale / 2 - low) / step - 0.5  # the first pixel of the result in the part
    matrix = np.column_stack([np.diag(scale / step), start])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out = cv2.warpAffine(np.ascontiguousarray(part), matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
    for axis in (0, 1):
        center = corner[axis] + (np.arange(size[axis]) + 0.5) * scale[axis]
        outside = (center < 0) | (center >= limits[axis])
        out[(slice(None), outside) if axis == 0 else outside] = 0
    return np.asarray(out)


def pixels_per_meter(pixels: np.ndarray, layout: str) -> float:
    """Return the image scale (px/m) at the distance of a body [V, 2], for any orientation; 0 if unknown.

    Uses the second largest ratio over `LENGTHS`, robust to one misplaced joint.
    """
    index = layouts.get(layout).index
    ends = np.array([(index[a], index[b]) for a, b in LENGTHS])
    ratios = np.hypot(*(pixels[ends[:, 0]] - pixels[ends[:, 1]]).T) / np.array(list(LENGTHS.values()))
    known = np.sort(ratios[np.isfinite(ratios)])
    return float(known[-2:][0]) if len(known) else 0.0


def body_box(pixels: np.ndarray, margin: float) -> Box | None:
    """Return the square around the visible joints of [V, 2]; None for fewer than two."""
    visible = pixels[np.isfinite(pixels).all(axis=-1)]
    if len(visible) < 2:
        return None
    low, high = visible.min(axis=0), visible.max(axis=0)
    center = (low + high) / 2
    return float(center[0]), float(center[1]), float((high - low).max()) * margin


def hand_box(
    pixels: np.ndarray, hand: np.ndarray | None, side: str, side_m: float, layout: str = "kinect_v2_25"
) -> Box | None:
    """Return the square of `side_m` around the "left" or "right" hand of a body [V, 2]; it includes a held object.

    It is centered on the 21 hand points if detected, else on the wrist, hand and tip joints; None if neither is visible
    or the body's size is unknown.
    """
    index = layouts.get(layout).index
    joints = pixels[[index[f"{joint}_{side}"] for joint in ("wrist", "hand", "hand_tip")]]
    for points in (hand, joints):
        if points is None:
            continue
        visible = points[np.isfinite(points).all(axis=-1)]
        length = side_m * pixels_per_meter(pixels, layout)
        if len(visible) and length > 0:
            center = (visible.min(axis=0) + visible.max(axis=0)) / 2
            return float(center[0]), float(center[1]), length
    return None


class Square(FrameFeature):
    """Stack of square images, (3, T, S, S) in [−1, 1] as for I3D; black (−1) outside the image."""

    config_class: ClassVar[type] = SquarePreprocessing
    streams: ClassVar = {"bodies": True, "color": True}

    @abstractmethod
    def box(self, view: BodyView, spec: InputSpec) -> Box | None:
        """Return the square; None if it is unknown."""

    def observe(self, view: BodyView, spec: InputSpec) -> np.ndarray:
        """Return the square [S, S, 3] uint8 of one frame; raise `InputError` without a color image [H, W, 3] uint8."""
        if len(spec.shape) != 4 or spec.shape[0] != 3 or spec.shape[2] != spec.shape[3]:
            raise InputError(f"input '{spec.name}' has shape {list(spec.shape)}, but an image input is [3, T, S, S]")
        size = spec.shape[2]
        if view.color is None:
            raise missing_key_error(spec, "color", {})
        if view.color.ndim != 3 or view.color.shape[2] != 3 or view.color.dtype != np.uint8:
            raise InputError(
                f"color is {list(view.color.shape)} {view.color.dtype}, but input '{spec.name}' needs [H, W, 3] uint8"
            )
        box = self.box(view, spec)
        if box is None:
            return np.zeros((size, size, 3), dtype=np.uint8)
        options = self.options(spec)
        moved = (box[0] + options.shift_x * box[2], box[1] + options.shift_y * box[2], box[2])
        out = cut(view.color, moved, size)
        return np.ascontiguousarray(out[:, ::-1]) if options.mirror else out

    def finish(self, frames: np.ndarray, spec: InputSpec) -> np.ndarray:
        """Scale and transpose frames [T, S, S, 3] uint8."""
        channels, count, size, _ = spec.shape
        if frames.shape != (count, size, size, channels):
            raise InputError(
                f"input '{spec.name}' needs {count} images of {size}×{size}×{channels}, got {list(frames.shape)}"
            )
        planes = np.ascontiguousarray(frames.transpose(3, 0, 1, 2))  # (3, T, S, S), transposed as uint8
        scaled = np.multiply(planes, np.float32(1 / 127.5), dtype=np.float32)
        scaled -= 1
        return scaled


class WholeImage(Square):
    """The whole image ("Full image" in P-I3D's tables), padded with black to a square."""

    def box(self, view: BodyView, spec: InputSpec) -> Box | None:
        """Return the square around the image."""
        assert view.color is not None
        height, width = view.color.shape[:2]
        return (width - 1) / 2, (height - 1) / 2, float(max(height, width))


class BodyCrop(Square):
    """Crop of the whole body around its 2D joints."""

    config_class = BodyCropPreprocessing

    def box(self, view: BodyView, spec: InputSpec) -> Box | None:
        """Return the square around the joints, with a margin."""
        return body_box(_pixels(view, spec), self.options(spec).margin)


class HandCrop(Square):
    """Crop of the left or right hand, by modality, around its points, or else around wrist, hand and tip joints."""

    config_class = HandCropPreprocessing
    streams: ClassVar = {"bodies": True, "color": True, "hands": False}

    def box(self, view: BodyView, spec: InputSpec) -> Box | None:
        """Return the square around the hand."""
        side = spec.modality.removesuffix("_hand_crop")
        hand = None if view.hand_pixels is None else view.hand_pixels[("left", "right").index(side)]
        return hand_box(_pixels(view, spec), hand, side, self.options(spec).side, spec.layout)


def _pixels(view: BodyView, spec: InputSpec) -> np.ndarray:
    if view.pixels is None:
        raise missing_key_error(spec, "pixels", {})
    joints = len(layouts.get(spec.layout))
    if view.pixels.shape != (joints, 2):
        raise InputError(
            f"pixels are {list(view.pixels.shape)} [V, 2] but input '{spec.name}' needs {joints} joints ({spec.layout})"
        )
    return view.pixels
