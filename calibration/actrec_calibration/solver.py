"""Least squares over views: unknowns that all views share, and six or none of each view's own.

Levenberg–Marquardt on the normal equations. A view's own unknowns touch its residuals alone, so they are eliminated
view by view (Schur complement): the cost grows with the number of views, not with its cube.

Rigid transforms as 4×4 matrices, and as six numbers for those who search among them.

Where a board is, seen by one camera.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from actrec.types import Intrinsics
from actrec.utils import geometry
from actrec.utils.errors import InputError

Residuals = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(shared [S], own [P], number of the view) to residuals [R], each divided by its standard deviation."""

HUBER = 2.0  # standard deviations beyond which a residual counts linearly

_STEP = 1e-6  # metres and radians: well above rounding, well below any curvature here

_ROUNDS = 60


@dataclass(frozen=True)
class Bundle:
    """A solution.

    Attributes:
        shared: [S].
        own: [V, P].
        covariance: [S, S] of the shared unknowns: from the residuals' size, or from how the views disagree where that
            is more (noise that the pixels of one view have in common).
        information: [S, S] of the shared unknowns, as the residuals' stated deviations have it.
        residuals: Of each view.
    """

    shared: np.ndarray
    own: np.ndarray
    covariance: np.ndarray
    information: np.ndarray
    residuals: list[np.ndarray]

    @property
    def sigma(self) -> np.ndarray:
        """[S] standard deviations of the shared unknowns."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0))


def solve(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> Bundle:
    """Minimizes the sum of Huber's losses.

    Args:
        residuals: See `Residuals`.
        shared: [S] where to begin.
        own: [V, P] where to begin; P may be 0.
    """
    shared, own = np.array(shared, np.float64), np.array(own, np.float64)
    damping, cost = 1e-4, _cost(residuals, shared, own)
    for _ in range(_ROUNDS):
        blocks = [_block(residuals, shared, own[view], view) for view in range(len(own))]
        for _ in range(12):
            step, steps = _step(blocks, damping)
            tried = _cost(residuals, shared + step, own + steps)
            if tried <= cost:
                break
            damping *= 10
        else:
            break  # no step downhill is left
        shared, own = shared + step, own + steps
        gained, cost, damping = cost - tried, tried, max(damping / 10, 1e-12)
        if gained <= 1e-10 * (cost + 1e-12):
            break
    return _finished(residuals, shared, own)


@dataclass(frozen=True)
class _Block:
    """One view's share of the normal equations, in shared (s) and own (o) unknowns."""

    ss: np.ndarray
    so: np.ndarray
    oo: np.ndarray
    gs: np.ndarray
    go: np.ndarray


def _weights(r: np.ndarray) -> np.ndarray:
    return np.minimum(1.0, HUBER / np.maximum(np.abs(r), 1e-12))


