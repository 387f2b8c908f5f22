"""Joints in the flow picture, around which C3D-F's attention lies (Magoulianitis & Psaltis, Eqs. 3 and 5)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.config import setting
from actrec.errors import InputError
from actrec.features.base import Clip, Feature, absent
from actrec.features.flow_rgb import SIZE, PictureCrop, reduced
from actrec.package import InputSpec
from actrec.skeleton import layouts

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
    # A pixel's centre is at its integer, half a pixel from the corner that the crop is measured from.
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
        raise InputError(f"size is {size.tolist()}, expected the width and height of the colour image in px")
    return pixels, (float(size[0]), float(size[1]))
