"""From views of a board to a camera's intrinsics, with what is wrong left out and what is uncertain said.

How well a calibration knows its lens, and how far two lenses are apart: in pixels, all over the image.

Standard deviations of single coefficients say little, as k1, k2 and k3 make up for one another. What counts is where a
point in space appears: its uncertainty is that of all coefficients together (as mrcal shows it).

Views of a board: how each was held, and which of many are worth calibrating with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils.config import setting
from actrec.utils.errors import InputError
from actrec_calibration.board import Board, Detection
from actrec_calibration.solver import lens

NOVEL = 0.06
"""How far a view must be from every other to tell anything new: about 6 % of the image, or 4° of tilt."""

_TILT_DEG = 60.0  # a tilt of so much counts as moving across the whole image

_FOCAL = 0.9  # of the image's width: good enough to say how a board was held, before the lens is known


@dataclass(frozen=True)
class View:
    """One picture's detection.

    Attributes:
        name: Of the picture: its file, or a number.
        size: Width and height of the image in pixels.
        detection: The corners seen.
    """

    name: str
    size: tuple[int, int]
    detection: Detection


@dataclass(frozen=True)
class Holding:
    """How the board was held, roughly.

    Attributes:
        place: [2] the middle of the corners seen, in 0..1 of the image's width and height.
        scale: How large the whole board would be from the front, in image widths.
        tilt_deg: [2] how far its right and its lower edge are turned away from the camera; negative towards it.
    """

    place: np.ndarray
    scale: float
    tilt_deg: np.ndarray

    @property
    def vector(self) -> np.ndarray:
        """[5] place, size and tilt on one scale, for distances between views."""
        return np.concatenate([self.place, [np.log2(max(self.scale, 1e-3)) / 2], self.tilt_deg / _TILT_DEG])


def rough(size: tuple[int, int]) -> Intrinsics:
    """A lens such as most cameras have, before the true one is known."""
    width, height = size
    return Intrinsics(width, height, _FOCAL * width, _FOCAL * width, (width - 1) / 2, (height - 1) / 2)


def holding(board: Board, view: View, camera: Intrinsics | None = None) -> Holding:
    """How the board was held in a view.

    Args:
        board: What is seen.
        view: Where.
        camera: Its lens, where it is known already.
    """
    camera = camera or rough(view.size)
    points, pixels = board.points[view.detection.ids], view.detection.pixels
    _, turn, shift = cv2.solvePnP(points, pixels, camera.matrix, lens(camera), flags=cv2.SOLVEPNP_IPPE)
    rotation = cv2.Rodrigues(turn)[0]
    # A board turned in the image plane is not tilted: what counts is where its normal points.
    normal = rotation[:, 2] if rotation[2, 2] > 0 else -rotation[:, 2]
    tilt = -np.degrees(np.arcsin(np.clip(normal[:2], -1, 1)))
    distance = float(rotation[2] @ [board.size[0] / 2, board.size[1] / 2, 0] + shift[2, 0])
    scale = camera.fx * max(board.size) / max(distance, 1e-6) / camera.width
    return Holding(pixels.mean(axis=0) / view.size, float(scale), tilt)


def chosen(
    board: Board, views: Sequence[View], most: int, progress: Callable[[int], None] = lambda number: None
) -> list[View]:
    """The views that differ most from one another, at most `most`, in their first order; unmoved ones are left out.

    Args:
        board: What they show.
        views: Any number of them.
        most: To keep.
        progress: Called with the number kept so far.
    """
    if not views:
        return []
    vectors = np.array([holding(board, view).vector for view in views])
    corners = np.array([len(view.detection) for view in views])
    kept = [int(np.argmax(corners))]
    away = np.linalg.norm(vectors - vectors[kept[0]], axis=1)
    while len(kept) < most and away.max() > NOVEL:
        kept.append(int(np.argmax(away)))
        away = np.minimum(away, np.linalg.norm(vectors - vectors[kept[-1]], axis=1))
        progress(len(kept))
    return [views[number] for number in sorted(kept)]


GRID = (17, 13)
"""Points across and down at which a lens is looked at, the image's border included."""


