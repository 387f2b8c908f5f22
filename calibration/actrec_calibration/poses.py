"""Rigid transforms, projection through a lens, the pose of a flat board, and a camera from points with their pixels.

A pose is a 4×4 matrix. As six numbers it is a rotation vector in radians followed by a translation in m.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from actrec.types import Intrinsics
from actrec.utils import calibration_files, camera_model
from actrec.utils.errors import InputError
from actrec_calibration import solver

MIN_CORNERS = 6  # four fix a plane's pose; with fewer than six a wrong one cannot be detected
OUTLIER_FACTOR = 5.0  # times the robust standard deviation
MIN_OUTLIER_PX = 1.0  # a corner nearer than this is never an outlier

MIN_POINTS = 12
MIN_THICKNESS = 0.005  # of the point cloud over its width: nearer to a plane, the focal length is undetermined

ESTIMATED_POSES = {"free": range(10), "shift": (0, 1, 2, 3, 7, 8), "fixed": range(4)}
"""Estimated ones of the unknowns fx, fy, cx, cy, rotation and translation of `calibrate_from_points`, by name."""

_MIRRORED = "the pixels belong to a mirrored image (or the points are left-handed): mirror them back first"


def pose_from_vector(vector: np.ndarray) -> np.ndarray:
    """Return the [4, 4] pose of a rotation vector and a translation, [6]."""
    return calibration_files.transform(cv2.Rodrigues(np.asarray(vector[:3], np.float64))[0], vector[3:])


def pose_to_vector(pose: np.ndarray) -> np.ndarray:
    """Return the [6] rotation vector and translation of a pose."""
    return np.concatenate([rotation_vector(pose), pose[:3, 3]])


def rotation_vector(pose: np.ndarray) -> np.ndarray:
    """Return the [3] rotation vector in radians of a [3, 3] or [4, 4]; exact also below 1e-5 rad, unlike OpenCV's."""
    return np.asarray(Rotation.from_matrix(pose[:3, :3]).as_rotvec())


def invert(pose: np.ndarray) -> np.ndarray:
    """Return the inverse of a rigid transform."""
    return calibration_files.transform(pose[:3, :3].T, -pose[:3, :3].T @ pose[:3, 3])


def transform(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Transform points [..., 3] by a pose."""
    return np.asarray(points @ pose[:3, :3].T + pose[:3, 3])


def pose_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the distance in m between two origins, and the angle in degrees between the axes."""
    angle = np.linalg.norm(rotation_vector(a[:3, :3].T @ b[:3, :3]))
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3])), float(np.degrees(angle))


