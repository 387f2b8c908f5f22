"""The primal-dual scene flow on the CPU (numba), in strips of rows among threads."""

import itertools
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np

from actrec.sceneflow.primal_dual import levels, median, sweeps
from actrec.sceneflow.primal_dual.level import KEPT, Level, coarse_start
from actrec.sceneflow.primal_dual.settings import PdFlowConfig

_ROWS = 30
"""Fewer rows a thread are not worth its waking."""


class CpuSolver:
    """Solves on so many threads.

    Args:
        config: Settings.
        threads: 1 for the caller's alone.
    """

    def __init__(self, config: PdFlowConfig, threads: int):
        self.config, self.threads = config, threads
        self._pool: Executor | None = ThreadPoolExecutor(threads, "pd_flow") if threads > 1 else None

    def pyramid(self, grey: np.ndarray, depth: np.ndarray, camera: tuple[float, float, float, float]) -> list[Level]:
        """The levels of an image, finest first."""
        out = [Level(grey, depth, camera)]
        for _ in self.config.plan(grey.shape)[1:]:
            fine = out[-1]
            shape = ((fine.grey.shape[0] + 1) // 2, (fine.grey.shape[1] + 1) // 2)
            grey, depth = np.empty(shape, np.float32), np.empty(shape, np.float32)
            self._share(shape[0], levels.half, fine.grey, fine.depth, grey, depth)
            fx, fy, cx, cy = fine.camera
            out.append(Level(grey, depth, (fx / 2, fy / 2, cx / 2, cy / 2)))
        return out

    def solve(self, first: list[Level], second: list[Level], start: np.ndarray | None = None) -> np.ndarray:
        """The flow u, v (pixels) and w (metres) as [3, H, W], from the coarsest level to the finest.

        Args:
            first, second: Pyramids.
            start: A flow of full size to start from; None for rest.
        """
        plan = self.config.plan(first[0].grey.shape)
        state = coarse_start(start, len(plan), first[-1].grey.shape)
        for level in range(len(plan) - 1, -1, -1):
            shape = first[level].grey.shape
            if state.shape[1:] != shape:
                state = self._doubled(state, shape)
            state = self._level(first[level], second[level], state, plan[level])
        return state[:3]

    def _doubled(self, state: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        out = np.empty((len(KEPT), *shape), np.float32)
        for k in range(len(KEPT)):
            levels.doubled(state[k], np.float32(2 if k < 2 else 1), out[k])
        return out

    def _level(self, first: Level, second: Level, start: np.ndarray, iterations: int) -> np.ndarray:
        terms, change = self._terms(first, second, start)
        state = np.empty((len(sweeps.STATE), *first.grey.shape), np.float32)
        state[:3] = state[3:6] = start[:3]
        state[6:] = start[3:]
        state = sweeps.iterate(state, terms, iterations, self._pool, self.threads)
        flow, filtered = state[:3], np.empty_like(start)
        # At most a pixel more than the start; beyond that, its linear terms say nothing.
        np.clip(flow[:2], start[:2] - 1, start[:2] + 1, out=flow[:2])
        flow[2, first.depth <= 0] = 0
        c = self.config
        weigh = np.float32(c.median_depth), np.float32(c.median_change)
        self._share(len(first.depth), median.median, flow, first.depth, change, *weigh, filtered[:3])
        filtered[3:] = state[6:]
        return filtered

    def _terms(self, first: Level, second: Level, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The terms [18, H, W], and the change of depth [H, W] that the start leaves."""
        rows, shape = len(first.grey), first.grey.shape
        terms = np.empty((len(sweeps.TERMS), *shape), np.float32)
        rx, ry, ix, iy, zx, zy = np.empty((6, *shape), np.float32)
        self._share(rows, levels.surface, second.depth, *second.camera, rx, ry)
        self._share(rows, levels.gradients, second.grey, second.depth, rx, ry, ix, iy, zx, zy)
        self._share(rows, levels.surface, first.depth, *first.camera, terms[7], terms[8])
        c = self.config
        weights = tuple(map(np.float32, (c.smooth_image, c.smooth_depth, c.depth_weight, c.depth_edges)))
        change = np.empty(shape, np.float32)
        images = first.grey, first.depth, second.grey, second.depth
        self._share(rows, levels.terms, *images, ix, iy, zx, zy, start[0], start[1], weights, terms, change)
        return terms, change

    def _share(self, rows: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Shares the rows of an output among the threads."""
        strips = max(min(self.threads, rows // _ROWS), 1)
        if self._pool is None or strips == 1:
            work(*arguments, 0, rows)
            return
        edges = [rows * k // strips for k in range(strips + 1)]
        jobs = [self._pool.submit(work, *arguments, low, high) for low, high in itertools.pairwise(edges)]
        for job in jobs:
            job.result()
