"""A depth image's readings on a board: which pixels see it, and how they differ from where it is.

True depth = scale · reading + bias, metres along the optical axis.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from actrec.errors import InputError
from actrec.frames import Intrinsics
from actrec_calibration.poses import image_rays, projected
from actrec_calibration.transforms import apply

MARGIN_PX = 4
"""From the board's edge inwards: there a depth pixel mixes the board with what is behind it."""
LEAST_PIXELS = 100
MOST_PIXELS = 400
"""Used of one view: neighbours share their errors, more would only take longer."""
SPAN = 1.3
"""Farthest over nearest board from which a scale can be told from a bias."""
_GATE = 0.10  # metres between a reading and the board where nothing is calibrated yet
_NOISE_FLOOR = 0.0002  # metres: no sensor is better, and rendered truth must not divide by zero


@dataclass(frozen=True)
class Readings:
    """What the depth image of one view says of the board.

    Attributes:
        directions: [N, 3] of the pixels' rays, z = 1, in the depth camera's optical frame.
        depth: [N] metres as read.
        sigma: Standard deviation of one reading about their plane, metres.
        count: Pixels on the board, before thinning.
    """

    directions: np.ndarray
    depth: np.ndarray
    sigma: float
    count: int


def plane_depth(pose: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """[N] metres along the optical axis at which rays [N, 3] meet the plane z = 0 of a pose [4, 4]."""
    normal = pose[:3, 2]
    return np.asarray((normal @ pose[:3, 3]) / (directions @ normal))


def readings(
    depth: np.ndarray, camera: Intrinsics, pose: np.ndarray, outline: np.ndarray, gate: float = _GATE
) -> Readings | None:
    """The pixels that see the board.

    Args:
        depth: [H, W] metres, NaN where missing.
        camera: Of the depth image.
        pose: [4, 4] of the board in the depth camera, as well as it is known.
        outline: [K, 3] metres, the board's corners in order.
        gate: How far, in metres, readings may lie from the board as it is known.

    Returns:
        None where fewer than `LEAST_PIXELS` readings lie on one plane there.
    """
    mask = _inside(depth.shape, camera, pose, outline) & np.isfinite(depth) & (depth > 0)
    v, u = np.nonzero(mask)
    directions = image_rays(camera)[v, u]
    values = depth[v, u].astype(np.float64)
    near = np.abs(values - plane_depth(pose, directions)) <= gate if len(values) else np.zeros(0, bool)
    directions, values = directions[near], values[near]
    if len(values) < LEAST_PIXELS:
        return None
    on_plane, sigma = _plane(directions, values)
    if on_plane.sum() < max(LEAST_PIXELS, len(values) / 2):
        return None
    directions, values = directions[on_plane], values[on_plane]
    some = np.unique(np.linspace(0, len(values) - 1, MOST_PIXELS).astype(int))
    return Readings(directions[some], values[some], sigma, len(values))


def _inside(shape: tuple[int, ...], camera: Intrinsics, pose: np.ndarray, outline: np.ndarray) -> np.ndarray:
    points = apply(pose, outline)
    mask = np.zeros(shape, np.uint8)
    if (points[:, 2] > 0.05).all():
        # Along the edges, not the corners alone: a lens bends them.
        t = np.linspace(0, 1, 16, endpoint=False)[:, None]
        edges = [a + t * (b - a) for a, b in zip(points, np.roll(points, -1, axis=0), strict=True)]
        pixels = np.clip(projected(np.concatenate(edges), camera), -1e4, 1e4)
        cv2.fillPoly(mask, [np.round(pixels).astype(np.int32)], 1)
        mask = cv2.erode(
            mask, np.ones((2 * MARGIN_PX + 1,) * 2, np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
        )
    return mask.astype(bool)


def _plane(directions: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, float]:
    """Which readings lie on their plane [N] bool, and by how much they scatter about it, metres.

    In the reading's inverse a plane is linear in the ray: 1 / z = a x + b y + c.
    """
    kept = np.ones(len(depth), bool)
    for _ in range(6):
        solution = np.linalg.lstsq(directions[kept], 1 / depth[kept], rcond=None)[0]
        away = depth - 1 / (directions @ solution)
        sigma = max(1.4826 * float(np.median(np.abs(away[kept]))), _NOISE_FLOOR)
        kept = np.abs(away) <= 4 * sigma
    return kept, sigma


def distances(boards: list[np.ndarray], outline: np.ndarray) -> np.ndarray:
    """[V] metres along the optical axis to the middle of the board, of its poses in the camera."""
    return np.array([apply(pose, outline.mean(0))[2] for pose in boards])


def check_span(away: np.ndarray) -> None:
    """Refuses boards that all stand at one distance, where a scale is asked for.

    Raises:
        InputError: They do.
    """
    if away.max() < SPAN * away.min():
        raise InputError(
            f"the boards stand at {away.min():.2f} to {away.max():.2f} m: too much alike to tell a depth scale from a "
            f"bias; show the board nearer and farther ({SPAN} times as far at least), or ask for --model bias"
        )


def by_distance(
    boards: list[np.ndarray], seen: list[Readings], scale: float, bias: float, outline: np.ndarray
) -> list[dict[str, Any]]:
    """What is left between corrected readings and the boards, of each view, near to far.

    Args:
        boards: [4, 4] each, in the depth camera.
        seen: Readings of each.
        scale, bias: The correction.
        outline: The board's corners.
    """
    rows = []
    for board, reading in zip(boards, seen, strict=True):
        true = plane_depth(board, reading.directions)
        rows.append(
            {
                "distance_m": round(float(apply(board, outline.mean(0))[2]), 3),
                "as_read_mm": round(1e3 * float(np.median(reading.depth - true)), 2),
                "corrected_mm": round(1e3 * float(np.median(scale * reading.depth + bias - true)), 2),
                "noise_mm": round(1e3 * reading.sigma, 2),
                "pixels": reading.count,
            }
        )
    return sorted(rows, key=lambda row: row["distance_m"])