@dataclass(frozen=True)
class Displacement:
    """Where a second camera sees what a first one sees at a grid of pixels.

    Attributes:
        at: [n, 2] pixels in the first camera.
        moved: [n, 2] pixels by which the second sees it elsewhere.
        deviation: [n] pixels: standard deviation of that, as far as the second camera is known.
    """

    at: np.ndarray
    moved: np.ndarray
    deviation: np.ndarray

    @property
    def worst(self) -> int:
        """Index of the point that moves most."""
        return int(np.argmax(np.hypot(*self.moved.T)))


def parameters(camera: Intrinsics) -> np.ndarray:
    """[4 + d] fx, fy, cx, cy and the distortion."""
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion])


def covariance(
    board: Board,
    views: Sequence[View],
    camera: Intrinsics,
    poses: Sequence[tuple[np.ndarray, np.ndarray]],
    sigma: float,
    free: int | None = None,
) -> np.ndarray:
    """[n, n] of the lens's coefficients fx, fy, cx, cy, distortion, the poses' own uncertainty included.

    Args:
        board: What the views show.
        views: That it was calibrated with.
        camera: The calibration.
        poses: Rotation vector and translation of each view.
        sigma: Standard deviation of a corner's coordinate in pixels.
        free: n, the leading coefficients that were fitted, the others being given; all 4 + d by default.
    """
    count = free or len(parameters(camera))
    information = np.zeros((count, count))
    for view, (turn, shift) in zip(views, poses, strict=True):
        jacobian = _jacobian(board.points[view.detection.ids], turn, shift, camera)
        pose, own = jacobian[:, :6], jacobian[:, 6 : 6 + count]
        # What the lens explains that the pose cannot: the Schur complement of the pose's block.
        explained = pose @ np.linalg.lstsq(pose, own, rcond=None)[0]
        information += own.T @ (own - explained)
    scale = 1 / np.sqrt(np.maximum(np.diag(information), 1e-300))
    inverse = np.linalg.pinv(information * np.outer(scale, scale), rcond=1e-14, hermitian=True)
    return sigma**2 * inverse * np.outer(scale, scale)


def displacement(first: Intrinsics, second: Intrinsics, known: np.ndarray) -> Displacement:
    """How far a point in space moves between two calibrations of one camera.

    Args:
        first: Says which ray each pixel sees.
        second: Says where that ray is seen.
        known: [n, n] covariance of the second's n leading coefficients, the others being given.
    """
    u, v = np.meshgrid(np.linspace(0, first.width - 1, GRID[0]), np.linspace(0, first.height - 1, GRID[1]))
    at = np.stack([u.ravel(), v.ravel()], axis=1)
    rays = unprojected(at, first)
    zero = np.zeros(3)
    jacobian = _jacobian(rays, zero, zero, second)[:, 6 : 6 + len(known)].reshape(len(at), 2, -1)
    variance = np.einsum("nia,ab,nib->n", jacobian, known, jacobian)
    return Displacement(at, projected(rays, zero, zero, second) - at, np.sqrt(np.maximum(variance, 0)))


def unprojected(pixels: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """[n, 3] rays with z = 1 of pixels [n, 2], the distortion undone."""
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-9)
    rays = cv2.undistortPointsIter(pixels.reshape(-1, 1, 2), camera.matrix, lens(camera), None, None, stop)
    return np.concatenate([rays.reshape(-1, 2), np.ones((len(pixels), 1))], axis=1)


