"""What the views so far show of the lens, and what a person should show next, in words.

ROS's camera_calibration has four bars (X, Y, size, skew) that fill; here it is said where to hold the board, and which
way to tilt it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from actrec.types import Intrinsics
from actrec.utils.config import setting
from actrec_calibration.board import Board
from actrec_calibration.intrinsics import View, holding

CELLS = 9
"""Fields across and down into which the image is divided; three by three of them are a region that has a name."""

REGIONS = tuple(
    " ".join(filter(None, (vertical, horizontal))) or "middle"
    for vertical in ("top", "", "bottom")
    for horizontal in ("left", "", "right")
)

TILTS = ("right edge away from", "right edge towards", "lower edge away from", "lower edge towards")


@dataclass(frozen=True)
class CoverageConfig:
    """When views suffice."""

    views: int = setting(20, "Views wanted.", range=(3, 1000))
    filled: float = setting(0.6, "Share of a region's fields in which a corner was seen.", range=(0.0, 1.0))
    tilt_deg: float = setting(15.0, "Tilt wanted in each of four directions.", unit="deg", range=(0.0, 60.0))
    tilted: int = setting(2, "Views wanted for each direction.", range=(0, 100))
    near: float = setting(0.6, "The largest view's board, in image widths.", range=(0.0, 2.0))
    zoom: float = setting(1.5, "How many times larger the largest view is than the smallest.", range=(1.0, 20.0))


@dataclass(frozen=True)
class Coverage:
    """What the views show.

    Attributes:
        fields: [CELLS, CELLS] corners seen in each field of the image, top left first.
        regions: Share of its fields that have a corner, by the region's name.
        tilts: Views tilted far enough, by direction.
        largest, smallest: The board's width in image widths.
        views: How many.
        config: What is wanted.
    """

    fields: np.ndarray
    regions: dict[str, float]
    tilts: dict[str, int]
    largest: float
    smallest: float
    views: int
    config: CoverageConfig = field(default_factory=CoverageConfig)

    @property
    def missing(self) -> list[str]:
        """What to do next, most wanted first; empty when the views suffice."""
        wanted = self.config
        empty = [name for name, share in self.regions.items() if share < wanted.filled]
        todo = [f"show the board in the image's {_list(empty)}"] if empty else []
        flat = [way for way, count in self.tilts.items() if count < wanted.tilted]
        if flat:
            todo.append(f"tilt it by {wanted.tilt_deg:.0f} to 45°: {_list(flat)} the camera")
        if self.largest < wanted.near:
            todo.append(f"bring it nearer (the board {100 * wanted.near:.0f} % of the image's width or more)")
        elif self.largest < wanted.zoom * self.smallest:
            todo.append(f"hold it farther away, {wanted.zoom:g} times")
        if self.views < wanted.views and not todo:
            todo.append(f"show {wanted.views - self.views} more views")
        return todo

    @property
    def complete(self) -> float:
        """Share of what is wanted, in 0..1."""
        wanted = self.config
        parts = [min(share / max(wanted.filled, 1e-9), 1) for share in self.regions.values()]
        parts += [min(count / max(wanted.tilted, 1), 1) for count in self.tilts.values()]
        parts += [min(self.largest / max(wanted.near, 1e-9), 1), min(self.views / wanted.views, 1)]
        parts.append(min(self.largest / max(self.smallest * wanted.zoom, 1e-9), 1))
        return float(np.mean(parts))


def coverage(
    board: Board, views: Sequence[View], config: CoverageConfig | None = None, camera: Intrinsics | None = None
) -> Coverage:
    """What views show.

    Args:
        board: In them.
        views: So far; none is allowed.
        config: What is wanted.
        camera: The lens where it is known already.
    """
    config = config or CoverageConfig()
    fields = np.zeros((CELLS, CELLS), int)
    for view in views:
        columns, rows = np.clip(np.floor(CELLS * (view.detection.pixels + 0.5) / view.size), 0, CELLS - 1).T.astype(int)
        np.add.at(fields, (rows, columns), 1)
    held = [holding(board, view, camera) for view in views]
    right, lower = np.array([one.tilt_deg for one in held]).reshape(-1, 2).T
    turned = (right, -right, lower, -lower)
    scales = [one.scale for one in held] or [0.0]
    return Coverage(
        fields=fields,
        regions=dict(zip(REGIONS, _shares(fields), strict=True)),
        tilts={way: int((angle >= config.tilt_deg).sum()) for way, angle in zip(TILTS, turned, strict=True)},
        largest=max(scales),
        smallest=min(scales),
        views=len(views),
        config=config,
    )


def _shares(fields: np.ndarray) -> list[float]:
    side = CELLS // 3
    seen = (fields > 0).reshape(3, side, 3, side)
    return [float(share) for share in seen.mean(axis=(1, 3)).ravel()]


def _list(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
