"""Finding a board's corners in an image, to a fraction of a pixel, with their right names.

Corners of squares to a few hundredths of a pixel.

As `cv2.cornerSubPix`, a corner is the point where the lines through the pixels around it, at right angles to their
gradients, meet (Förstner 1987). The window is a cross along the two edges that meet there, instead of a square: that is
where the corner shows, and on a ChArUco board it keeps the markers' own edges out, which draw a square window by up to
a pixel. It also takes back the half pixel by which OpenCV 4.11 reports ChArUco corners too far right and down (measured
on rendered boards: 0.49 px; chessboards have none of it).
"""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from actrec.utils.errors import InputError
from actrec_calibration.board import CHARUCO, Board, Detection, aruco_dictionary

ARM = 0.45
"""Length of the cross's arms, in squares."""

NARROW_PX, BROAD_PX = 1.5, 4.0
"""Half their breadth: less sees no edge, and more sees nothing but noise besides."""

LARGEST = 14
"""Half the largest window in pixels: beyond it a lens bends the edges."""

GUARD_PX = 2.5
"""How far gradients of a marker's edge reach, with the lens's blur and the filter that takes them."""

_STEPS = 20


def refined(board: Board, gray: np.ndarray, found: Detection) -> Detection:
    """The corners of `found` to a fraction of a pixel; those at the image's border or with no clear corner left out."""
    axes = _axes(board, found)
    known = np.isfinite(axes).all(axis=(1, 2))
    ids, pixels, axes = found.ids[known], found.pixels[known], axes[known]
    if not len(ids):
        return Detection(ids, pixels)
    spacing = np.linalg.norm(axes, axis=1).min(axis=1)
    half = int(np.clip(np.ceil(ARM * np.linalg.norm(axes, axis=1).max()), 3, LARGEST))
    height, width = gray.shape
    reach = np.minimum(np.ceil(ARM * np.abs(axes).sum(axis=2).max(axis=1)), half) + 1
    # A window that reaches over the border sees a part of the corner, and is drawn to one side.
    inside = np.all((pixels >= reach[:, None]) & (pixels <= np.array([width, height]) - 1 - reach[:, None]), axis=1)
    ids, pixels, axes, spacing = ids[inside], pixels[inside], axes[inside], spacing[inside]
    if not len(ids):
        return Detection(ids, pixels)
    settled = _settled(gray, pixels, np.linalg.inv(axes), _breadth(board, spacing), spacing, half)
    near = np.hypot(*(settled - pixels).T) < np.maximum(1.5, 0.15 * spacing)  # NaN is not near
    return Detection(ids[near], settled[near])


def _breadth(board: Board, spacing: np.ndarray) -> np.ndarray:
    """[n] half the breadth of each corner's cross, in squares."""
    free = (board.square - board.marker) / 2 / board.square if board.kind == CHARUCO else 1.0
    return np.clip(free * spacing - GUARD_PX, NARROW_PX, BROAD_PX) / spacing


def _axes(board: Board, found: Detection) -> np.ndarray:
    """[n, 2, 2] the columns are one square to the right and one down, in pixels, at each corner."""
    across, down = board.corners
    grid = np.full((across * down, 2), np.nan)
    grid[found.ids] = found.pixels
    grid = grid.reshape(down, across, 2)
    sides = []
    for axis in (1, 0):
        step = np.diff(grid, axis=axis)
        ends = [(1, 0) if side == axis else (0, 0) for side in range(3)]
        before = np.pad(step, ends, constant_values=np.nan)
        after = np.pad(step, [pad[::-1] for pad in ends], constant_values=np.nan)
        sides.append(np.where(np.isfinite(before), np.where(np.isfinite(after), (before + after) / 2, before), after))
    axes = np.stack(sides, axis=-1).reshape(-1, 2, 2)[found.ids]
    return _completed(board, found, axes)


