"""Scene flow by a primal-dual method: photometric and geometric terms, regularized on the surface, coarse to fine.

Jaimez et al., "A Primal-Dual Framework for Real-Time Dense RGB-D Scene Flow", ICRA 2015.
"""

import os
from typing import Any

import cv2
import numpy as np

from actrec.scene_flow.base import SceneFlow
from actrec.scene_flow.primal_dual import cupy_device, reference
from actrec.scene_flow.primal_dual.cpu import CpuSolver
from actrec.scene_flow.primal_dual.gpu import GpuSolver
from actrec.scene_flow.primal_dual.settings import Level, PdFlowConfig
from actrec.types import Intrinsics
from actrec.utils import config

_BRIDGED_PX = 3
"""How far from the second image's depth its change is still known: farther into a hole nothing says it, and it is 0."""


class PdFlow(SceneFlow):
    """The primal-dual scene flow, one formulation in three executions: numba on the CPU, CUDA, literal numpy.

    Holes of the second image's depth are bridged for a few pixels from their rim; farther in the flow is NaN.
    Where a stream of frames is given in order, the pyramid of each image is made once, and the flow of a pair is where
    the next pair starts from (`warm_start`).

    Args:
        **options: Fields of `PdFlowConfig`.

    Raises:
        MissingLibraryError, DeviceError: device is cuda, and CuPy or a GPU is absent.
    """

    config_class = PdFlowConfig

    def __init__(self, **options: Any):
        self.config = config.build(PdFlowConfig, options)
        self._solver: Any = _solver(self.config)
        self._last: tuple[Level, list[Any], np.ndarray] | None = None

    def _estimate(
        self,
        color0: np.ndarray,
        depth0: np.ndarray,
        color1: np.ndarray,
        depth1: np.ndarray,
        intrinsics: Intrinsics,
        dt: float,
    ) -> np.ndarray:
        camera = intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy
        image0, image1 = (
            Level(_gray(color), np.nan_to_num(depth), camera) for color, depth in ((color0, depth0), (color1, depth1))
        )
        first, before = self._first(image0)
        second = self._solver.pyramid(image1.gray, image1.depth, camera)
        flow = self._solver.solve(first, second, before)
        self._last = image1, second, flow
        velocity = self._velocity(flow, image0, dt)
        velocity[_unseen(image1.depth, flow)] = np.nan
        return velocity

    def _first(self, image: Level) -> tuple[list[Any], np.ndarray | None]:
        """The first image's pyramid, and the flow to start from where it is the last pair's second image."""
        if self._last is not None:
            last, pyramid, flow = self._last
            same = image.camera == last.camera and np.array_equal(image.gray, last.gray)
            if same and np.array_equal(image.depth, last.depth):
                return pyramid, flow if self.config.warm_start else None
        return self._solver.pyramid(image.gray, image.depth, image.camera), None

    def _velocity(self, flow: np.ndarray, first: Level, dt: float) -> np.ndarray:
        """[H, W, 3] m/s; NaN where the first image has no depth, or where nothing moves that fast."""
        moved = reference.metric(flow, first) / np.float32(dt)
        moved[~(np.square(moved).sum(axis=-1) <= self.config.max_speed_m_s**2)] = np.nan
        return moved


def _solver(config: PdFlowConfig) -> CpuSolver | GpuSolver | reference.ReferenceSolver:
    if config.device == "reference":
        return reference.ReferenceSolver(config)
    if config.device == "cuda" or (config.device == "auto" and cupy_device.available()):
        return GpuSolver(config, cupy_device.CupyDevice())
    return CpuSolver(config, config.threads or os.cpu_count() or 1)


def _unseen(depth: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """[H, W] where the flow [3, H, W] leads into a hole of the second image's depth (0), not into its rim."""
    known = (depth > 0).astype(np.uint8)
    if known.all():
        return np.zeros(depth.shape, bool)
    near = cv2.dilate(known, np.ones((2 * _BRIDGED_PX + 1,) * 2, np.uint8))
    height, width = depth.shape
    u, v = flow[0] + np.arange(width, dtype=np.float32), flow[1] + np.arange(height, dtype=np.float32)[:, None]
    there = cv2.remap(near, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(there == 0)


def _gray(color: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(color, cv2.COLOR_RGB2GRAY).astype(np.float32)
