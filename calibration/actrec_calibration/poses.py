"""Where a board is, seen by one camera."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from actrec import geometry
from actrec.errors import InputError
from actrec.frames import Intrinsics
from actrec_calibration.transforms import apply, pose_of, vector_of

LEAST_CORNERS = 6
"""A plane's pose follows from four; with fewer than six nothing tells a wrong one."""
_OUTLIER = 5.0  # times the robust deviation
_ASIDE = pose_of(np.array([0, 0, 0.7, 0, 0, 0]))
"""The board is turned by so much in its plane before it is posed: OpenCV's solver says anything of an exact half turn,
which every upside-down board that is tilted one way has."""
_FLOOR_PX = 1.0  # a corner nearer than this is never an outlier


@dataclass(frozen=True)
class BoardPose:
    """A board's pose.

    Attributes:
        pose: [4, 4] a point of the board, metres, in the camera's optical frame.
        rms: Of the corners kept, px.
        rival: rms in px of the other pose in which a plane looks nearly alike; infinite where there is none.
        kept: [N] bool, the corners that agree.
    """

    pose: np.ndarray
    rms: float
    rival: float
    kept: np.ndarray

    @property
    def ambiguous(self) -> bool:
        """Whether the corners do not tell the pose from its mirror image: a small board, or one far off."""
        return self.rival < 1.5 * self.rms + 0.05


def projected(points: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """[N, 2] px of points [N, 3] metres in the camera's optical frame, through its lens."""
    flat = np.ascontiguousarray(points, np.float64).reshape(-1, 1, 3)
    zero = np.zeros(3)
    return np.asarray(cv2.projectPoints(flat, zero, zero, camera.matrix, lens(camera))[0][:, 0])


def rays(pixels: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """[N, 3] directions with z = 1 of pixels [N, 2]."""
    plane = geometry.rays(np.asarray(pixels), camera)
    return np.column_stack([plane, np.ones(len(plane))])


@lru_cache(maxsize=4)
def image_rays(camera: Intrinsics) -> np.ndarray:
    """[H, W, 3] directions with z = 1 of all of a camera's pixels; not to be written to."""
    v, u = np.indices((camera.height, camera.width))
    found = rays(np.stack([u.ravel(), v.ravel()], axis=1), camera).reshape(camera.height, camera.width, 3)
    found.flags.writeable = False
    return found


def lens(camera: Intrinsics) -> np.ndarray:
    """The distortion as OpenCV takes it."""
    return np.array(camera.distortion or (0.0,) * 5, np.float64)


def board_pose(points: np.ndarray, pixels: np.ndarray, camera: Intrinsics) -> BoardPose:
    """The pose of a flat board, both solutions of a plane considered, wrong corners left out.

    Args:
        points: [N, 3] metres on the board, z = 0.
        pixels: [N, 2] where the camera sees them.
        camera: Its intrinsics.

    Raises:
        InputError: Too few corners, all on a line, or more than a third of them wrong.
    """
    points, pixels = np.asarray(points, np.float64), np.asarray(pixels, np.float64)
    _check(points, pixels)
    kept = np.ones(len(points), bool)
    for _ in range(3):
        best, *others = _solutions(points[kept], pixels[kept], camera)
        away = np.linalg.norm(projected(apply(best, points), camera) - pixels, axis=1)
        near = away <= max(_FLOOR_PX, _OUTLIER * 1.48 * float(np.median(away)))
        if (near == kept).all():
            break
        kept = near
    if kept.sum() < max(LEAST_CORNERS, 2 * len(points) / 3):
        raise InputError(
            f"{len(points) - kept.sum()} of {len(points)} corners fit no pose of the board: check the board's kind and "
            "size, and the intrinsics"
        )
    rms = _rms(best, points[kept], pixels[kept], camera)
    rival = min((_rms(other, points[kept], pixels[kept], camera) for other in others), default=float("inf"))
    return BoardPose(best, rms, rival, kept)


def _check(points: np.ndarray, pixels: np.ndarray) -> None:
    if len(points) < LEAST_CORNERS:
        raise InputError(f"{len(points)} corners are too few for the board's pose, {LEAST_CORNERS} are needed")
    if np.abs(points[:, 2]).max() > 0:
        raise InputError("the board's points do not lie in its plane z = 0")
    if np.linalg.svd(points[:, :2] - points[:, :2].mean(0), compute_uv=False)[1] < 1e-6:
        raise InputError("the corners seen lie on one line: show more of the board")
    if not np.isfinite(pixels).all():
        raise InputError("corners without pixels: leave them out")


def _solutions(points: np.ndarray, pixels: np.ndarray, camera: Intrinsics) -> list[np.ndarray]:
    """Poses in front of the camera, refined, the best first."""
    k, d = camera.matrix, lens(camera)
    turned = apply(_ASIDE, points)
    _, rotations, translations, _ = cv2.solvePnPGeneric(turned, pixels, k, d, flags=cv2.SOLVEPNP_IPPE)
    found = []
    for rotation, translation in zip(rotations, translations, strict=True):
        turn, place = cv2.solvePnPRefineLM(turned, pixels, k, d, rotation.copy(), translation.copy())
        pose = pose_of(np.concatenate([turn.ravel(), place.ravel()])) @ _ASIDE
        if np.isfinite(pose).all() and (apply(pose, points)[:, 2] > 0).all():
            found.append(pose)
    if not found:
        raise InputError("no pose of the board before the camera explains its corners: is the image mirrored?")
    found.sort(key=lambda pose: _rms(pose, points, pixels, camera))
    # Refinement may carry the second solution into the first: then there is no rival.
    return found[:1] + [pose for pose in found[1:] if np.abs(vector_of(pose) - vector_of(found[0])).max() > 1e-3]


def _rms(pose: np.ndarray, points: np.ndarray, pixels: np.ndarray, camera: Intrinsics) -> float:
    away = projected(apply(pose, points), camera) - pixels
    return float(np.sqrt((away**2).sum(1).mean()))
