"""The camera's place on a mobile robot: the floor gives height, pitch and roll; a board lying on it gives x, y and yaw.

The base frame has x forward, y left, z up; its origin stands at a known height over the floor (0 for base_footprint).
"""

import itertools
from dataclasses import dataclass

import numpy as np

from actrec.types import Intrinsics
from actrec.utils.errors import InputError
from actrec_calibration import solver
from actrec_calibration.board import Board, Detection
from actrec_calibration.depth import MOST_SIGMA_DEG, MOST_SIGMA_M, plane_depth
from actrec_calibration.solver import apply, board_pose, inverse, pose_of, projected, rays, turn_deviations, vector_of

MOST_TILT = 65.0  # degrees between the floor's normal and the hint of where up is

REACH = 5.0  # metres; farther readings are too coarse to help

_NEAR, _NEAR_TIMES = 2.5, 1.6
"""The fit takes the floor up to 2.5 m, or to 1.6 times where it begins to be seen: noise grows with the square of the
distance, until the foot of a wall lies within it and draws the floor up."""

_TRIALS, _SAMPLE = 600, 4000

_LEAST_SHARE = 0.05  # of the surface seen

_BELOW = 0.15  # share of the surface seen that may lie under the floor (reflections, holes)

_MOST_READINGS = 5000

_BANDS = 25

_AGREE_M, _AGREE_DEG = 0.03, 3.0  # between the board and the floor it lies on


@dataclass(frozen=True)
class Floor:
    """The floor in a depth image.

    Attributes:
        normal: [3] up, in the frame of the depth camera's points.
        height: Of the camera over it, metres.
        directions: [N, 3] rays, z = 1, of readings on it.
        depth: [N] metres.
        sigma: [N] metres, of each reading.
        share: Of the surface seen in the image that is floor.
    """

    normal: np.ndarray
    height: float
    directions: np.ndarray
    depth: np.ndarray
    sigma: np.ndarray
    share: float

    @property
    def pitch(self) -> float:
        """How far the camera looks down, degrees."""
        return float(-np.degrees(np.arcsin(np.clip(self.normal[2], -1, 1))))

    @property
    def roll(self) -> float:
        """How far the camera is turned about its optical axis, degrees, clockwise as it looks."""
        return float(np.degrees(np.arctan2(-self.normal[0], -self.normal[1])))


@dataclass(frozen=True)
class Lying:
    """A board face up on the floor.

    Attributes:
        x, y: Metres in the base frame, of the board's origin: the outer corner of its top left square.
        yaw: Degrees from the base's x axis to the print's x axis (left to right), counter-clockwise from above; −90
            where who stands at the robot and looks ahead reads the print upright.
        thickness: Of the board, metres.
    """

    x: float
    y: float
    yaw: float
    thickness: float = 0.0

    def pose(self, base_height: float) -> np.ndarray:
        """[4, 4] board → base: the board's z axis points into the floor."""
        c, s = np.cos(np.radians(self.yaw)), np.sin(np.radians(self.yaw))
        pose = np.eye(4)
        pose[:3, :3] = np.array([[c, s, 0], [s, -c, 0], [0, 0, -1]])
        pose[:3, 3] = self.x, self.y, self.thickness - base_height
        return pose


@dataclass(frozen=True)
class OnRobot:
    """The camera's place.

    Attributes:
        camera: [4, 4] color camera → base.
        sigma_m, sigma_deg: [3] standard deviations along and about the base's axes.
        rms: px of the board's corners.
        apart_m, apart_deg: Between the floor by depth and the board's own plane.
    """

    camera: np.ndarray
    sigma_m: np.ndarray
    sigma_deg: np.ndarray
    rms: float
    apart_m: float
    apart_deg: float


def find_floor(
    depth: np.ndarray, camera: Intrinsics, up: tuple[float, float, float] = (0, -1, 0), seed: int = 0
) -> Floor:
    """The largest plane below the camera that agrees with where up is; largest in square metres, not in pixels.

    Args:
        depth: [H, W] metres, NaN where missing.
        camera: Of the depth image.
        up: Roughly, in the optical frame: 0, −1, 0 for a camera that stands upright.
        seed: Of the random trials.

    Raises:
        InputError: There is no such plane, or much of what is seen lies below it (a table).
    """
    directions, readings = _seen(depth, camera)
    random = np.random.default_rng(seed)
    some = random.choice(len(readings), min(_SAMPLE, len(readings)), replace=False)
    normal, height = _largest(directions[some] * readings[some, None], np.array(up, np.float64), random)
    sigma = _allowed(readings)
    reach = _reach(directions, readings, sigma, normal, height)
    for _ in range(8):
        true, on = _on(directions, readings, sigma, normal, height, reach)
        normal, height = _fitted(directions[on], readings[on], true[on], sigma[on], normal)
        # From the noise itself: what stands on the floor would draw its foot in, and the floor with it.
        true = _true(directions, normal, height)
        sigma = _noise(readings[on], true[on], true)
    return _described(directions, readings, sigma, normal, height, reach)


