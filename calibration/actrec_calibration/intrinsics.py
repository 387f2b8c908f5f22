"""Calibration of a camera's intrinsics from views of a board, with outlier rejection and uncertainty.

Standard deviations of single coefficients are hard to interpret, since k1, k2 and k3 compensate for one another. The
useful measure is the uncertainty of a point's projection from all coefficients together (as mrcal reports it).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError
from actrec_calibration.board import Board
from actrec_calibration.detection import BoardCorners, BoardView, select_views
from actrec_calibration.poses import distortion_coefficients, pixel_rays, rms

PLUMB_BOB, RATIONAL = "plumb_bob", "rational_polynomial"

GRID = (17, 13)
"""Points across and down at which a lens is evaluated, the image's border included."""

REFITTED = 5
"""Leading coefficients that are fitted if an initial lens is given: fx, fy, cx, cy, k1."""

MIN_CORNERS = 6
MIN_CORNER_SHARE = 2 / 3  # of a view's corners that are inliers; below it the whole view is rejected
OUTLYING = 4.0  # robust standard deviations beyond which a view or a corner is rejected
NEGLIGIBLE_PX = 0.1  # error below which a view is never rejected
WORST_RMS = 0.002  # reprojection error, in image widths
MOST_REJECTED = 0.34  # share of the views
MIN_SPREAD = 0.25  # share of the median by which good views differ: near and far, sharp and less sharp

_REMEDY = (
    "check that the board is flat, that --columns, --rows, --square and --marker match the print and the images are "
    "not blurred, and take more"
)
_CRITERIA = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-10)
_SIGMA_OF_MAD = 1.4826  # standard deviation of a normal distribution, in median absolute deviations
_FIXED_K = cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3 | cv2.CALIB_FIX_K4 | cv2.CALIB_FIX_K5 | cv2.CALIB_FIX_K6

Pose = tuple[np.ndarray, np.ndarray]
"""Rotation vector [3] and translation [3] in m, board → camera."""


@dataclass(frozen=True)
class IntrinsicsConfig:
    """Settings of the intrinsics calibration."""

    model: str = setting(
        PLUMB_BOB,
        "Distortion model: 5 coefficients, or the rational model's 8 for wide-angle lenses.",
        choices=(PLUMB_BOB, RATIONAL),
    )
    fewest_views: int = setting(8, "Minimum number of views.", range=(3, 1000))
    most_views: int = setting(60, "Maximum number of views, chosen to differ most.", range=(3, 1000))

    def __post_init__(self) -> None:
        if self.most_views < self.fewest_views:
            raise ConfigError(
                f"--most-views {self.most_views} is fewer than --fewest-views {self.fewest_views}: change one"
            )


@dataclass(frozen=True)
class Fit:
    """One least-squares fit to all corners of the views, with the pose of the board in each; `rms` in px."""

    camera: Intrinsics
    poses: list[Pose]
    rms: float


@dataclass(frozen=True)
class Calibration:
    """Result of `calibrate`.

    Attributes:
        camera: Intrinsics.
        deviations: [4 + d] standard deviations of fx, fy, cx, cy and the distortion.
        covariance: [4 + d, 4 + d] of the same.
        views: Used views, with the inlier corners.
        residuals: [n, 2] detected minus projected corners of each view, px.
        rms: Reprojection error of all corners, px, as OpenCV defines it.
        held_out_rms: Reprojection error of views not used for the lens, by five-fold cross-validation, px.
        rejected: Reason by name of the rejected view.
        corners_rejected: Number of rejected corners in used views.
        unmoved: Number of views ignored because the board had not moved.
        uncertainty: [n, 3] pixel (u, v) and standard deviation in px of a point's projection there.
    """

    camera: Intrinsics
    deviations: np.ndarray
    covariance: np.ndarray
    views: list[BoardView]
    residuals: list[np.ndarray]
    rms: float
    held_out_rms: float
    rejected: dict[str, str]
    corners_rejected: int
    unmoved: int
    uncertainty: np.ndarray


