"""Static room around the actors, ray-cast once."""

from dataclasses import dataclass

import cv2
import numpy as np

from actrec.simulation.kernels import cast_boxes, value_noise
from actrec.simulation.renderer import Background, ShapeBuilder, Shapes
from actrec.types import Intrinsics

FLOOR, CEILING, WALL, BOX, POSTER = range(5)


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in room coordinates (x right, y down, z away from the camera; the floor is y = 0).

    Attributes:
        low, high: Opposite corners, m.
        color: Albedo as displayed, 0..1.
        kind: Kind of texture.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    color: tuple[float, float, float]
    kind: int = BOX


@dataclass(frozen=True)
class Room:
    """A furnished room.

    Attributes:
        low, high: Inner corners, m; the floor is y = 0, up is −y.
        boxes: Furniture and wall decoration.
        seed: Of its textures.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    boxes: tuple[Box, ...]
    seed: int = 0


def furnished(back: float = 4.4, width: float = 5.4, seed: int = 0, camera_height: float = 1.0) -> Room:
    """Return a living room whose back wall is `back` m away: cabinet, table with a box, posters, skirting board.

    The ceiling is 2.6 m high, or above the camera if that is higher: rays are cast from inside the room.
    """
    half = width / 2
    wall = back - 0.02
    boxes = (
        Box((-half + 0.25, -1.15, back - 0.45), (-half + 1.25, 0.0, back), (0.52, 0.40, 0.30)),
        Box((-half + 0.45, -1.45, back - 0.38), (-half + 0.75, -1.15, back - 0.08), (0.30, 0.42, 0.46)),
        Box((half - 1.45, -0.76, back - 0.85), (half - 0.2, -0.70, back - 0.1), (0.62, 0.54, 0.44)),
        Box((half - 1.40, -0.70, back - 0.80), (half - 1.34, 0.0, back - 0.74), (0.35, 0.30, 0.26)),
        Box((half - 0.31, -0.70, back - 0.80), (half - 0.25, 0.0, back - 0.74), (0.35, 0.30, 0.26)),
        Box((half - 0.95, -1.02, back - 0.62), (half - 0.5, -0.76, back - 0.25), (0.55, 0.36, 0.24)),
        Box((-1.05, -1.95, wall), (-0.25, -1.35, back), (0.55, 0.58, 0.52), POSTER),
        Box((0.55, -2.05, wall), (1.05, -1.35, back), (0.60, 0.50, 0.42), POSTER),
        Box((-half, -0.10, wall), (half, 0.0, back), (0.72, 0.70, 0.66)),
    )
    return Room((-half, -max(2.6, camera_height + 0.1), -1.5), (half, 0.0, back), boxes, seed)


def stool_shapes(height: float = 0.45) -> Shapes:
    """Build a stool in room axes with its foot at the origin: a round seat on four legs."""
    builder = ShapeBuilder()
    wood, seat = (0.36, 0.27, 0.20), (0.46, 0.20, 0.18)
    builder.add(0, (0.0, -height + 0.03, 0.0), None, (0.17, 0), seat, stretch=(1.0, 0.18, 1.0))
    for x in (-1.0, 1.0):
        for z in (-1.0, 1.0):
            top, foot = (0.09 * x, -height + 0.03, 0.09 * z), (0.14 * x, -0.016, 0.14 * z)
            builder.add(0, top, foot, (0.018, 0.016), wood)
    return builder.build()


def render(
    room: Room, intrinsics: Intrinsics, rotation: np.ndarray, position: np.ndarray, oversample: int = 2
) -> Background:
    """Ray-cast the empty room.

    Args:
        room: The room.
        intrinsics: Of the camera.
        rotation: [3, 3], camera axes as columns in room coordinates.
        position: [3] camera center in room coordinates, m.
        oversample: Color samples along each side of a pixel.
    """
    depth, normal, _, kind = _cast(room, intrinsics, rotation, position)
    rays = _rays(intrinsics)
    toward = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)) @ rotation.T
    facing = np.clip(-np.einsum("hwk,hwk->hw", normal, toward), 0, 1)
    fine = intrinsics.resized(intrinsics.width * oversample, intrinsics.height * oversample)
    fine_depth, fine_normal, box, fine_kind = _cast(room, fine, rotation, position)
    points = (_rays(fine) * fine_depth[..., None]) @ rotation.T + position
    color = _paint(room, points.astype(np.float32), fine_normal, box, fine_kind)
    color = cv2.resize(color, (intrinsics.width, intrinsics.height), interpolation=cv2.INTER_AREA)
    color = np.clip(color * 255 + 0.5, 0, 255).astype(np.uint8)
    return Background(color, depth.astype(np.float32), facing.astype(np.float32), kind == FLOOR)


def _rays(intrinsics: Intrinsics) -> np.ndarray:
    """Return the rays of depth 1 through the pixel centers, [H, W, 3]."""
    x = (np.arange(intrinsics.width) - intrinsics.cx) / intrinsics.fx
    y = (np.arange(intrinsics.height) - intrinsics.cy) / intrinsics.fy
    return np.stack([*np.meshgrid(x, y), np.ones((intrinsics.height, intrinsics.width))], -1)


def _cast(
    room: Room, intrinsics: Intrinsics, rotation: np.ndarray, position: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return depth [H, W], normal [H, W, 3] in room axes, box index (−1 for walls) and kind of surface [H, W]."""
    shape = (intrinsics.height, intrinsics.width)
    depth, face, box = np.empty(shape, np.float32), np.empty(shape, np.int8), np.empty(shape, np.int16)
    lows = np.array([room.low, *(b.low for b in room.boxes)], np.float32)
    highs = np.array([room.high, *(b.high for b in room.boxes)], np.float32)
    camera = np.array([intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy], np.float32)
    cast_boxes(
        lows, highs, np.asarray(rotation, np.float32), np.asarray(position, np.float32), camera, depth, face, box
    )
    # Faces are numbered 2·axis + (1 if the normal points in the positive direction).
    normal = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]], np.float32)[face]
    kinds = np.array([b.kind for b in room.boxes] + [WALL])
    kind = np.where(box >= 0, kinds[box], np.array([WALL, WALL, FLOOR, CEILING, WALL, WALL])[face])
    return depth, normal, box, kind


