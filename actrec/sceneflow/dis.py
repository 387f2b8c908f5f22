"""Scene flow from dense optical flow, lifted to space by the depth at both ends of each pixel's path.

The optical flow is OpenCV's DIS: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numba
import numpy as np

from actrec import config
from actrec.config import setting
from actrec.frames import Intrinsics
from actrec.sceneflow.base import SceneFlow

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@dataclass(frozen=True)
class DisConfig:
    """Settings of `DisFlow`."""

    preset: str = setting("fast", "Speed against accuracy of the optical flow.", choices=tuple(PRESETS))
    smoothing_px: int = setting(
        2, "Radius over which depth is averaged on one surface; 0 for none.", unit="px", range=(0, 8)
    )
    surface_step: float = setting(
        0.03, "Depths that differ by more than this share of themselves are different surfaces.", range=(0.001, 0.5)
    )
    max_speed_m_s: float = setting(
        8.0, "Motion faster than this is another surface coming into view.", unit="m/s", range=(0.1, 100.0)
    )


class DisFlow(SceneFlow):
    """DIS optical flow lifted by depth.

    A pixel (u, v) that moves by (du, dv) gives X1(u + du, v + dv) − X0(u, v) over dt. Where the depth at the far end
    would need a speed beyond `max_speed_m_s`, the surface has been hidden by another and the result is NaN.

    Args:
        **options: Fields of `DisConfig`.
    """

    config_class = DisConfig

    def __init__(self, **options: Any):
        self.config = config.build(DisConfig, options)
        self._flow = cv2.DISOpticalFlow.create(PRESETS[self.config.preset])

    def _estimate(
        self,
        colour0: np.ndarray,
        depth0: np.ndarray,
        colour1: np.ndarray,
        depth1: np.ndarray,
        intrinsics: Intrinsics,
        dt: float,
    ) -> np.ndarray:
        grey0, grey1 = (cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY) for colour in (colour0, colour1))
        pixels = self._flow.calc(grey0, grey1, None)
        smooth0, smooth1 = (self._smooth(np.ascontiguousarray(depth)) for depth in (depth0, depth1))
        c = intrinsics
        out = np.empty((*depth0.shape, 3), np.float32)
        _lift(
            pixels,
            smooth0,
            smooth1,
            c.fx,
            c.fy,
            c.cx,
            c.cy,
            dt,
            self.config.surface_step,
            self.config.max_speed_m_s,
            out,
        )
        return out

    def _smooth(self, depth: np.ndarray) -> np.ndarray:
        """Averages depth over one surface: a sensor's noise over a frame's 33 ms is a speed of decimetres a second."""
        if self.config.smoothing_px == 0:
            return depth
        out = np.empty_like(depth)
        _smooth_surface(depth, self.config.smoothing_px, self.config.surface_step, out)
        return out


@numba.njit(nogil=True, cache=True)
def _smooth_surface(depth: np.ndarray, radius: int, step: float, out: np.ndarray) -> None:
    """Writes to out [H, W] the mean of the valid depths around each pixel that are on its own surface."""
    height, width = depth.shape
    for v in range(height):
        for u in range(width):
            z = depth[v, u]
            # A missing depth stays missing: its neighbours may be another surface's.
            if not z > 0:
                out[v, u] = np.nan
                continue
            limit = step * z
            total, count = 0.0, 0
            for j in range(max(v - radius, 0), min(v + radius + 1, height)):
                for i in range(max(u - radius, 0), min(u + radius + 1, width)):
                    if abs(depth[j, i] - z) <= limit:
                        total += depth[j, i]
                        count += 1
            out[v, u] = total / count


@numba.njit(nogil=True, cache=True)
def _sample(depth: np.ndarray, u: float, v: float, step: float) -> float:
    """Depth at a point between pixels: bilinear over the neighbours on the surface of the nearest one; NaN outside."""
    height, width = depth.shape
    # Not "u < 0 or …": a NaN must end here too.
    if not (u > -0.5 and v > -0.5 and u < width - 0.5 and v < height - 0.5):
        return np.nan
    nearest = depth[int(v + 0.5), int(u + 0.5)]
    if not nearest > 0:
        return np.nan
    i0, j0 = int(np.floor(u)), int(np.floor(v))
    total, weights = 0.0, 0.0
    for j in range(max(j0, 0), min(j0 + 2, height)):
        for i in range(max(i0, 0), min(i0 + 2, width)):
            if abs(depth[j, i] - nearest) <= step * nearest:
                weight = (1.0 - abs(u - i)) * (1.0 - abs(v - j))
                total += weight * depth[j, i]
                weights += weight
    return total / weights if weights > 0 else nearest


@numba.njit(nogil=True, cache=True)
def _lift(
    pixels: np.ndarray,
    depth0: np.ndarray,
    depth1: np.ndarray,
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    dt: float,
    step: float,
    max_speed: float,
    out: np.ndarray,
) -> None:
    """Writes to out [H, W, 3] the velocity that optical flow pixels [H, W, 2] and two depth images make."""
    height, width = depth0.shape
    for v in range(height):
        for u in range(width):
            u1, v1 = u + pixels[v, u, 0], v + pixels[v, u, 1]
            z0 = depth0[v, u]
            z1 = _sample(depth1, u1, v1, step)
            x = ((u1 - cx) * z1 - (u - cx) * z0) / fx / dt
            y = ((v1 - cy) * z1 - (v - cy) * z0) / fy / dt
            z = (z1 - z0) / dt
            if not x * x + y * y + z * z <= max_speed * max_speed:
                x = y = z = np.nan
            out[v, u, 0], out[v, u, 1], out[v, u, 2] = x, y, z
