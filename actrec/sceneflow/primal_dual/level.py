"""A level of an image's pyramid, and what the coarsest one starts from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Level:
    """An image at one size.

    Attributes:
        grey: [H, W] float32, 0 to 255.
        depth: [H, W] float32 metres, 0 for missing.
        camera: fx, fy, cx, cy.
    """

    grey: np.ndarray
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
