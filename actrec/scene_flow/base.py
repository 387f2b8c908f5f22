"""Base class of scene flow methods, with the checks and the resizing that they share."""

from abc import ABC, abstractmethod
from typing import ClassVar

import cv2
import numpy as np

from actrec.types import MAX_DEPTH_M, Intrinsics
from actrec.utils.errors import InputError


class SceneFlow(ABC):
    """Estimator of scene flow between two registered RGB-D images.

    Attributes:
        config_class: The settings dataclass that the constructor builds from its options.
    """

    config_class: ClassVar[type]

    def estimate(
        self,
        color0: np.ndarray,
        depth0: np.ndarray,
        color1: np.ndarray,
        depth1: np.ndarray,
        intrinsics: Intrinsics,
        dt: float,
    ) -> np.ndarray:
        """Estimate the velocity of the surface at each pixel of the first image.

        Args:
            color0: [H, W, 3] uint8 RGB.
            depth0: [H, W] float32 m, NaN for missing.
            color1: The second image.
            depth1: Its depth.
            intrinsics: Of all four images.
            dt: Seconds from the first to the second.

        Returns:
            [H, W, 3] float32 m/s in the optical frame; NaN if either depth is missing or the surface is occluded in
            the second image.

        Raises:
            InputError: Sizes or types differ, depth is not in meters, or dt is not positive.
        """
        _check(color0, depth0, color1, depth1, intrinsics, dt)
        return self._estimate(color0, _with_nan(depth0), color1, _with_nan(depth1), intrinsics, dt)

    @abstractmethod
    def _estimate(
        self,
        color0: np.ndarray,
        depth0: np.ndarray,
        color1: np.ndarray,
        depth1: np.ndarray,
        intrinsics: Intrinsics,
        dt: float,
    ) -> np.ndarray:
        """Estimate as `estimate`, from validated inputs: depth is positive or NaN."""


def resize(
    color: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, Intrinsics]:
    """Downscale an RGB-D image: average color over areas, sample depth (an average would invent surfaces).

    Depth is taken from the pixel nearest to the area's center: from columns 2, 6, 10, … if 640 are reduced to 160.
    """
    if (width, height) == (intrinsics.width, intrinsics.height):
        return color, depth, intrinsics
    return (
        cv2.resize(color, (width, height), interpolation=cv2.INTER_AREA),
        cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT),
        intrinsics.resized(width, height),
    )


def _with_nan(depth: np.ndarray) -> np.ndarray:
    """Replace zero, negative and infinite depth with NaN."""
    missing = ~((depth > 0) & (depth < np.inf))
    return np.where(missing, np.float32(np.nan), depth) if missing.any() else depth


def _median(depth: np.ndarray) -> float:
    """Return the median valid depth of a sixteenth of the pixels; 0 if there is none."""
    sample = depth[::4, ::4]
    valid = sample[np.isfinite(sample) & (sample > 0)]
    return float(np.median(valid)) if valid.size else 0.0


def _check(
    color0: np.ndarray, depth0: np.ndarray, color1: np.ndarray, depth1: np.ndarray, intrinsics: Intrinsics, dt: float
) -> None:
    size = (intrinsics.height, intrinsics.width)
    for name, image in (("first", color0), ("second", color1)):
        if image.shape != (*size, 3) or image.dtype != np.uint8:
            raise InputError(f"{name} color is {image.dtype}{list(image.shape)}, expected uint8{[*size, 3]}")
    for name, image in (("first", depth0), ("second", depth1)):
        if image.shape != size or image.dtype != np.float32:
            raise InputError(
                f"{name} depth is {image.dtype}{list(image.shape)}, expected float32{list(size)} in meters"
            )
        if (median := _median(image)) > MAX_DEPTH_M:
            raise InputError(f"{name} depth has a median of {median:.0f} m: convert millimeters to meters")
    if not (np.isfinite(dt) and dt > 0):
        raise InputError(f"the second image is {dt} s after the first, expected more than 0")
