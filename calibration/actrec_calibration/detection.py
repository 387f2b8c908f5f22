"""Detection of a board's corners in an image, with subpixel accuracy and the corners' identities, and views of a board.

As in `cv2.cornerSubPix`, a corner is the point that minimizes the distances to the lines through the pixels around it,
at right angles to their gradients (Förstner 1987). The window is a cross along the two edges that meet there instead of
a square: it excludes the edges of a ChArUco board's markers, which pull a square window by up to a pixel. It also
corrects the half pixel by which OpenCV 4.11 reports ChArUco corners too far right and down (measured on rendered
boards: 0.49 px; chessboards and OpenCV 4.14 and 5.1 are unaffected).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils.errors import InputError, MissingLibraryError
from actrec.utils.registry import INSTALL_OPENCV
from actrec_calibration.board import CHARUCO, Board, aruco_dictionary
from actrec_calibration.poses import distortion_coefficients

MIN_CHARUCO_CORNERS = 6  # four fix a pose; the others verify it
CHESSBOARD_SEARCH_SIDE = 960  # longer side in pixels of the image in which a chessboard is searched
MIN_CHESSBOARD_SHARE = 0.9  # of a chessboard's corners that must be refined well: all of them are in the image

ARM = 0.45  # length of the cross's arms, in squares
MIN_HALF_WIDTH_PX, MAX_HALF_WIDTH_PX = 1.5, 4.0  # of the arms: narrower ones miss the edge, wider ones add noise only
MAX_HALF_WINDOW_PX = 14  # beyond it a lens bends the edges
MARKER_GUARD_PX = 2.5  # reach of the gradients of a marker's edge, with the blur of the lens and of the gradient filter
MAX_ITERATIONS = 20

MIN_DISTANCE = 0.06  # from every other view at which a view adds information: 6 % of the image, or 4° of tilt
FULL_TILT_DEG = 60.0  # a tilt that counts as much as a move across the whole image
DEFAULT_FOCAL = 0.9  # in image widths: sufficient to estimate a placement before the lens is known


@dataclass(frozen=True)
class BoardCorners:
    """Corners of a board in an image.

    Attributes:
        ids: [n] int, rows of `Board.points`, ascending.
        pixels: [n, 2] float64 (u, v), pixel centers at integers.
    """

    ids: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class BoardView:
    """Detection in one image, with its file's name or a number, and its width and height in px."""

    name: str
    size: tuple[int, int]
    detection: BoardCorners


@dataclass(frozen=True)
class RgbdView:
    """One view by a color and a depth camera at the same time.

    Attributes:
        name: Name of the view.
        color: Corners of the board in the color image.
        depth: [H, W] readings, m, NaN if missing; None for no depth.
        infrared: Corners in the infrared image of the depth camera, if there is one.
    """

    name: str
    color: BoardCorners
    depth: np.ndarray | None
    infrared: BoardCorners | None = None


