"""Optical flow at joints: from scene flow, or from two images."""

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils.errors import InputError


def motion_at_joints(
    flow: np.ndarray, positions: np.ndarray, pixels: np.ndarray, size: tuple[int, int], intrinsics: Intrinsics
) -> np.ndarray:
    """Return optical flow at joints from scene flow: u̇ = fx (Vx − x/z Vz) / z, v̇ likewise.

    Args:
        flow: [h, w, 3] m/s in the optical frame, NaN if unknown, with the color image's field of view.
        positions: [V, 3] joints, m in the optical frame, NaN if missing.
        pixels: [V, 2] joints in the color image, px.
        size: Width and height of the color image, px.
        intrinsics: Intrinsics of the color image at any size.

    Returns:
        [V, 2] px/s of the color image; NaN if a joint is missing, outside the image or of unknown velocity.

    Raises:
        InputError: The shapes disagree.
    """
    joints = len(positions)
    if flow.ndim != 3 or flow.shape[2] != 3 or positions.shape != (joints, 3) or pixels.shape != (joints, 2):
        raise InputError(
            f"flow is {list(flow.shape)}, positions {list(positions.shape)}, pixels {list(pixels.shape)}; "
            "expected [h, w, 3], [V, 3] and [V, 2]"
        )
    camera = intrinsics.resized(*size)
    velocity = velocity_at_joints(flow, pixels, size)
    seen = np.isfinite(positions).all(axis=1) & (positions[:, 2] > 0)
    depth = np.where(seen, positions[:, 2], np.nan)[:, None]
    focal = np.array([camera.fx, camera.fy])
    moved = focal * (velocity[:, :2] - positions[:, :2] / depth * velocity[:, 2:]) / depth
    return moved.astype(np.float32)


def velocity_at_joints(flow: np.ndarray, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the velocity of the surface at the joints of one frame.

    Args:
        flow: [h, w, 3] m/s in the optical frame, NaN if unknown, with the color image's field of view.
        pixels: [V, 2] joints in the color image, px, NaN if missing.
        size: Width and height of the color image, px.

    Returns:
        [V, 3] m/s; NaN if a joint is missing, outside the image or of unknown velocity.

    Raises:
        InputError: The shapes disagree.
    """
    if flow.ndim != 3 or flow.shape[2] != 3 or pixels.shape[1:] != (2,):
        raise InputError(f"flow is {list(flow.shape)}, pixels {list(pixels.shape)}; expected [h, w, 3] and [V, 2]")
    ratio = np.array([flow.shape[1] / size[0], flow.shape[0] / size[1]])
    return _sample(flow, (np.asarray(pixels, np.float64) + 0.5) * ratio - 0.5).astype(np.float32)  # (V, 3)


def motion_between_images(before: np.ndarray, after: np.ndarray, pixels: np.ndarray, seconds: float) -> np.ndarray:
    """Return optical flow at joints from two color images by DIS (Kroeger et al., ECCV 2016).

    Args:
        before: [H, W, 3] uint8 RGB.
        after: The next image.
        pixels: [V, 2] joints in `before`, px, NaN for missing.
        seconds: Time between the images.

    Returns:
        [V, 2] px/s; NaN if a joint is missing or outside the image.

    Raises:
        InputError: The images differ in size, or the time is not positive.
    """
    if before.shape != after.shape or before.ndim != 3 or pixels.shape[1:] != (2,):
        raise InputError(
            f"images are {list(before.shape)} and {list(after.shape)}, pixels {list(pixels.shape)}; "
            "expected [H, W, 3] twice and [V, 2]"
        )
    if not seconds > 0:
        raise InputError(f"seconds between the images is {seconds}, expected more than 0")
    gray0, gray1 = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (before, after))
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # A hand is about ten pixels wide: search at half size and smoothing would remove most of its motion.
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
