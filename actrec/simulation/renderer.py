"""Renderer of actors in a room: color, depth, instance ids and exact scene flow; the room is ray-cast once.

All moving parts are round cones under affine maps. In local coordinates, a round cone is the convex hull of a sphere of
radius r0 at the origin and a sphere of radius r1 at (0, length, 0). A sphere has length 0, an ellipsoid is a stretched
sphere, a chest a stretched cone. An affine map keeps a ray's depth, so that one intersection routine serves all.
"""

import functools
from dataclasses import dataclass, field

import cv2
import numpy as np

from actrec.simulation import kernels
from actrec.types import Intrinsics
from actrec.utils.errors import InputError

NEAR = 0.05
"""Near clipping plane, m."""

_AMBIENT, _LAMP = 0.58, 0.52
_SHADOW = 0.38
NO_TEXTURE = -1
FLOOR, CEILING, WALL, BOX, POSTER = range(5)

Triple = tuple[float, float, float]
"""A point, m, or a color: albedo as displayed, 0..1."""


@dataclass(frozen=True)
class Atlas:
    """All textures at all levels of detail; the factor on the albedo is twice the texel."""

    texels: np.ndarray  # [K, sum of sizes², 3] uint8, levels one after another
    levels: np.ndarray  # [L, 2] int64, first texel and side length of each level


@dataclass
class Shapes:
    """N primitives, each attached to a frame of the body; constant over time."""

    frame: np.ndarray  # [N] int32, the frame that the primitive is attached to
    offset: np.ndarray  # [N, 3] float32, its origin in that frame, m
    axes: np.ndarray  # [N, 3, 3] float32, columns are its axes in that frame, scaled
    profile: np.ndarray  # [N, 3] float32 length, r0, r1
    color: np.ndarray  # [N, 3] float32 albedo in 0..1, as displayed
    texture: np.ndarray  # [N] int32 index into the texture atlas, `NO_TEXTURE` for none
    mapping: np.ndarray  # [N, 3, 4] float32, from primitive to texture coordinates
    density: np.ndarray  # [N] float32 texture units per m
    gloss: np.ndarray  # [N] float32 strength of the highlight

    def __len__(self) -> int:
        return len(self.frame)


@dataclass
class Placed:
    """Primitives at one time, in the camera's optical frame."""

    shapes: Shapes
    origin: np.ndarray  # [N, 3] float32 m
    to_camera: np.ndarray  # [N, 3, 3] float32, primitive axes as columns
    to_local: np.ndarray  # [N, 3, 3] float32, its inverse
    owner: np.ndarray  # [N] int16, index of the actor


@dataclass
class ShapeBuilder:
    """Builder of `Shapes`, one primitive at a time."""

    _rows: list[tuple] = field(default_factory=list)

    def add(
        self,
        frame: int,
        start: Triple,
        end: Triple | None,
        radii: tuple[float, float],
        color: Triple,
        *,
        stretch: Triple = (1.0, 1.0, 1.0),
        texture: int = NO_TEXTURE,
        texture_scale: float = 1.0,
        gloss: float = 0.0,
    ) -> None:
        """Add a round cone, or a sphere if `end` is None.

        Args:
            frame: Index of the body frame.
            start, end: Centers of its two ends in that frame, m.
            radii: Radius at start and end, m.
            color: Albedo.
            stretch: Factors along the frame's x, y and z about `start` (turn a sphere into an ellipsoid).
            texture: Index into the atlas.
            texture_scale: Texture units per m. The texture lies in the frame's coordinates and continues across its
                primitives.
            gloss: Strength of the highlight, 0..1.
        """
        origin = np.asarray(start, np.float64)
        scale = np.asarray(stretch, np.float64)
        along = (np.asarray(end, np.float64) - origin) / scale if end is not None else np.zeros(3)
        length = float(np.linalg.norm(along))
        axes = np.diag(scale) @ _axes_with_y(along / length if length > 0 else np.array([0.0, 1.0, 0.0]))
        mapping = np.concatenate([axes, origin[:, None]], axis=1) * texture_scale
        self._rows.append((frame, origin, axes, (length, *radii), color, texture, mapping, texture_scale, gloss))

    def build(self) -> Shapes:
        """Return the added primitives as arrays."""
        real = np.float32
        types = (np.int32, real, real, real, real, np.int32, real, real, real)
        return Shapes(*map(np.array, zip(*self._rows, strict=True), types))