def detect(board: Board, image: np.ndarray) -> BoardCorners | None:
    """Detect a board in a uint8 image, [H, W, 3] RGB or [H, W] gray.

    Returns:
        None if the board is not in the image (a chessboard must be complete).

    Raises:
        InputError: The image is mirrored (see `Board.detects_mirroring`), or no uint8 image.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise InputError(f"image is {image.dtype}{list(image.shape)}, expected uint8 [H, W, 3] RGB or [H, W]")
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if board.kind != CHARUCO:
        return _detect_chessboard(board, gray)
    detection = _detect_charuco(board, gray)
    if detection is None and _detect_charuco(board, gray[:, ::-1].copy()) is not None:
        raise InputError("the image of the board is mirrored: turn mirroring (flip) off in the camera or its driver")
    return detection


def _detect_charuco(board: Board, gray: np.ndarray) -> BoardCorners | None:
    corners, ids, _, _ = _charuco_detector(board).detectBoard(gray)
    if ids is None or len(ids) < MIN_CHARUCO_CORNERS:
        return None
    numbers, pixels = ids.ravel().astype(int), corners.reshape(-1, 2).astype(np.float64)
    order = np.argsort(numbers)
    refined = _refine(board, gray, BoardCorners(numbers[order], pixels[order]))
    on_one_line = any(len(set(part.tolist())) < 2 for part in np.divmod(refined.ids, board.corners[0]))
    return None if len(refined) < MIN_CHARUCO_CORNERS or on_one_line else refined


@lru_cache(maxsize=8)
def _charuco_detector(board: Board) -> Any:
    if not hasattr(cv2.aruco, "CharucoDetector"):  # Ubuntu 22.04 and 24.04 have 4.5 and 4.6
        raise MissingLibraryError(
            f"ChArUco boards need OpenCV 4.7, this is {cv2.__version__}: use a chessboard, or {INSTALL_OPENCV}"
        )
    size, dictionary = (board.columns, board.rows), aruco_dictionary(board.dictionary)
    pattern = cv2.aruco.CharucoBoard(size, board.square, board.marker, dictionary)
    pattern.setLegacyPattern(board.legacy)
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    if hasattr(parameters, "validBitIdThreshold"):  # in OpenCV 4.14 and 5; its default of 0.49 loses 4 % of the corners
        parameters.validBitIdThreshold = 0.5
    return cv2.aruco.CharucoDetector(pattern, cv2.aruco.CharucoParameters(), parameters)


def _detect_chessboard(board: Board, gray: np.ndarray) -> BoardCorners | None:
    across, down = board.corners
    # In a small copy: the search takes seconds in a large image without a board, and corners are refined anyway.
    factor = min(1.0, CHESSBOARD_SEARCH_SIDE / max(gray.shape))
    small = cv2.resize(gray, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else gray
    found, corners = cv2.findChessboardCornersSB(small, (across, down), flags=cv2.CALIB_CB_NORMALIZE_IMAGE)
    if not found:
        flags = cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_FAST_CHECK
        found, corners = cv2.findChessboardCorners(small, (across, down), flags=flags)
    if not found:
        return None
    scale = np.array(gray.shape[::-1]) / small.shape[::-1]
    corners = (corners.astype(np.float64) + 0.5) * scale - 0.5  # pixel centers at integers
    grid = _order_chessboard(board, gray, corners.reshape(down, across, 2))
    refined = _refine(board, gray, BoardCorners(np.arange(across * down), grid.reshape(-1, 2)))
    return refined if len(refined) >= MIN_CHESSBOARD_SHARE * across * down else None


def _order_chessboard(board: Board, gray: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Reorder the grid [down, across, 2] as the board's corners: seen from the front, its first inner square black."""
    (right_u, right_v), (down_u, down_v) = grid[0, -1] - grid[0, 0], grid[-1, 0] - grid[0, 0]
    if right_u * down_v - right_v * down_u < 0:
        grid = grid[:, ::-1]
    across, down = board.corners
    if board.ambiguous and grid[0, -1, 0] < grid[0, 0, 0]:
        grid = grid[::-1, ::-1]  # of the two orders, the one with x to the right
    if _first_is_black(gray, grid):
        return grid
    if not board.ambiguous:
        return grid[::-1, ::-1]
    if across == down:
        return np.rot90(grid)
    if board.detects_mirroring:
        raise InputError(
            "the image of the board is mirrored (its top left square should be black, with the longer side across): "
            "turn mirroring (flip) off in the camera or its driver"
        )
    return grid


def _first_is_black(gray: np.ndarray, grid: np.ndarray) -> bool:
    centers = (grid[:-1, :-1] + grid[:-1, 1:] + grid[1:, :-1] + grid[1:, 1:]) / 4
    u, v = np.round(centers).astype(int).transpose(2, 0, 1)
    values = cv2.blur(gray, (3, 3))[v, u].astype(float)
    rows, columns = np.indices(values.shape)
    even = (rows + columns) % 2 == 0
    return bool(values[even].mean() < values[~even].mean())


def _refine(board: Board, gray: np.ndarray, coarse: BoardCorners) -> BoardCorners:
    """Refine corners to a fraction of a pixel; drop corners at the image's border and unclear ones."""
    axes = _square_axes(board, coarse)
    keep = np.isfinite(axes).all(axis=(1, 2))
    if not keep.any():
        return BoardCorners(coarse.ids[keep], coarse.pixels[keep])
    half = int(np.clip(np.ceil(ARM * np.linalg.norm(axes[keep], axis=1).max()), 3, MAX_HALF_WINDOW_PX))
    # A window that crosses the border contains a part of the corner only, and biases it.
    reach = np.minimum(np.ceil(ARM * np.abs(np.where(keep[:, None, None], axes, 0)).sum(2).max(1)), half) + 1
    keep &= np.all(
        (coarse.pixels >= reach[:, None]) & (coarse.pixels <= np.array(gray.shape[::-1]) - 1 - reach[:, None]), axis=1
    )
    ids, pixels, axes = coarse.ids[keep], coarse.pixels[keep], axes[keep]
    if not len(ids):
        return BoardCorners(ids, pixels)
    spacing = np.linalg.norm(axes, axis=1).min(axis=1)
    free = (board.square - board.marker) / 2 / board.square if board.kind == CHARUCO else 1.0
    half_width = np.clip(free * spacing - MARKER_GUARD_PX, MIN_HALF_WIDTH_PX, MAX_HALF_WIDTH_PX) / spacing
    refined = _iterate(gray, pixels, np.linalg.inv(axes), half_width, spacing, half)
    near = np.hypot(*(refined - pixels).T) < np.maximum(1.5, 0.15 * spacing)  # NaN is not near
    return BoardCorners(ids[near], refined[near])


def _square_axes(board: Board, detection: BoardCorners) -> np.ndarray:
    """Return [n, 2, 2]: the columns are one square to the right and one square down, px, at each corner."""
    across, down = board.corners
    grid: np.ndarray = np.full((across * down, 2), np.nan)
    grid[detection.ids] = detection.pixels
    grid = grid.reshape(down, across, 2)
    sides = []
    for axis in (1, 0):
        step = np.diff(grid, axis=axis)
        ends = [(1, 0) if side == axis else (0, 0) for side in range(3)]
        before = np.pad(step, ends, constant_values=np.nan)
        after = np.pad(step, [pad[::-1] for pad in ends], constant_values=np.nan)
        sides.append(np.where(np.isfinite(before), np.where(np.isfinite(after), (before + after) / 2, before), after))
    axes = np.stack(sides, axis=-1).reshape(-1, 2, 2)[detection.ids]
    # Take the axes of corners without a neighbor from the plane's homography.
    lone = ~np.isfinite(axes).all(axis=(1, 2))
    if not lone.any() or len(detection) < 4:
        return axes
    plane, _ = cv2.findHomography(board.points[detection.ids, :2], detection.pixels)
    if plane is None:
        return axes
    start = board.points[detection.ids[lone], :2]
    for side, step in enumerate(np.eye(2) * board.square / 2):
        ahead, behind = (cv2.perspectiveTransform((start + s * step)[:, None], plane)[:, 0] for s in (1.0, -1.0))
        axes[lone, :, side] = ahead - behind
    return axes


def _iterate(
    gray: np.ndarray, pixels: np.ndarray, to_squares: np.ndarray, half_width: np.ndarray, spacing: np.ndarray, half: int
) -> np.ndarray:
    """Return [n, 2] corners, each solved repeatedly with the window around the last solution; NaN if unclear."""
    image = gray.astype(np.float32)
    gx, gy = (cv2.Sobel(image, cv2.CV_32F, dx, 1 - dx, ksize=3) for dx in (1, 0))
    offsets = np.stack(np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1)), axis=-1).reshape(-1, 2)
    window = np.round(pixels).astype(int)[:, None] + offsets  # [n, P, 2]
    height, width = gray.shape
    u, v = np.clip(window[..., 0], 0, width - 1), np.clip(window[..., 1], 0, height - 1)
    gx, gy = gx[v, u].astype(np.float64), gy[v, u].astype(np.float64)
    xx, xy, yy = gx * gx, gx * gy, gy * gy
    x, y = window[..., 0], window[..., 1]
    # [n, 5, P]: contribution of each pixel p with gradient g to g gᵀ (three numbers) and to g gᵀ p (two)
    terms = np.stack([xx, xy, yy, xx * x + xy * y, xy * x + yy * y], axis=1)
    corners = pixels.copy()
    for _ in range(MAX_ITERATIONS):
        weights = _cross_weights((window - corners[:, None]) @ to_squares.transpose(0, 2, 1), half_width, spacing)
        xx, xy, yy, x, y = (terms @ weights[..., None])[..., 0].T  # each [n]
        normal = np.stack([xx, xy, xy, yy], axis=-1).reshape(-1, 2, 2)
        clear = xx * yy - xy * xy > 1e-4 * (xx + yy) ** 2
        corners[~clear] = np.nan
        normal[~clear] = np.eye(2)
        solved = np.linalg.solve(normal, np.stack([x, y], axis=-1)[..., None])[..., 0]
        step = np.where(clear[:, None], solved - corners, np.nan)
        corners = corners + step
        if not np.nanmax(np.abs(step), initial=0) > 1e-3:
            break
    return corners


def _cross_weights(squares: np.ndarray, half_width: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return [n, P] weights in 0..1 of a cross around the corner, with soft borders so that the solution is smooth.

    Pixels [n, P, 2] and half the arms' width [n] are in squares of the corner's own axes, `spacing` [n] in px a square.
    """
    a, b = np.abs(squares[..., 0]), np.abs(squares[..., 1])
    soft = 0.5 / spacing[:, None]
    narrow = np.clip((half_width[:, None] - np.minimum(a, b)) / soft + 0.5, 0, 1)
    return narrow * np.clip((ARM - np.maximum(a, b)) / soft + 0.5, 0, 1)


# -- views -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BoardPlacement:
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


def placement(board: Board, view: BoardView, camera: Intrinsics | None = None) -> BoardPlacement:
    """Estimate how the board is held in a view; without a camera, for a typical lens."""
    if camera is None:
        width, height = view.size
        focal = DEFAULT_FOCAL * width
        camera = Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    points, pixels = board.points[view.detection.ids], view.detection.pixels
    distortion = distortion_coefficients(camera)
    _, vector, translation = cv2.solvePnP(points, pixels, camera.matrix, distortion, flags=cv2.SOLVEPNP_IPPE)
    rotation = cv2.Rodrigues(vector)[0]
    # Use the normal: a rotation in the image plane is no tilt.
    normal = rotation[:, 2] if rotation[2, 2] > 0 else -rotation[:, 2]
    tilt = -np.degrees(np.arcsin(np.clip(normal[:2], -1, 1)))
    distance = float(rotation[2] @ [board.size[0] / 2, board.size[1] / 2, 0] + translation[2, 0])
    scale = camera.fx * max(board.size) / max(distance, 1e-6) / camera.width
    return BoardPlacement(pixels.mean(axis=0) / view.size, float(scale), tilt)


def select_views(board: Board, views: Sequence[BoardView], max_views: int) -> list[BoardView]:
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
