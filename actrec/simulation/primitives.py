"""The one shape that everything that moves is made of: a round cone under an affine map.

In its own coordinates a round cone is the hull of a sphere of radius r0 at the origin and one of radius r1 at (0,
length, 0).
A sphere has length 0; an ellipsoid is a stretched sphere, a chest a stretched cone. A ray's depth survives the affine
map, so that
one intersection serves all of them.
"""

from dataclasses import dataclass, field

import numpy as np

NO_TEXTURE = -1


@dataclass
class Shapes:
    """What does not change from frame to frame: N primitives, each hung on a frame of the body.

    Attributes:
        frame: [N] int32, the frame that carries the primitive.
        offset: [N, 3] float32, its origin in that frame, metres.
        axes: [N, 3, 3] float32, columns are its axes in that frame, scaled.
        profile: [N, 3] float32 length, r0, r1.
        color: [N, 3] float32 albedo in 0..1, as displayed.
        texture: [N] int32 index into the texture atlas, `NO_TEXTURE` for none.
        mapping: [N, 3, 4] float32, takes primitive coordinates to those of the texture.
        density: [N] float32 texture units a metre.
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
    """Primitives at one instant in the camera's optical frame.

    Attributes:
        shapes: What they are.
        origin: [N, 3] float32 metres.
        to_camera: [N, 3, 3] float32, primitive axes as columns.
        to_local: [N, 3, 3] float32, its inverse.
        owner: [N] int16, index of the actor that each belongs to.
    """

    shapes: Shapes
    origin: np.ndarray
    to_camera: np.ndarray
    to_local: np.ndarray
    owner: np.ndarray


@dataclass
class ShapeBuilder:
    """Collects primitives one by one; `build` packs them."""

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
        """Adds a round cone, or with `end` None a sphere.

        Args:
            frame: The body frame that carries it.
            start, end: Centers of its two ends in that frame, metres.
            radii: Radius at start and end, metres.
            color: Albedo as displayed, 0..1.
            stretch: Factors along the frame's x, y and z applied about `start` (make an ellipsoid of a sphere).
            texture: Index into the atlas.
            texture_scale: Texture units a metre; the texture lies in the frame's coordinates, so that it runs on across
                primitives of one frame.
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
        """The collected primitives, packed."""
        columns = list(zip(*self._rows, strict=True))
        real = np.float32
        types = (np.int32, real, real, real, real, np.int32, real, real, real)
        return Shapes(*(np.array(column, dtype=kind) for column, kind in zip(columns, types, strict=True)))


def _axes_with_y(y: np.ndarray) -> np.ndarray:
    """[3, 3] right-handed axes as columns whose second is `y`."""
    helper = np.array([1.0, 0.0, 0.0]) if abs(y[0]) < 0.9 else np.array([0.0, 0.0, 1.0])
    z = np.cross(helper, y)
    z /= np.linalg.norm(z)
    return np.stack([np.cross(y, z), y, z], axis=1)


def place(shapes: Shapes, origins: np.ndarray, axes: np.ndarray, owner: int) -> Placed:
    """Puts shapes where their frames are.

    Args:
        shapes: N shapes.
        origins: [F, 3] metres, camera's optical frame.
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
    """Several actors' primitives as one set."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([getattr(p.shapes, name) for p in parts]) for name in Shapes.__dataclass_fields__}
    rest = [np.concatenate([getattr(p, n) for p in parts]) for n in ("origin", "to_camera", "to_local", "owner")]
    return Placed(Shapes(**columns), *rest)
