"""Scene flow by the primal-dual method of Jaimez et al., "A Primal-Dual Framework for Real-Time Dense RGB-D Scene Flow",
ICRA 2015: photometric and geometric terms, regularised on the observed surface, coarse to fine.
"""

import os
from typing import Any

import cv2
import numpy as np

from actrec import config
from actrec.frames import Intrinsics
from actrec.sceneflow.base import SceneFlow
from actrec.sceneflow.primal_dual import reference
from actrec.sceneflow.primal_dual.cpu import CpuSolver, Level
from actrec.sceneflow.primal_dual.settings import PdFlowConfig


class PdFlow(SceneFlow):
    """The primal-dual scene flow, one formulation in several executions.

    Where a stream of frames is given in order, the pyramid of each image is made once, and the flow of a pair is where the
    next pair starts from (`warm_start`).

    Args:
        **options: Fields of `PdFlowConfig`.
    """

    config_class = PdFlowConfig

    def __init__(self, **options: Any):
        self.config = config.build(PdFlowConfig, options)
        self._solver = CpuSolver(self.config, self.config.threads or os.cpu_count() or 1)
        self._last: tuple[np.ndarray, np.ndarray, list[Level], np.ndarray] | None = None

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
        last, self._last = self._last, None
        goes_on = last is not None and last[0] is colour0 and last[1] is depth0
        if goes_on:
            assert last is not None
            first, before = last[2], last[3]
        else:
            first, before = self._solver.pyramid(_grey(colour0), _known(depth0), camera), None
        second = self._solver.pyramid(_grey(colour1), _known(depth1), camera)
        flow = self._solver.solve(first, second, before if self.config.warm_start else None)
        self._last = colour1, depth1, second, flow
        return self._velocity(flow, first[0], second[0], dt)

    def _velocity(self, flow: np.ndarray, first: Level, second: Level, dt: float) -> np.ndarray:
        """[H, W, 3] m/s; NaN where the first image has no depth, or where nothing moves that fast."""
        moved = reference.metric(reference.State(*flow, *flow[:1].repeat(7, 0)), first) / np.float32(dt)
        moved[~(np.square(moved).sum(axis=-1) <= self.config.max_speed_m_s**2)] = np.nan
        return moved


def _grey(colour: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _known(depth: np.ndarray) -> np.ndarray:
    """Depth with 0 where it is missing."""
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0)).astype(np.float32)


