"""What every scene flow method offers, and what all of them check and resize alike."""

from abc import ABC, abstractmethod
from typing import ClassVar

import cv2
import numpy as np

from actrec.errors import InputError
from actrec.frames import MAX_DEPTH_M, Intrinsics


class SceneFlow(ABC):
    """Estimates scene flow between two registered RGB-D images.

    Attributes:
        config_class: The settings dataclass that the constructor builds from its options.
    """

    config_class: ClassVar[type]

    def estimate(
        self,
        colour0: np.ndarray,
        depth0: np.ndarray,
        colour1: np.ndarray,
        depth1: np.ndarray,
        intrinsics: Intrinsics,
        dt: float,
    ) -> np.ndarray:
        """The velocity of the surface that each pixel of the first image shows.

        Args:
            colour0: [H, W, 3] uint8 RGB.
            depth0: [H, W] float32 metres, NaN where missing.
            colour1: The second image.
            depth1: Its depth.
            intrinsics: Of all four images.
            dt: Seconds from the first to the second.

        Returns:
            [H, W, 3] float32 m/s in the optical frame; NaN where either depth is missing or the surface is hidden
            in the second image.

        Raises:
            InputError: Sizes or types differ, depth is not in metres, or dt is not positive.
        """
        _check(colour0, depth0, colour1, depth1, intrinsics, dt)
        return self._estimate(colour0, _sound(depth0), colour1, _sound(depth1), intrinsics, dt)

    @abstractmethod
    def _estimate(
        self,
        colour0: np.ndarray,
        depth0: np.ndarray,
        colour1: np.ndarray,
        depth1: np.ndarray,
        intrinsics: Intrinsics,
        dt: float,
    ) -> np.ndarray:
        """As `estimate`, with inputs that are sound: depth is positive or NaN."""


def resize(
    colour: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, Intrinsics]:
    """A smaller RGB-D image: colour averaged over areas, depth sampled (an average would invent surfaces).

    Depth is that of the pixel nearest to the area's middle; of 640 columns made 160, of pixels 2, 6, 10, …
    """
    if (width, height) == (intrinsics.width, intrinsics.height):
        return colour, depth, intrinsics
    small = cv2.resize(colour, (width, height), interpolation=cv2.INTER_AREA)
    return (
        small,
        cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT),
        intrinsics.resized(width, height),
    )


def _sound(depth: np.ndarray) -> np.ndarray:
    """Depth with NaN for whatever else cameras write where they see none."""
    missing = ~((depth > 0) & (depth < np.inf))
    return np.where(missing, np.float32(np.nan), depth) if missing.any() else depth


def _median(depth: np.ndarray) -> float:
    """The median of what is known, of a sixteenth of the pixels; 0 where nothing is."""
    few = depth[::4, ::4]
    known = few[np.isfinite(few) & (few > 0)]
    return float(np.median(known)) if known.size else 0.0


def _check(
    colour0: np.ndarray, depth0: np.ndarray, colour1: np.ndarray, depth1: np.ndarray, intrinsics: Intrinsics, dt: float
) -> None:
    size = (intrinsics.height, intrinsics.width)
    for name, image in (("first", colour0), ("second", colour1)):
        if image.shape != (*size, 3) or image.dtype != np.uint8:
            raise InputError(f"{name} colour is {image.dtype}{list(image.shape)}, expected uint8{[*size, 3]}")
    for name, image in (("first", depth0), ("second", depth1)):
        if image.shape != size or image.dtype != np.float32:
            raise InputError(
                f"{name} depth is {image.dtype}{list(image.shape)}, expected float32{list(size)} in metres"
            )
        if (away := _median(image)) > MAX_DEPTH_M:
            raise InputError(f"{name} depth is {away:.0f} m in the middle, expected metres: is it in millimetres?")
    if not (np.isfinite(dt) and dt > 0):
        raise InputError(f"the second image is {dt} s after the first, expected more than 0")
