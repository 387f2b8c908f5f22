"""A level of an image's pyramid."""

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
