"""Registration of depth to color by calibration."""

import numpy as np

from actrec.types import Intrinsics
from actrec.utils.calibration_files import DepthGeometry
from actrec.utils.camera_model import rays
from actrec.utils.errors import InputError
from actrec.utils.jit import kernel

_CORNER_MARGIN = 1.2
_TANGENTS = np.linspace(0.0, 12.0, 6001)  # tangents of angles off the axis, up to 85°
_DERIVATIVE_STEP = 1e-4

_OVERLAP_PX = 0.1
"""Overlap of neighboring patches; slanted surfaces and lenses open gaps of hundredths of a pixel."""


class Registration:
    """Registration of depth images to a color image with other intrinsics and pose.

    Each depth pixel is a small patch of surface. A color pixel gets the depth of the nearest patch over its center, so
    that depth of lower resolution leaves no holes. Depth is measured along the color camera's axis.

    Args:
        depth, color: Intrinsics of the images, with distortion.
        geometry: Pose, scale and bias of the depth camera.

    Attributes:
        shape: Height and width of the depth images.

    Raises:
        InputError: The color camera has a fisheye lens.
    """

    def __init__(self, depth: Intrinsics, color: Intrinsics, geometry: DepthGeometry):
        if color.lens:
            raise InputError(f"depth is not registered to images of {color.lens} lenses: use rectified color images")
        self.shape = depth.height, depth.width
        self._color = color
        self._scale, self._bias = geometry.scale, geometry.bias
        self._pose = np.ascontiguousarray(geometry.to_color[:3], np.float64)
        u, v = np.meshgrid(np.arange(-1.0, depth.width + 1), np.arange(-1.0, depth.height + 1))
        spread = rays(np.stack([u, v], -1), depth)
        # For each pixel: its ray, and half of its width and height.
        halves = spread[1:-1, 2:, 0] - spread[1:-1, :-2, 0], spread[2:, 1:-1, 1] - spread[:-2, 1:-1, 1]
        self._rays = np.concatenate([spread[1:-1, 1:-1], np.stack(halves, -1) / 4], -1)
        self._distortion = np.zeros(8)
        self._distortion[: len(color.distortion)] = color.distortion
        self._max_tan2 = _max_tan2(color, self._distortion)

    def register(self, depth: np.ndarray) -> np.ndarray:
        """Return depth [h, w] float32 m, NaN if missing, in the color camera's image: [H, W] float32 m."""
        if depth.shape != self.shape:
            raise InputError(
                f"depth is {list(depth.shape)}, but its intrinsics are for {list(self.shape)}: use its own"
            )
        c = self._color
        camera = np.array([c.fx, c.fy, c.cx, c.cy])
        out = np.full((c.height, c.width), np.inf, np.float32)
        lens = camera, self._distortion
        _splat(depth, self._rays, self._pose, *lens, self._scale, self._bias, self._max_tan2, out)
        out[np.isinf(out)] = np.nan
        return out


def prepare() -> None:
    """Compile `Registration.register`, or load it from the cache."""
    camera = Intrinsics(8, 6, 6.0, 6.0, 3.5, 2.5)
    Registration(camera, camera, DepthGeometry(np.eye(4))).register(np.ones((6, 8), np.float32))


def _max_tan2(camera: Intrinsics, distortion: np.ndarray) -> float:
    """Return the largest squared tangent of the angle off the axis at which points are projected.

    It is slightly beyond the image corners, but below the angle at which the distortion polynomial folds back. In some
    wide lenses, that angle is inside the image; the corners then stay empty.
    """
    across, down = max(camera.cx, camera.width - 1 - camera.cx), max(camera.cy, camera.height - 1 - camera.cy)
    corner_tangent = np.hypot(across / camera.fx, down / camera.fy)
    bent = _TANGENTS * [_bend(r, distortion) for r in _TANGENTS**2]
    folds = np.diff(bent) <= 0
    last = int(folds.argmax()) if folds.any() else len(folds)
    # Tangential distortion moves pixels by up to 3 |p| r² towards the center.
    reached = (bent - 3 * np.hypot(*distortion[2:4]) * _TANGENTS**2)[: last + 1] >= corner_tangent
    corner = int(reached.argmax()) if reached.any() else last
    return float(min(_CORNER_MARGIN * _TANGENTS[corner] ** 2, _TANGENTS[last] ** 2))


@kernel
def _bend(r: float, d: np.ndarray) -> float:
    """Return OpenCV's radial factor at a squared radius."""
    return (1 + r * (d[0] + r * (d[1] + r * d[4]))) / (1 + r * (d[5] + r * (d[6] + r * d[7])))


@kernel
def _splat(
    depth: np.ndarray,
    rays: np.ndarray,
    pose: np.ndarray,
    camera: np.ndarray,
    d: np.ndarray,
    scale: float,
    bias: float,
    max_tan2: float,
    out: np.ndarray,
) -> None:
    height, width = depth.shape
    rows, columns = out.shape
    for v in range(height):
        for u in range(width):
            reading = depth[v, u]
            if not reading > 0 or np.isinf(reading):
                continue
            z = scale * reading + bias
            x, y = rays[v, u, 0] * z, rays[v, u, 1] * z
            z_color = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
            if z_color <= 1e-3:
                continue
            a = (pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]) / z_color
            b = (pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]) / z_color
            r = a * a + b * b
            if r > max_tan2:
                continue
            bend = _bend(r, d)
            # Radial magnification: the derivative of ρ · bend(ρ²).
            stretch = max(bend, bend + 2 * r * (_bend(r + _DERIVATIVE_STEP, d) - bend) / _DERIVATIVE_STEP)
            px = camera[0] * (a * bend + 2 * d[2] * a * b + d[3] * (r + 2 * a * a)) + camera[2]
            py = camera[1] * (b * bend + d[2] * (r + 2 * b * b) + 2 * d[3] * a * b) + camera[3]
            across = camera[0] * rays[v, u, 2] * z / z_color * stretch + _OVERLAP_PX
            down = camera[1] * rays[v, u, 3] * z / z_color * stretch + _OVERLAP_PX
            left, right, top, bottom = px - across, px + across, py - down, py + down
            if right < 0 or bottom < 0 or left > columns - 1 or top > rows - 1:
                continue
            for row in range(max(int(np.ceil(top)), 0), min(int(np.floor(bottom)), rows - 1) + 1):
                for column in range(max(int(np.ceil(left)), 0), min(int(np.floor(right)), columns - 1) + 1):
                    if z_color < out[row, column]:
                        out[row, column] = z_color