def calibrate(
    board: Board,
    views: Sequence[BoardView],
    config: IntrinsicsConfig | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """Calibrate a camera from any number of views of one image size; call `progress` with a description of each step.

    Raises:
        InputError: Images of different sizes, too few views, or too many outliers.
    """
    config = config or IntrinsicsConfig()
    size = image_size(views)
    used = select_views(board, views, config.most_views)
    unmoved = len(views) - len(used) if len(used) < config.most_views else 0
    _check_count(len(used), len(views), config)
    progress(f"fitting {len(used)} of {len(views)} views")
    used, rejected = _reject_views(board, used, size, config)
    all_corners = sum(len(view.detection) for view in used)
    used, rejected_by_corners = _reject_corners(board, used, fit(board, used, size, config.model), config)
    rejected.update(rejected_by_corners)
    _check_count(len(used), len(views), config, rejected)
    final = fit(board, used, size, config.model)
    _check_plausible(final, config)
    known = covariance(board, used, final)
    pixels, _, sigma = displacement(final.camera, final.camera, known)
    progress("checking with held-out views")
    return Calibration(
        camera=final.camera,
        deviations=np.sqrt(np.diag(known)),
        covariance=known,
        views=used,
        residuals=_residuals(board, used, final),
        rms=final.rms,
        held_out_rms=_cross_validate(board, used, size, config.model),
        rejected=rejected,
        corners_rejected=all_corners - sum(len(view.detection) for view in used),
        unmoved=unmoved,
        uncertainty=np.column_stack([pixels, sigma]),
    )


def image_size(views: Sequence[BoardView]) -> tuple[int, int]:
    """Return width and height of all images; raise InputError if there are no views, or their sizes differ."""
    if not views:
        raise InputError("the board is in none of the images: check its --kind, --columns, --rows and --dictionary")
    sizes = {view.size: view.name for view in views}
    if len(sizes) > 1:
        listed = ", ".join(f"{name} is {width}×{height}" for (width, height), name in sizes.items())
        raise InputError(f"the images differ in size ({listed}): calibrate one size at a time")
    return views[0].size


def fit(
    board: Board, views: Sequence[BoardView], size: tuple[int, int], model: str, initial: Intrinsics | None = None
) -> Fit:
    """Fit the lens and the pose of each view by least squares.

    With an initial lens only its `REFITTED` coefficients are fitted, which shocks and warmth change; a few views do not
    determine the others.

    Raises:
        InputError: The views do not determine a lens.
    """
    points = [board.points[view.detection.ids].astype(np.float32) for view in views]
    pixels = [view.detection.pixels.astype(np.float32) for view in views]
    flags = cv2.CALIB_RATIONAL_MODEL if model == RATIONAL else 0
    matrix, distortion = None, None
    if initial is not None:
        flags |= cv2.CALIB_USE_INTRINSIC_GUESS | cv2.CALIB_FIX_TANGENT_DIST | _FIXED_K
        matrix, distortion = initial.matrix, distortion_coefficients(initial)
    try:
        error_px, matrix, distortion, rotations, translations = cv2.calibrateCamera(
            points, pixels, size, matrix, distortion, flags=flags, criteria=_CRITERIA
        )
    except cv2.error as error:
        raise InputError(f"these views determine no lens: tilt the board more ({error.err})") from error
    count = 8 if model == RATIONAL else 5
    fx, fy, cx, cy = matrix[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    camera = Intrinsics(*size, fx, fy, cx, cy, tuple(distortion.ravel()[:count].tolist()))
    return Fit(camera, [(r.ravel(), t.ravel()) for r, t in zip(rotations, translations, strict=True)], float(error_px))


def reprojection_rms(board: Board, view: BoardView, camera: Intrinsics) -> float:
    """Return the reprojection error in px of a view's best pose for a known lens."""
    points, pixels = board.points[view.detection.ids], view.detection.pixels
    k, d = camera.matrix, distortion_coefficients(camera)
    _, rotation, translation = cv2.solvePnP(points, pixels, k, d, flags=cv2.SOLVEPNP_IPPE)
    rotation, translation = cv2.solvePnPRefineLM(points, pixels, k, d, rotation, translation)
    return rms(_residual(board, view, (rotation.ravel(), translation.ravel()), camera))


def coefficients(camera: Intrinsics) -> np.ndarray:
    """Return [4 + d] fx, fy, cx, cy and the distortion."""
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion])


