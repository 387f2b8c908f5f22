"""How well a calibration knows its lens, and how far two lenses are apart: in pixels, all over the image.

Standard deviations of single coefficients say little, as k1, k2 and k3 make up for one another. What counts is where a
point in space appears: its uncertainty is that of all coefficients together (as mrcal shows it).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from actrec.frames import Intrinsics
from actrec_calibration.boards import Board
from actrec_calibration.poses import lens
from actrec_calibration.views import View

GRID = (17, 13)
"""Points across and down at which a lens is looked at, the image's border included."""


@dataclass(frozen=True)
class Displacement:
    """Where a second camera sees what a first one sees at a grid of pixels.

    Attributes:
        at: [n, 2] pixels in the first camera.
        moved: [n, 2] pixels by which the second sees it elsewhere.
        deviation: [n] pixels: standard deviation of that, as far as the second camera is known.
    """

    at: np.ndarray
    moved: np.ndarray
    deviation: np.ndarray

    @property
    def worst(self) -> int:
        """Index of the point that moves most."""
        return int(np.argmax(np.hypot(*self.moved.T)))


def parameters(camera: Intrinsics) -> np.ndarray:
    """[4 + d] fx, fy, cx, cy and the distortion."""
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion])


def covariance(
    board: Board,
    views: Sequence[View],
    camera: Intrinsics,
    poses: Sequence[tuple[np.ndarray, np.ndarray]],
    sigma: float,
    free: int | None = None,
) -> np.ndarray:
    """[n, n] of the lens's coefficients fx, fy, cx, cy, distortion, the poses' own uncertainty included.

    Args:
        board: What the views show.
        views: That it was calibrated with.
        camera: The calibration.
        poses: Rotation vector and translation of each view.
        sigma: Standard deviation of a corner's coordinate in pixels.
        free: n, the leading coefficients that were fitted, the others being given; all 4 + d by default.
    """
    count = free or len(parameters(camera))
    information = np.zeros((count, count))
    for view, (turn, shift) in zip(views, poses, strict=True):
        jacobian = _jacobian(board.points[view.detection.ids], turn, shift, camera)
        pose, own = jacobian[:, :6], jacobian[:, 6 : 6 + count]
        # What the lens explains that the pose cannot: the Schur complement of the pose's block.
        explained = pose @ np.linalg.lstsq(pose, own, rcond=None)[0]
        information += own.T @ (own - explained)
    scale = 1 / np.sqrt(np.maximum(np.diag(information), 1e-300))
    inverse = np.linalg.pinv(information * np.outer(scale, scale), rcond=1e-14, hermitian=True)
    return sigma**2 * inverse * np.outer(scale, scale)


def displacement(first: Intrinsics, second: Intrinsics, known: np.ndarray) -> Displacement:
    """How far a point in space moves between two calibrations of one camera.

    Args:
        first: Says which ray each pixel sees.
        second: Says where that ray is seen.
        known: [n, n] covariance of the second's n leading coefficients, the others being given.
    """
    u, v = np.meshgrid(np.linspace(0, first.width - 1, GRID[0]), np.linspace(0, first.height - 1, GRID[1]))
    at = np.stack([u.ravel(), v.ravel()], axis=1)
    rays = unprojected(at, first)
    zero = np.zeros(3)
    jacobian = _jacobian(rays, zero, zero, second)[:, 6 : 6 + len(known)].reshape(len(at), 2, -1)
    variance = np.einsum("nia,ab,nib->n", jacobian, known, jacobian)
    return Displacement(at, projected(rays, zero, zero, second) - at, np.sqrt(np.maximum(variance, 0)))


def unprojected(pixels: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """[n, 3] rays with z = 1 of pixels [n, 2], the distortion undone."""
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-9)
    rays = cv2.undistortPointsIter(pixels.reshape(-1, 1, 2), camera.matrix, lens(camera), None, None, stop)
    return np.concatenate([rays.reshape(-1, 2), np.ones((len(pixels), 1))], axis=1)


def projected(points: np.ndarray, turn: np.ndarray, shift: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """[n, 2] pixels of points [n, 3] at a pose (rotation vector, translation)."""
    return cv2.projectPoints(points, turn, shift, camera.matrix, lens(camera))[0].reshape(-1, 2)


def _jacobian(points: np.ndarray, turn: np.ndarray, shift: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """[2 n, 6 + 4 + d] of pixels by rotation vector, translation, fx, fy, cx, cy, distortion."""
    return cv2.projectPoints(points, turn, shift, camera.matrix, lens(camera))[1]
