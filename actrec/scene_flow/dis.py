"""Scene flow from dense optical flow, lifted to 3D by the depth at both ends of each flow vector.

The optical flow is OpenCV's DIS: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from actrec.scene_flow import ColorDepth, SceneFlow
from actrec.types import Intrinsics
from actrec.utils import config, jit
from actrec.utils.config import setting
from actrec.utils.errors import InputError

MIN_SIDE_PX = 12
"""Shortest image side that OpenCV's DIS accepts."""

# Without "nnan": NaN marks missing depth.
_FASTMATH = {"contract", "reassoc", "nsz"}


@dataclass(frozen=True)
class DisConfig:
    """Settings of `DisFlow`."""

    finest_scale: int = setting(1, "Finest level of the image pyramid: 0 full size, 1 half.", range=(0, 5))
    patch_stride: int = setting(4, "Distance between patches.", unit="px", range=(1, 8))
    iterations: int = setting(16, "Gradient descent steps per patch.", range=(1, 256))
    refinement: int = setting(
        0, "Variational refinement steps; on people they cost time and blur the edges.", range=(0, 50)
    )
    smoothing_px: int = setting(
        2, "Radius of the average of depth within one surface; 0 for none.", unit="px", range=(0, 8)
    )
    surface_step: float = setting(
        0.03, "Depths that differ by more than this share are different surfaces.", range=(0.001, 0.5)
    )
    max_speed_m_s: float = setting(
        8.0, "Discard faster motion: a surface that was occluded before.", unit="m/s", range=(0.1, 100.0)
    )


class DisFlow(SceneFlow):
    """DIS optical flow lifted by depth; `options` are fields of `DisConfig`.

    A pixel (u, v) that moves by (du, dv) gives X1(u + du, v + dv) − X0(u, v) over dt. A speed above `max_speed_m_s`
    means that the surface is occluded in the second image; the result is NaN.
    """

    config_class = DisConfig

    def __init__(self, **options: Any):
        self.config = config.build(DisConfig, options)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._flow.setPatchStride(self.config.patch_stride)
        self._flow.setGradientDescentIterations(self.config.iterations)
        self._flow.setVariationalRefinementIterations(self.config.refinement)

    def _estimate(self, first: ColorDepth, second: ColorDepth, intrinsics: Intrinsics, dt: float) -> np.ndarray:
        (color0, depth0), (color1, depth1) = first, second
        height, width = depth0.shape
        if min(height, width) < MIN_SIDE_PX:
            raise InputError(
                f"image is {width}×{height} px, dis needs at least {MIN_SIDE_PX} px a side: use larger ones or pd_flow"
            )
        # OpenCV limits the level by the width only, and crashes if the height is too small for it.
        patch, long, short = self._flow.getPatchSize(), max(height, width), min(height, width)
        coarsest = min(int(math.log2(long / (4 * patch)) + 0.5), int(math.log2(short // patch)))
        self._flow.setFinestScale(min(self.config.finest_scale, coarsest))
        gray0, gray1 = (cv2.cvtColor(color, cv2.COLOR_RGB2GRAY) for color in (color0, color1))
        pixels = self._flow.calc(gray0, gray1, None)
        depths = (self._smooth(np.ascontiguousarray(depth)) for depth in (depth0, depth1))
        c, out = intrinsics, np.empty((height, width, 3), np.float32)
        limits = self.config.surface_step, self.config.max_speed_m_s
        _lift(pixels, *depths, c.fx, c.fy, c.cx, c.cy, dt, *limits, out)
        return out

    def _smooth(self, depth: np.ndarray) -> np.ndarray:
        """Average depth within one surface: over 33 ms, depth noise becomes a speed of some 0.1 m/s."""
        if self.config.smoothing_px == 0:
            return depth
        out = np.empty_like(depth)
        _smooth_surface(depth, self.config.smoothing_px, np.float32(self.config.surface_step), out)
        return out


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _accumulate(center: np.ndarray, other: np.ndarray, step: np.float32, total: np.ndarray, count: np.ndarray) -> None:
    """Add the values of a shifted row on the centers' surfaces to total and count; simple enough for SIMD."""
    for k in range(center.size):
        near = abs(other[k] - center[k]) <= step * center[k]
        total[k] += other[k] if near else np.float32(0)
        count[k] += np.float32(1) if near else np.float32(0)


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _smooth_surface(depth: np.ndarray, radius: int, step: np.float32, out: np.ndarray) -> None:
    """Write to out [H, W] the mean of the valid depths around each pixel on its own surface; NaN for missing."""
    height, width = depth.shape
    total, count = np.empty(width, np.float32), np.empty(width, np.float32)
    for v in range(height):
        total[:] = 0
        count[:] = 0
        for j in range(max(v - radius, 0), min(v + radius + 1, height)):
            for i in range(-radius, radius + 1):
                low, high = max(0, -i), min(width, width - i)
                row, shifted = depth[v, low:high], depth[j, low + i : high + i]
                _accumulate(row, shifted, step, total[low:high], count[low:high])
        for u in range(width):
            # A missing depth stays missing: its neighbors may be on another surface.
            out[v, u] = total[u] / count[u] if 0 < depth[v, u] < np.inf else np.nan


@jit.njit(nogil=True)
def _sample(depth: np.ndarray, u: float, v: float, step: float) -> float:
    """Sample depth bilinearly over the neighbors on the nearest pixel's surface; NaN outside the image."""
    height, width = depth.shape
    # Not "u < 0 or …": this also catches NaN.
    if not (u > -0.5 and v > -0.5 and u < width - 0.5 and v < height - 0.5):
        return np.nan
    nearest = depth[int(v + 0.5), int(u + 0.5)]
    if not 0 < nearest < np.inf:
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


@jit.njit(nogil=True)
def _lift(pixels, depth0, depth1, fx, fy, cx, cy, dt, step, max_speed, out):  # type: ignore[no-untyped-def]
    """Write to out [H, W, 3] the velocity from optical flow pixels [H, W, 2] and two depth images."""
    height, width = depth0.shape
    for v in range(height):
        for u in range(width):
            u1, v1 = u + pixels[v, u, 0], v + pixels[v, u, 1]
            z0 = depth0[v, u]
            z1 = _sample(depth1, u1, v1, step)
            x = ((u1 - cx) * z1 - (u - cx) * z0) / fx / dt
            y = ((v1 - cy) * z1 - (v - cy) * z0) / fy / dt
            z = (z1 - z0) / dt
            if not (0 < z0 < np.inf and x * x + y * y + z * z <= max_speed * max_speed):
                x = y = z = np.nan
            out[v, u, 0], out[v, u, 1], out[v, u, 2] = x, y, z
