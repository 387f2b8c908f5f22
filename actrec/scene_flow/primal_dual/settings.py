"""Settings of the primal-dual scene flow (defaults of the authors' program), and a level of its image pyramid."""

import math
from dataclasses import dataclass

import numpy as np

from actrec.utils.config import setting


@dataclass(frozen=True)
class PdFlowConfig:
    """Settings of `PdFlow`."""

    device: str = setting(
        "auto",
        "auto uses CUDA if CuPy finds a GPU, else the CPU",
        choices=("auto", "cpu", "cuda"),
    )
    threads: int = setting(0, "CPU threads; 0 for all.", range=(0, 256))
    warm_start: bool = setting(True, "Start from the previous pair's flow if frames are given in order.")
    max_speed_m_s: float = setting(
        8.0, "Discard faster motion: a surface that was occluded before.", unit="m/s", range=(0.1, 100.0)
    )
    smooth_image: float = setting(
        0.04, "λ_I, weight of the total variation of the motion in the image.", range=(0.0, 10.0)
    )
    smooth_depth: float = setting(
        0.35, "λ_D, weight of the total variation of the change of depth.", range=(0.0, 100.0)
    )
    depth_weight: float = setting(75.0, "μ, weight of depth against intensity (0 to 255).", range=(0.0, 10_000.0))
    depth_edges: float = setting(
        1000.0, "How much a change of depth, in space or time, lowers the weight of depth.", range=(0.0, 1e6)
    )
    median_depth: float = setting(
        5.0, "How much a difference of depth lowers a neighbor's weight in the median.", range=(0.0, 1e4)
    )
    median_change: float = setting(
        10.0, "How much a change of depth over time lowers a neighbor's weight in the median.", range=(0.0, 1e4)
    )
    coarsest: int = setting(15, "Minimum rows or columns of the coarsest level.", unit="px", range=(4, 1024))
    iterations: int = setting(100, "Iterations at the finest level.", range=(1, 10_000))
    fewer: int = setting(15, "Fewer iterations at each coarser level.", range=(0, 1000))

    def plan(self, shape: tuple[int, ...]) -> list[int]:
        """Return the iterations of each pyramid level of an image [H, W], finest first."""
        levels, smallest = 1, min(shape[:2])
        while (smallest + 1) // 2 >= self.coarsest:
            levels, smallest = levels + 1, (smallest + 1) // 2
        return [max(self.iterations - self.fewer * level, 1) for level in range(levels)]


DEPTH_STEP = 0.1
"""Depths farther apart than this (m) are different surfaces and are not averaged in the pyramid."""

Camera = tuple[float, float, float, float]
"""fx, fy, cx, cy."""


@dataclass(frozen=True)
class Level:
    """An image at one size.

    Attributes:
        gray: [H, W] float32, 0 to 255.
        depth: [H, W] float32 m, 0 for missing.
        camera: fx, fy, cx, cy.
    """

    gray: np.ndarray
    depth: np.ndarray
    camera: Camera

    def motion(self, flow: np.ndarray) -> np.ndarray:
        """Convert a flow [3, H, W] (pixels, pixels, m) from this image to a motion [H, W, 3] m; NaN without depth."""
        u, v, w = flow
        fx, fy, cx, cy = self.camera
        height, width = self.depth.shape
        z = np.where(self.depth > 0, self.depth, math.nan)
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        far = z + w
        dx = ((x + u - cx) * far - (x - cx) * z) / fx
        dy = ((y + v - cy) * far - (y - cy) * z) / fy
        return np.stack([dx, dy, far - z], axis=-1).astype(np.float32)


def half_camera(camera: Camera) -> Camera:
    """Return the intrinsics of the next coarser level."""
    fx, fy, cx, cy = camera
    return fx / 2, fy / 2, cx / 2, cy / 2


KEPT = ("u", "v", "w", "pd", "pux", "puy", "pvx", "pvy", "pwx", "pwy")
"""Planes passed on to the next finer level: the flow and its duals."""


def coarse_start(flow: np.ndarray | None, levels: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the initial planes [10, h, w] (see `KEPT`) of the coarsest level.

    Args:
        flow: u, v (pixels), w (m) at full size, [3, H, W]; None for no motion.
        levels: Number of levels.
        shape: Rows and columns of the coarsest level.
    """
    start = np.zeros((len(KEPT), *shape), np.float32)
    if flow is not None:
        factor = 1 << (levels - 1)
        start[:3] = flow[:, ::factor, ::factor]
        start[:2] /= factor
    return start
