"""Check of a stored calibration: whether new views of the board still agree with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actrec.types import Intrinsics
from actrec.utils.calibration_files import fitted
from actrec.utils.config import setting
from actrec.utils.errors import InputError
from actrec_calibration.board import Board
from actrec_calibration.detection import View
from actrec_calibration.intrinsics import (
    PLUMB_BOB,
    RATIONAL,
    REFITTED,
    Displacement,
    IntrinsicsConfig,
    calibrate,
    corner_sigma,
    covariance,
    displacement,
    fit,
    image_size,
    reprojection_rms,
)

SIGNIFICANT = 3.0
"""Standard deviations beyond which a displacement is significant."""

RESOLVED = 2.0
"""Standard deviations that must lie within the tolerance to conclude that nothing has moved."""

COVERED = 0.04
"""Distance from a detected corner within which the views determine the lens, in image widths."""


@dataclass(frozen=True)
class CheckConfig:
    """Requirements on a stored calibration."""

    tolerance: float = setting(
        0.003, "Maximum displacement of a point, in image widths (0.003 of 640 px is 1.9 px).", range=(1e-5, 0.2)
    )
    fewest_views: int = setting(4, "Minimum number of views.", range=(3, 1000))
    most_views: int = setting(40, "Maximum number of views, chosen to differ most.", range=(3, 1000))


@dataclass(frozen=True)
class Check:
    """Result of `check`.

    Attributes:
        holds: Whether the stored calibration still holds.
        stored: Stored lens, scaled to the images' size.
        refitted: Lens fitted to the new views.
        tolerance_px: Maximum displacement of a point.
        displacement: From the stored to the refitted lens, all over the image.
        covered: [n] bool, the points of the displacement near corners of the new views.
        stored_rms, refitted_rms: Reprojection error of the new views, px, each with its best poses.
        view_rms: Reprojection error of each view with the stored lens, px.
        rejected: Reason by name of the rejected view.
    """

    holds: bool
    stored: Intrinsics
    refitted: Intrinsics
    tolerance_px: float
    displacement: Displacement
    covered: np.ndarray
    stored_rms: float
    refitted_rms: float
    view_rms: dict[str, float]
    rejected: dict[str, str]

    @property
    def moved_px(self) -> float:
        """Largest displacement of a covered point, px."""
        return float(self.displacement.length[self.covered].max())

    @property
    def deviation_px(self) -> float:
        """Standard deviation of the displacement at that point, px."""
        return float(self.displacement.sigma[np.argmax(np.where(self.covered, self.displacement.length, -1))])


def check(board: Board, views: Sequence[View], stored: Intrinsics, config: CheckConfig | None = None) -> Check:
    """Compare the stored lens with a lens fitted to new views.

    Residuals alone are no criterion: poses compensate for a wrong focal length or center, and among a thousand corners
    a hundredth of a pixel is statistically significant but irrelevant. So focal length, center and the first distortion
    coefficient are fitted to the new views, and the displacement of points between the two lenses is compared with its
    uncertainty.

    Args:
        board: Board in the views.
        views: New views, of images of the calibration's size or aspect.
        stored: Stored calibration.
        config: Requirements.

    Raises:
        InputError: Images of another aspect, or too few or too similar views to decide.
    """
    config = config or CheckConfig()
    size = image_size(views)
    stored = fitted(stored, *size)
    model = RATIONAL if len(stored.distortion) > 5 else PLUMB_BOB
    limits = IntrinsicsConfig(model=model, fewest_views=config.fewest_views, most_views=config.most_views)
    found = calibrate(board, views, limits)
    refit = fit(board, found.views, size, model, stored)
    known = covariance(board, found.views, refit, corner_sigma(refit, found.views), REFITTED)
    moved = displacement(stored, refit.camera, known)
    covered = _covered(found.views, moved.pixels)
    view_rms = {view.name: reprojection_rms(board, view, stored) for view in found.views}
    corners = [len(view.detection) for view in found.views]
    tolerance = config.tolerance * stored.width
    length = np.where(covered, moved.length, 0)
    wrong = (length > tolerance) & (length > SIGNIFICANT * moved.sigma)
    unclear = covered & ((RESOLVED * moved.sigma > tolerance) | (length > tolerance))
    if not wrong.any() and unclear.any():
        raise InputError(
            f"these {len(found.views)} views cannot decide: they determine the lens to "
            f"±{moved.sigma[covered].max():.1f} px, and {tolerance / RESOLVED:.1f} px are needed; show more views, "
            "tilted by up to 45°"
        )
    return Check(
        holds=not bool(wrong.any()),
        stored=stored,
        refitted=refit.camera,
        tolerance_px=tolerance,
        displacement=moved,
        covered=covered,
        stored_rms=float(np.sqrt(np.average(np.square(list(view_rms.values())), weights=corners))),
        refitted_rms=refit.rms,
        view_rms=view_rms,
        rejected=found.rejected,
    )


def _covered(views: Sequence[View], points: np.ndarray) -> np.ndarray:
    """Return [n] bool: points near a detected corner; elsewhere a refitted lens is extrapolated."""
    corners = np.concatenate([view.detection.pixels for view in views])
    nearest = np.array([np.hypot(*(corners - point).T).min() for point in points])
    return nearest <= COVERED * views[0].size[0]
