"""The floor in a depth image: the plane under people, or the largest plane below the camera."""

from dataclasses import dataclass

import numpy as np

from actrec.types import Intrinsics
from actrec.utils import camera_model
from actrec.utils.errors import InputError

MAX_TILT_DEG = 65.0
"""Between the floor's normal and the approximate up direction."""

MAX_DEPTH, MAX_STANDING_DEPTH = 5.0, 6.0
"""In m, without and with people; farther readings are too coarse."""

NEAR_DEPTH, NEAR_FACTOR = 2.5, 1.6
"""The fit uses the floor up to 2.5 m, or to 1.6 times the depth at which it enters the image. Noise grows with the
square of the distance; farther away the foot of a wall is within it and tilts the fit."""

MIN_FLOOR_SHARE = 0.05
"""Of the visible surface."""

MAX_SHARE_BELOW = 0.15
"""Of the visible surface that may be under the floor (reflections, holes)."""

RANSAC_TRIALS, RANSAC_POINTS = 600, 4000

FIT_READINGS, STANDING_READINGS = 60_000, 10_000
"""Largest number of evenly chosen readings (up to twice as many are used), without and with people."""

MAX_STANDING_TILT_DEG, MAX_STANDING_SHARE_BELOW, MAX_FEET_M, MIN_EXTENT_M, MIN_EXTENT = 20.0, 0.05, 0.15, 0.25, 0.1
"""Under people: tilt from their axis, share of readings below, distance of their lowest joint, and standard deviation
of the floor's readings along its shorter side, also relative to their mean depth."""

FEET_BAND_M, FEET_NOISE_M = 0.35, 0.06
"""Half the height of the readings' band about the lowest joint, at first and at last."""

MAX_READINGS = 5000
"""Readings of a `Floor`."""


@dataclass(frozen=True)
class Floor:
    """The floor in a depth image.

    Attributes:
        normal: [3] up, in the depth camera's optical frame.
        height: Of the camera above the floor, m.
        rays: [N, 3] directions, z = 1, of readings on the floor.
        depth: [N] m.
        sigma: [N] standard deviation of each reading, m.
    """

    normal: np.ndarray
    height: float
    rays: np.ndarray
    depth: np.ndarray
    sigma: np.ndarray


def find_floor(
    readings: "Readings", up: np.ndarray | tuple[float, float, float] = (0, -1, 0), joints: np.ndarray | None = None
) -> Floor:
    """Find the floor under people, or the largest plane below the camera by area in m², near the up direction.

    Args:
        readings: Of a depth image.
        up: Approximate up direction in the optical frame, within `MAX_TILT_DEG`, under people `MAX_STANDING_TILT_DEG`.
        joints: [N, 3] m of people in the same frame, who stand or lie on the floor; None without people.

    Raises:
        InputError: There is no such plane, or much of the visible surface is below it (a table).
    """
    readings = Readings(readings.rays, readings.depth, readings.points)
    upwards = np.asarray(up, np.float64) / np.linalg.norm(up)
    if joints is None:
        random = np.random.default_rng(0)
        sample = random.choice(len(readings.depth), min(RANSAC_POINTS, len(readings.depth)), replace=False)
        normal, height = _ransac_plane(readings.points[sample], upwards, random)
    else:
        normal, height = _plane_under(readings.points, joints, upwards)
    farthest = MAX_DEPTH if joints is None else MAX_STANDING_DEPTH
    on = readings.on_floor(normal, height, farthest)
    nearest = float(np.percentile(readings.floor_depth(normal, height)[on], 2)) if on.any() else farthest
    reach = min(farthest, max(NEAR_DEPTH, NEAR_FACTOR * nearest))
    for _ in range(8):
        on = readings.on_floor(normal, height, reach)
        normal, height = readings.fit_floor(on, normal, height)
        readings.update_sigma(normal, height, on)
    _check(readings, normal, height, upwards, joints)
    on = readings.on_floor(normal, height, reach)
    thinned = np.flatnonzero(on)[np.unique(np.linspace(0, on.sum() - 1, MAX_READINGS).astype(int))]
    return Floor(normal, height, readings.rays[thinned], readings.depth[thinned], readings.sigma[thinned])


