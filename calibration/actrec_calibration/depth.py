"""Where the depth camera sits beside the color camera, and what its readings are off by, from views of one board.

One least-squares problem over all views: the corners in color, the corners in the depth camera's infrared image where
there is one, and the depth readings on the board, against the board's pose in each view, the transform
depth → color, and true = scale · reading + bias.

A depth image's readings on a board: which pixels see it, and how they differ from where it is.

True depth = scale · reading + bias, metres along the optical axis.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils.calibration_files import DepthGeometry
from actrec.utils.errors import InputError
from actrec_calibration import solver
from actrec_calibration.board import Board, Detection
from actrec_calibration.solver import (
    apply,
    board_pose,
    image_rays,
    inverse,
    pose_of,
    projected,
    turn_deviations,
    vector_of,
)

MARGIN_PX = 4
"""From the board's edge inwards: there a depth pixel mixes the board with what is behind it."""

LEAST_PIXELS = 100

MOST_PIXELS = 400
"""Used of one view: neighbors share their errors, more would only take longer."""

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


MODELS = ("scale", "bias", "none")
"""What of the readings is found: scale and bias, bias alone, nothing (they are taken at their word)."""

LEAST_VIEWS = 4

LEAST_TILT = 8.0
"""Degrees, root mean square about the axis that the boards' normals turn least: below, depth alone cannot tell where
the camera sits."""

MOST_SIGMA_M, MOST_SIGMA_DEG = 0.005, 0.25
"""A result less certain than this is refused."""

_LEAST_PX = 0.03

_ROUNDS = 3


@dataclass(frozen=True)
class Pair:
    """One view by both cameras at the same time.

    Attributes:
        name: Of its file, for messages.
        color: The board's corners in the color image.
        depth: [H, W] metres as read, NaN where missing; None to leave it out.
        infrared: The corners in the infrared image of the depth camera, None where there is none.
    """

    name: str
    color: Detection
    depth: np.ndarray | None
    infrared: Detection | None = None


@dataclass(frozen=True)
class Cameras:
    """Intrinsics of both cameras.

    Attributes:
        fixed: [4, 4] depth → color where it is known (the depth is registered: identity) and only the readings are
            calibrated; None where it is sought.
        guess: [4, 4] where to begin; side by side otherwise.
    """

    color: Intrinsics
    depth: Intrinsics
    fixed: np.ndarray | None = None
    guess: np.ndarray | None = None


@dataclass(frozen=True)
class Found:
    """The result.

    Attributes:
        geometry: depth → color, scale and bias.
        sigma_m, sigma_deg: [3] standard deviations of depth → color along x, y, z and about them; 0 where fixed.
        sigma_scale, sigma_bias: Of the correction (metres); 0 where not sought.
        rms_color, rms_infrared: px of the corners; infrared NaN where there is none.
        rows: Residuals of each view's readings, by distance (see `depth.by_distance`).
        views: Views used.
        rejected: Views left out, and why.
    """

    geometry: DepthGeometry
    sigma_m: np.ndarray
    sigma_deg: np.ndarray
    sigma_scale: float
    sigma_bias: float
    rms_color: float
    rms_infrared: float
    rows: list[dict[str, Any]]
    views: int
    rejected: dict[str, str]


def calibrate(board: Board, pairs: list[Pair], cameras: Cameras, model: str = "scale") -> Found:
    """Finds the extrinsics (unless fixed) and the readings' correction.

    Args:
        board: The board.
        pairs: Views.
        cameras: Intrinsics of both cameras.
        model: One of `MODELS`.

    Raises:
        InputError: Too few views, or the views leave something undetermined; it says what to show.
    """
    if model not in MODELS:
        raise InputError(f"model is '{model}', expected {', '.join(MODELS)}")
    task = _Task(board, pairs, cameras, model)
    guess = cameras.fixed if cameras.fixed is not None else cameras.guess
    to_color, solution = np.eye(4) if guess is None else guess, None
    scale, bias = 1.0, 0.0
    if cameras.fixed is None and guess is None and task.infrared:
        to_color = task.from_infrared()
    for number in range(_ROUNDS):
        seen = task.look(to_color, scale, bias, first=number == 0)
        solution = task.solve(seen, to_color, scale, bias)
        to_color, scale, bias = task.read(solution.shared)
    assert solution is not None
    return task.found(solution, seen)


