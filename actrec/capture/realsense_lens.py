"""RealSense intrinsics as OpenCV's: librealsense has lens models of its own."""

from typing import Any

import numpy as np
import pyrealsense2 as rs

from actrec.errors import DeviceError
from actrec.frames import Intrinsics

LARGEST_MISFIT_PX = 0.1
_GRID = 25


def from_realsense(lens: Any) -> Intrinsics:
    """A `pyrealsense2.intrinsics` in the data contract.

    Brown-Conrady is OpenCV's own model. The others, of which "inverse Brown-Conrady" with coefficients in it says how
    to take distortion out rather than in, are fitted on a grid of pixels.

    Raises:
        DeviceError: The lens is none that five coefficients describe (a fisheye).
    """
    coefficients = tuple(float(value) for value in lens.coeffs)
    pinhole = Intrinsics(lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy)
    if lens.model == rs.distortion.none or not any(coefficients):
        return pinhole
    if lens.model != rs.distortion.brown_conrady:
        coefficients = _fitted(lens, pinhole)
    return Intrinsics(
        pinhole.width, pinhole.height, pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy, coefficients
    )  # fmt: skip


def _fitted(lens: Any, pinhole: Intrinsics) -> tuple[float, ...]:
    """k1, k2, p1, p2, k3 by least squares: given the straight rays of the pixels, the model is linear in them."""
    u, v = np.meshgrid(np.linspace(0, lens.width - 1, _GRID), np.linspace(0, lens.height - 1, _GRID))
    pixels = np.stack([u.ravel(), v.ravel()], -1)
    rays = np.array([rs.rs2_deproject_pixel_to_point(lens, pixel.tolist(), 1.0) for pixel in pixels])
    if lens.model == rs.distortion.modified_brown_conrady:
        # librealsense only puts this one in, and passes over it where it is to be taken out.
        pixels = np.array([rs.rs2_project_point_to_pixel(lens, ray.tolist()) for ray in rays])
    x, y = rays[:, 0], rays[:, 1]
    r = x * x + y * y
    across = np.stack([x * r, x * r**2, 2 * x * y, r + 2 * x * x, x * r**3], -1) * pinhole.fx
    down = np.stack([y * r, y * r**2, r + 2 * y * y, 2 * x * y, y * r**3], -1) * pinhole.fy
    wanted = pixels - np.stack([pinhole.fx * x + pinhole.cx, pinhole.fy * y + pinhole.cy], -1)
    rows, values = np.concatenate([across, down]), np.concatenate([wanted[:, 0], wanted[:, 1]])
    found = np.linalg.lstsq(rows, values, rcond=None)[0]
    misfit = float(np.abs(rows @ found - values).max())
    if not misfit < LARGEST_MISFIT_PX:
        raise DeviceError(
            f"the lens model {lens.model} of the camera's colour images is {misfit:.2f} px off what five coefficients "
            "describe: calibrate it with actrec calibrate intrinsics, or use the vendor's rectified images"
        )
    return tuple(float(value) for value in found)