def _reach(directions: np.ndarray, readings: np.ndarray, sigma: np.ndarray, normal: np.ndarray, height: float) -> float:
    """How far the floor is fitted, metres of depth."""
    true, on = _on(directions, readings, sigma, normal, height, REACH)
    nearest = float(np.percentile(true[on], 2)) if on.any() else REACH
    return min(REACH, max(_NEAR, _NEAR_TIMES * nearest))


def _true(directions: np.ndarray, normal: np.ndarray, height: float) -> np.ndarray:
    """[N] depth of the floor in these directions; infinite above the horizon."""
    down = -directions @ normal
    return np.where(down > 1e-6, height / np.maximum(down, 1e-6), np.inf)


def _on(
    directions: np.ndarray, readings: np.ndarray, sigma: np.ndarray, normal: np.ndarray, height: float, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """The floor's depth, and which readings up to `reach` are of it.

    All limits go by the floor's depth, never by the reading's: those that are too far by chance would be let through
    more easily, and the floor would sink.
    """
    true = _true(directions, normal, height)
    facing = np.abs(directions @ normal)
    near = np.abs(readings - true) * facing <= np.minimum(_allowed(np.minimum(true, reach)), 3 * sigma * facing)
    return true, near & (true < reach)


def _seen(depth: np.ndarray, camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    v, u = np.nonzero(np.isfinite(depth) & (depth > 0) & (depth < 1.2 * REACH))
    if len(v) < 1000:
        raise InputError(f"the depth image has {len(v)} readings below {REACH:g} m: show the camera the floor")
    return rays(np.stack([u, v], axis=1), camera), depth[v, u].astype(np.float64)


def _allowed(z: np.ndarray) -> np.ndarray:
    """Distance in metres from the floor that noise explains at depth z."""
    return np.asarray(0.01 + 0.005 * z**2)


def _area(z: np.ndarray) -> np.ndarray:
    """What a pixel at that depth covers, on some scale, of a surface that faces the camera.

    A surface seen aslant is larger; to count that would favor planes that graze far readings by chance.
    """
    return np.asarray(z**2)


def _largest(points: np.ndarray, up: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, float]:
    three = points[random.integers(0, len(points), (_TRIALS, 3))]
    normals = np.cross(three[:, 1] - three[:, 0], three[:, 2] - three[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1), 1e-12)[:, None]
    normals *= np.where(normals @ up < 0, -1, 1)[:, None]
    heights = -(normals * three[:, 0]).sum(1)
    level = (normals @ (up / np.linalg.norm(up)) >= np.cos(np.radians(MOST_TILT))) & (heights > 0.05)
    normals, heights = normals[level], heights[level]
    if not len(normals):
        raise InputError(
            "no plane below the camera looks like a floor: point the camera at the floor, and say where up is (--up) "
            "if it is not mounted upright"
        )
    on = np.abs(normals @ points.T + heights[:, None]) <= _allowed(points[:, 2])
    best = int((on @ _area(points[:, 2])).argmax())
    return normals[best], float(heights[best])


def _fitted(
    directions: np.ndarray, z: np.ndarray, true: np.ndarray, sigma: np.ndarray, normal: np.ndarray
) -> tuple[np.ndarray, float]:
    """Least squares in the inverse reading, in which a plane is linear, weighted as its distance in depth is."""
    if len(z) < 100:
        raise InputError("no plane below the camera holds together: point the camera at an even floor")
    weight = z * true / sigma
    inverse_plane = np.linalg.lstsq(directions * weight[:, None], weight / z, rcond=None)[0]  # n·d / −h
    size = float(np.linalg.norm(inverse_plane))
    found = -inverse_plane / size
    return (found, 1 / size) if found @ normal > 0 else (-found, -1 / size)


def _described(
    directions: np.ndarray, readings: np.ndarray, sigma: np.ndarray, normal: np.ndarray, height: float, reach: float
) -> Floor:
    _, wide = _on(directions, readings, sigma, normal, height, REACH)
    below = directions @ normal * readings + height < -0.05 - _allowed(readings)
    area = _area(readings)
    share = float(area[wide].sum() / area.sum())
    if share < _LEAST_SHARE or height <= 0:
        raise InputError(f"the largest level plane is {share:.0%} of what is seen: point the camera at the floor")
    if area[below].sum() > _BELOW * area.sum():
        raise InputError(
            f"much of what is seen lies below the largest level plane, {height:.2f} m under the camera: is it a table? "
            "point the camera at the floor"
        )
    _, on = _on(directions, readings, sigma, normal, height, reach)
    directions, readings, sigma = directions[on], readings[on], sigma[on]
    some = np.unique(np.linspace(0, len(readings) - 1, _MOST_READINGS).astype(int))
    return Floor(normal, height, directions[some], readings[some], sigma[some], share)


def _noise(readings: np.ndarray, true: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """[N] metres that a reading scatters by at `depth` [N], of readings whose true depth is known: robust."""
    order = np.argsort(true)
    parts = np.array_split(order, 12)
    middle = [float(np.median(true[part])) for part in parts]
    spread = [1.4826 * float(np.median(np.abs(readings[part] - true[part]))) for part in parts]
    return np.maximum(np.interp(depth, middle, spread), 2e-4)


def calibrate(
    board: Board,
    views: list[tuple[Detection, Floor]],
    lying: Lying,
    color: Intrinsics,
    to_color: np.ndarray,
    base_height: float = 0.0,
) -> OnRobot:
    """The camera's place, from the board's corners and the floor's readings together.

    Args:
        board: The board on the floor.
        views: Its corners in the color image and the floor in the depth image, of one or more pictures from one place.
        lying: Where it lies.
        color: Intrinsics of the color image.
        to_color: [4, 4] depth → color; the identity where depth is registered.
        base_height: Of the base frame's origin over the floor, metres.

    Raises:
        InputError: The board does not lie on the floor seen, looks the same after half a turn, or is too far off.
    """
    if board.ambiguous:
        raise InputError(
            "this chessboard looks the same after half a turn, so that it does not tell forward from backward: use a "
            "ChArUco board, or one with an odd and an even number of corners"
        )
    on_base = lying.pose(base_height)
    poses = [board_pose(board.points[seen.ids], seen.pixels, color) for seen, _ in views]
    apart_m, apart_deg = _check_agree(poses[0].pose, views[0][1], to_color, lying.thickness)
    floor = np.eye(4)
    floor[2, 3] = -base_height
    sigma = max(float(np.median([pose.rms for pose in poses])) / np.sqrt(2), 0.03)

    def corners(camera: np.ndarray, seen: Detection) -> np.ndarray:
        return projected(apply(inverse(camera) @ on_base, board.points[seen.ids]), color) - seen.pixels

    # Bands of the floor stand each for itself: what neighboring readings have in common shows in how bands disagree.
    bands = [(plane, band) for _, plane in views for band in _bands(plane)]

    def residuals(shared: np.ndarray, own: np.ndarray, part: int) -> np.ndarray:
        camera = pose_of(shared)
        if part < len(views):
            return corners(camera, views[part][0]).ravel() / sigma
        plane, band = bands[part - len(views)]
        true = plane_depth(inverse(camera @ to_color) @ floor, plane.directions[band])
        return np.asarray((plane.depth[band] - true) / plane.sigma[band])

    start = on_base @ inverse(poses[0].pose)
    solution = solver.solve(residuals, vector_of(start), np.zeros((len(views) + len(bands), 0)))
    degrees, metres = turn_deviations(solution.shared, solution.covariance[:3, :3]), solution.sigma[3:]
    _refuse_uncertain(float(degrees.max()), float(metres.max()))
    camera = pose_of(solution.shared)
    away = np.concatenate([corners(camera, seen) for seen, _ in views])
    rms = float(np.sqrt((away**2).sum(1).mean()))
    return OnRobot(camera, metres, degrees, rms, apart_m, apart_deg)


def _refuse_uncertain(degrees: float, metres: float) -> None:
    """Raises InputError where the place is not known well."""
    if metres > MOST_SIGMA_M or degrees > MOST_SIGMA_DEG:
        raise InputError(
            f"the board tells the camera's place to {1e3 * metres:.1f} mm and {degrees:.2f}° only: lay it nearer, or "
            "one with larger squares"
        )


def _bands(plane: Floor) -> list[slice]:
    edges = np.linspace(0, len(plane.depth), _BANDS + 1).astype(int)
    return [slice(first, last) for first, last in itertools.pairwise(edges) if last > first]


def _check_agree(board: np.ndarray, floor: Floor, to_color: np.ndarray, thickness: float) -> tuple[float, float]:
    """Distance and angle between the board's plane and the floor under it.

    Raises:
        InputError: They are not the same plane.
    """
    in_depth = inverse(to_color) @ board
    angle = float(np.degrees(np.arccos(np.clip(-in_depth[:3, 2] @ floor.normal, -1, 1))))
    over = float(floor.normal @ in_depth[:3, 3] + floor.height) - thickness
    if angle > _AGREE_DEG or abs(over) > _AGREE_M:
        raise InputError(
            f"the board does not lie on the floor that the depth image shows: {1e3 * over:.0f} mm above it, tilted by "
            f"{angle:.1f}°; lay it flat, check the size of its squares, and run actrec calibrate depth first"
        )
    return over, angle