def _axes_with_y(y: np.ndarray) -> np.ndarray:
    """Return right-handed axes [3, 3] as columns; the second is `y`."""
    helper = np.array([1.0, 0.0, 0.0]) if abs(y[0]) < 0.9 else np.array([0.0, 0.0, 1.0])
    z = np.cross(helper, y)
    z /= np.linalg.norm(z)
    return np.stack([np.cross(y, z), y, z], axis=1)


def place_shapes(shapes: Shapes, origins: np.ndarray, axes: np.ndarray, owner: int) -> Placed:
    """Place the shapes of actor `owner` at their frames.

    Frames have origins [F, 3] m and axes [F, 3, 3] as columns (may be stretched or mirrored), in the optical frame.
    """
    carrier = axes[shapes.frame]
    to_camera = np.matmul(carrier, shapes.axes)
    origin = origins[shapes.frame] + np.matmul(carrier, shapes.offset[:, :, None])[:, :, 0]
    to_local, owners = np.linalg.inv(to_camera), np.full(len(shapes), owner, np.int16)
    return Placed(shapes, origin.astype(np.float32), to_camera.astype(np.float32), to_local.astype(np.float32), owners)


def join_placed(parts: list[Placed]) -> Placed:
    """Concatenate the primitives of several actors."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([getattr(p.shapes, name) for p in parts]) for name in Shapes.__dataclass_fields__}
    rest = [np.concatenate([getattr(p, n) for p in parts]) for n in ("origin", "to_camera", "to_local", "owner")]
    return Placed(Shapes(**columns), *rest)


@dataclass(frozen=True)
class Background:
    """Image of the empty room from one camera."""

    color: np.ndarray  # [H, W, 3] uint8
    depth: np.ndarray  # [H, W] float32 m
    facing: np.ndarray  # [H, W] float32 cosine between the surface's normal and the ray to the camera
    floor: np.ndarray  # [H, W] bool, whether the pixel shows the floor


@dataclass
class Rendering:
    """One noise-free frame."""

    color: np.ndarray  # [H, W, 3] uint8 RGB
    depth: np.ndarray  # [H, W] float32 exact depth along the optical axis, m
    ids: np.ndarray  # [H, W] int16 index of the visible primitive, −1 for the room
    facing: np.ndarray  # [H, W] float32 cosine between surface normal and the ray to the camera
    placed: Placed | None  # None without primitives

    @property
    def people(self) -> np.ndarray:
        """Return the visible actor's index at each pixel [H, W] int16, −1 for the room."""
        return self.owner_at(slice(None), slice(None))

    def owner_at(self, rows: np.ndarray | slice, columns: np.ndarray | slice) -> np.ndarray:
        """Return the visible actor's index at the given pixels, −1 for the room."""
        ids = self.ids[rows, columns]
        return ids if self.placed is None else np.append(self.placed.owner, np.int16(-1))[ids]


