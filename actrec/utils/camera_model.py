"""The camera model: intrinsics from camera_info messages, bags and files, and its projection.

A pinhole camera with one of ROS's lens models: plumb_bob and rational_polynomial (OpenCV's cv::projectPoints), and
equidistant (cv::fisheye; Kannala & Brandt, "A generic camera model", 2006).
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from actrec.types import EQUIDISTANT, Intrinsics
from actrec.utils.errors import InputError

KINECT_V1 = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
"""Nominal intrinsics of the color camera of the Kinect v1."""

MODELS = ("plumb_bob", "rational_polynomial", EQUIDISTANT)
"""ROS's lens models, with 4 or 5, 8, 12 or 14, and 4 coefficients."""

ALIASES = {"fisheye": EQUIDISTANT, "kannala_brandt": EQUIDISTANT, "kannala_brandt4": EQUIDISTANT, "radtan": "plumb_bob"}
UNDISTORTED = ("", "pinhole", "none")

FOCAL_RANGE = (0.02, 200.0)
"""Plausible focal lengths in image widths; outside, K is in other units or of another image."""

OFF_CENTER = 0.2
"""Distance of the principal point from the image's center, in half image sides, beyond which K is in doubt."""

MAX_ANGLE = 1.5
"""Largest angle of a ray to the optical axis, radians: rays have z = 1."""

logger = logging.getLogger(__name__)
_warned: set[str] = set()  # sources, whose K may change with each message

REMEDY = "calibrate the camera (actrec calibrate intrinsics), or use its rectified images"


def make_intrinsics(
    source: str, width: int, height: int, k: Sequence[float], model: str = "", d: Sequence[float] = ()
) -> Intrinsics:
    """Return the intrinsics that a camera_info message or a calibration file states.

    Args:
        source: Name for errors, such as "camera_info" or a file.
        width, height: Size of the image in px.
        k: Row-major 3×3 camera matrix K (9), or the first three columns of P (9).
        model: Lens model: a key of `MODELS` or `ALIASES`, or empty.
        d: Coefficients of the lens.

    Raises:
        InputError: The camera is not calibrated, a value is not finite or not plausible, or the lens model is unknown.
    """
    try:
        matrix, coefficients = [float(value) for value in k], [float(value) for value in d]
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: intrinsics are not numbers ({error})") from error
    if len(matrix) != 9:
        raise InputError(f"{source}: K has {len(matrix)} values, expected 9")
    if min(width, height) <= 0:
        raise InputError(f"{source} is of {width}×{height} images: the size is missing")
    fx, cx, fy, cy = matrix[0], matrix[2], matrix[4], matrix[5]
    if not (fx > 0 and fy > 0):  # nor NaN
        raise InputError(f"{source} is of an uncalibrated camera (fx is {fx:g}, fy {fy:g}): {REMEDY}")
    if not all(map(math.isfinite, (*matrix[:6], *coefficients))):
        raise InputError(f"{source}: K or D has NaN or infinite values: {REMEDY}")
    low, high = (factor * width for factor in FOCAL_RANGE)
    if not (low <= fx <= high and low <= fy <= high and 0.5 <= fx / fy <= 2):
        raise InputError(
            f"{source}: focal lengths of {fx:g} and {fy:g} px are implausible for {width}×{height} images: {REMEDY}"
        )
    across, down = 2 * (cx + 0.5) / width, 2 * (cy + 0.5) / height
    if min(across, down) > 1.4 or max(across, down) < 0.7:
        other = f"{across * width:.0f}×{down * height:.0f}"
        raise InputError(
            f"{source}: K is of about {other} images, by its principal point, but is stated for {width}×{height}: "
            "calibrate at the size of the images, or take their own camera_info"
        )
    if max(abs(across - 1), abs(down - 1)) > OFF_CENTER:
        _warn_off_center(source, round(cx), round(cy), width, height)
    lens, distortion = _lens(source, model, coefficients)
    return Intrinsics(width, height, fx, fy, cx, cy, distortion, lens)


def from_camera_info(source: str, info: Any, rectified: bool = False) -> Intrinsics:
    """Return the intrinsics of a `sensor_msgs/CameraInfo` by K and D, or of its rectified images by P, if it has P.

    Raises:
        InputError: As `make_intrinsics`.
    """
    size = int(info.width), int(info.height)
    if not rectified:
        return make_intrinsics(source, *size, info.k, info.distortion_model, info.d)
    p = [*info.p[0:3], *info.p[4:7], *info.p[8:11]]
    return make_intrinsics(source, *size, p if p[0] > 0 else info.k)


def _warn_off_center(source: str, cx: int, cy: int, width: int, height: int) -> None:
    """Warn, once of a source: a part of a larger image may have such a K, too."""
    if source in _warned:
        return
    _warned.add(source)
    logger.warning(
        "%s: the principal point (%d, %d) is far from the center of %d×%d images: unless they are cut out of larger "
        "ones, K is of another size, and joints get wrong positions; take the images' own camera_info, or calibrate at "
        "their size", source, cx, cy, width, height
    )  # fmt: skip


