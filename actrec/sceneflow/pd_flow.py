"""Scene flow by a primal-dual method: photometric and geometric terms, regularised on the surface, coarse to fine.

Jaimez et al., "A Primal-Dual Framework for Real-Time Dense RGB-D Scene Flow", ICRA 2015.
"""

import os
from typing import Any

import cv2
import numpy as np

from actrec import config
from actrec.frames import Intrinsics
from actrec.sceneflow.base import SceneFlow
from actrec.sceneflow.primal_dual import cupy_device, reference
from actrec.sceneflow.primal_dual.cpu import CpuSolver
from actrec.sceneflow.primal_dual.gpu import GpuSolver
from actrec.sceneflow.primal_dual.level import Level
from actrec.sceneflow.primal_dual.settings import PdFlowConfig


class PdFlow(SceneFlow):
    """The primal-dual scene flow, one formulation in three executions: numba on the CPU, CUDA, literal numpy.

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
        colour0: np.ndarray,
        depth0: np.ndarray,
        colour1: np.ndarray,
        depth1: np.ndarray,
        intrinsics: Intrinsics,
        dt: float,
    ) -> np.ndarray:
        camera = intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy
        image0, image1 = (
            Level(_grey(colour), np.nan_to_num(depth), camera)
            for colour, depth in ((colour0, depth0), (colour1, depth1))
        )
        first, before = self._first(image0)
        second = self._solver.pyramid(image1.grey, image1.depth, camera)
        flow = self._solver.solve(first, second, before)
        self._last = image1, second, flow
        return self._velocity(flow, image0, dt)

    def _first(self, image: Level) -> tuple[list[Any], np.ndarray | None]:
        """The first image's pyramid, and the flow to start from where it is the last pair's second image."""
        if self._last is not None:
            last, pyramid, flow = self._last
            same = image.camera == last.camera and np.array_equal(image.grey, last.grey)
            if same and np.array_equal(image.depth, last.depth):
                return pyramid, flow if self.config.warm_start else None
        return self._solver.pyramid(image.grey, image.depth, image.camera), None

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


def _grey(colour: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY).astype(np.float32)