def projected(points: np.ndarray, turn: np.ndarray, shift: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """[n, 2] pixels of points [n, 3] at a pose (rotation vector, translation)."""
    return cv2.projectPoints(points, turn, shift, camera.matrix, lens(camera))[0].reshape(-1, 2)


def _jacobian(points: np.ndarray, turn: np.ndarray, shift: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """[2 n, 6 + 4 + d] of pixels by rotation vector, translation, fx, fy, cx, cy, distortion."""
    return cv2.projectPoints(points, turn, shift, camera.matrix, lens(camera))[1]


PLUMB_BOB, RATIONAL = "plumb_bob", "rational_polynomial"

_REMEDY = (
    "check that the board is flat, that --columns, --rows, --square and --marker are as printed and the pictures not "
    "blurred, and take more"
)

_STOP = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-10)

_DEVIATION = 1.4826  # of a normal distribution, in median absolute deviations

_GIVEN = (
    cv2.CALIB_FIX_TANGENT_DIST
    | cv2.CALIB_FIX_K2
    | cv2.CALIB_FIX_K3
    | cv2.CALIB_FIX_K4
    | cv2.CALIB_FIX_K5
    | cv2.CALIB_FIX_K6
)

CHANGING = 5
"""Leading coefficients that are fitted where a lens is given to start from."""

_FEWEST_CORNERS = 6

_MOST_OF_THEM = 2 / 3  # of a view's corners must be good, or it is left out whole

_NATURAL = 0.25  # share of the median by which views differ anyway: near and far, sharp and less so


@dataclass(frozen=True)
class IntrinsicsConfig:
    """How intrinsics are calibrated."""

    model: str = setting(
        PLUMB_BOB,
        "Distortion: 5 coefficients, or the rational model's 8 for wide-angle lenses.",
        choices=(PLUMB_BOB, RATIONAL),
    )
    fewest_views: int = setting(8, "Views below which nothing is calibrated.", range=(3, 1000))
    most_views: int = setting(60, "Views used; of more, those that differ most.", range=(3, 1000))
    outlying: float = setting(
        4.0, "Robust standard deviations beyond which a view or a corner is left out.", range=(2.0, 100.0)
    )
    negligible: float = setting(
        0.1, "A view this good is never left out, however much better the others are.", unit="px", range=(0.0, 10.0)
    )
    worst_rms: float = setting(0.002, "Residual, in image widths, beyond which nothing is believed.", range=(1e-5, 0.1))
    most_rejected: float = setting(0.34, "Share of the views that may be left out as wrong.", range=(0.0, 0.9))


@dataclass(frozen=True)
class Calibration:
    """What came out.

    Attributes:
        camera: The intrinsics.
        deviations: [4 + d] standard deviations of fx, fy, cx, cy and the distortion.
        covariance: [4 + d, 4 + d] of the same.
        views: Used, with the corners used.
        poses: Rotation vector and translation in metres of the board in each of them.
        rms: Of all residuals, pixels: square root of the mean squared distance, as OpenCV reports it.
        held_out_rms: The same of views that had no say in the lens, each fifth in turn.
        rejected: Name and reason of each view left out.
        corners_rejected: Single corners left out of views that were used.
        unmoved: Views left out because the board had not moved.
        uncertainty: [n, 3] pixel (u, v) and standard deviation in pixels of where a point is seen there.
    """

    camera: Intrinsics
    deviations: np.ndarray
    covariance: np.ndarray
    views: list[View]
    poses: list[tuple[np.ndarray, np.ndarray]]
    rms: float
    held_out_rms: float
    rejected: dict[str, str]
    corners_rejected: int
    unmoved: int
    uncertainty: np.ndarray

    def residuals(self, board: Board) -> list[np.ndarray]:
        """[n, 2] of each view: seen minus expected, pixels."""
        return [_residual(board, view, pose, self.camera) for view, pose in zip(self.views, self.poses, strict=True)]


@dataclass(frozen=True)
class Fit:
    """One least-squares fit, to the views as they are."""

    camera: Intrinsics
    poses: list[tuple[np.ndarray, np.ndarray]]
    rms: float


def calibrate(
    board: Board,
    views: Sequence[View],
    config: IntrinsicsConfig | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """Calibrates.

    Args:
        board: What the views show.
        views: Any number, of one image size.
        config: How.
        progress: Called with what is being done.

    Raises:
        InputError: Images of different sizes, too few views, or too many wrong ones.
    """
    config = config or IntrinsicsConfig()
    size = one_size(views)
    used = chosen(board, views, config.most_views)
    unmoved = len(views) - len(used) if len(used) < config.most_views else 0
    _enough(len(used), len(views), config)
    progress(f"fitting {len(used)} of {len(views)} views")
    used, rejected = _without_wrong(board, used, size, config)
    before = sum(len(view.detection) for view in used)
    used, spoiled = _without_wrong_corners(board, used, fit(board, used, size, config.model), config)
    rejected.update(spoiled)
    _enough(len(used), len(views), config)
    final = fit(board, used, size, config.model)
    corners = sum(len(view.detection) for view in used)
    known = covariance(board, used, final.camera, final.poses, corner_deviation(final, used))
    seen = displacement(final.camera, final.camera, known)
    _sensible(final, config)
    progress("checking with views held out")
    return Calibration(
        camera=final.camera,
        deviations=np.sqrt(np.diag(known)),
        covariance=known,
        views=used,
        poses=final.poses,
        rms=final.rms,
        held_out_rms=_held_out(board, used, size, config.model),
        rejected=rejected,
        corners_rejected=before - corners,
        unmoved=unmoved,
        uncertainty=np.column_stack([seen.at, seen.deviation]),
    )


def one_size(views: Sequence[View]) -> tuple[int, int]:
    """Width and height of every image.

    Raises:
        InputError: There are none, or they differ.
    """
    if not views:
        raise InputError("the board is in none of the pictures: check its kind, --columns, --rows and --dictionary")
    sizes = {view.size: view.name for view in views}
    if len(sizes) > 1:
        said = ", ".join(f"{name} is {width}×{height}" for (width, height), name in sizes.items())
        raise InputError(f"the pictures differ in size ({said}): calibrate one size at a time")
    return views[0].size


def fit(board: Board, views: Sequence[View], size: tuple[int, int], model: str, start: Intrinsics | None = None) -> Fit:
    """Least squares over the lens and every view's pose.

    With a lens to start from, only what knocks and warmth change is fitted: fx, fy, cx, cy and k1 (`CHANGING`). The
    other coefficients are left as they are; a few views know little of them.

    Args:
        board: What the views show.
        views: Of images of that size.
        size: Width and height in pixels.
        model: Of the distortion.
        start: A lens to start from.

    Raises:
        InputError: The views do not determine a lens.
    """
    points = [board.points[view.detection.ids].astype(np.float32) for view in views]
    pixels = [view.detection.pixels.astype(np.float32) for view in views]
    flags = cv2.CALIB_RATIONAL_MODEL if model == RATIONAL else 0
    matrix, distortion = None, None
    if start is not None:
        flags |= cv2.CALIB_USE_INTRINSIC_GUESS | _GIVEN
        matrix, distortion = start.matrix, np.array([*start.distortion] or [0.0] * 5)
    try:
        rms, matrix, distortion, turns, shifts = cv2.calibrateCamera(
            points, pixels, size, matrix, distortion, flags=flags, criteria=_STOP
        )
    except cv2.error as error:
        raise InputError(f"these views determine no lens: tilt the board more ({error.err})") from error
    count = 8 if model == RATIONAL else 5
    coefficients = tuple(float(value) for value in distortion.ravel()[:count])
    k = matrix.astype(float)
    camera = Intrinsics(*size, float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]), coefficients)
    poses = [(turn.ravel(), shift.ravel()) for turn, shift in zip(turns, shifts, strict=True)]
    return Fit(camera, poses, float(rms))


