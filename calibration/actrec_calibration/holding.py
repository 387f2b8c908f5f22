"""Whether a calibration still holds: new views of the board against the stored lens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actrec.types import Intrinsics
from actrec.utils.calibration_files import fitted
from actrec.utils.config import setting
from actrec.utils.errors import InputError
from actrec_calibration.board import Board
from actrec_calibration.intrinsics import (
    CHANGING,
    PLUMB_BOB,
    RATIONAL,
    Displacement,
    IntrinsicsConfig,
    View,
    calibrate,
    corner_deviation,
    covariance,
    displacement,
    fit,
    one_size,
    posed,
)

SURE = 3.0
"""Standard deviations by which a point must have moved for the move to be no accident of these views."""

LIKELY = 2.0
"""Standard deviations that must lie within the tolerance for views that see no move to say that there is none."""

NEAR = 0.04
"""How far from a corner seen the lens counts as seen, in image widths."""


@dataclass(frozen=True)
class CheckConfig:
    """What a calibration must keep to."""

    tolerance: float = setting(
        0.003, "How far a point may move, in image widths (0.003 of 640 px is 1.9 px).", range=(1e-5, 0.2)
    )
    fewest_views: int = setting(4, "Views below which nothing is said.", range=(3, 1000))
    most_views: int = setting(40, "Views used; of more, those that differ most.", range=(3, 1000))


@dataclass(frozen=True)
class Check:
    """What the new views say of the stored lens.

    Attributes:
        holds: The answer.
        stored: The stored lens at these images' size.
        refitted: The lens that the new views ask for.
        tolerance_px: How far a point may move.
        displacement: From the stored to the refitted lens, all over the image.
        area: [n] bool, the points of it among which the new views show the board: only there they can tell.
        stored_rms, refitted_rms: Residuals of the new views in pixels, each with its best poses.
        view_rms: Of each view in the stored lens.
        rejected: Views left out as wrong, with the reason.
    """

    holds: bool
    stored: Intrinsics
    refitted: Intrinsics
    tolerance_px: float
    displacement: Displacement
    area: np.ndarray
    stored_rms: float
    refitted_rms: float
    view_rms: dict[str, float]
    rejected: dict[str, str]

    @property
    def moved_px(self) -> float:
        """How far the point moves that moves most, where the views show the board."""
        return float(np.hypot(*self.displacement.moved.T)[self.area].max())

    @property
    def deviation_px(self) -> float:
        """Standard deviation of the displacement at that point."""
        moved = np.where(self.area, np.hypot(*self.displacement.moved.T), -1)
        return float(self.displacement.deviation[np.argmax(moved)])


def check(board: Board, views: Sequence[View], stored: Intrinsics, config: CheckConfig | None = None) -> Check:
    """Compares the stored lens with the one that new views ask for.

    The residuals alone would not tell: poses make up for a wrong focal length or center, and a hundredth of a pixel is
    significant in any statistic of a thousand corners while it matters to nobody. So a lens is fitted to the new views
    (focal length, center and the first distortion coefficient), and the question is how far points in space are
    displaced between the two, measured against what these few views can know of the lens.

    Args:
        board: In the views.
        views: New ones, of images of the calibration's size or of its aspect.
        stored: The calibration.
        config: What it must keep to.

    Raises:
        InputError: Images of another aspect; too few views, or too much alike, to tell.
    """
    config = config or CheckConfig()
    stored = fitted(stored, *one_size(views))
    model = RATIONAL if len(stored.distortion) > 5 else PLUMB_BOB
    found = calibrate(
        board, views, IntrinsicsConfig(model=model, fewest_views=config.fewest_views, most_views=config.most_views)
    )
    again = fit(board, found.views, one_size(views), model, stored)
    sigma = corner_deviation(again, found.views)
    known = covariance(board, found.views, again.camera, again.poses, sigma, CHANGING)
    apart = displacement(stored, again.camera, known)
    area = _seen(found.views, apart.at)
    rms = {view.name: posed(board, view, stored)[2] for view in found.views}
    weights = [len(view.detection) for view in found.views]
    stored_rms = float(np.sqrt(np.average(np.square(list(rms.values())), weights=weights)))
    tolerance = config.tolerance * stored.width
    lengths = np.where(area, np.hypot(*apart.moved.T), 0)
    wrong = (lengths > tolerance) & (lengths > SURE * apart.deviation)
    unclear = area & ((LIKELY * apart.deviation > tolerance) | (lengths > tolerance))
    if not wrong.any() and unclear.any():
        raise InputError(
            f"these {len(found.views)} views cannot tell: they know the lens to ±{apart.deviation[area].max():.1f} px, "
            f"and {tolerance / LIKELY:.1f} px are needed; show more views, tilted by up to 45°"
        )
    return Check(
        holds=not bool(wrong.any()),
        stored=stored,
        refitted=again.camera,
        tolerance_px=tolerance,
        displacement=apart,
        area=area,
        stored_rms=stored_rms,
        refitted_rms=again.rms,
        view_rms=rms,
        rejected=found.rejected,
    )


def _seen(views: Sequence[View], at: np.ndarray) -> np.ndarray:
    """[n] bool: which points lie beside a corner that was seen; elsewhere a refitted lens only guesses."""
    pixels = np.concatenate([view.detection.pixels for view in views])
    nearest = np.array([np.hypot(*(pixels - point).T).min() for point in at])
    return nearest <= NEAR * views[0].size[0]