def _lens(source: str, model: str, d: list[float]) -> tuple[str, tuple[float, ...]]:
    """Return the kind of lens and its coefficients: five or eight of a Brown lens, four of an equidistant one."""
    name = ALIASES.get(model.lower(), model.lower())
    if not any(d) and name != EQUIDISTANT and (name in UNDISTORTED or name in MODELS):
        return "", ()
    if name in UNDISTORTED:
        if name:
            raise InputError(f"{source}: the lens model is '{model}', but D is not zero: {REMEDY}")
        name = "plumb_bob" if len(d) <= 5 else "rational_polynomial"
    if name not in MODELS:
        known = ", ".join(MODELS)
        raise InputError(f"{source}: the lens model '{model}' is not supported; known: {known}; {REMEDY}")
    if name == EQUIDISTANT:
        if len(d) > 4 or (d and len(d) < 4):
            raise InputError(f"{source}: an equidistant lens has 4 coefficients, not {len(d)}")
        return EQUIDISTANT, tuple(d) or (0.0,) * 4
    if not any(d[8:]):  # OpenCV's rational model has up to six more, which are seldom used
        d = d[:8]
    if len(d) not in (4, 5, 8):
        raise InputError(f"{source} has {len(d)} distortion coefficients, expected 4, 5 or 8: {REMEDY}")
    return "", (*d, 0.0) if len(d) == 4 else tuple(d)


def ros_lens(camera: Intrinsics) -> tuple[str, list[float]]:
    """Return ROS's distortion_model and D of a camera."""
    if camera.lens:
        return camera.lens, list(camera.distortion)
    d = list(camera.distortion) or [0.0] * 5
    return "plumb_bob" if len(d) <= 5 else "rational_polynomial", d


def rays(pixels: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return x/z and y/z [..., 2] float64 of the rays through pixels [..., 2], without lens distortion.

    Outside the image, where a lens model is invalid, rays continue as in a pinhole camera.
    """
    center, focal = (intrinsics.cx, intrinsics.cy), (intrinsics.fx, intrinsics.fy)
    bent = (np.asarray(pixels, np.float64) - center) / focal
    if intrinsics.lens == EQUIDISTANT:
        return _straighten(bent, intrinsics.distortion)
    if not any(intrinsics.distortion):
        return bent
    flat = np.ascontiguousarray(pixels, np.float64).reshape(-1, 1, 2)
    inside = flat.clip(-1.0, (intrinsics.width, intrinsics.height))
    # OpenCV's default of five iterations leaves tenths of a pixel at the corners of wide lenses.
    straight = undistort(inside, intrinsics, 50, 1e-6)
    return (straight + (flat - inside) / focal).reshape(np.shape(pixels))


def undistort(pixels: np.ndarray, intrinsics: Intrinsics, iterations: int, tolerance_px: float) -> np.ndarray:
    """Return x/z and y/z [N, 1, 2] float64 of pixels [N, 1, 2] by the iteration of OpenCV 4 or 5."""
    import cv2

    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, iterations, tolerance_px)
    distortion = np.array(intrinsics.distortion) if intrinsics.distortion else np.zeros(5)
    if hasattr(cv2, "undistortPointsIter"):  # OpenCV 4, whose undistortPoints takes no criteria
        return np.asarray(cv2.undistortPointsIter(pixels, intrinsics.matrix, distortion, None, None, criteria))
    undistort_points: Any = cv2.undistortPoints
    return np.asarray(undistort_points(pixels, intrinsics.matrix, distortion, criteria=criteria))


def _straighten(bent: np.ndarray, k: Sequence[float]) -> np.ndarray:
    """Return tan(θ) along the direction of points at θ·(1 + k1·θ² + k2·θ⁴ + k3·θ⁶ + k4·θ⁸), by Newton's method."""
    radius = np.linalg.norm(bent, axis=-1, keepdims=True)
    theta = np.minimum(radius, MAX_ANGLE)
    powers = np.array([1.0, *k])
    for _ in range(10):
        squares = theta[..., None] ** (2 * np.arange(5))
        value, slope = theta * (squares @ powers), squares @ (powers * (2 * np.arange(5) + 1))
        theta = np.clip(theta - (value - radius) / np.maximum(slope, 0.05), 0.0, MAX_ANGLE)
    return bent * np.where(radius > 1e-9, np.tan(theta) / np.maximum(radius, 1e-9), 1.0)


def project(positions: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Project points [..., 3] m of the optical frame to pixels [..., 2] float32 through the lens; NaN behind it."""
    points = np.asarray(positions, np.float64)
    z = np.where(points[..., 2:] > 1e-6, points[..., 2:], np.nan)
    flat = points[..., :2] / z
    if intrinsics.lens == EQUIDISTANT:
        radius = np.linalg.norm(flat, axis=-1, keepdims=True)
        theta = np.arctan(radius)
        bent = theta * (theta[..., None] ** (2 * np.arange(5)) @ np.array([1.0, *intrinsics.distortion]))
        flat = flat * np.where(radius > 1e-9, bent / np.maximum(radius, 1e-9), 1.0)
    elif any(intrinsics.distortion):
        k1, k2, p1, p2, k3, k4, k5, k6 = (*intrinsics.distortion, 0.0, 0.0, 0.0)[:8]
        x, y = flat[..., 0], flat[..., 1]
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        bent_y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        flat = np.stack([bent_x, bent_y], axis=-1)
    return (flat * (intrinsics.fx, intrinsics.fy) + (intrinsics.cx, intrinsics.cy)).astype(np.float32)
