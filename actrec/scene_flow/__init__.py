"""Scene flow: the 3D velocity of the surface at each pixel, by methods registered by name."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from actrec.types import MAX_DEPTH_M, Intrinsics
from actrec.utils.errors import InputError
from actrec.utils.registry import INSTALL_OPENCV, Registry

__all__ = ["METHODS", "SceneFlow", "create", "device_line"]

METHODS = Registry(
    "scene flow method",
    {"dis": "actrec.scene_flow.dis:DisFlow", "pd_flow": "actrec.scene_flow.primal_dual:PdFlow"},
    install={"numba": "pip install numba", "cv2": INSTALL_OPENCV},
)

SMALL = (48, 64)
"""Size of the images that prepare a method."""

ColorDepth = tuple[np.ndarray, np.ndarray]
"""Color [H, W, 3] uint8 RGB and depth [H, W] float32 m, NaN, infinite, zero or negative for missing."""


class SceneFlow(ABC):
    """Estimator of scene flow between two registered RGB-D images."""

    config_class: ClassVar[type]  # the settings dataclass that the constructor builds from its options
    device: str = "CPU"  # or CUDA
    unused_gpu: str = ""  # why an NVIDIA GPU is not used although `device` is auto, with the remedy

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
            color0: First image, [H, W, 3] uint8 RGB.
            depth0: Its depth, [H, W] float32 m, NaN for missing.
            color1: Second image.
            depth1: Its depth.
            intrinsics: Of all four images.
            dt: Seconds from the first to the second.

        Returns:
            [H, W, 3] float32 m/s in the optical frame; NaN if either depth is missing or the surface is occluded in
            the second image.

        Raises:
            InputError: Sizes or types differ, depth is not in meters, or dt is not positive.
        """
        size = (intrinsics.height, intrinsics.width)
        for name, color, depth in (("first", color0, depth0), ("second", color1, depth1)):
            if color.shape != (*size, 3) or color.dtype != np.uint8:
                raise InputError(f"{name} color is {color.dtype}{list(color.shape)}, expected uint8{[*size, 3]}")
            if depth.shape != size or depth.dtype != np.float32:
                found = f"{depth.dtype}{list(depth.shape)}"
                raise InputError(f"{name} depth is {found}, expected float32{list(size)} in meters")
            sample = depth[::4, ::4]
            valid = sample[(sample > 0) & (sample < np.inf)]
            far = 2 * np.count_nonzero(valid > MAX_DEPTH_M) >= valid.size > 0  # found faster than the median
            if far and (median := float(np.median(valid))) > MAX_DEPTH_M:
                raise InputError(f"{name} depth has a median of {median:.0f} m: convert millimeters to meters")
        if not (np.isfinite(dt) and dt > 0):
            raise InputError(f"the second image is {dt} s after the first, expected more than 0")
        return self._estimate((color0, depth0), (color1, depth1), intrinsics, dt)

    def prepare(self) -> None:
        """Compile what `estimate` needs, or load it from the cache, by a small pair of images."""
        color, depth = np.zeros((*SMALL, 3), np.uint8), np.ones(SMALL, np.float32)
        self.estimate(color, depth, color, depth, Intrinsics(SMALL[1], SMALL[0], 60.0, 60.0, 31.5, 23.5), 1.0)

    @abstractmethod
    def _estimate(self, first: ColorDepth, second: ColorDepth, intrinsics: Intrinsics, dt: float) -> np.ndarray:
        """Estimate from validated inputs."""


def create(name: str, **options: Any) -> SceneFlow:
    """Create the method `name`; `options` are the fields of its settings dataclass.

    Raises:
        ConfigError: Unknown method or option.
        MissingLibraryError: A required library is not installed.
    """
    return METHODS.create(name, **options)


def device_line(name: str, method: SceneFlow) -> str:
    """Return the device that computes the method `name`, in one line; empty for a method of the CPU alone."""
    if not hasattr(method.config_class, "device"):
        return ""
    return f"scene flow by {name} on {method.device}" + (f": {method.unused_gpu}" if method.unused_gpu else "")
