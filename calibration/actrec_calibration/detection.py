"""Finding a board's corners in an image, to a fraction of a pixel, with their right names."""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from actrec.errors import InputError
from actrec_calibration.boards import CHARUCO, Board, Detection, aruco_dictionary
from actrec_calibration.corners import refined

FEWEST = 6
"""Corners that a view of a ChArUco board must show: four fix a pose, and leave nothing to judge it by."""
SEARCHED = 960
"""Longer side in pixels of the image in which a chessboard is looked for."""
MOST_OF_IT = 0.9
"""Of a chessboard's corners that must come out well: a board that is whole in the image shows them all."""


def detect(board: Board, image: np.ndarray) -> Detection | None:
    """See `Board.detect`."""
    grey = _grey(image)
    return _charuco(board, grey) if board.kind == CHARUCO else _chessboard(board, grey)


def _grey(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise InputError(f"image is {image.dtype}{list(image.shape)}, expected uint8 [H, W, 3] RGB or [H, W]")
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


# -- ChArUco -----------------------------------------------------------------------------------------------------------


def _charuco(board: Board, grey: np.ndarray) -> Detection | None:
    found = _named(board, grey)
    if found is None and _named(board, grey[:, ::-1].copy()) is not None:
        raise InputError("the picture of the board is mirrored: turn mirroring (flip) off in the camera or its driver")
    return found


def _named(board: Board, grey: np.ndarray) -> Detection | None:
    corners, ids, _, _ = charuco_detector(board).detectBoard(grey)
    if ids is None or len(ids) < FEWEST:
        return None
    numbers, pixels = ids.ravel().astype(int), corners.reshape(-1, 2).astype(np.float64)
    order = np.argsort(numbers)
    found = refined(board, grey, Detection(numbers[order], pixels[order]))
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


def _chessboard(board: Board, grey: np.ndarray) -> Detection | None:
    across, down = board.corners
    # On a small copy: the search takes seconds on a large image with no board, and its places are refined anyway.
    factor = min(1.0, SEARCHED / max(grey.shape))
    small = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else grey
    seen, corners = cv2.findChessboardCornersSB(small, (across, down), flags=cv2.CALIB_CB_NORMALIZE_IMAGE)
    if not seen:
        flags = cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_FAST_CHECK
        seen, corners = cv2.findChessboardCorners(small, (across, down), flags=flags)
    if not seen:
        return None
    scale = np.array(grey.shape[::-1]) / small.shape[::-1]
    corners = (corners.astype(np.float64) + 0.5) * scale - 0.5  # pixel centres at integers
    grid = _upright(board, grey, corners.reshape(down, across, 2))
    found = refined(board, grey, Detection(np.arange(across * down), grid.reshape(-1, 2)))
    return found if len(found) >= MOST_OF_IT * across * down else None


def _upright(board: Board, grey: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The grid [down, across, 2] named as the board names it: seen from the front, its first inner square black."""
    (right_u, right_v), (down_u, down_v) = grid[0, -1] - grid[0, 0], grid[-1, 0] - grid[0, 0]
    if right_u * down_v - right_v * down_u < 0:
        grid = grid[:, ::-1]
    across, down = board.corners
    if board.ambiguous and grid[0, -1, 0] < grid[0, 0, 0]:
        grid = grid[::-1, ::-1]  # of its two names the one whose x runs to the right
    if _first_is_black(grey, grid):
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


def _first_is_black(grey: np.ndarray, grid: np.ndarray) -> bool:
    middles = (grid[:-1, :-1] + grid[:-1, 1:] + grid[1:, :-1] + grid[1:, 1:]) / 4
    u, v = np.round(middles).astype(int).transpose(2, 0, 1)
    values = cv2.blur(grey, (3, 3))[v, u].astype(float)
    rows, columns = np.indices(values.shape)
    even = (rows + columns) % 2 == 0
    return bool(values[even].mean() < values[~even].mean())
