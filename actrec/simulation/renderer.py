"""Renderer of round cones in front of a room: color, depth, instance ids and exact scene flow.

Everything that moves is made of one shape, a round cone under an affine map. In its own coordinates a round cone is the
hull of a sphere of radius r0 at the origin and a sphere of radius r1 at (0, length, 0). A sphere has length 0; an
ellipsoid is a stretched sphere, a chest a stretched cone. An affine map keeps a ray's depth, so that one intersection
routine serves all of them.
"""

from dataclasses import dataclass, field

import numpy as np

from actrec.simulation import kernels
from actrec.simulation.textures import Atlas
from actrec.types import Intrinsics
from actrec.utils.errors import InputError

NEAR = 0.05
"""Near clipping plane, m."""

_AMBIENT, _LAMP = 0.58, 0.52

_SHADOW = 0.38

NO_TEXTURE = -1


@dataclass
class Shapes:
    """N primitives, each attached to a frame of the body; constant over time.

    Attributes:
        frame: [N] int32, the frame that the primitive is attached to.
        offset: [N, 3] float32, its origin in that frame, m.
        axes: [N, 3, 3] float32, columns are its axes in that frame, scaled.
        profile: [N, 3] float32 length, r0, r1.
        color: [N, 3] float32 albedo in 0..1, as displayed.
        texture: [N] int32 index into the texture atlas, `NO_TEXTURE` for none.
        mapping: [N, 3, 4] float32, from primitive to texture coordinates.
        density: [N] float32 texture units per m.
        gloss: [N] float32 strength of the highlight.
    """

    frame: np.ndarray
    offset: np.ndarray
    axes: np.ndarray
    profile: np.ndarray
    color: np.ndarray
    texture: np.ndarray
    mapping: np.ndarray
    density: np.ndarray
    gloss: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)


@dataclass
class Placed:
    """Primitives at one time, in the camera's optical frame.

    Attributes:
        shapes: The primitives.
        origin: [N, 3] float32 m.
        to_camera: [N, 3, 3] float32, primitive axes as columns.
        to_local: [N, 3, 3] float32, its inverse.
        owner: [N] int16, index of the actor.
    """

    shapes: Shapes
    origin: np.ndarray
    to_camera: np.ndarray
    to_local: np.ndarray
    owner: np.ndarray


@dataclass
class ShapeBuilder:
    """Builder of `Shapes`, one primitive at a time."""

    _rows: list[tuple] = field(default_factory=list)

    def add(
        self,
        frame: int,
        start: tuple[float, float, float],
        end: tuple[float, float, float] | None,
        radii: tuple[float, float],
        color: tuple[float, float, float],
        *,
        stretch: tuple[float, float, float] = (1.0, 1.0, 1.0),
        texture: int = NO_TEXTURE,
        texture_scale: float = 1.0,
        gloss: float = 0.0,
    ) -> None:
        """Add a round cone, or a sphere if `end` is None.

        Args:
            frame: Index of the body frame.
            start, end: Centers of its two ends in that frame, m.
            radii: Radius at start and end, m.
            color: Albedo as displayed, 0..1.
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
        columns = list(zip(*self._rows, strict=True))
        real = np.float32
        types = (np.int32, real, real, real, real, np.int32, real, real, real)
        return Shapes(*(np.array(column, dtype=kind) for column, kind in zip(columns, types, strict=True)))


def _axes_with_y(y: np.ndarray) -> np.ndarray:
    """Return right-handed axes [3, 3] as columns, the second of which is `y`."""
    helper = np.array([1.0, 0.0, 0.0]) if abs(y[0]) < 0.9 else np.array([0.0, 0.0, 1.0])
    z = np.cross(helper, y)
    z /= np.linalg.norm(z)
    return np.stack([np.cross(y, z), y, z], axis=1)


def place(shapes: Shapes, origins: np.ndarray, axes: np.ndarray, owner: int) -> Placed:
    """Place shapes at their frames.

    Args:
        shapes: N shapes.
        origins: [F, 3] m, camera's optical frame.
        axes: [F, 3, 3], each frame's axes as columns (may be stretched or mirrored).
        owner: Index of the actor.
    """
    carrier = axes[shapes.frame]
    to_camera = np.matmul(carrier, shapes.axes)
    origin = origins[shapes.frame] + np.matmul(carrier, shapes.offset[:, :, None])[:, :, 0]
    return Placed(
        shapes,
        origin.astype(np.float32),
        to_camera.astype(np.float32),
        np.linalg.inv(to_camera).astype(np.float32),
        np.full(len(shapes), owner, np.int16),
    )


def join(parts: list[Placed]) -> Placed:
    """Concatenate the primitives of several actors."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([getattr(p.shapes, name) for p in parts]) for name in Shapes.__dataclass_fields__}
    rest = [np.concatenate([getattr(p, n) for p in parts]) for n in ("origin", "to_camera", "to_local", "owner")]
    return Placed(Shapes(**columns), *rest)