def _paint(room: Room, points: np.ndarray, normal: np.ndarray, box: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Return color [H, W, 3] float32 in 0..1: textured albedo times a soft room light."""
    random = np.random.default_rng(room.seed)
    colors = np.array([b.color for b in room.boxes] + [(0.70, 0.68, 0.64)], np.float32)
    albedo = colors[box]
    albedo[kind == FLOOR] = (0.50, 0.40, 0.31)
    albedo[kind == CEILING] = (0.80, 0.80, 0.78)
    # Two texture coordinates along the surface.
    flat = np.abs(normal[..., 1]) > 0.5
    along = np.where(np.abs(normal[..., 0]) > 0.5, points[..., 2], points[..., 0])
    across = np.where(flat, points[..., 2], points[..., 1])
    grain = 0.55 * _noise(random, along * 9, across * 9) + 0.45 * _noise(random, along * 37, across * 37)
    strength = np.select([kind == FLOOR, kind == BOX, kind == CEILING, kind == POSTER], [0.10, 0.14, 0.03, 0.2], 0.07)
    planks = (_plank_tint(random, along, across) - 0.5) * 0.28
    poster = _noise(random, along * 6 + 40, across * 6) > 0.5
    tint = (
        1
        + (grain - 0.5) * 2 * strength
        + np.where(kind == FLOOR, planks, 0)
        + np.where(kind == POSTER, poster * 0.5 - 0.3, 0)
    )
    return np.clip(albedo * tint[..., None] * _light(room, points, normal)[..., None], 0, 1).astype(np.float32)


def _light(room: Room, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return the brightness [H, W] from a broad lamp below the ceiling, darker in the corners."""
    lamp = np.array([-0.8, room.low[1] + 0.3, 1.2])
    toward = lamp - points
    distance = np.linalg.norm(toward, axis=-1)
    cosine = np.clip(np.einsum("hwk,hwk->hw", normal, toward) / distance, 0, 1)
    corner = np.ones(points.shape[:2])
    for axis in range(3):
        gap = np.minimum(points[..., axis] - room.low[axis], room.high[axis] - points[..., axis])
        inside = np.abs(normal[..., axis]) < 0.5
        corner *= np.where(inside, 1 - 0.25 * np.exp(-np.maximum(gap, 0) / 0.25), 1)
    return (0.62 + 0.45 * cosine * (3.0 / (1.0 + distance))) * corner


def _plank_tint(random: np.random.Generator, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return a random value in 0..1 for each floor board, darker in the joints."""
    row = np.floor(along / 0.14)
    shift = random.random(512)[row.astype(int) % 512]
    board = np.floor(across / 1.1 + shift)
    value = random.random((512, 64))[row.astype(int) % 512, board.astype(int) % 64]
    edge = np.abs(along / 0.14 - row - 0.5) > 0.47
    return np.where(edge, value - 0.8, value)


def _noise(random: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return smooth value noise in 0..1 with features of one unit."""
    out = np.empty(x.shape)
    value_noise(random.random((128, 128)), x, y, out)
    return out
