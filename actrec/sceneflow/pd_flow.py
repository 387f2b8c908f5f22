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
from actrec.sceneflow.primal_dual import reference
from actrec.sceneflow.primal_dual.cpu import CpuSolver
from actrec.sceneflow.primal_dual.level import Level
from actrec.sceneflow.primal_dual.settings import PdFlowConfig


class PdFlow(SceneFlow):
    """The primal-dual scene flow, one formulation in several executions.

    Where a stream of frames is given in order, the pyramid of each image is made once, and the flow of a pair is where
    the next pair starts from (`warm_start`).

    Args:
        **options: Fields of `PdFlowConfig`.
    """

    config_class = PdFlowConfig

    def __init__(self, **options: Any):
        self.config = config.build(PdFlowConfig, options)
        self._solver = CpuSolver(self.config, self.config.threads or os.cpu_count() or 1)
        self._last: tuple[list[Level], np.ndarray] | None = None

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
        grey, depth = _grey(colour0), np.nan_to_num(depth0)
        first, before = self._first(grey, depth, camera)
        second = self._solver.pyramid(_grey(colour1), np.nan_to_num(depth1), camera)
        flow = self._solver.solve(first, second, before)
        self._last = second, flow
        return self._velocity(flow, first[0], dt)

    def _first(
        self, grey: np.ndarray, depth: np.ndarray, camera: tuple[float, float, float, float]
    ) -> tuple[list[Level], np.ndarray | None]:
        """The first image's pyramid, and the flow to start from where it is the last pair's second image."""
        if self._last is not None:
            (fine, *_), flow = self._last
            same = camera == fine.camera and np.array_equal(grey, fine.grey) and np.array_equal(depth, fine.depth)
            if same:
                return self._last[0], flow if self.config.warm_start else None
        return self._solver.pyramid(grey, depth, camera), None

    def _velocity(self, flow: np.ndarray, first: Level, dt: float) -> np.ndarray:
        """[H, W, 3] m/s; NaN where the first image has no depth, or where nothing moves that fast."""
        moved = reference.metric(flow, first) / np.float32(dt)
        moved[~(np.square(moved).sum(axis=-1) <= self.config.max_speed_m_s**2)] = np.nan
        return moved


def _grey(colour: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY).astype(np.float32)