class _Task:
    """The views of one calibration, and what is sought of them."""

    def __init__(self, board: Board, pairs: list[Pair], cameras: Cameras, model: str):
        self.board, self.cameras, self.model = board, cameras, model
        self.sought = 0 if cameras.fixed is not None else 6
        self.extra = MODELS[::-1].index(model)  # numbers sought of the correction: bias, then scale
        width, height = board.size
        self.outline = np.array([[0, 0, 0], [width, 0, 0], [width, height, 0], [0, height, 0]], np.float64)
        self.rejected: dict[str, str] = {}
        self.pairs, self.boards, rms = self._posed(pairs)
        self.infrared = sum(pair.infrared is not None for pair in self.pairs)
        # Readings that nothing is to correct would only pull the transform: the infrared corners tell it alone.
        self.by_depth = not (model == "none" and self.infrared and self.sought)
        self.pixel_sigma = max(float(np.median(rms)) / np.sqrt(2) if rms else 0.0, _LEAST_PX)
        if len(self.pairs) < LEAST_VIEWS:
            raise InputError(
                f"{len(self.pairs)} of {len(pairs)} views show the board well enough, {LEAST_VIEWS} are needed, "
                "15 to be exact: take more"
            )
        if board.ambiguous and self.infrared:
            raise InputError(
                "this chessboard looks the same after half a turn, so that its corners cannot be matched between the "
                "images: use a ChArUco board, or one with an odd and an even number of corners"
            )

    def _posed(self, pairs: list[Pair]) -> tuple[list[Pair], list[np.ndarray], list[float]]:
        used, boards, rms = [], [], []
        for pair in pairs:
            try:
                seen = board_pose(self.board.points[pair.color.ids], pair.color.pixels, self.cameras.color)
            except InputError as error:
                self.rejected[pair.name] = str(error)
                continue
            kept = Detection(pair.color.ids[seen.kept], pair.color.pixels[seen.kept])
            used.append(Pair(pair.name, kept, pair.depth, pair.infrared))
            boards.append(seen.pose)
            rms.append(seen.rms)
        return used, boards, rms

    def from_infrared(self) -> np.ndarray:
        """Depth → color from the two poses of each board, the median view's."""
        found = []
        for pair, board in zip(self.pairs, self.boards, strict=True):
            if pair.infrared is not None:
                points = self.board.points[pair.infrared.ids]
                found.append(board @ inverse(board_pose(points, pair.infrared.pixels, self.cameras.depth).pose))
        vectors = np.array([vector_of(pose) for pose in found])
        return pose_of(np.median(vectors, axis=0))

    def look(self, to_color: np.ndarray, scale: float, bias: float, first: bool) -> list[Readings | None]:
        """The depth readings on each board, as far as everything is known."""
        seen: list[Readings | None] = []
        for pair, board in zip(self.pairs, self.boards, strict=True):
            in_depth = inverse(to_color) @ board
            corrected = None if pair.depth is None else (pair.depth.astype(np.float64) * scale + bias)
            found = None
            if corrected is not None:
                gate = 0.1 if first else 0.04
                found = readings(corrected, self.cameras.depth, in_depth, self.outline, gate)
            if found is not None:
                found = Readings(found.directions, (found.depth - bias) / scale, found.sigma / scale, found.count)
            seen.append(found)
        if self.by_depth:
            self._check(seen)
        return seen

    def _check(self, seen: list[Readings | None]) -> None:
        with_depth = [board for board, reading in zip(self.boards, seen, strict=True) if reading is not None]
        if len(with_depth) < LEAST_VIEWS:
            raise InputError(
                f"the depth images show the board in {len(with_depth)} of {len(seen)} views, {LEAST_VIEWS} are needed: "
                "check that color and depth belong together, and the board's distance to the depth camera"
            )
        if self.model == "scale":
            check_span(distances(with_depth, self.outline))
        if self.sought and not self.infrared:
            _check_tilts(np.array([board[:3, 2] for board in with_depth]))

    def read(self, shared: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Depth → color, scale and bias of the shared unknowns."""
        to_color = pose_of(shared[:6]) if self.sought else self.cameras.fixed
        assert to_color is not None
        extra = shared[self.sought :]
        return to_color, 1 + float(extra[1]) if self.extra == 2 else 1.0, float(extra[0]) if self.extra else 0.0

    def solve(self, seen: list[Readings | None], to_color: np.ndarray, scale: float, bias: float) -> solver.Bundle:
        """The least-squares solution for these readings; the boards' poses are kept for the next round."""
        bases = list(self.boards)

        def residuals(shared: np.ndarray, own: np.ndarray, view: int) -> np.ndarray:
            transform, scale, bias = self.read(shared)
            board = bases[view] @ pose_of(own)
            return np.concatenate(self._parts(view, board, inverse(transform) @ board, seen[view], scale, bias))

        start = np.concatenate([vector_of(to_color)[: self.sought], np.array([bias, scale - 1])[: self.extra]])
        solution = solver.solve(residuals, start, np.zeros((len(bases), 6)))
        self.boards = [base @ pose_of(own) for base, own in zip(bases, solution.own, strict=True)]
        return solution

    def _parts(
        self,
        view: int,
        in_color: np.ndarray,
        in_depth: np.ndarray,
        reading: Readings | None,
        scale: float,
        bias: float,
    ) -> list[np.ndarray]:
        pair = self.pairs[view]
        parts = [self._corners(pair.color, in_color, self.cameras.color).ravel() / self.pixel_sigma]
        if pair.infrared is not None and self.sought:
            parts.append(self._corners(pair.infrared, in_depth, self.cameras.depth).ravel() / self.pixel_sigma)
        if reading is not None and self.by_depth:
            true = plane_depth(in_depth, reading.directions)
            # As the sensor would read it, for the noise is in the reading: corrected ones would draw the scale down.
            parts.append((reading.depth - (true - bias) / scale) / reading.sigma)
        return parts

    def _corners(self, seen: Detection, pose: np.ndarray, camera: Intrinsics) -> np.ndarray:
        return projected(apply(pose, self.board.points[seen.ids]), camera) - seen.pixels

    def found(self, solution: solver.Bundle, seen: list[Readings | None]) -> Found:
        """The result, unless it is too uncertain."""
        to_color, scale, bias = self.read(solution.shared)
        sigma = np.concatenate([solution.sigma, np.zeros(2)])
        turns, shifts = np.zeros(3), np.zeros(3)
        if self.sought:
            turns, shifts = turn_deviations(solution.shared[:6], solution.covariance[:3, :3]), sigma[3:6]
        self._refuse_uncertain(turns, shifts, solution)
        with_depth = [i for i, reading in enumerate(seen) if reading is not None]
        rows = by_distance(
            [inverse(to_color) @ self.boards[i] for i in with_depth],
            [reading for reading in seen if reading is not None],
            scale,
            bias,
            self.outline,
        )
        for i, reading in enumerate(seen):
            if reading is None and self.pairs[i].depth is not None and with_depth:
                self.rejected[self.pairs[i].name] = "its depth shows no plane where the board is"
        color = [self._corners(p.color, b, self.cameras.color) for p, b in zip(self.pairs, self.boards, strict=True)]
        infrared = [
            self._corners(p.infrared, inverse(to_color) @ b, self.cameras.depth)
            for p, b in zip(self.pairs, self.boards, strict=True)
            if p.infrared is not None
        ]
        return Found(
            DepthGeometry(to_color, scale, bias),
            shifts,
            turns,
            float(sigma[self.sought + 1]) if self.extra == 2 else 0.0,
            float(sigma[self.sought]) if self.extra else 0.0,
            _rms(color),
            _rms(infrared),
            rows,
            len(self.pairs),
            self.rejected,
        )

    def _refuse_uncertain(self, turns: np.ndarray, shifts: np.ndarray, solution: solver.Bundle) -> None:
        if not self.sought or (shifts.max() <= MOST_SIGMA_M and turns.max() <= MOST_SIGMA_DEG):
            return
        confounded = ""
        if self.extra:
            along = solution.covariance[5, self.sought] / (solution.sigma[5] * solution.sigma[self.sought])
            if abs(along) > 0.9:
                confounded = "; the depth bias and the distance between the cameras along z cannot be told apart"
        raise InputError(
            f"depth → color is known to {1e3 * shifts.max():.1f} mm and {turns.max():.2f}° only{confounded}: show the "
            "board tilted by 30° to 45° to the left, right, up and down, near the image's edges as well, or add "
            "infrared images"
        )


def _check_tilts(normals: np.ndarray) -> None:
    """Refuses boards whose planes do not fix the transform: their normals must span all directions.

    Raises:
        InputError: They are parallel, or turn about one axis alone.
    """
    spread = np.linalg.svd(normals - normals.mean(0), compute_uv=False) / np.sqrt(len(normals))
    tilts = np.degrees(np.arcsin(np.minimum(spread, 1)))
    advice = "or add infrared images of the depth camera"
    if tilts[0] < LEAST_TILT:
        raise InputError(
            f"the boards are all parallel (they tilt by {tilts[0]:.0f}°): depth alone then cannot tell where the "
            "camera sits, nor its distance along z from a depth bias; tilt the board by 30° to 45° about two axes, "
            f"{advice}"
        )
    if tilts[1] < LEAST_TILT:
        axis = np.linalg.svd(normals - normals.mean(0))[2][0]
        missing = "up and down" if abs(axis[0]) > abs(axis[1]) else "left and right"
        raise InputError(
            "the boards tilt one way only: depth alone then leaves a shift of the camera open; tilt the board "
            f"{missing} as well, {advice}"
        )


def _rms(parts: list[np.ndarray]) -> float:
    return float(np.sqrt((np.concatenate(parts) ** 2).sum(1).mean())) if parts else float("nan")
