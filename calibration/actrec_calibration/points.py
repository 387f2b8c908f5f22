"""Intrinsics from 3-D points and their pixels, for recordings without a calibration.

A direct linear transform gives the initial solution (Hartley and Zisserman, 2nd edition, algorithm 7.1), least squares
of the pixels the final one. The camera's pose is estimated too (`free`); or, if the points are in the frame of a camera
that looks the same way, only a shift of it (`shift`), or nothing (`fixed`): a body at one distance does not separate a
rotation of the camera from a shift of its center.
"""

from dataclasses import dataclass

import numpy as np

from actrec.types import Intrinsics
from actrec.utils.errors import InputError
from actrec_calibration import solver
from actrec_calibration.poses import pose_from_vector, pose_to_vector, project, transform

POSES = {"free": 10, "shift": 6, "fixed": 4}
"""Number of unknowns (fx, fy, cx, cy, pose) by name of the estimated pose."""

MIN_POINTS = 12
MIN_THICKNESS = 0.005  # of the point cloud over its width: nearer to a plane, the focal length is undetermined
OUTLIER_FACTOR = 5.0

_MIRRORED = "the pixels belong to a mirrored image (or the points are left-handed): mirror them back first"


@dataclass(frozen=True)
class PointCalibration:
    """Result of `calibrate`.

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


def calibrate(points: np.ndarray, pixels: np.ndarray, size: tuple[int, int], pose: str = "free") -> PointCalibration:
    """Estimate a pinhole camera.

    Args:
        points: [N, 3] m in a right-handed frame, for `shift` and `fixed` the optical frame; not finite if missing.
        pixels: [N, 2] px, pixel centers at integers; not finite if missing.
        size: Width and height of the image.
        pose: A name in `POSES`.

    Raises:
        InputError: Too few points, all points near one plane, or pixels of a mirrored image.
    """
    if pose not in POSES:
        raise InputError(f"pose is '{pose}', expected {', '.join(POSES)}")
    points, pixels = np.asarray(points, np.float64).reshape(-1, 3), np.asarray(pixels, np.float64).reshape(-1, 2)
    known = np.isfinite(points).all(1) & np.isfinite(pixels).all(1)
    points, pixels = points[known], pixels[known]
    _check_points(points)
    unknowns = _direct_linear_transform(points, pixels) if pose == "free" else _line_fits(points, pixels)
    inliers = np.ones(len(points), bool)
    for _ in range(4):
        unknowns, sigma = _refine(points[inliers], pixels[inliers], unknowns, pose)
        camera, to_camera = _unpack(unknowns, size, pose)
        errors = np.linalg.norm(project(transform(to_camera, points), camera) - pixels, axis=1)
        near = errors <= max(1.0, OUTLIER_FACTOR * float(np.median(errors)))
        if (near == inliers).all():
            break
        inliers = near
    rms = float(np.sqrt((errors[inliers] ** 2).mean()))
    return PointCalibration(camera, to_camera, sigma[:4], rms, int(inliers.sum()), len(points))


def _check_points(points: np.ndarray) -> None:
    if len(points) < MIN_POINTS:
        raise InputError(f"{len(points)} points with pixels are too few for a camera; {MIN_POINTS} are needed")
    extent = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if extent[2] < MIN_THICKNESS * extent[0]:
        raise InputError(
            "the points lie on a plane, which leaves the focal length undetermined: give points at several depths, or "
            "calibrate with a board (actrec calibrate intrinsics)"
        )


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
    # RQ decomposition, by QR of the reversed matrix.
    q, r = np.linalg.qr(p[::-1, :3].T)
    k, rotation = r.T[::-1, ::-1], q.T[::-1]
    signs = np.diag(np.sign(np.diag(k)))
    k, rotation = k @ signs, signs @ rotation
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, np.linalg.solve(k, p[:, 3])
    k = k / k[2, 2]
    return np.concatenate([[k[0, 0], k[1, 1], k[0, 2], k[1, 2]], pose_to_vector(pose)])


def _normalization(values: np.ndarray) -> np.ndarray:
    """Return the homogeneous transform to mean 0 and mean square 1 along each axis."""
    count = values.shape[1]
    scale = 1 / np.sqrt(values.var(0).mean())
    matrix = np.eye(count + 1) * scale
    matrix[:count, count], matrix[count, count] = -scale * values.mean(0), 1
    return matrix


def _line_fits(points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return [7] fx, fy, cx, cy and no shift, by a straight line along each axis."""
    if not (points[:, 2] > 0).all():
        raise InputError("points are behind the camera: transform them to the optical frame (z forward) first")
    (fx, cx), (fy, cy) = (np.polyfit(points[:, i] / points[:, 2], pixels[:, i], 1) for i in (0, 1))
    if fx < 0 or fy < 0:
        raise InputError(_MIRRORED)
    return np.array([fx, fy, cx, cy, 0, 0, 0])


def _refine(points: np.ndarray, pixels: np.ndarray, initial: np.ndarray, pose: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the refined unknowns and the standard deviations of the estimated ones."""
    count = POSES[pose]
    fixed = initial[count:]

    def errors(unknowns: np.ndarray) -> np.ndarray:
        camera, to_camera = _unpack(np.concatenate([unknowns, fixed]), (1, 1), pose)
        return (project(transform(to_camera, points), camera) - pixels).ravel()

    sigma = max(1.4826 * float(np.median(np.abs(errors(initial[:count])))), 1e-3)
    found = solver.solve(lambda shared, own, view: errors(shared) / sigma, initial[:count], np.zeros((1, 0)))
    return np.concatenate([found.shared, fixed]), found.sigma


def _unpack(unknowns: np.ndarray, size: tuple[int, int], pose: str) -> tuple[Intrinsics, np.ndarray]:
    fx, fy, cx, cy = (float(value) for value in unknowns[:4])
    camera = Intrinsics(*size, fx, fy, cx, cy)
    vector = unknowns[4:] if pose == "free" else np.concatenate([np.zeros(3), unknowns[4:]])
    return camera, pose_from_vector(vector)