def _completed(board: Board, found: Detection, axes: np.ndarray) -> np.ndarray:
    """A corner with no neighbor takes its axes from the plane's homography."""
    lone = ~np.isfinite(axes).all(axis=(1, 2))
    if not lone.any() or len(found) < 4:
        return axes
    plane, _ = cv2.findHomography(board.points[found.ids, :2], found.pixels)
    if plane is None:
        return axes
    start = board.points[found.ids[lone], :2]
    for side, step in enumerate(np.eye(2) * board.square):
        ends = [
            cv2.perspectiveTransform((start + sign * step / 2)[:, None], plane).reshape(-1, 2) for sign in (-1.0, 1.0)
        ]
        axes[lone, :, side] = ends[1] - ends[0]
    return axes


def _settled(
    gray: np.ndarray, pixels: np.ndarray, to_squares: np.ndarray, breadth: np.ndarray, spacing: np.ndarray, half: int
) -> np.ndarray:
    """[n, 2] corners after steps that each solve for the point with the window about the last; NaN where none is."""
    image = gray.astype(np.float32)
    gx, gy = (cv2.Sobel(image, cv2.CV_32F, dx, 1 - dx, ksize=3) for dx in (1, 0))
    offsets = np.stack(np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1)), axis=-1).reshape(-1, 2)
    spots = np.round(pixels).astype(int)[:, None] + offsets  # [n, P, 2]
    height, width = gray.shape
    u, v = np.clip(spots[..., 0], 0, width - 1), np.clip(spots[..., 1], 0, height - 1)
    terms = _terms(gx[v, u].astype(np.float64), gy[v, u].astype(np.float64), spots)
    at = pixels.copy()
    for _ in range(_STEPS):
        w = _window((spots - at[:, None]) @ to_squares.transpose(0, 2, 1), breadth, spacing)
        xx, xy, yy, x, y = (terms @ w[..., None])[..., 0].T  # each [n]
        normal = np.stack([xx, xy, xy, yy], axis=-1).reshape(-1, 2, 2)
        clear = xx * yy - xy * xy > 1e-4 * (xx + yy) ** 2
        at[~clear] = np.nan
        normal[~clear] = np.eye(2)
        moved = np.linalg.solve(normal, np.stack([x, y], axis=-1)[..., None])[..., 0]
        step = np.where(clear[:, None], moved - at, np.nan)
        at = at + step
        if not np.nanmax(np.abs(step), initial=0) > 1e-3:
            break
    return at


def _terms(gx: np.ndarray, gy: np.ndarray, spots: np.ndarray) -> np.ndarray:
    """[n, 5, P]: what each pixel of gradient g at p adds to g gᵀ (three numbers of the matrix) and to g gᵀ p (two)."""
    xx, xy, yy = gx * gx, gx * gy, gy * gy
    x, y = spots[..., 0], spots[..., 1]
    return np.stack([xx, xy, yy, xx * x + xy * y, xy * x + yy * y], axis=1)