def covariance(board: Board, views: Sequence[BoardView], result: Fit, count: int | None = None) -> np.ndarray:
    """Return the [n, n] covariance of the n leading coefficients (default: all), with the uncertainty of the poses."""
    corners, coefficient_count = sum(len(view.detection) for view in views), len(coefficients(result.camera))
    degrees_of_freedom = max(2 * corners - 6 * len(views) - coefficient_count, 1)
    sigma = np.sqrt(result.rms**2 * corners / degrees_of_freedom)  # of a corner's coordinate, px
    count = count or coefficient_count
    information = np.zeros((count, count))
    for view, pose in zip(views, result.poses, strict=True):
        jacobian = _project(board.points[view.detection.ids], pose, result.camera)[1]
        of_pose, of_lens = jacobian[:, :6], jacobian[:, 6 : 6 + count]
        # Schur complement: the part that the pose cannot explain.
        explained = of_pose @ np.linalg.lstsq(of_pose, of_lens, rcond=None)[0]
        information += of_lens.T @ (of_lens - explained)
    scale = 1 / np.sqrt(np.maximum(np.diag(information), 1e-300))
    inverse = np.linalg.pinv(information * np.outer(scale, scale), rcond=1e-14, hermitian=True)
    return np.asarray(sigma**2 * inverse * np.outer(scale, scale))


