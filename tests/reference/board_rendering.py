"""Renderer of calibration boards with known lenses, exact to a hundredth of a pixel, with optional blur and noise."""

from functools import lru_cache

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils import jit
from actrec.utils.camera_model import undistort
from actrec_calibration.board import CHARUCO, Board
from actrec_calibration.poses import project, transform

FINE = 3
"""Samples of a pixel, each way."""

PAPER, INK, WALL = 225.0, 30.0, 120.0

_BORDER = 2


def render(
    board: Board, intrinsics: Intrinsics, pose: np.ndarray, *, blur: float = 0, noise: float = 0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Render the board, printed on paper with a white margin, in front of a gray wall.

    Args:
        board: Board.
        intrinsics: Intrinsics with distortion.
        pose: [4, 4] board → camera (optical frame, m).
        blur: Standard deviation of the lens's blur, px.
        noise: Standard deviation of the sensor's noise in each channel, gray levels.
        seed: Seed of the noise.

    Returns:
        [H, W, 3] uint8 RGB, and [H, W] float32 depth of the paper at each pixel's center in m, NaN outside it.
    """
    width, height = intrinsics.width, intrinsics.height
    image = np.full((height, width), WALL, np.float32)
    depth = np.full((height, width), np.nan, np.float32)
    left, top, right, bottom = _region(board, intrinsics, pose)
    if right > left and bottom > top:
        rays = _rays(intrinsics)[top * FINE : bottom * FINE, left * FINE : right * FINE]
        image[top:bottom, left:right] = _shaded(board, intrinsics, pose, rays)
        depth[top:bottom, left:right] = _depth(board, pose, _rays(intrinsics, 1)[top:bottom, left:right])
    if blur:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    color = np.repeat(image[..., None], 3, axis=2)
    if noise:
        color += np.float32(noise) * np.random.default_rng(seed).standard_normal(color.shape, dtype=np.float32)
    return np.clip(np.rint(color, out=color), 0, 255, out=color).astype(np.uint8), depth


def project_corners(points: np.ndarray, intrinsics: Intrinsics, pose: np.ndarray) -> np.ndarray:
    """Return [n, 2] exact pixels of board points [n, 3]."""
    return project(transform(pose, points), intrinsics)


def sample_poses(board: Board, intrinsics: Intrinsics, count: int, seed: int = 0) -> list[np.ndarray]:
    """Sample poses of a hand-held board: all over the image, near and far, tilted by up to 45°.

    Some ChArUco boards are partly outside the image; chessboards are complete.
    """
    random = np.random.default_rng(seed)
    poses: list[np.ndarray] = []
    while len(poses) < count:
        pose = _pose(board, intrinsics, random)
        pixels = project_corners(board.points, intrinsics, pose)
        size = np.array([intrinsics.width, intrinsics.height])
        inside = np.all((pixels > 15) & (pixels < size - 16), axis=1)
        if inside.all() or (board.kind == CHARUCO and inside.mean() > 0.5):
            poses.append(pose)
    return poses


def _pose(board: Board, intrinsics: Intrinsics, random: np.random.Generator) -> np.ndarray:
    share = random.uniform(0.35, 0.9)  # of the image's width that the board would fill if it faced the camera
    distance = intrinsics.fx * board.size[0] / (share * intrinsics.width)
    place = random.uniform([0.1, 0.1], [0.9, 0.9]) * [intrinsics.width, intrinsics.height]
    x, y = (place - [intrinsics.cx, intrinsics.cy]) / [intrinsics.fx, intrinsics.fy]
    towards = random.uniform(0, 2 * np.pi)
    tilt = np.radians(random.uniform(0, 45)) * np.array([np.cos(towards), np.sin(towards), 0])
    roll = np.array([0, 0, np.radians(random.normal(0, 12))])
    rotation = cv2.Rodrigues(tilt)[0] @ cv2.Rodrigues(roll)[0]
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = distance * np.array([x, y, 1]) - rotation @ np.array([*board.size, 0]) / 2
    return pose


def _region(board: Board, intrinsics: Intrinsics, pose: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the paper in the image, px."""
    margin, (width, height) = _margin(board), board.size
    t = np.linspace(0, 1, 20)
    across, down = -margin + t * (width + 2 * margin), -margin + t * (height + 2 * margin)
    edges = [(across, 0 * t - margin), (across, 0 * t + height + margin), (0 * t - margin, down)]
    edges.append((0 * t + width + margin, down))
    outline = np.concatenate([np.stack([x, y, 0 * t], axis=1) for x, y in edges])
    pixels = project_corners(outline, intrinsics, pose)
    low = np.maximum(np.floor(pixels.min(axis=0)) - 2, 0).astype(int)
    high = np.minimum(np.ceil(pixels.max(axis=0)) + 3, [intrinsics.width, intrinsics.height]).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _margin(board: Board) -> float:
    return board.square


@lru_cache(maxsize=6)
def _rays(intrinsics: Intrinsics, fine: int = FINE) -> np.ndarray:
    """Return [H·fine, W·fine, 2] float32: x / z and y / z of each sample's ray."""
    width, height = intrinsics.width + 2 * _BORDER, intrinsics.height + 2 * _BORDER
    u, v = np.meshgrid(np.arange(width) - _BORDER, np.arange(height) - _BORDER)
    pixels = np.stack([u, v], axis=-1).reshape(-1, 1, 2).astype(np.float64)
    rays = undistort(pixels, intrinsics, 100, 1e-10).reshape(height, width, 2)
    # Rays are smooth: interpolate them between the pixels.
    rays = cv2.resize(rays, None, fx=fine, fy=fine, interpolation=cv2.INTER_CUBIC) if fine > 1 else rays
    inside = slice(_BORDER * fine, -_BORDER * fine)
    return rays[inside, inside].astype(np.float32)


def _shaded(board: Board, intrinsics: Intrinsics, pose: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return [h, w] float32 gray levels of a region with rays [h·FINE, w·FINE, 2]."""
    to_board = np.linalg.inv(_plane(pose))
    # As fine as the samples, so that each gets its share of an edge; powers of two keep the cache small.
    density = 2.0 ** np.round(np.log2(FINE * intrinsics.fx / max(pose[2, 3], 0.05)))
    texture = _texture(board, density)
    margin = _margin(board)
    to_texture = np.array([[density, 0, margin * density - 0.5], [0, density, margin * density - 0.5], [0, 0, 1]])
    a = (to_texture @ to_board).astype(np.float32)
    u, v = np.empty((2, *rays.shape[:2]), np.float32)
    _on_plane(a, rays, u, v)
    fine = cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=WALL)
    return cv2.resize(fine, None, fx=1 / FINE, fy=1 / FINE, interpolation=cv2.INTER_AREA)


@jit.kernel
def _on_plane(a: np.ndarray, rays: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
    """Write rays [h, w, 2] transformed by the homography a [3, 3] to u and v [h, w]."""
    for row in range(u.shape[0]):
        for column in range(u.shape[1]):
            x, y = rays[row, column, 0], rays[row, column, 1]
            z = a[2, 0] * x + a[2, 1] * y + a[2, 2]
            u[row, column] = (a[0, 0] * x + a[0, 1] * y + a[0, 2]) / z
            v[row, column] = (a[1, 0] * x + a[1, 1] * y + a[1, 2]) / z


def _depth(board: Board, pose: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return [h, w] float32 depth in m, NaN outside the paper."""
    x, y = rays[..., 0].astype(np.float64), rays[..., 1].astype(np.float64)
    normal = pose[:3, 2]
    z = (normal @ pose[:3, 3]) / (normal[0] * x + normal[1] * y + normal[2])
    on_board = (np.stack([x * z, y * z, z], axis=-1) - pose[:3, 3]) @ pose[:3, :3]
    margin, (width, height) = _margin(board), board.size
    outside = (on_board[..., 0] < -margin) | (on_board[..., 0] > width + margin)
    outside |= (on_board[..., 1] < -margin) | (on_board[..., 1] > height + margin) | (z <= 0)
    return np.where(outside, np.nan, z).astype(np.float32)


def _plane(pose: np.ndarray) -> np.ndarray:
    """Return [3, 3]: (x, y, 1) on the board to (x, y, z) in the camera."""
    return np.stack([pose[:3, 0], pose[:3, 1], pose[:3, 3]], axis=1)


@lru_cache(maxsize=12)
def _texture(board: Board, density: float) -> np.ndarray:
    gray = board.draw(density, _margin(board)).astype(np.float32) / 255
    return INK + gray * (PAPER - INK)