class Renderer:
    """Renderer for one camera; `up` [3] is the unit vector "up" in the camera's frame.

    Raises:
        InputError: The intrinsics have distortion coefficients.
    """

    def __init__(self, intrinsics: Intrinsics, atlas: Atlas, up: np.ndarray):
        if intrinsics.is_distorted:
            raise InputError("intrinsics have distortion, which the renderer does not support: use undistorted ones")
        self.intrinsics = intrinsics
        self._atlas = atlas
        self._camera = np.array([intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy], np.float32)
        lamp = np.asarray(up, np.float64) + np.array([-0.45, 0.0, -0.9])
        lamp /= np.linalg.norm(lamp)
        self._light = np.array([*lamp, *up, _AMBIENT, _LAMP], np.float32)

    def render(self, placed: Placed | None, background: Background, contacts: np.ndarray | None = None) -> Rendering:
        """Draw `placed` in front of `background`; None draws the empty room.

        Contacts [K, 4] are points on the floor in the camera's frame and radii of their soft shadows, m.
        """
        color, depth, facing = background.color.copy(), background.depth.copy(), background.facing.copy()
        ids = np.full(depth.shape, -1, np.int16)
        if placed is None:
            return Rendering(color, depth, ids, facing, None)
        shapes = placed.shapes
        window = kernels.rasterize(
            placed.origin, placed.to_camera, placed.to_local, shapes.profile, self._camera, np.float32(NEAR), depth, ids
        )
        kernels.shade(
            window, depth, ids, placed.origin, placed.to_local, shapes.profile, shapes.color, shapes.texture,
            shapes.mapping, shapes.density, shapes.gloss, self._atlas.texels, self._atlas.levels, self._camera,
            self._light, color, facing,
        )  # fmt: skip
        if contacts is not None and len(contacts):
            kernels.ground_shadow(
                contacts[:, :3].astype(np.float32), contacts[:, 3].astype(np.float32), np.float32(_SHADOW),
                background.floor, self._camera, depth, ids, color,
            )  # fmt: skip
        return Rendering(color, depth, ids, facing, placed)

    def scene_flow(self, frame: Rendering, following: Placed, dt: float, move: np.ndarray | None = None) -> np.ndarray:
        """Return the velocity of each visible surface point in the first camera's frame, [H, W, 3] float32 m/s.

        Args:
            frame: The first frame.
            following: The same primitives in the next frame and its camera.
            dt: Seconds between the two.
            move: [3, 4] maps static points from the first camera's frame to the next; None for a fixed camera.

        Raises:
            InputError: The two frames differ in their primitives, or dt is not positive.
        """
        if not dt > 0:
            raise InputError(f"scene flow over {dt} s: the second frame must be later than the first")
        first = frame.placed
        if first is None or len(following.origin) != len(first.origin):
            count = 0 if first is None else len(first.origin)
            raise InputError(
                f"{count} primitives in the first frame, {len(following.origin)} in the second: use the same actors"
            )
        still = np.eye(3, 4, dtype=np.float32)
        move = still if move is None else np.asarray(move, np.float32)

        def with_room(origin: np.ndarray, axes: np.ndarray, room: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.concatenate([origin, room[None, :, 3]]), np.concatenate([axes, room[None, :, :3]])

        now = with_room(first.origin, first.to_local, still)
        then = with_room(following.origin, following.to_camera, move)
        flow = np.empty((*frame.depth.shape, 3), np.float32)
        kernels.scene_flow(frame.depth, frame.ids, *now, *then, self._camera, np.float32(1.0 / dt), flow)
        return flow


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in room coordinates (x right, y down, z away from the camera; the floor is y = 0)."""

    low: Triple
    high: Triple
    color: Triple
    kind: int = BOX


@dataclass(frozen=True)
class Room:
    """A furnished room in room coordinates: its inner corners, furniture and wall decoration, and seed of textures."""

    low: Triple
    high: Triple
    boxes: tuple[Box, ...]
    seed: int = 0


def furnished_room(back: float = 4.4, width: float = 5.4, seed: int = 0, camera_height: float = 1.0) -> Room:
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


def render_room(room: Room, intrinsics: Intrinsics, rotation: np.ndarray, position: np.ndarray) -> Background:
    """Ray-cast the empty room, or return the last image of it. Do not change the result.

    In room coordinates, the camera's axes are the columns of `rotation` [3, 3], and its center is `position` [3], m.
    """
    return _render_room(room, intrinsics, tuple(rotation.ravel().tolist()), tuple(position.tolist()))


@functools.lru_cache(maxsize=2)
def _render_room(room: Room, intrinsics: Intrinsics, axes: tuple[float, ...], center: tuple[float, ...]) -> Background:
    rotation, position = np.reshape(axes, (3, 3)), np.array(center)
    depth, normal, _, kind = _cast(room, intrinsics, rotation, position)
    rays = _rays(intrinsics)
    toward = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)) @ rotation.T
    facing = np.clip(-np.einsum("hwk,hwk->hw", normal, toward), 0, 1)
    fine = intrinsics.resized(2 * intrinsics.width, 2 * intrinsics.height)  # color samples
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
    pose = np.asarray(rotation, np.float32), np.asarray(position, np.float32)
    kernels.cast_boxes(lows, highs, *pose, camera, depth, face, box)
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
    tint = 1 + (grain - 0.5) * 2 * strength
    tint = tint + np.where(kind == FLOOR, planks, 0) + np.where(kind == POSTER, poster * 0.5 - 0.3, 0)
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
    kernels.value_noise(random.random((128, 128)), x, y, out)
    return out