def posed(board: Board, view: View, camera: Intrinsics) -> tuple[np.ndarray, np.ndarray, float]:
    """Rotation vector, translation and RMS residual in pixels of the board in a view of a known lens."""
    points, pixels = board.points[view.detection.ids], view.detection.pixels
    _, turn, shift = cv2.solvePnP(points, pixels, camera.matrix, lens(camera), flags=cv2.SOLVEPNP_IPPE)
    turn, shift = cv2.solvePnPRefineLM(points, pixels, camera.matrix, lens(camera), turn, shift)
    residual = _residual(board, view, (turn.ravel(), shift.ravel()), camera)
    return turn.ravel(), shift.ravel(), float(np.sqrt((residual**2).sum(axis=1).mean()))


def corner_deviation(found: Fit, views: Sequence[View]) -> float:
    """Standard deviation in pixels of a corner's coordinate, as the residuals of a fit to `views` show it."""
    corners = sum(len(view.detection) for view in views)
    # Each view has a pose of its own, and the lens its coefficients: that many residuals are explained away.
    free = 2 * corners - 6 * len(views) - len(parameters(found.camera))
    return float(np.sqrt(found.rms**2 * corners / max(free, 1)))


def _sensible(found: Fit, config: IntrinsicsConfig) -> None:
    camera = found.camera
    if found.rms > config.worst_rms * camera.width:
        raise InputError(f"the views contradict one another, by {found.rms:.1f} px: {_REMEDY}")
    focal = np.array([camera.fx / camera.width, camera.fy / camera.width])
    inside = -0.5 < camera.cx < camera.width - 0.5 and -0.5 < camera.cy < camera.height - 0.5
    if not inside or focal.min() < 0.1 or focal.max() > 20 or abs(camera.fx / camera.fy - 1) > 0.3:
        raise InputError(
            f"these views make the lens f {camera.fx:.0f}, {camera.fy:.0f} px with its center at {camera.cx:.0f}, "
            f"{camera.cy:.0f}, which is no camera: tilt the board more, and show it all over the image"
        )