def displacement(
    first: Intrinsics, second: Intrinsics, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project the rays of the first lens by the second, with the [n, n] covariance of its n leading coefficients.

    Returns:
        A grid of pixels [n, 2] of the first camera, their shift [n, 2] to the second, px, and its deviation [n], px.
    """
    u, v = np.meshgrid(np.linspace(0, first.width - 1, GRID[0]), np.linspace(0, first.height - 1, GRID[1]))
    pixels = np.stack([u.ravel(), v.ravel()], axis=1)
    projected, jacobian = _project(pixel_rays(pixels, first), (np.zeros(3), np.zeros(3)), second)
    jacobian = jacobian[:, 6 : 6 + len(covariance)].reshape(len(pixels), 2, -1)
    variance = np.einsum("nia,ab,nib->n", jacobian, covariance, jacobian)
    return pixels, projected - pixels, np.sqrt(np.maximum(variance, 0))


def _check_count(
    used: int, detected: int, config: IntrinsicsConfig, rejected: Mapping[str, str] = MappingProxyType({})
) -> None:
    if used >= config.fewest_views:
        return
    if rejected:
        name, reason = next(iter(rejected.items()))
        raise InputError(
            f"{used} views are left, {config.fewest_views} are the minimum: {len(rejected)} are rejected, first {name} "
            f"({reason}): {_REMEDY}"
        )
    unmoved = f" ({detected} with the board, which had moved in {used} of them)" if used < detected else ""
    raise InputError(
        f"{used} views of the board are too few{unmoved}: {config.fewest_views} are the minimum, 20 to 40 are good; "
        "move and tilt it between them"
    )


def _reject_views(
    board: Board, views: list[BoardView], size: tuple[int, int], config: IntrinsicsConfig
) -> tuple[list[BoardView], dict[str, str]]:
    """Reject the worst view, fit again, and repeat: one wrong view degrades the fit of all others."""
    rejected: dict[str, str] = {}
    total = len(views)
    while True:
        result = fit(board, views, size, config.model)
        # The median over a view's corners: a single wrong corner does not reject the view.
        errors = np.array([np.median(np.hypot(*part.T)) for part in _residuals(board, views, result)])
        median = float(np.median(errors))
        spread = _SIGMA_OF_MAD * float(np.median(np.abs(errors - median)))
        limit = max(median + OUTLYING * max(spread, MIN_SPREAD * median), NEGLIGIBLE_PX)
        worst = int(np.argmax(errors))
        if errors[worst] <= limit:
            return views, rejected
        rejected[views[worst].name] = f"its corners are {errors[worst]:.2f} px off, others {median:.2f} px"
        views = views[:worst] + views[worst + 1 :]
        if len(rejected) > MOST_REJECTED * total or len(views) < config.fewest_views:
            raise InputError(f"{len(rejected)} of {total} views contradict one another: {_REMEDY}")


def _reject_corners(
    board: Board, views: list[BoardView], result: Fit, config: IntrinsicsConfig
) -> tuple[list[BoardView], dict[str, str]]:
    errors = [np.hypot(*part.T) for part in _residuals(board, views, result)]
    # The median of distances (Rayleigh) is 1.18 standard deviations of a coordinate.
    limit = max(OUTLYING * 1.5 * float(np.median(np.concatenate(errors))) / 1.18, NEGLIGIBLE_PX)
    kept: list[BoardView] = []
    rejected: dict[str, str] = {}
    for view, distances in zip(views, errors, strict=True):
        good, corners = distances <= limit, view.detection
        if good.sum() >= max(MIN_CORNERS, MIN_CORNER_SHARE * len(good)):
            kept.append(BoardView(view.name, view.size, BoardCorners(corners.ids[good], corners.pixels[good])))
        else:
            rejected[view.name] = f"{(~good).sum()} of its {len(good)} corners are more than {limit:.2f} px off"
    return kept, rejected


def _check_plausible(result: Fit, config: IntrinsicsConfig) -> None:
    camera = result.camera
    if result.rms > WORST_RMS * camera.width:
        raise InputError(f"the views contradict one another, by {result.rms:.1f} px: {_REMEDY}")
    focal = np.array([camera.fx / camera.width, camera.fy / camera.width])
    inside = -0.5 < camera.cx < camera.width - 0.5 and -0.5 < camera.cy < camera.height - 0.5
    if not inside or focal.min() < 0.1 or focal.max() > 20 or abs(camera.fx / camera.fy - 1) > 0.3:
        raise InputError(
            f"these views give an impossible lens (f {camera.fx:.0f}, {camera.fy:.0f} px, center {camera.cx:.0f}, "
            f"{camera.cy:.0f}): tilt the board more, and show it all over the image"
        )


def _cross_validate(board: Board, views: list[BoardView], size: tuple[int, int], model: str) -> float:
    """Return the reprojection error of all views, each with a lens fitted to the other four fifths."""
    squares, corners = 0.0, 0
    for fold in range(5):
        camera = fit(board, [view for number, view in enumerate(views) if number % 5 != fold], size, model).camera
        for view in views[fold::5]:
            squares += reprojection_rms(board, view, camera) ** 2 * len(view.detection)
            corners += len(view.detection)
    return float(np.sqrt(squares / corners))


def _residuals(board: Board, views: Sequence[BoardView], result: Fit) -> list[np.ndarray]:
    """Return [n, 2] detected minus projected corners of each view, px."""
    pairs = zip(views, result.poses, strict=True)
    return [_residual(board, view, pose, result.camera) for view, pose in pairs]


def _residual(board: Board, view: BoardView, pose: Pose, camera: Intrinsics) -> np.ndarray:
    return view.detection.pixels - _project(board.points[view.detection.ids], pose, camera)[0]


def _project(points: np.ndarray, pose: Pose, camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Return [n, 2] pixels, and their derivatives [2 n, 6 + 4 + d] by pose, fx, fy, cx, cy, distortion."""
    pixels, jacobian = cv2.projectPoints(points, *pose, camera.matrix, distortion_coefficients(camera))
    return pixels.reshape(-1, 2), jacobian