def _cost(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> float:
    total = 0.0
    for view in range(len(own)):
        r = np.abs(residuals(shared, own[view], view))
        total += float(np.where(r <= HUBER, r**2 / 2, HUBER * (r - HUBER / 2)).sum())
    return total if np.isfinite(total) else float("inf")


def _block(residuals: Residuals, shared: np.ndarray, own: np.ndarray, view: int) -> _Block:
    r = residuals(shared, own, view)
    both, count = np.concatenate([shared, own]), len(shared)
    jacobian = np.empty((len(r), len(both)))
    for i in range(len(both)):
        ahead, behind = both.copy(), both.copy()
        ahead[i] += _STEP
        behind[i] -= _STEP
        plus, minus = residuals(ahead[:count], ahead[count:], view), residuals(behind[:count], behind[count:], view)
        jacobian[:, i] = (plus - minus) / (2 * _STEP)
    weighted = jacobian * _weights(r)[:, None]
    normal, gradient = weighted.T @ jacobian, weighted.T @ r
    return _Block(
        normal[:count, :count], normal[:count, count:], normal[count:, count:], gradient[:count], gradient[count:]
    )


def _step(blocks: list[_Block], damping: float) -> tuple[np.ndarray, np.ndarray]:
    left = sum((b.ss for b in blocks), np.zeros_like(blocks[0].ss))
    left = left + _damped(left, damping)
    right = -sum((b.gs for b in blocks), np.zeros_like(blocks[0].gs))
    folded = []
    for b in blocks:
        back = _solved(b.oo + _damped(b.oo, damping), np.column_stack([b.so.T, b.go]))
        left, right = left - b.so @ back[:, :-1], right + b.so @ back[:, -1]
        folded.append(back)
    step = _solved(left, right)
    return step, np.array([-back[:, -1] - back[:, :-1] @ step for back in folded])


def _damped(normal: np.ndarray, damping: float) -> np.ndarray:
    return np.diag(damping * np.diag(normal) + 1e-12)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    if not len(matrix):
        return np.zeros((0, *np.shape(right)[1:]))
    return np.asarray(np.linalg.lstsq(matrix, right, rcond=1e-15)[0])


def _finished(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> Bundle:
    blocks = [_block(residuals, shared, own[view], view) for view in range(len(own))]
    rest = [residuals(shared, own[view], view) for view in range(len(own))]
    information = np.zeros((len(shared), len(shared)))
    scatter = np.zeros_like(information)
    for b in blocks:
        back = _solved(b.oo, np.column_stack([b.so.T, b.go]))
        information += b.ss - b.so @ back[:, :-1]
        score = b.gs - b.so @ back[:, -1]  # what this view alone would pull the shared unknowns by
        scatter += np.outer(score, score)
    spread = np.linalg.pinv(information, rcond=1e-15, hermitian=True)
    number = sum(map(len, rest))
    chi = sum(float((_weights(r) * r**2).sum()) for r in rest) / max(number - len(shared) - own.size, 1)
    views = len(own)
    of_views = spread @ scatter @ spread * views / max(views - 1, 1)
    by_noise = spread * max(chi, 1e-12)
    larger = np.diag(of_views) > np.diag(by_noise)
    scale = np.sqrt(np.where(larger, np.diag(of_views) / np.maximum(np.diag(by_noise), 1e-300), 1.0))
    return Bundle(shared, own, by_noise * np.outer(scale, scale), information, rest)


def pose_of(vector: np.ndarray) -> np.ndarray:
    """[4, 4] of a rotation vector in radians and a translation in metres, [6]."""
    pose = np.zeros((4, 4))
    pose[:3, :3] = cv2.Rodrigues(np.asarray(vector[:3], np.float64))[0]
    pose[:3, 3] = vector[3:]
    pose[3, 3] = 1
    return pose


def vector_of(pose: np.ndarray) -> np.ndarray:
    """[6] rotation vector in radians and translation in metres of a [4, 4]."""
    return np.concatenate([turn(pose), pose[:3, 3]])


def turn(pose: np.ndarray) -> np.ndarray:
    """[3] rotation vector in radians of a [3, 3] or [4, 4]; exact also where OpenCV's says 0 (below 1e-5 rad)."""
    return np.asarray(Rotation.from_matrix(pose[:3, :3]).as_rotvec())


def inverse(pose: np.ndarray) -> np.ndarray:
    """The transform back, exactly rigid where `pose` is."""
    back = np.zeros((4, 4))
    back[:3, :3] = pose[:3, :3].T
    back[:3, 3] = -back[:3, :3] @ pose[:3, 3]
    back[3, 3] = 1
    return back


def apply(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., 3] carried by a [4, 4]."""
    return np.asarray(points @ pose[:3, :3].T + pose[:3, 3])


def turns(vector: np.ndarray) -> np.ndarray:
    """[3, 3] radians about the axes of the frame that a transform [6] leads to, by each number of its rotation vector.

    Of a small rotation that is the identity. A camera's pose on a robot is a third of a turn and more, and the numbers
    of its rotation vector are no angles about anybody's axes.
    """
    back, step = pose_of(vector)[:3, :3].T, 1e-6
    return np.stack([turn(pose_of(vector + step * unit)[:3, :3] @ back) / step for unit in np.eye(6)[:3]], axis=1)


def turn_deviations(vector: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """[3] standard deviations in degrees about those axes, of the rotation vector's covariance [3, 3]."""
    about = turns(vector)
    return np.asarray(np.degrees(np.sqrt(np.maximum(np.diag(about @ covariance @ about.T), 0))))


def apart(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Distance in metres between the origins of two transforms, and the angle in degrees between their axes."""
    turned = np.linalg.norm(turn(a[:3, :3].T @ b[:3, :3]))
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3])), float(np.degrees(turned))


def angles(pose: np.ndarray) -> tuple[float, float, float]:
    """Roll, pitch and yaw in degrees: fixed axes x, y, z in that order, as ROS's static transforms take them."""
    r = pose[:3, :3]
    pitch = np.arctan2(-r[2, 0], np.hypot(r[0, 0], r[1, 0]))
    roll, yaw = np.arctan2(r[2, 1], r[2, 2]), np.arctan2(r[1, 0], r[0, 0])
    return float(np.degrees(roll)), float(np.degrees(pitch)), float(np.degrees(yaw))


def mean(poses: list[np.ndarray]) -> np.ndarray:
    """The [4, 4] nearest to all: mean translation, and the rotation nearest to the mean of the matrices."""
    total = np.mean(poses, axis=0)
    u, _, vt = np.linalg.svd(total[:3, :3])
    total[:3, :3] = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return total


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