def _enough(used: int, found: int, config: IntrinsicsConfig) -> None:
    if used >= config.fewest_views:
        return
    still = f" ({found} with the board, of which it had moved in {used})" if used < found else ""
    raise InputError(
        f"{used} views of the board are too few{still}: {config.fewest_views} at least, 20 to 40 are good; move and "
        "tilt it between them"
    )


def _without_wrong(
    board: Board, views: list[View], size: tuple[int, int], config: IntrinsicsConfig
) -> tuple[list[View], dict[str, str]]:
    """Leaves out the worst view, fits again, and so on: one wrong view spoils the fit of all the others."""
    rejected: dict[str, str] = {}
    while True:
        found = fit(board, views, size, config.model)
        # Half of its corners say how good a view is: a single wrong one is no fault of the others.
        errors = np.array([np.median(part) for part in _distances(board, views, found)])
        middle = float(np.median(errors))
        spread = _DEVIATION * float(np.median(np.abs(errors - middle)))
        limit = max(middle + config.outlying * max(spread, _NATURAL * middle), config.negligible)
        worst = int(np.argmax(errors))
        if errors[worst] <= limit:
            return views, rejected
        rejected[views[worst].name] = f"its corners are {errors[worst]:.2f} px off, others {middle:.2f} px"
        views = views[:worst] + views[worst + 1 :]
        every = len(views) + len(rejected)
        most = config.most_rejected * every
        if len(rejected) > most or len(views) < config.fewest_views:
            raise InputError(f"{len(rejected)} of {every} views contradict one another: {_REMEDY}")


def _without_wrong_corners(
    board: Board, views: list[View], found: Fit, config: IntrinsicsConfig
) -> tuple[list[View], dict[str, str]]:
    away = _distances(board, views, found)
    # The median of distances (Rayleigh) is 1.18 deviations of a coordinate.
    limit = max(config.outlying * 1.5 * float(np.median(np.concatenate(away))) / 1.18, config.negligible)
    kept: list[View] = []
    spoiled: dict[str, str] = {}
    for view, distances in zip(views, away, strict=True):
        good = distances <= limit
        if good.sum() >= max(_FEWEST_CORNERS, _MOST_OF_THEM * len(good)):
            corners = Detection(view.detection.ids[good], view.detection.pixels[good])
            kept.append(View(view.name, view.size, corners))
        else:
            spoiled[view.name] = f"{len(good) - good.sum()} of its {len(good)} corners are more than {limit:.2f} px off"
    return kept, spoiled


def _distances(board: Board, views: Sequence[View], found: Fit) -> list[np.ndarray]:
    """[n] of each view: pixels between the corners seen and where the fit expects them."""
    pairs = zip(views, found.poses, strict=True)
    return [np.hypot(*_residual(board, view, pose, found.camera).T) for view, pose in pairs]


def _held_out(board: Board, views: list[View], size: tuple[int, int], model: str) -> float:
    """RMS over all views, each judged by a lens fitted to the other four fifths."""
    squares, corners = 0.0, 0
    for part in range(5):
        others = [view for number, view in enumerate(views) if number % 5 != part]
        camera = fit(board, others, size, model).camera
        for view in views[part::5]:
            squares += posed(board, view, camera)[2] ** 2 * len(view.detection)
            corners += len(view.detection)
    return float(np.sqrt(squares / corners))


def _residual(board: Board, view: View, pose: tuple[np.ndarray, np.ndarray], camera: Intrinsics) -> np.ndarray:
    return view.detection.pixels - projected(board.points[view.detection.ids], *pose, camera)