@dataclass(frozen=True)
class Background:
    """Image of the empty room from one camera.

    Attributes:
        color: [H, W, 3] uint8.
        depth: [H, W] float32 m.
        facing: [H, W] float32 cosine between the surface's normal and the ray to the camera.
        floor: [H, W] bool, whether the pixel shows the floor.
    """

    color: np.ndarray
    depth: np.ndarray
    facing: np.ndarray
    floor: np.ndarray


@dataclass
class Rendering:
    """One noise-free frame.

    Attributes:
        color: [H, W, 3] uint8 RGB.
        depth: [H, W] float32 exact depth along the optical axis, m.
        ids: [H, W] int16 index of the visible primitive, −1 for the room.
        facing: [H, W] float32 cosine between surface normal and the ray to the camera.
        placed: The primitives; None if there are none.
    """

    color: np.ndarray
    depth: np.ndarray
    ids: np.ndarray
    facing: np.ndarray
    placed: Placed | None

    @classmethod
    def empty(cls, background: Background) -> "Rendering":
        """Return an image of the empty room."""
        ids = np.full(background.depth.shape, -1, np.int16)
        return cls(background.color.copy(), background.depth.copy(), ids, background.facing.copy(), None)

    @property
    def people(self) -> np.ndarray:
        """Return the visible actor's index at each pixel [H, W] int16, −1 for the room."""
        return self.owner_at(slice(None), slice(None))

    def owner_at(self, rows: np.ndarray | slice, columns: np.ndarray | slice) -> np.ndarray:
        """Return the visible actor's index at the given pixels, −1 for the room."""
        ids = self.ids[rows, columns]
        return ids if self.placed is None else np.append(self.placed.owner, np.int16(-1))[ids]


class Renderer:
    """Renderer for one camera.

    Args:
        intrinsics: Of the camera, without distortion.
        atlas: Textures of the primitives.
        up: [3] unit vector, "up" in the camera's frame.

    Raises:
        InputError: The intrinsics have distortion coefficients.
    """

    def __init__(self, intrinsics: Intrinsics, atlas: Atlas, up: np.ndarray):
        if any(intrinsics.distortion):
            raise InputError("intrinsics have distortion, which the renderer does not support: use undistorted ones")
        self.intrinsics = intrinsics
        self._atlas = atlas
        self._camera = np.array([intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy], np.float32)
        lamp = np.asarray(up, np.float64) + np.array([-0.45, 0.0, -0.9])
        lamp /= np.linalg.norm(lamp)
        self._light = np.array([*lamp, *up, _AMBIENT, _LAMP], np.float32)

    def render(self, placed: Placed, background: Background, contacts: np.ndarray | None = None) -> Rendering:
        """Draw `placed` in front of `background`.

        Args:
            placed: The moving primitives.
            background: The static image.
            contacts: [K, 4] float32 points on the floor (camera frame) and the radius of each one's soft shadow, m.
        """
        shapes = placed.shapes
        color, depth, facing = background.color.copy(), background.depth.copy(), background.facing.copy()
        ids = np.full(depth.shape, -1, np.int16)
        window = kernels.rasterize(
            placed.origin, placed.to_camera, placed.to_local, shapes.profile, self._camera, np.float32(NEAR), depth, ids
        )
        kernels.shade(
            window, depth, ids, placed.origin, placed.to_local, shapes.profile, shapes.color, shapes.texture,
            shapes.mapping,
            shapes.density, shapes.gloss, self._atlas.texels, self._atlas.levels, self._camera, self._light, color,
            facing,
        )  # fmt: skip
        if contacts is not None and len(contacts):
            kernels.ground_shadow(
                contacts[:, :3].astype(np.float32), contacts[:, 3].astype(np.float32), np.float32(_SHADOW),
                background.floor,
                self._camera, depth, ids, color,
            )  # fmt: skip
        return Rendering(color, depth, ids, facing, placed)

    def scene_flow(self, frame: Rendering, following: Placed, dt: float, move: np.ndarray | None = None) -> np.ndarray:
        """Return the velocity of each visible surface point up to the next frame, in the first camera's frame.

        Args:
            frame: The first frame.
            following: The same primitives in the next frame and its camera.
            dt: Seconds between the two.
            move: [3, 4] maps static points from the first camera's frame to the next; None for a fixed camera.

        Returns:
            [H, W, 3] float32 m/s.

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
        move = np.eye(3, 4, dtype=np.float32) if move is None else np.asarray(move, np.float32)
        flow = np.empty((*frame.depth.shape, 3), np.float32)
        kernels.scene_flow(
            frame.depth, frame.ids, first.origin, first.to_local, following.origin, following.to_camera, self._camera,
            move,
            np.float32(1.0 / dt), flow,
        )  # fmt: skip
        return flow
