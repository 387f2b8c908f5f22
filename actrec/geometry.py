"""Projection and the changes of axes between sensors' frames."""

import numpy as np

from actrec.frames import Intrinsics

KINECT_TO_OPTICAL = np.array([-1.0, -1.0, 1.0], dtype=np.float32)
"""Kinect camera space has y up and x to the sensor's left; optical has y down and x to the right."""


def kinect_to_optical(positions: np.ndarray) -> np.ndarray:
    """Turns [..., 3] metres in Kinect camera space to the optical frame (and back: it is its own inverse)."""
    return (positions * KINECT_TO_OPTICAL).astype(np.float32)


def project(positions: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Projects [..., 3] metres (optical frame) to [..., 2] pixels, without distortion; NaN behind the camera."""
    positions = np.asarray(positions, dtype=np.float64)
    z = np.where(positions[..., 2] > 1e-6, positions[..., 2], np.nan)
    u = intrinsics.fx * positions[..., 0] / z + intrinsics.cx
    v = intrinsics.fy * positions[..., 1] / z + intrinsics.cy
    return np.stack([u, v], axis=-1).astype(np.float32)


def unproject(pixels: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Lifts [..., 2] pixels with their [...] depth in metres to [..., 3] metres (optical frame)."""
    z = np.asarray(depth, dtype=np.float64)
    x = (pixels[..., 0] - intrinsics.cx) / intrinsics.fx * z
    y = (pixels[..., 1] - intrinsics.cy) / intrinsics.fy * z
    return np.stack([x, y, z], axis=-1).astype(np.float32)


def rays(pixels: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """[..., 2] float64 x/z and y/z of the rays through pixels [..., 2], lens distortion removed.

    A lens model holds where it was measured. Beyond the image, where a person's unseen joints are guessed, it folds
    back or runs away: there rays part as a pinhole's do.
    """
    centre, focal = (intrinsics.cx, intrinsics.cy), (intrinsics.fx, intrinsics.fy)
    if not any(intrinsics.distortion):
        return (np.asarray(pixels, np.float64) - centre) / focal
    import cv2

    flat = np.ascontiguousarray(pixels, np.float64).reshape(-1, 1, 2)
    inside = flat.clip(-1.0, (intrinsics.width, intrinsics.height))
    distortion = np.array(intrinsics.distortion or (0.0,) * 5)
    # To a millionth: OpenCV's own five rounds leave tenths of a pixel at the corners of wide lenses.
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-6)
    straight = cv2.undistortPointsIter(inside, intrinsics.matrix, distortion, None, None, criteria)
    return (np.asarray(straight) + (flat - inside) / focal).reshape(pixels.shape)


def image_points(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """[H, W, 3] metres (optical frame) of each pixel of a depth image [H, W]; NaN where it has none."""
    height, width = depth.shape
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    return unproject(pixels, depth, intrinsics)


def rotation(axis: int, radians: float) -> np.ndarray:
    """The 3×3 right-handed rotation about coordinate axis 0, 1 or 2, float32."""
    c, s = np.cos(radians), np.sin(radians)
    matrix = np.eye(3, dtype=np.float32)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix
