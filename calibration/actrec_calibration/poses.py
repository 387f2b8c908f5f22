"""Rigid transforms, projection through a lens, and the pose of a flat board in one image.

A pose is a 4×4 matrix. As six numbers it is a rotation vector in radians followed by a translation in m.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from actrec.types import Intrinsics
from actrec.utils import geometry
from actrec.utils.errors import InputError

MIN_CORNERS = 6
"""Four corners fix a plane's pose; with fewer than six a wrong one cannot be detected."""

OUTLIER_FACTOR = 5.0  # times the robust standard deviation
MIN_OUTLIER_PX = 1.0  # a corner nearer than this is never an outlier


def pose_from_vector(vector: np.ndarray) -> np.ndarray:
    """Return the [4, 4] pose of a rotation vector and a translation, [6]."""
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.asarray(vector[:3], np.float64))[0]
    pose[:3, 3] = vector[3:]
    return pose


def pose_to_vector(pose: np.ndarray) -> np.ndarray:
    """Return the [6] rotation vector and translation of a pose."""
    return np.concatenate([rotation_vector(pose), pose[:3, 3]])


def rotation_vector(pose: np.ndarray) -> np.ndarray:
    """Return the [3] rotation vector in radians of a [3, 3] or [4, 4]; exact also below 1e-5 rad, unlike OpenCV's."""
    return np.asarray(Rotation.from_matrix(pose[:3, :3]).as_rotvec())


def invert(pose: np.ndarray) -> np.ndarray:
    """Return the inverse of a rigid transform."""
    inverse = np.eye(4)
    inverse[:3, :3] = pose[:3, :3].T
    inverse[:3, 3] = -inverse[:3, :3] @ pose[:3, 3]
    return inverse


def transform(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Transform points [..., 3] by a pose."""
    return np.asarray(points @ pose[:3, :3].T + pose[:3, 3])


def pose_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the distance in m between two origins, and the angle in degrees between the axes."""
    angle = np.linalg.norm(rotation_vector(a[:3, :3].T @ b[:3, :3]))
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3])), float(np.degrees(angle))


def roll_pitch_yaw(pose: np.ndarray) -> tuple[float, float, float]:
    """Return roll, pitch and yaw in degrees about fixed axes x, y, z, as ROS's static transforms take them."""
    r = pose[:3, :3]
    pitch = np.arctan2(-r[2, 0], np.hypot(r[0, 0], r[1, 0]))
    roll, yaw = np.arctan2(r[2, 1], r[2, 2]), np.arctan2(r[1, 0], r[0, 0])
    return float(np.degrees(roll)), float(np.degrees(pitch)), float(np.degrees(yaw))


def mean_pose(poses: list[np.ndarray]) -> np.ndarray:
    """Return the mean translation and the rotation nearest to the mean of the rotation matrices."""
    mean = np.mean(poses, axis=0)
    u, _, vt = np.linalg.svd(mean[:3, :3])
    mean[:3, :3] = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return mean


def rotation_jacobian(vector: np.ndarray) -> np.ndarray:
    """Return the [3, 3] rotation about the parent frame's axes, in rad, by each number of a pose's rotation vector.

    It is the identity for a small rotation. A camera's rotation on a robot is large, and the numbers of its rotation
    vector are then no angles about the axes of either frame.
    """
    back, step = pose_from_vector(vector)[:3, :3].T, 1e-6
    columns = [rotation_vector(pose_from_vector(vector + step * unit)[:3, :3] @ back) for unit in np.eye(6)[:3]]
    return np.stack(columns, axis=1) / step