def rotation_sigma_deg(vector: np.ndarray, covariance: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    """Return [3] standard deviations in degrees of a pose's rotation.

    Args:
        vector: [6] the pose. Unless its rotation is small, its numbers are no angles about the axes of either frame.
        covariance: [3, 3] of its rotation vector.
        axes: [3, 3] rows to rotate about; by default the parent frame's.
    """
    back, step = pose_from_vector(vector)[:3, :3].T, 1e-6
    columns = [rotation_vector(pose_from_vector(vector + step * unit)[:3, :3] @ back) for unit in np.eye(6)[:3]]
    jacobian = (np.eye(3) if axes is None else axes) @ np.stack(columns, axis=1) / step
    return np.asarray(np.degrees(np.sqrt(np.maximum(np.diag(jacobian @ covariance @ jacobian.T), 0))))


def distortion_coefficients(camera: Intrinsics) -> np.ndarray:
    """Return the lens distortion in OpenCV's form."""
    if camera.lens:
        raise InputError(f"calibration does not support {camera.lens} lenses: use rectified images")
    return np.array(camera.distortion or (0.0,) * 5, np.float64)


def project(points: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Project points [N, 3] (m, optical frame) to [N, 2] pixels, with lens distortion."""
    flat, zero = np.ascontiguousarray(points, np.float64).reshape(-1, 1, 3), np.zeros(3)
    return np.asarray(cv2.projectPoints(flat, zero, zero, camera.matrix, distortion_coefficients(camera))[0][:, 0])


def pixel_rays(pixels: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Return the [N, 3] ray directions, z = 1, of pixels [N, 2]."""
    plane = camera_model.rays(np.asarray(pixels), camera)
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


# -- pose of a board ---------------------------------------------------------------------------------------------------


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
    if len(points) < MIN_CORNERS:
        raise InputError(f"{len(points)} corners are too few for the board's pose; {MIN_CORNERS} are needed")
    if np.linalg.svd(points[:, :2] - points[:, :2].mean(0), compute_uv=False)[1] < 1e-6:
        raise InputError("the detected corners lie on one line: show more of the board")
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


# -- camera from points ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PointCalibration:
    """Result of `calibrate_from_points`.

    Attributes:
        camera: Intrinsics without distortion.
        pose: [4, 4] points → camera (optical frame, m).
        sigma: [4] standard deviations of fx, fy, cx, cy, px.
        rms: Reprojection error of the inliers, px.
        used, given: Number of inliers and of all finite points.
    """

    camera: Intrinsics
    pose: np.ndarray
    sigma: np.ndarray
    rms: float
    used: int
    given: int


def calibrate_from_points(
    points: np.ndarray, pixels: np.ndarray, size: tuple[int, int], pose: str = "free"
) -> PointCalibration:
    """Estimate a pinhole camera, for recordings without a calibration.

    A direct linear transform (Hartley and Zisserman, 2nd edition, algorithm 7.1) gives the initial solution, least
    squares the final one. `free` estimates the camera's pose too; `shift`, for points in the frame of a camera that
    looks the same way, its position across the view; `fixed` nothing: a body at one distance does not separate a
    rotation of the camera from a shift of its center.

    Args:
        points: [N, 3] m in a right-handed frame, for `shift` and `fixed` the optical frame; not finite if missing.
        pixels: [N, 2] px, pixel centers at integers; not finite if missing.
        size: Width and height of the image.
        pose: A name in `ESTIMATED_POSES`.

    Raises:
        InputError: Too few points, all points near one plane, or pixels of a mirrored image.
    """
    if pose not in ESTIMATED_POSES:
        raise InputError(f"pose is '{pose}', expected {', '.join(ESTIMATED_POSES)}")
    points, pixels = np.asarray(points, np.float64).reshape(-1, 3), np.asarray(pixels, np.float64).reshape(-1, 2)
    known = np.isfinite(points).all(1) & np.isfinite(pixels).all(1)
    points, pixels = points[known], pixels[known]
    if len(points) < MIN_POINTS:
        raise InputError(f"{len(points)} points with pixels are too few for a camera; {MIN_POINTS} are needed")
    extent = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if extent[2] < MIN_THICKNESS * extent[0]:
        raise InputError(
            "the points lie on a plane, which leaves the focal length undetermined: give points at several depths, or "
            "calibrate with a board (actrec calibrate intrinsics)"
        )
    unknowns = _direct_linear_transform(points, pixels) if pose == "free" else _line_fits(points, pixels)
    inliers = np.ones(len(points), bool)
    for _ in range(4):
        unknowns, sigma = _refine(points[inliers], pixels[inliers], unknowns, list(ESTIMATED_POSES[pose]))
        fx, fy, cx, cy = map(float, unknowns[:4])
        camera, to_camera = Intrinsics(*size, fx, fy, cx, cy), pose_from_vector(unknowns[4:])
        errors = np.linalg.norm(project(transform(to_camera, points), camera) - pixels, axis=1)
        near = errors <= max(1.0, OUTLIER_FACTOR * float(np.median(errors)))
        if (near == inliers).all():
            break
        inliers = near
    rms_px = float(np.sqrt((errors[inliers] ** 2).mean()))
    return PointCalibration(camera, to_camera, sigma[:4], rms_px, int(inliers.sum()), len(points))


def _direct_linear_transform(points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return [10] fx, fy, cx, cy and the pose."""
    homogeneous = np.column_stack([points, np.ones(len(points))])
    of_points, of_pixels = _normalization(points), _normalization(pixels)
    x = homogeneous @ of_points.T
    u = np.column_stack([pixels, np.ones(len(pixels))]) @ of_pixels.T
    zero = np.zeros_like(x)
    rows = np.concatenate([np.hstack([x, zero, -u[:, :1] * x]), np.hstack([zero, x, -u[:, 1:2] * x])])
    p = np.linalg.inv(of_pixels) @ np.linalg.svd(rows, full_matrices=False)[2][-1].reshape(3, 4) @ of_points
    if np.median(homogeneous @ p[2]) < 0:
        p = -p  # points are in front of the camera
    if np.linalg.det(p[:, :3]) < 0:
        raise InputError(_MIRRORED)
    k, rotation, center = cv2.decomposeProjectionMatrix(p)[:3]
    translation = -rotation @ (center[:3, 0] / center[3, 0])
    k /= k[2, 2]
    return np.concatenate([[k[0, 0], k[1, 1], k[0, 2], k[1, 2]], rotation_vector(rotation), translation])


def _normalization(values: np.ndarray) -> np.ndarray:
    """Return the homogeneous transform to mean 0 and mean square 1 along each axis."""
    count = values.shape[1]
    scale = 1 / np.sqrt(values.var(0).mean())
    matrix = np.eye(count + 1) * scale
    matrix[:count, count], matrix[count, count] = -scale * values.mean(0), 1
    return matrix


def _line_fits(points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return [10] fx, fy, cx, cy, by a straight line along each axis, and no rotation and shift."""
    if not (points[:, 2] > 0).all():
        raise InputError("points are behind the camera: transform them to the optical frame (z forward) first")
    (fx, cx), (fy, cy) = (np.polyfit(points[:, i] / points[:, 2], pixels[:, i], 1) for i in (0, 1))
    if fx < 0 or fy < 0:
        raise InputError(_MIRRORED)
    return np.array([fx, fy, cx, cy, *np.zeros(6)])


def _refine(
    points: np.ndarray, pixels: np.ndarray, initial: np.ndarray, estimated: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return [10] refined unknowns, and the standard deviations of the estimated ones."""

    def errors(values: np.ndarray) -> np.ndarray:
        unknowns = initial.copy()
        unknowns[estimated] = values
        fx, fy, cx, cy = map(float, unknowns[:4])
        camera = Intrinsics(1, 1, fx, fy, cx, cy)
        return (project(transform(pose_from_vector(unknowns[4:]), points), camera) - pixels).ravel()

    sigma = max(1.4826 * float(np.median(np.abs(errors(initial[estimated])))), 1e-3)
    found = solver.solve(lambda shared, own, view: errors(shared) / sigma, initial[estimated], np.zeros((1, 0)))
    refined = initial.copy()
    refined[estimated] = found.shared
    return refined, found.sigma
