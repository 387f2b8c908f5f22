"""Primal-dual scene flow: photometric and geometric terms, regularized on the surface, coarse to fine.

Jaimez et al., "A Primal-Dual Framework for Real-Time Dense RGB-D Scene Flow", ICRA 2015.
"""

import os
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from actrec.scene_flow import ColorDepth, SceneFlow
from actrec.scene_flow.primal_dual import gpu
from actrec.scene_flow.primal_dual.cpu import (
    BRIDGED_PX,
    Camera,
    CpuSolver,
    Level,
    PdFlowConfig,
    is_same,
    write_velocity,
)
from actrec.types import Intrinsics
from actrec.utils import config


class PdFlow(SceneFlow):
    """Primal-dual scene flow on the CPU (numba) or a GPU (CUDA); `options` are fields of `PdFlowConfig`.

    Holes of the second image's depth are bridged for a few pixels from their rim; farther in, the flow is NaN.
    If frames are given in order, each image's pyramid is built once, and each pair starts from the previous pair's
    flow (`warm_start`).

    Raises:
        MissingLibraryError, DeviceError: `device` is cuda, and CuPy or a GPU is missing; or CuPy does not suit the
            driver or cannot compile the kernels.
    """

    config_class = PdFlowConfig

    def __init__(self, **options: Any):
        self.config = config.build(PdFlowConfig, options)
        self._gpu: gpu.GpuFlow | None = None
        self._solver: Any = None
        if self.config.device == "cuda" or (self.config.device == "auto" and gpu.available()):
            self._gpu, self.device = gpu.GpuFlow(self.config, gpu.CupyDevice()), "CUDA"
        else:
            self.unused_gpu = gpu.unused() if self.config.device == "auto" else ""
            self._solver = CpuSolver(self.config, self.config.threads or os.cpu_count() or 1)
        self._last: _Image | None = None
        self._flow: np.ndarray | None = None  # of the last pair, [3, H, W]

    def _estimate(self, first: ColorDepth, second: ColorDepth, intrinsics: Intrinsics, dt: float) -> np.ndarray:
        camera = intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy
        if self._gpu is not None:
            return self._gpu.velocity(first, second, camera, dt)
        image0, start = self._last, self._flow if self.config.warm_start else None
        if image0 is None or image0.level.camera != camera or not is_same(first, image0.input):
            image0, start = self._image(first, camera), None
        image1 = self._image(second, camera)
        flow = self._solver.solve(image0.pyramid, image1.pyramid, start)
        self._last, self._flow = image1, flow
        return _velocity(image0.level, flow, image1.level, dt, self.config.max_speed_m_s)

    def _image(self, image: ColorDepth, camera: Camera) -> "_Image":
        color, depth = image[0].copy(), image[1].copy()  # the caller may reuse its arrays
        known = np.where((depth > 0) & (depth < np.inf), depth, np.float32(0))
        level = Level(cv2.cvtColor(color, cv2.COLOR_RGB2GRAY).astype(np.float32), known, camera)
        return _Image((color, depth), level, self._solver.pyramid(level.gray, level.depth, camera))


@dataclass(frozen=True)
class _Image:
    """An image of a pair.

    Attributes:
        input: Its color and depth.
        level: Gray and depth at full size.
        pyramid: Of the solver.
    """

    input: ColorDepth
    level: Level
    pyramid: Any


def _velocity(first: Level, flow: np.ndarray, second: Level, dt: float, max_speed: float) -> np.ndarray:
    """Convert a flow [3, H, W] (pixels, pixels, m) between two images to velocities [H, W, 3] m/s.

    They are NaN without depth, beyond `max_speed`, and if the flow leads into a hole of the second image, beyond its
    rim.
    """
    bridged = (second.depth > 0).astype(np.uint8)
    if not bridged.all():
        bridged = cv2.dilate(bridged, np.ones((2 * BRIDGED_PX + 1,) * 2, np.uint8))
    out = np.empty((*first.depth.shape, 3), np.float32)
    camera = tuple(map(np.float32, first.camera))
    write_velocity(first.depth, flow, bridged, camera, np.float32(dt), np.float32(max_speed**2), out)
    return out