def rotation_sigma_deg(vector: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return [3] standard deviations in degrees about the parent frame's axes.

    Args:
        vector: [6] the pose.
        covariance: [3, 3] of its rotation vector.
    """
    jacobian = rotation_jacobian(vector)
    return np.asarray(np.degrees(np.sqrt(np.maximum(np.diag(jacobian @ covariance @ jacobian.T), 0))))


def distortion_coefficients(camera: Intrinsics) -> np.ndarray:
    """Return the lens distortion in OpenCV's form."""
    return np.array(camera.distortion or (0.0,) * 5, np.float64)


def project(points: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Project points [N, 3] (m, optical frame) to [N, 2] pixels, with lens distortion."""
    flat, zero = np.ascontiguousarray(points, np.float64).reshape(-1, 1, 3), np.zeros(3)
    return np.asarray(cv2.projectPoints(flat, zero, zero, camera.matrix, distortion_coefficients(camera))[0][:, 0])


def pixel_rays(pixels: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Return the [N, 3] ray directions, z = 1, of pixels [N, 2]."""
    plane = geometry.rays(np.asarray(pixels), camera)
    return np.column_stack([plane, np.ones(len(plane))])


@lru_cache(maxsize=4)
def image_rays(camera: Intrinsics) -> np.ndarray:
    """Return the [H, W, 3] ray directions, z = 1, of all pixels of an image; read-only."""
    v, u = np.indices((camera.height, camera.width))
    rays = pixel_rays(np.stack([u.ravel(), v.ravel()], axis=1), camera).reshape(camera.height, camera.width, 3)
    rays.flags.writeable = False
    return rays


def rms(distances: np.ndarray) -> float:
    """Return the root mean square of the lengths of vectors [N, 2]."""
    return float(np.sqrt((distances**2).sum(1).mean())) if len(distances) else float("nan")


@dataclass(frozen=True)
class BoardPose:
    """Pose of a board in one image.

    Attributes:
        pose: [4, 4] board → camera (optical frame, m).
        rms: Reprojection error of the inliers, px.
        rival_rms: Reprojection error in px of the second pose that explains a plane's corners; infinite if none does.
        inliers: [N] bool.
    """

    pose: np.ndarray
    rms: float
    rival_rms: float
    inliers: np.ndarray

    @property
    def ambiguous(self) -> bool:
        """Whether the second pose explains the corners nearly as well: a small or distant board."""
        return self.rival_rms < 1.5 * self.rms + 0.05


def estimate_board_pose(points: np.ndarray, pixels: np.ndarray, camera: Intrinsics) -> BoardPose:
    """Estimate the pose of a flat board, without outliers.

    Args:
        points: [N, 3] corners on the board, m, z = 0.
        pixels: [N, 2] their detections.
        camera: Intrinsics.

    Raises:
        InputError: Too few corners, all corners on a line, or more than a third of the corners are outliers.
    """
    points, pixels = np.asarray(points, np.float64), np.asarray(pixels, np.float64)
    _check_corners(points, pixels)
    inliers = np.ones(len(points), bool)
    for _ in range(3):
        best, *others = _plane_poses(points[inliers], pixels[inliers], camera)
        errors = np.linalg.norm(project(transform(best, points), camera) - pixels, axis=1)
        near = errors <= max(MIN_OUTLIER_PX, OUTLIER_FACTOR * 1.48 * float(np.median(errors)))
        if (near == inliers).all():
            break
        inliers = near
    if inliers.sum() < max(MIN_CORNERS, 2 * len(points) / 3):
        raise InputError(
            f"{len(points) - inliers.sum()} of {len(points)} corners fit no pose of the board: check the board's kind "
            "and size, and the intrinsics"
        )
    errors_px = [_pose_rms(pose, points[inliers], pixels[inliers], camera) for pose in (best, *others)]
    return BoardPose(best, errors_px[0], min(errors_px[1:], default=float("inf")), inliers)


def _check_corners(points: np.ndarray, pixels: np.ndarray) -> None:
    if len(points) < MIN_CORNERS:
        raise InputError(f"{len(points)} corners are too few for the board's pose; {MIN_CORNERS} are needed")
    if np.abs(points[:, 2]).max() > 0:
        raise InputError("the board's points do not lie in its plane z = 0")
    if np.linalg.svd(points[:, :2] - points[:, :2].mean(0), compute_uv=False)[1] < 1e-6:
        raise InputError("the detected corners lie on one line: show more of the board")
    if not np.isfinite(pixels).all():
        raise InputError("some corners have no finite pixels: remove them")


# OpenCV's plane solver fails for an exact half turn in the plane, which every upside-down board tilted about one axis
# has. So the board is rotated by this much first.
_OFFSET = pose_from_vector(np.array([0, 0, 0.7, 0, 0, 0]))


def _plane_poses(points: np.ndarray, pixels: np.ndarray, camera: Intrinsics) -> list[np.ndarray]:
    """Return the refined poses in front of the camera, the best first."""
    k, d = camera.matrix, distortion_coefficients(camera)
    rotated = transform(_OFFSET, points)
    _, rotations, translations, _ = cv2.solvePnPGeneric(rotated, pixels, k, d, flags=cv2.SOLVEPNP_IPPE)
    poses = []
    for rotation, translation in zip(rotations, translations, strict=True):
        refined = cv2.solvePnPRefineLM(rotated, pixels, k, d, rotation.copy(), translation.copy())
        pose = pose_from_vector(np.concatenate([part.ravel() for part in refined])) @ _OFFSET
        if np.isfinite(pose).all() and (transform(pose, points)[:, 2] > 0).all():
            poses.append(pose)
    if not poses:
        raise InputError("no pose of the board in front of the camera fits its corners: is the image mirrored?")
    poses.sort(key=lambda pose: _pose_rms(pose, points, pixels, camera))
    # Refinement may move the second solution to the first.
    return poses[:1] + [p for p in poses[1:] if np.abs(pose_to_vector(p) - pose_to_vector(poses[0])).max() > 1e-3]


def _pose_rms(pose: np.ndarray, points: np.ndarray, pixels: np.ndarray, camera: Intrinsics) -> float:
    return rms(project(transform(pose, points), camera) - pixels)
