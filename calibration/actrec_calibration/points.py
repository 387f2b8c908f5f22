"""Intrinsics from points in space and where a picture shows them: recordings that come without a calibration.

A direct linear transform begins (Hartley and Zisserman, 2nd edition, algorithm 7.1), least squares of the pixels ends.
The pose of the camera may be sought with the intrinsics (`free`), or, where the points are given in the frame of a
camera that looks the same way, only a shift of it (`shift`), or nothing (`fixed`): a body that stands at one distance
does not tell a turn of the camera from a shift of its center.

Points in space with their pixels, from CSV and from NTU RGB+D's `.skeleton` files.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actrec.datasets.ntu.skeletons import COLOR_SIZE, DEPTH_SIZE, read_ntu_file
from actrec.types import Intrinsics
from actrec.utils.calibration_files import DEPTH
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.geometry import KINECT_TO_OPTICAL
from actrec_calibration import solver
from actrec_calibration.solver import apply, pose_of, projected, vector_of

POSES = ("free", "shift", "fixed")

LEAST_POINTS = 12

_FLAT = 0.005  # thickness of the cloud over its breadth: nearer to a plane, the focal length is open

_OUTLIER = 5.0


@dataclass(frozen=True)
class FromPoints:
    """What was found.

    Attributes:
        camera: Without distortion.
        pose: [4, 4] a point, metres, in the camera's optical frame.
        sigma: [4] standard deviations of fx, fy, cx, cy in px.
        rms: px, of the points that agree.
        used, given: Points that agree, and all that had pixels.
    """

    camera: Intrinsics
    pose: np.ndarray
    sigma: np.ndarray
    rms: float
    used: int
    given: int


def calibrate(points: np.ndarray, pixels: np.ndarray, size: tuple[int, int], pose: str = "free") -> FromPoints:
    """Finds a pinhole camera.

    Args:
        points: [N, 3] metres in a right-handed frame; for `shift` and `fixed` the optical frame (x right, y down, z
            forward). Not finite where missing.
        pixels: [N, 2] px, pixel centers at integers; not finite where missing.
        size: Width and height of the picture.
        pose: One of `POSES`.

    Raises:
        InputError: Too few points, all near one plane, or pixels of a mirrored picture.
    """
    if pose not in POSES:
        raise InputError(f"pose is '{pose}', expected {', '.join(POSES)}")
    points, pixels = np.asarray(points, np.float64).reshape(-1, 3), np.asarray(pixels, np.float64).reshape(-1, 2)
    known = np.isfinite(points).all(1) & np.isfinite(pixels).all(1)
    points, pixels = points[known], pixels[known]
    _check(points)
    start = _linear(points, pixels) if pose == "free" else _along_axes(points, pixels)
    kept = np.ones(len(points), bool)
    for _ in range(4):
        solution = _refined(points[kept], pixels[kept], start, pose)
        start = solution.shared
        camera, place = _read(start, size, pose)
        away = np.linalg.norm(projected(apply(place, points), camera) - pixels, axis=1)
        near = away <= max(1.0, _OUTLIER * float(np.median(away)))
        if (near == kept).all():
            break
        kept = near
    rms = float(np.sqrt((away[kept] ** 2).mean()))
    return FromPoints(camera, place, solution.sigma[:4], rms, int(kept.sum()), len(points))


def _check(points: np.ndarray) -> None:
    if len(points) < LEAST_POINTS:
        raise InputError(
            f"{len(points)} points with pixels are too few to find a camera from, {LEAST_POINTS} are needed"
        )
    breadth = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if breadth[2] < _FLAT * breadth[0]:
        raise InputError(
            "the points lie on a plane, which leaves the focal length open: give points at several depths, or "
            "calibrate with a board (actrec calibrate intrinsics)"
        )


def _linear(points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """[10] fx, fy, cx, cy and pose by the direct linear transform."""
    space, image = _normalizing(points), _normalizing(pixels)
    x = np.column_stack([points, np.ones(len(points))]) @ space.T
    u = np.column_stack([pixels, np.ones(len(pixels))]) @ image.T
    nothing = np.zeros_like(x)
    rows = np.concatenate([np.hstack([x, nothing, -u[:, :1] * x]), np.hstack([nothing, x, -u[:, 1:2] * x])])
    p = np.linalg.inv(image) @ np.linalg.svd(rows, full_matrices=False)[2][-1].reshape(3, 4) @ space
    if np.median(np.column_stack([points, np.ones(len(points))]) @ p[2]) < 0:
        p = -p  # points lie before the camera
    if np.linalg.det(p[:, :3]) < 0:
        raise InputError("the pixels are those of a mirrored picture (or the points left-handed): turn them back first")
    # RQ, by QR of the reversed matrix.
    q, r = np.linalg.qr(p[::-1, :3].T)
    k, rotation = r.T[::-1, ::-1], q.T[::-1]
    signs = np.diag(np.sign(np.diag(k)))
    k, rotation = k @ signs, signs @ rotation
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, np.linalg.solve(k, p[:, 3])
    k = k / k[2, 2]
    return np.concatenate([[k[0, 0], k[1, 1], k[0, 2], k[1, 2]], vector_of(pose)])


def _normalizing(values: np.ndarray) -> np.ndarray:
    """The transform that carries them to mean 0 and mean square 1 along each axis."""
    count = values.shape[1]
    scale = 1 / np.sqrt(values.var(0).mean())
    transform = np.eye(count + 1) * scale
    transform[:count, count], transform[count, count] = -scale * values.mean(0), 1
    return transform


def _along_axes(points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """[7] fx, fy, cx, cy and no shift, by a straight line along each axis."""
    if not (points[:, 2] > 0).all():
        raise InputError("points lie behind the camera: turn them to the optical frame (z forward) first")
    (fx, cx), (fy, cy) = (np.polyfit(points[:, i] / points[:, 2], pixels[:, i], 1) for i in (0, 1))
    if fx < 0 or fy < 0:
        raise InputError("the pixels are those of a mirrored picture (or the points left-handed): turn them back first")
    return np.array([fx, fy, cx, cy, 0, 0, 0])


def _refined(points: np.ndarray, pixels: np.ndarray, start: np.ndarray, pose: str) -> solver.Bundle:
    sought = {"free": 10, "shift": 6, "fixed": 4}[pose]
    rest = start[sought:]

    def away(shared: np.ndarray) -> np.ndarray:
        camera, place = _read(np.concatenate([shared, rest]), (1, 1), pose)
        return (projected(apply(place, points), camera) - pixels).ravel()

    sigma = max(1.4826 * float(np.median(np.abs(away(start[:sought])))), 1e-3)
    found = solver.solve(lambda shared, own, view: away(shared) / sigma, start[:sought], np.zeros((1, 0)))
    return solver.Bundle(
        np.concatenate([found.shared, rest]), found.own, found.covariance, found.information, found.residuals
    )


def _read(numbers: np.ndarray, size: tuple[int, int], pose: str) -> tuple[Intrinsics, np.ndarray]:
    fx, fy, cx, cy = (float(value) for value in numbers[:4])
    camera = Intrinsics(*size, fx, fy, cx, cy)
    if pose == "free":
        return camera, pose_of(numbers[4:])
    return camera, pose_of(np.concatenate([np.zeros(3), numbers[4:]]))


_COLUMNS = ("x", "y", "z", "u", "v")


@dataclass(frozen=True)
class Given:
    """Points [N, 3] metres, pixels [N, 2], NaN where missing, and the picture's width and height."""

    points: np.ndarray
    pixels: np.ndarray
    size: tuple[int, int]