def _check(readings: "Readings", normal: np.ndarray, height: float, up: np.ndarray, joints: np.ndarray | None) -> None:
    """Raise InputError if a fitted plane is no floor."""
    tilt = float(np.degrees(np.arccos(np.clip(normal @ up, -1, 1))))
    if tilt > (MAX_TILT_DEG if joints is None else MAX_STANDING_TILT_DEG):
        raise InputError(
            f"the plane that fits best is tilted by {tilt:.0f}° from the up direction, so it is a wall: point the "
            "camera at the floor, and set the up direction (--up) if it is not mounted upright"
        )
    area = readings.depth**2
    on = readings.on_floor(normal, height, MAX_DEPTH)
    share = float(area[on].sum() / area.sum()) if joints is None else float(on.mean())
    if share < MIN_FLOOR_SHARE or height <= 0:
        raise InputError(
            f"the largest level plane is {share:.0%} of the visible surface: point the camera at the floor"
        )
    below = readings.points @ normal + height < -0.05 - _max_distance(readings.depth)
    if area[below].sum() > MAX_SHARE_BELOW * area.sum():
        raise InputError(
            f"much of the visible surface is below the largest level plane, {height:.2f} m under the camera: is it a "
            "table? point the camera at the floor"
        )
    if joints is None:
        return
    # A floor extends to all sides, nearly nothing is below it, and feet stand on it; a ledge, a lap or a cut through
    # the room is none.
    extent = float(np.sqrt(np.linalg.eigvalsh(np.cov(readings.points[on].T))[1]))
    feet = abs(float((joints @ normal).min()) + height)
    too_small = extent < max(MIN_EXTENT_M, MIN_EXTENT * float(readings.depth[on].mean()))
    if too_small or below.mean() > MAX_STANDING_SHARE_BELOW or feet > MAX_FEET_M:
        raise InputError("no plane under the people is a floor: point the camera at the floor")


