"""Primal-dual scene flow: photometric and geometric terms, regularized on the surface, coarse to fine.

Jaimez et al., "A Primal-Dual Framework for Real-Time Dense RGB-D Scene Flow", ICRA 2015.
"""

import os
from typing import Any

import cv2
import numpy as np

from actrec.scene_flow import ColorDepth, SceneFlow
from actrec.scene_flow.primal_dual import gpu
from actrec.scene_flow.primal_dual.cpu import CpuSolver, Level, PdFlowConfig
from actrec.types import Intrinsics
from actrec.utils import config

_BRIDGED_PX = 3
"""Width (px) of the rim of a hole in the second depth image that still gets a flow; farther in, depth is unknown."""


class PdFlow(SceneFlow):
    """Primal-dual scene flow on the CPU (numba) or a GPU (CUDA); `options` are fields of `PdFlowConfig`.

    Holes of the second image's depth are bridged for a few pixels from their rim; farther in, the flow is NaN.
    If frames are given in order, each image's pyramid is built once, and each pair starts from the previous pair's
    flow (`warm_start`).

    Raises:
        MissingLibraryError, DeviceError: `device` is cuda, and CuPy or a GPU is missing.
    """

    config_class = PdFlowConfig

    def __init__(self, **options: Any):
        self.config = config.build(PdFlowConfig, options)
        self._solver: Any
        if self.config.device == "cuda" or (self.config.device == "auto" and gpu.available()):
            self._solver = gpu.GpuSolver(self.config, gpu.CupyDevice())
        else:
            self._solver = CpuSolver(self.config, self.config.threads or os.cpu_count() or 1)
        self._last: tuple[Level, list[Any], np.ndarray] | None = None

    def _estimate(self, first: ColorDepth, second: ColorDepth, intrinsics: Intrinsics, dt: float) -> np.ndarray:
        camera = intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy
        image0, image1 = (
            Level(cv2.cvtColor(color, cv2.COLOR_RGB2GRAY).astype(np.float32), np.nan_to_num(depth), camera)
            for color, depth in (first, second)
        )
        pyramid0, start = self._pyramid_and_start(image0)
        pyramid1 = self._solver.pyramid(image1.gray, image1.depth, camera)
        flow = self._solver.solve(pyramid0, pyramid1, start)
        self._last = image1, pyramid1, flow
        velocity = image0.motion(flow) / np.float32(dt)
        velocity[~(np.square(velocity).sum(axis=-1) <= self.config.max_speed_m_s**2)] = np.nan
        velocity[_leads_into_hole(image1.depth, flow)] = np.nan
        return velocity

    def _pyramid_and_start(self, image: Level) -> tuple[list[Any], np.ndarray | None]:
        """Return the first image's pyramid, and the flow to start from if it was the previous pair's second image."""
        if self._last is not None:
            last, pyramid, flow = self._last
            same = image.camera == last.camera and np.array_equal(image.gray, last.gray)
            if same and np.array_equal(image.depth, last.depth):
                return pyramid, flow if self.config.warm_start else None
        return self._solver.pyramid(image.gray, image.depth, image.camera), None


def _leads_into_hole(depth: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return [H, W], whether the flow [3, H, W] leads into a hole of the second depth image, beyond its rim."""
    known = (depth > 0).astype(np.uint8)
    if known.all():
        return np.zeros(depth.shape, bool)
    near = cv2.dilate(known, np.ones((2 * _BRIDGED_PX + 1,) * 2, np.uint8))
    height, width = depth.shape
    u, v = flow[0] + np.arange(width, dtype=np.float32), flow[1] + np.arange(height, dtype=np.float32)[:, None]
    there = cv2.remap(near, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(there == 0)
