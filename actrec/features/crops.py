"""P-I3D's glimpse sensor: body, left hand and right hand cut from the color picture where the 2D joints are (Eq. 1).

Das et al., "Where to Focus on for Human Action Recognition?", WACV 2019. VPN takes the body crop from here as well.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from actrec.features.base import FrameFeature, View, absent
from actrec.features.specs import InputSpec
from actrec.skeleton import layouts
from actrec.utils.config import setting
from actrec.utils.errors import InputError

LENGTHS = {
    ("spine_base", "spine_shoulder"): 0.52,
    ("shoulder_left", "shoulder_right"): 0.36,
    ("shoulder_left", "elbow_left"): 0.29,
    ("shoulder_right", "elbow_right"): 0.29,
    ("elbow_left", "wrist_left"): 0.25,
    ("elbow_right", "wrist_right"): 0.25,
    ("hip_left", "knee_left"): 0.42,
    ("hip_right", "knee_right"): 0.42,
    ("knee_left", "ankle_left"): 0.40,
    ("knee_right", "ankle_right"): 0.40,
}
"""Metres between joints of an adult. A segment seen at a slant is shorter in the picture, never longer."""

Box = tuple[float, float, float]
"""Center (u, v) and side of a square in the color image, px."""

JITTER = (256 - 224) / 2 / 224
"""I3D is trained on 224×224 px of 256×256 at random places: the square moves by so much of its side, either way."""


@dataclass(frozen=True)
class PicturePreprocessing:
    """Where a square lies; off its place or mirrored only in training, see `jittered`."""

    shift_x: float = setting(0.0, "how far the square is moved to the right, by its side", range=(-0.5, 0.5))
    shift_y: float = setting(0.0, "how far the square is moved down, by its side", range=(-0.5, 0.5))
    mirror: bool = setting(False, "exchange left and right in the square")


@dataclass(frozen=True)
class BodyCropPreprocessing(PicturePreprocessing):
    """The square about a body."""

    margin: float = setting(1.2, "side of the square by the larger side of the box about the joints", range=(1.0, 3.0))


@dataclass(frozen=True)
class HandCropPreprocessing(PicturePreprocessing):
    """The square about a hand."""

    side: float = setting(0.45, "side of the square at the body's distance", unit="m", range=(0.1, 2.0))


OTHER_SIDE = {"left_hand_crop": "right_hand_crop", "right_hand_crop": "left_hand_crop"}
"""Modality to the one that shows the same hand when the whole picture is mirrored."""


def jittered(specs: Iterable[InputSpec], rng: np.random.Generator, mirror: bool = True) -> list[InputSpec]:
    """The specs with every square moved to one random place, and mirrored or not: a clip as I3D is trained on it.

    Pictures that go with poses are not mirrored, or the two would show different sides. Where both hands are looked at,
    a mirrored right one is the left one's input, as it would be in a mirrored video.

    Args:
        specs: The network's inputs.
        rng: Draws place and mirror.
        mirror: Whether half of the clips are mirrored.
    """
    specs = list(specs)
    shift_x, shift_y = rng.uniform(-JITTER, JITTER, 2)
    mirrored = bool(rng.random() < 0.5) and mirror and may_mirror(specs)
    varied = {"shift_x": float(shift_x), "shift_y": float(shift_y), "mirror": mirrored}
    exchanged = OTHER_SIDE if mirrored and OTHER_SIDE.keys() <= {spec.modality for spec in specs} else {}
    return [
        dataclasses.replace(
            spec,
            modality=exchanged.get(spec.modality, spec.modality),
            preprocessing={**spec.preprocessing, **varied},
        )
        if _is_square(spec)
        else spec
        for spec in specs
    ]


def may_mirror(specs: Iterable[InputSpec]) -> bool:
    """Whether `jittered` may mirror these inputs: squares of pictures, and nothing that goes with them."""
    return all(map(_is_square, specs))


def _is_square(spec: InputSpec) -> bool:
    return {field.name for field in dataclasses.fields(PicturePreprocessing)} <= spec.preprocessing.keys()


def cut(picture: np.ndarray, box: Box, size: int) -> np.ndarray:
    """A square of a picture, scaled.

    Args:
        picture: [H, W, 3] uint8.
        box: The square; what lies outside the picture is black.
        size: S, px.

    Returns:
        [S, S, 3] uint8.
    """
    height, width = picture.shape[:2]
    side = max(round(box[2]), 1)
    left, top = round(box[0] - side / 2), round(box[1] - side / 2)
    x0, x1 = max(left, 0), min(left + side, width)
    y0, y1 = max(top, 0), min(top + side, height)
    out = np.zeros((size, size, 3), dtype=np.uint8)
    if x0 >= x1 or y0 >= y1:
        return out
    # Where the visible part comes to lie in the scaled square; at least a pixel of it.
    u0, v0 = min((x0 - left) * size // side, size - 1), min((y0 - top) * size // side, size - 1)
    u1, v1 = max(-(-(x1 - left) * size // side), u0 + 1), max(-(-(y1 - top) * size // side), v0 + 1)
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    out[v0:v1, u0:u1] = cv2.resize(picture[y0:y1, x0:x1], (u1 - u0, v1 - v0), interpolation=how)
    return out


def pixels_per_metre(pixels: np.ndarray, layout: str) -> float:
    """How large a metre at the body's distance is in the picture, however the body is turned; 0 where it is not seen.

    The second largest ratio over `LENGTHS`: one misplaced joint shall not decide.

    Args:
        pixels: [V, 2] px, NaN for missing.
        layout: Of V, with the Kinect's joint names.
    """
    index = layouts.get(layout).index
    ends = np.array([(index[a], index[b]) for a, b in LENGTHS])
    ratios = np.hypot(*(pixels[ends[:, 0]] - pixels[ends[:, 1]]).T) / np.array(list(LENGTHS.values()))
    known = np.sort(ratios[np.isfinite(ratios)])
    return float(known[-2:][0]) if len(known) else 0.0


def body_box(pixels: np.ndarray, margin: float) -> Box | None:
    """The square about the joints [V, 2] that are seen; None for fewer than two."""
    seen = pixels[np.isfinite(pixels).all(axis=-1)]
    if len(seen) < 2:
        return None
    low, high = seen.min(axis=0), seen.max(axis=0)
    center = (low + high) / 2
    return float(center[0]), float(center[1]), float((high - low).max()) * margin


def hand_box(
    pixels: np.ndarray, hand: np.ndarray | None, side: str, metres: float, layout: str = "kinect_v2_25"
) -> Box | None:
    """The square about a hand: about its 21 points where the hand was found, else about the wrist, hand and tip joints.

    Args:
        pixels: [V, 2] px of the body.
        hand: [21, 2] px, or None.
        side: "left" or "right".
        metres: Side of the square at the body's distance, so that what the hand holds is on it.
        layout: Of V.

    Returns:
        None where neither is seen, or the body's size cannot be told.
    """
    index = layouts.get(layout).index
    joints = pixels[[index[f"{joint}_{side}"] for joint in ("wrist", "hand", "hand_tip")]]
    for points in (hand, joints):
        if points is None:
            continue
        seen = points[np.isfinite(points).all(axis=-1)]
        length = metres * pixels_per_metre(pixels, layout)
        if len(seen) and length > 0:
            center = (seen.min(axis=0) + seen.max(axis=0)) / 2
            return float(center[0]), float(center[1]), length
    return None


class Picture(FrameFeature):
    """A stack of square pictures, (3, T, S, S) in [−1, 1] as I3D has them; black (−1) where there is nothing to see."""

    config_class: ClassVar[type] = PicturePreprocessing
    streams: ClassVar = {"bodies": True, "color": True}

    @abstractmethod
    def box(self, view: View, spec: InputSpec) -> Box | None:
        """What to cut out; None where it is not seen."""

    def observe(self, view: View, spec: InputSpec) -> np.ndarray:
        """[S, S, 3] uint8 of one frame.

        Raises:
            InputError: The frame has no picture, or it is no [H, W, 3] uint8.
        """
        size = _size(spec)
        if view.color is None:
            raise absent(spec, "color", {})
        if view.color.ndim != 3 or view.color.shape[2] != 3 or view.color.dtype != np.uint8:
            raise InputError(
                f"the color picture is {list(view.color.shape)} {view.color.dtype}, but input '{spec.name}' is cut "
                "from [H, W, 3] uint8"
            )
        box = self.box(view, spec)
        if box is None:
            return np.zeros((size, size, 3), dtype=np.uint8)
        options = self.options(spec)
        moved = (box[0] + options.shift_x * box[2], box[1] + options.shift_y * box[2], box[2])
        out = cut(view.color, moved, size)
        return np.ascontiguousarray(out[:, ::-1]) if options.mirror else out

    def finish(self, frames: np.ndarray, spec: InputSpec) -> np.ndarray:
        """From [T, S, S, 3] uint8."""
        channels, count, size, _ = spec.shape
        if frames.shape != (count, size, size, channels):
            raise InputError(
                f"input '{spec.name}' takes {count} pictures of {size}×{size}×{channels}, but they are "
                f"{list(frames.shape)}"
            )
        planes = np.ascontiguousarray(frames.transpose(3, 0, 1, 2))  # (3, T, S, S), moved while it is small
        scaled = np.multiply(planes, np.float32(1 / 127.5), dtype=np.float32)
        scaled -= 1
        return scaled


class Image(Picture):
    """The whole picture (the row "Full image" of P-I3D's tables), black above and below where it is wider than high."""

    def box(self, view: View, spec: InputSpec) -> Box | None:
        """The square about the picture."""
        assert view.color is not None
        height, width = view.color.shape[:2]
        return width / 2, height / 2, float(max(height, width))


class BodyCrop(Picture):
    """The whole body, from its 2D joints."""

    config_class = BodyCropPreprocessing

    def box(self, view: View, spec: InputSpec) -> Box | None:
        """The square about the joints, with a margin."""
        return body_box(_pixels(view, spec), self.options(spec).margin)


class LeftHandCrop(Picture):
    """The left hand, where the hand's points are or else the wrist's, hand's and tip's joints."""

    config_class = HandCropPreprocessing
    streams: ClassVar = {"bodies": True, "color": True, "hands": False}
    side = "left"

    def box(self, view: View, spec: InputSpec) -> Box | None:
        """The square about the hand."""
        hand = None if view.hand_pixels is None else view.hand_pixels[("left", "right").index(self.side)]
        return hand_box(_pixels(view, spec), hand, self.side, self.options(spec).side, spec.layout)


class RightHandCrop(LeftHandCrop):
    """The right hand, alike."""

    side = "right"


def _size(spec: InputSpec) -> int:
    if len(spec.shape) != 4 or spec.shape[0] != 3 or spec.shape[2] != spec.shape[3]:
        raise InputError(f"input '{spec.name}' has shape {list(spec.shape)}, but a picture input is [3, T, S, S]")
    return spec.shape[2]


def _pixels(view: View, spec: InputSpec) -> np.ndarray:
    if view.pixels is None:
        raise absent(spec, "pixels", {})
    joints = len(layouts.get(spec.layout))
    if view.pixels.shape != (joints, 2):
        raise InputError(
            f"pixels are {list(view.pixels.shape)} [V, 2] but input '{spec.name}' takes {joints} joints ({spec.layout})"
        )
    return view.pixels
