"""Unprojection, changes of axes between sensor frames, and optical flow at joints."""

import numpy as np

from actrec.types import Intrinsics
from actrec.utils.errors import InputError

KINECT_TO_OPTICAL = np.array([-1.0, -1.0, 1.0], dtype=np.float32)
"""Kinect camera space has y up and x to the sensor's left; optical has y down and x to the right."""


def kinect_to_optical(positions: np.ndarray) -> np.ndarray:
    """Convert [..., 3] m from Kinect camera space to the optical frame; this is its own inverse."""
    return (positions * KINECT_TO_OPTICAL).astype(np.float32)


def unproject(pixels: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Lift [..., 2] pixels with their depth [...] in m to [..., 3] m (optical frame)."""
    z = np.asarray(depth, dtype=np.float64)
    x = (pixels[..., 0] - intrinsics.cx) / intrinsics.fx * z
    y = (pixels[..., 1] - intrinsics.cy) / intrinsics.fy * z
    return np.stack([x, y, z], axis=-1).astype(np.float32)


def image_points(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return the point [H, W, 3], m (optical frame), of each pixel of a depth image [H, W]; NaN if missing."""
    height, width = depth.shape
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    return unproject(pixels, depth, intrinsics)


def unit(vector: np.ndarray) -> np.ndarray:
    """Return vectors [..., 3] with length 1; zero stays zero."""
    return np.asarray(vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9))


def rotation(axis: int, radians: float) -> np.ndarray:
    """Return the 3×3 right-handed rotation about coordinate axis 0, 1 or 2, float32."""
    c, s = np.cos(radians), np.sin(radians)
    matrix = np.eye(3, dtype=np.float32)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def motion_at_joints(
    flow: np.ndarray, positions: np.ndarray, pixels: np.ndarray, size: tuple[int, int], intrinsics: Intrinsics
) -> np.ndarray:
    """Return optical flow at joints from scene flow, [V, 2] px/s: u̇ = fx (Vx − x/z Vz) / z, v̇ likewise.

    A joint that is missing, outside the image or without a known velocity is NaN.

    Args:
        flow: [h, w, 3] m/s in the optical frame, NaN if unknown, with the color image's field of view.
        positions: [V, 3] joints, m in the optical frame, NaN if missing.
        pixels: [V, 2] joints in the color image, px.
        size: Width and height of the color image, px.
        intrinsics: Intrinsics of the color image at any size.

    Raises:
        InputError: The shapes disagree.
    """
    if positions.shape != (len(pixels), 3):
        raise InputError(f"positions are {list(positions.shape)}, pixels {list(pixels.shape)}; expected [V, 3], [V, 2]")
    camera = intrinsics.resized(*size)
    velocity = velocity_at_joints(flow, pixels, size)
    valid = np.isfinite(positions).all(axis=1) & (positions[:, 2] > 0)
    depth = np.where(valid, positions[:, 2], np.nan)[:, None]
    focal = np.array([camera.fx, camera.fy])
    moved = focal * (velocity[:, :2] - positions[:, :2] / depth * velocity[:, 2:]) / depth
    return moved.astype(np.float32)


def velocity_at_joints(flow: np.ndarray, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the velocity of the surface at joints, [V, 3] m/s; arguments and NaN as in `motion_at_joints`."""
    if flow.ndim != 3 or flow.shape[2] != 3 or pixels.shape[1:] != (2,):
        raise InputError(f"flow is {list(flow.shape)}, pixels {list(pixels.shape)}; expected [h, w, 3] and [V, 2]")
    ratio = np.array([flow.shape[1] / size[0], flow.shape[0] / size[1]])
    return _sample(flow, (np.asarray(pixels, np.float64) + 0.5) * ratio - 0.5).astype(np.float32)  # (V, 3)


def motion_between_images(before: np.ndarray, after: np.ndarray, pixels: np.ndarray, seconds: float) -> np.ndarray:
    """Return optical flow at joints from two color images by DIS (Kroeger et al., ECCV 2016), [V, 2] px/s.

    Images are [H, W, 3] uint8 RGB, `pixels` [V, 2] are joints in `before`. A joint that is missing or outside the image
    is NaN. Raise InputError if the images differ in size, or the time is not positive.
    """
    if before.shape != after.shape or before.ndim != 3 or pixels.shape[1:] != (2,):
        raise InputError(
            f"images are {list(before.shape)} and {list(after.shape)}, pixels {list(pixels.shape)}; "
            "expected [H, W, 3] twice and [V, 2]"
        )
    if not seconds > 0:
        raise InputError(f"seconds between the images is {seconds}, expected more than 0")
    import cv2  # late, as in `actrec.utils.camera_model`

    gray0, gray1 = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (before, after))
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # A hand is about ten pixels wide: a search at half size, or smoothing, would remove most of its motion.
    method.setFinestScale(0)
    method.setVariationalRefinementIterations(0)
    moved = method.calc(gray0, gray1, None)
    return (_sample(moved, np.asarray(pixels, np.float64)) / seconds).astype(np.float32)


def _sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the median [V, C] of the known 3×3 pixels around points [V, 2] (u, v); NaN if none is known."""
    height, width = image.shape[:2]
    out = np.full((len(points), image.shape[2]), np.nan)
    for v, point in enumerate(points):
        if not np.isfinite(point).all():
            continue
        column, row = np.round(point).astype(int)
        if 0 <= column < width and 0 <= row < height:
            patch = image[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].reshape(-1, image.shape[2])
            known = patch[np.isfinite(patch).all(axis=1)]
            if len(known):
                out[v] = np.median(known, axis=0)
    return out
