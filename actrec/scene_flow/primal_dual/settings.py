"""Settings of the primal-dual scene flow, the defaults those of the authors' program.

A level of an image's pyramid, and what the coarsest one starts from.
"""

from dataclasses import dataclass

import numpy as np

from actrec.utils.config import setting


@dataclass(frozen=True)
class PdFlowConfig:
    """Settings of `PdFlow`."""

    device: str = setting(
        "auto",
        "auto takes CUDA where CuPy finds a GPU, else the CPU; reference is the literal method in numpy, very slow",
        choices=("auto", "cpu", "cuda", "reference"),
    )
    threads: int = setting(0, "CPU threads; 0 for all.", range=(0, 256))
    warm_start: bool = setting(True, "Start from the flow of the pair before, where frames are given in order.")
    max_speed_m_s: float = setting(
        8.0, "Motion faster than this is a surface coming into view.", unit="m/s", range=(0.1, 100.0)
    )
    smooth_image: float = setting(
        0.04, "λ_I, weight of the total variation of the motion in the picture.", range=(0.0, 10.0)
    )
    smooth_depth: float = setting(
        0.35, "λ_D, weight of the total variation of the change of depth.", range=(0.0, 100.0)
    )
    depth_weight: float = setting(75.0, "μ, weight of depth against intensity (0 to 255).", range=(0.0, 10_000.0))
    depth_edges: float = setting(
        1000.0, "How much less depth counts where it changes, in space or in time.", range=(0.0, 1e6)
    )
    median_depth: float = setting(5.0, "How much less neighbors of other depth count in the median.", range=(0.0, 1e4))
    median_change: float = setting(
        10.0, "How much less neighbors whose depth changes count in the median.", range=(0.0, 1e4)
    )
    coarsest: int = setting(15, "Rows or columns of the coarsest level, at least.", unit="px", range=(4, 1024))
    iterations: int = setting(100, "Iterations at the finest level.", range=(1, 10_000))
    fewer: int = setting(15, "Iterations less at each coarser level.", range=(0, 1000))

    def plan(self, shape: tuple[int, ...]) -> list[int]:
        """Iterations of each level of the pyramid of an image [H, W], finest first."""
        levels, smallest = 1, min(shape[:2])
        while (smallest + 1) // 2 >= self.coarsest:
            levels, smallest = levels + 1, (smallest + 1) // 2
        return [max(self.iterations - self.fewer * level, 1) for level in range(levels)]


@dataclass(frozen=True)
class Level:
    """An image at one size.

    Attributes:
        gray: [H, W] float32, 0 to 255.
        depth: [H, W] float32 metres, 0 for missing.
        camera: fx, fy, cx, cy.
    """

    gray: np.ndarray
    depth: np.ndarray
    camera: tuple[float, float, float, float]


KEPT = ("u", "v", "w", "pd", "pux", "puy", "pvx", "pvy", "pwx", "pwy")
"""Planes that the next finer level starts from: the flow and its duals."""


def coarse_start(flow: np.ndarray | None, levels: int, shape: tuple[int, ...]) -> np.ndarray:
    """What the coarsest of so many levels starts from, [10, h, w] as `KEPT`.

    Args:
        flow: u, v (pixels), w (metres) of full size, [3, H, W]; None for rest.
        levels: How many there are.
        shape: The coarsest level's rows and columns.
    """
    start = np.zeros((len(KEPT), *shape), np.float32)
    if flow is not None:
        factor = 1 << (levels - 1)
        start[:3] = flow[:, ::factor, ::factor]
        start[:2] /= factor
    return start