def read(files: list[Path], part: str, size: str | None = None) -> Given:
    """All points of files of one kind and one camera.

    Args:
        files: CSV or `.skeleton`.
        part: Whose pixels of a `.skeleton`: "color" or "depth".
        size: "W,H" of the picture, for CSV.

    Raises:
        ConfigError: The size is missing or no size.
        DeviceError: A file is not there.
        InputError: A file is damaged.
    """
    if all(file.suffix == ".skeleton" for file in files):
        return _skeletons(files, DEPTH_SIZE if part == DEPTH else COLOR_SIZE, part)
    rows = np.concatenate([_csv(file) for file in files])
    return Given(rows[:, :3], rows[:, 3:], _size(size))


def _skeletons(files: list[Path], size: tuple[int, int], part: str) -> Given:
    points, pixels = [], []
    for file in files:
        recording = read_ntu_file(file)
        seen = recording.depth_pixels if part == DEPTH else recording.color_pixels
        points.append((recording.positions * KINECT_TO_OPTICAL).reshape(-1, 3))
        # The dataset's pictures are mirrored. In float64: unmirror's float32 is coarser than the fit.
        pixels.append(np.stack([size[0] - 1 - seen[..., 0], seen[..., 1]], axis=-1).reshape(-1, 2))
    return Given(np.concatenate(points), np.concatenate(pixels), size)


def _csv(file: Path) -> np.ndarray:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:  # tables saved by Excel begin with a mark
            rows = list(csv.DictReader(lines, skipinitialspace=True, strict=True))
        if any(None in row for row in rows):  # DictReader's key for them
            raise ValueError("a row with more values than the header has names: write decimals with a point")
        return np.array([[float(row[column]) for column in _COLUMNS] for row in rows]).reshape(-1, len(_COLUMNS))
    except OSError as error:
        raise DeviceError(f"cannot read points '{file}': {error.strerror}; check the path") from error
    except csv.Error as error:
        raise InputError(f"'{file}' is no CSV: {error}; is a quotation mark left open?") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"'{file}' is no table of points ({error}); expected a header x,y,z,u,v and numbers"
        ) from error


def _size(text: str | None) -> tuple[int, int]:
    if text is None:
        raise ConfigError("give the picture's size with --size W,H")
    try:
        width, height = (int(word) for word in text.replace("x", ",").split(","))
        if min(width, height) <= 0:
            raise ValueError("no size")
    except ValueError as error:
        raise ConfigError(f"--size is '{text}', expected W,H, e.g. 640,480") from error
    return width, height
