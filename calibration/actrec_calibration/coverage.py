"""Coverage of a lens by views of a board: placements, selection of views, and guidance for the next view."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils.config import setting
from actrec_calibration.board import Board
from actrec_calibration.detection import View
from actrec_calibration.poses import distortion_coefficients

MIN_DISTANCE = 0.06
"""Distance from every other view at which a view adds information: about 6 % of the image, or 4° of tilt."""

FULL_TILT_DEG = 60.0  # a tilt that counts as much as a move across the whole image

DEFAULT_FOCAL = 0.9  # in image widths: sufficient to estimate a placement before the lens is known

CELLS = 9
"""Cells across and down that divide the image; three by three of them are a named region."""

REGIONS = tuple(
    " ".join(filter(None, (vertical, horizontal))) or "middle"
    for vertical in ("top", "", "bottom")
    for horizontal in ("left", "", "right")
)
TILTS = ("right edge away from", "right edge towards", "lower edge away from", "lower edge towards")


@dataclass(frozen=True)
class Placement:
    """Approximate placement of a board in a view.

    Attributes:
        position: [2] mean of the corners, in 0..1 of the image's width and height.
        scale: Width of the whole board if it faced the camera, in image widths.
        tilt_deg: [2] rotation of its right and its lower edge away from the camera; negative towards it.
    """

    position: np.ndarray
    scale: float
    tilt_deg: np.ndarray

    @property
    def vector(self) -> np.ndarray:
        """[5] position, size and tilt on one scale, for distances between views."""
        return np.concatenate([self.position, [np.log2(max(self.scale, 1e-3)) / 2], self.tilt_deg / FULL_TILT_DEG])


def placement(board: Board, view: View, camera: Intrinsics | None = None) -> Placement:
    """Estimate how the board is held in a view; without a camera, for a typical lens."""
    if camera is None:
        width, height = view.size
        focal = DEFAULT_FOCAL * width
        camera = Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    points, pixels = board.points[view.detection.ids], view.detection.pixels
    distortion = distortion_coefficients(camera)
    _, rotation_vector, translation = cv2.solvePnP(points, pixels, camera.matrix, distortion, flags=cv2.SOLVEPNP_IPPE)
    rotation = cv2.Rodrigues(rotation_vector)[0]
    # Use the normal: a rotation in the image plane is no tilt.
    normal = rotation[:, 2] if rotation[2, 2] > 0 else -rotation[:, 2]
    tilt = -np.degrees(np.arcsin(np.clip(normal[:2], -1, 1)))
    distance = float(rotation[2] @ [board.size[0] / 2, board.size[1] / 2, 0] + translation[2, 0])
    scale = camera.fx * max(board.size) / max(distance, 1e-6) / camera.width
    return Placement(pixels.mean(axis=0) / view.size, float(scale), tilt)


def select_views(board: Board, views: Sequence[View], max_views: int) -> list[View]:
    """Return the views that differ most from one another, in their order, without unmoved ones."""
    if not views:
        return []
    vectors = np.array([placement(board, view).vector for view in views])
    selected = [int(np.argmax([len(view.detection) for view in views]))]
    distances = np.linalg.norm(vectors - vectors[selected[0]], axis=1)
    while len(selected) < max_views and distances.max() > MIN_DISTANCE:
        selected.append(int(np.argmax(distances)))
        distances = np.minimum(distances, np.linalg.norm(vectors - vectors[selected[-1]], axis=1))
    return [views[number] for number in sorted(selected)]


@dataclass(frozen=True)
class CoverageConfig:
    """Requirements for sufficient views."""

    views: int = setting(20, "Number of views.", range=(3, 1000))
    filled: float = setting(0.6, "Share of a region's cells with a corner.", range=(0.0, 1.0))
    tilt_deg: float = setting(15.0, "Tilt in each of four directions.", unit="deg", range=(0.0, 60.0))
    tilted: int = setting(2, "Number of views for each tilt direction.", range=(0, 100))
    near: float = setting(0.6, "Width of the board in the largest view, in image widths.", range=(0.0, 2.0))
    zoom: float = setting(1.5, "Ratio of the board's width in the largest and the smallest view.", range=(1.0, 20.0))


@dataclass(frozen=True)
class Coverage:
    """Coverage of the image by views.

    Attributes:
        cells: [CELLS, CELLS] corners in each cell of the image, top left first.
        regions: Share of the cells with a corner, by the region's name.
        tilts: Number of sufficiently tilted views, by direction.
        largest, smallest: Width of the board in image widths.
        views: Number of views.
        config: Requirements.
    """

    cells: np.ndarray
    regions: dict[str, float]
    tilts: dict[str, int]
    largest: float
    smallest: float
    views: int
    config: CoverageConfig = field(default_factory=CoverageConfig)

    @property
    def missing(self) -> list[str]:
        """Instructions for the next views, most important first; empty if the views suffice."""
        config = self.config
        empty = [name for name, share in self.regions.items() if share < config.filled]
        todo = [f"show the board in the image's {_join(empty)}"] if empty else []
        flat = [direction for direction, count in self.tilts.items() if count < config.tilted]
        if flat:
            todo.append(f"tilt it by {config.tilt_deg:.0f} to 45°: {_join(flat)} the camera")
        if self.largest < config.near:
            todo.append(f"bring it nearer (the board {100 * config.near:.0f} % of the image's width or more)")
        elif self.largest < config.zoom * self.smallest:
            todo.append(f"hold it farther away, {config.zoom:g} times")
        if self.views < config.views and not todo:
            todo.append(f"show {config.views - self.views} more views")
        return todo

    @property
    def complete(self) -> float:
        """Share of the requirements that is met, in 0..1."""
        config = self.config
        parts = [min(share / max(config.filled, 1e-9), 1) for share in self.regions.values()]
        parts += [min(count / max(config.tilted, 1), 1) for count in self.tilts.values()]
        parts += [min(self.largest / max(config.near, 1e-9), 1), min(self.views / config.views, 1)]
        parts.append(min(self.largest / max(self.smallest * config.zoom, 1e-9), 1))
        return float(np.mean(parts))


def coverage(
    board: Board, views: Sequence[View], config: CoverageConfig | None = None, camera: Intrinsics | None = None
) -> Coverage:
    """Compute the coverage of views, of which there may be none.

    Args:
        board: Board in the views.
        views: Views.
        config: Requirements.
        camera: Intrinsics, if known.
    """
    config = config or CoverageConfig()
    cells = np.zeros((CELLS, CELLS), int)
    for view in views:
        columns, rows = np.clip(np.floor(CELLS * (view.detection.pixels + 0.5) / view.size), 0, CELLS - 1).T.astype(int)
        np.add.at(cells, (rows, columns), 1)
    placements = [placement(board, view, camera) for view in views]
    right, lower = np.array([one.tilt_deg for one in placements]).reshape(-1, 2).T
    side = CELLS // 3
    shares = (cells > 0).reshape(3, side, 3, side).mean(axis=(1, 3)).ravel()
    angles = zip(TILTS, (right, -right, lower, -lower), strict=True)
    scales = [one.scale for one in placements] or [0.0]
    return Coverage(
        cells=cells,
        regions=dict(zip(REGIONS, map(float, shares), strict=True)),
        tilts={direction: int((angle >= config.tilt_deg).sum()) for direction, angle in angles},
        largest=max(scales),
        smallest=min(scales),
        views=len(views),
        config=config,
    )


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