def _window(squares: np.ndarray, breadth: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """[n, P] weights in 0..1: a cross about the corner, its borders soft lest a pixel that leaves it makes a jump.

    Args:
        squares: [n, P, 2] the pixels in the corner's own axes, in squares.
        breadth, spacing: [n] half the arms' breadth in squares, and pixels a square.
    """
    a, b = np.abs(squares[..., 0]), np.abs(squares[..., 1])
    soft = 0.5 / spacing[:, None]
    narrow = np.clip((breadth[:, None] - np.minimum(a, b)) / soft + 0.5, 0, 1)
    return narrow * np.clip((ARM - np.maximum(a, b)) / soft + 0.5, 0, 1)


FEWEST = 6
"""Corners that a view of a ChArUco board must show: four fix a pose, and leave nothing to judge it by."""

SEARCHED = 960
"""Longer side in pixels of the image in which a chessboard is looked for."""

MOST_OF_IT = 0.9
"""Of a chessboard's corners that must come out well: a board that is whole in the image shows them all."""


def detect(board: Board, image: np.ndarray) -> Detection | None:
    """See `Board.detect`."""
    gray = _gray(image)
    return _charuco(board, gray) if board.kind == CHARUCO else _chessboard(board, gray)


def _gray(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise InputError(f"image is {image.dtype}{list(image.shape)}, expected uint8 [H, W, 3] RGB or [H, W]")
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


# -- ChArUco -----------------------------------------------------------------------------------------------------------


def _charuco(board: Board, gray: np.ndarray) -> Detection | None:
    found = _named(board, gray)
    if found is None and _named(board, gray[:, ::-1].copy()) is not None:
        raise InputError("the picture of the board is mirrored: turn mirroring (flip) off in the camera or its driver")
    return found


def _named(board: Board, gray: np.ndarray) -> Detection | None:
    corners, ids, _, _ = charuco_detector(board).detectBoard(gray)
    if ids is None or len(ids) < FEWEST:
        return None
    numbers, pixels = ids.ravel().astype(int), corners.reshape(-1, 2).astype(np.float64)
    order = np.argsort(numbers)
    found = refined(board, gray, Detection(numbers[order], pixels[order]))
    return found if len(found) >= FEWEST and _spans_a_plane(board, found) else None


def _spans_a_plane(board: Board, found: Detection) -> bool:
    rows, columns = np.divmod(found.ids, board.corners[0])
    return len(set(rows.tolist())) > 1 and len(set(columns.tolist())) > 1


@lru_cache(maxsize=8)
def charuco_detector(board: Board) -> Any:
    """OpenCV's detector of that board."""
    pattern = cv2.aruco.CharucoBoard(
        (board.columns, board.rows), board.square, board.marker, aruco_dictionary(board.dictionary)
    )
    pattern.setLegacyPattern(board.legacy)
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    return cv2.aruco.CharucoDetector(pattern, cv2.aruco.CharucoParameters(), parameters)


# -- chessboard --------------------------------------------------------------------------------------------------------


def _chessboard(board: Board, gray: np.ndarray) -> Detection | None:
    across, down = board.corners
    # On a small copy: the search takes seconds on a large image with no board, and its places are refined anyway.
    factor = min(1.0, SEARCHED / max(gray.shape))
    small = cv2.resize(gray, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else gray
    seen, corners = cv2.findChessboardCornersSB(small, (across, down), flags=cv2.CALIB_CB_NORMALIZE_IMAGE)
    if not seen:
        flags = cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_FAST_CHECK
        seen, corners = cv2.findChessboardCorners(small, (across, down), flags=flags)
    if not seen:
        return None
    scale = np.array(gray.shape[::-1]) / small.shape[::-1]
    corners = (corners.astype(np.float64) + 0.5) * scale - 0.5  # pixel centers at integers
    grid = _upright(board, gray, corners.reshape(down, across, 2))
    found = refined(board, gray, Detection(np.arange(across * down), grid.reshape(-1, 2)))
    return found if len(found) >= MOST_OF_IT * across * down else None


def _upright(board: Board, gray: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The grid [down, across, 2] named as the board names it: seen from the front, its first inner square black."""
    (right_u, right_v), (down_u, down_v) = grid[0, -1] - grid[0, 0], grid[-1, 0] - grid[0, 0]
    if right_u * down_v - right_v * down_u < 0:
        grid = grid[:, ::-1]
    across, down = board.corners
    if board.ambiguous and grid[0, -1, 0] < grid[0, 0, 0]:
        grid = grid[::-1, ::-1]  # of its two names the one whose x runs to the right
    if _first_is_black(gray, grid):
        return grid
    if not board.ambiguous:
        return grid[::-1, ::-1]
    if across == down:
        return np.rot90(grid)
    if board.tells_mirrored:
        raise InputError(
            "the picture of the board is mirrored (its top left square should be black, with the longer side across): "
            "turn mirroring (flip) off in the camera or its driver"
        )
    return grid


def _first_is_black(gray: np.ndarray, grid: np.ndarray) -> bool:
    middles = (grid[:-1, :-1] + grid[:-1, 1:] + grid[1:, :-1] + grid[1:, 1:]) / 4
    u, v = np.round(middles).astype(int).transpose(2, 0, 1)
    values = cv2.blur(gray, (3, 3))[v, u].astype(float)
    rows, columns = np.indices(values.shape)
    even = (rows + columns) % 2 == 0
    return bool(values[even].mean() < values[~even].mean())