def _plane_under(points: np.ndarray, joints: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit a plane to the readings [N, 3] about the height of the lowest of the joints [M, 3], robustly (Tukey)."""
    normal, offset, reach = up, float((joints @ up).min()), FEET_BAND_M
    for _ in range(12):
        weight = np.clip(1 - ((points @ normal - offset) / reach) ** 2, 0, None) ** 2
        if (weight > 0).sum() < MIN_FLOOR_SHARE / 2 * len(points):
            raise InputError("there is no plane under the people: point the camera at the floor")
        center = weight @ points / weight.sum()
        spread = (points - center) * np.sqrt(weight)[:, None]
        fitted = np.linalg.eigh(spread.T @ spread)[1][:, 0]
        normal = fitted if fitted @ up > 0 else -fitted
        offset, reach = float(center @ normal), max(0.7 * reach, FEET_NOISE_M)
    return normal, -offset


def _max_distance(z: np.ndarray) -> np.ndarray:
    """Return the distance in m from the floor that noise explains at depth z."""
    return np.asarray(0.01 + 0.005 * z**2)


class Readings:
    """Readings [N] of a depth image with their rays [N, 3], compared with a plane (normal, height)."""

    def __init__(self, rays: np.ndarray, depth: np.ndarray, points: np.ndarray):
        self.rays, self.depth, self.points = rays, depth, points
        self.sigma = _max_distance(depth)  # of each reading; first a coarse bound

    @classmethod
    def of(cls, depth: np.ndarray, camera: Intrinsics, standing: bool = False) -> "Readings":
        """Return evenly chosen readings of `depth` [H, W] m, `standing` under people; raise InputError for too few."""
        v, u = np.nonzero(np.isfinite(depth) & (depth > 0) & (depth < 1.2 * MAX_DEPTH))
        if len(v) < 1000:
            raise InputError(f"the depth image has {len(v)} readings below {MAX_DEPTH:g} m: show the camera the floor")
        some = slice(None, None, max(1, len(v) // (STANDING_READINGS if standing else FIT_READINGS)))
        v, u = v[some], u[some]
        plane = camera_model.rays(np.stack([u, v], axis=1), camera)
        rays, z = np.column_stack([plane, np.ones(len(plane))]), depth[v, u].astype(np.float64)
        return cls(rays, z, rays * z[:, None])

    def floor_depth(self, normal: np.ndarray, height: float) -> np.ndarray:
        """Return [N] depth of the floor along the rays; infinite above the horizon."""
        down = -self.rays @ normal
        return np.where(down > 1e-6, height / np.maximum(down, 1e-6), np.inf)

    def on_floor(self, normal: np.ndarray, height: float, reach: float) -> np.ndarray:
        """Return [N] bool: readings of the floor up to depth `reach`.

        All limits depend on the floor's depth, not on the reading's: otherwise readings that are too far by chance pass
        more easily, and the fitted floor sinks.
        """
        true = self.floor_depth(normal, height)
        facing = np.abs(self.rays @ normal)
        limit = np.minimum(_max_distance(np.minimum(true, reach)), 3 * self.sigma * facing)
        near: np.ndarray = np.abs(self.depth - true) * facing <= limit
        return near & (true < reach)

    def fit_floor(self, on: np.ndarray, normal: np.ndarray, height: float) -> tuple[np.ndarray, float]:
        """Fit the plane by least squares in the inverse depth, in which it is linear, weighted by the depth error."""
        z, uneven = self.depth[on], "no plane below the camera is even enough: point the camera at an even floor"
        if len(z) < 100:
            raise InputError(uneven)
        weight = z * self.floor_depth(normal, height)[on] / self.sigma[on]
        plane = np.linalg.lstsq(self.rays[on] * weight[:, None], weight / z, rcond=None)[0]  # −normal / height
        size = float(np.linalg.norm(plane))
        if not size > 1e-6:  # farther than any room
            raise InputError(uneven)
        fitted = -plane / size
        return (fitted, 1 / size) if fitted @ normal > 0 else (-fitted, -1 / size)

    def update_sigma(self, normal: np.ndarray, height: float, on: np.ndarray) -> None:
        """Estimate the noise by depth from the readings on the floor: objects on the floor would tilt the fit."""
        floor_depth = self.floor_depth(normal, height)
        true, readings = floor_depth[on], self.depth[on]
        parts = np.array_split(np.argsort(true), 12)
        medians = [float(np.median(true[part])) for part in parts]
        spread = [1.4826 * float(np.median(np.abs(readings[part] - true[part]))) for part in parts]
        self.sigma = np.maximum(np.interp(floor_depth, medians, spread), 2e-4)


def _ransac_plane(points: np.ndarray, up: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, float]:
    triples = points[random.integers(0, len(points), (RANSAC_TRIALS, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1), 1e-12)[:, None]
    normals *= np.where(normals @ up < 0, -1, 1)[:, None]
    heights = -(normals * triples[:, 0]).sum(1)
    level = (normals @ up >= np.cos(np.radians(MAX_TILT_DEG))) & (heights > 0.05)
    normals, heights = normals[level], heights[level]
    if not len(normals):
        raise InputError(
            "no plane below the camera looks like a floor: point the camera at the floor, and set the up direction "
            "(--up) if it is not mounted upright"
        )
    on = np.abs(normals @ points.T + heights[:, None]) <= _max_distance(points[:, 2])
    # By area, for surfaces that face the camera: the factor of oblique ones favors planes that graze far readings.
    best = int((on @ points[:, 2] ** 2).argmax())
    return normals[best], float(heights[best])
