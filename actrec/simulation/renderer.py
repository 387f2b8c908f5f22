"""Draws placed primitives before a room: color, depth, who is where, and how every visible point moves."""

from dataclasses import dataclass

import numpy as np

from actrec.simulation import kernels
from actrec.simulation.kernels import ground_shadow
from actrec.simulation.primitives import Placed
from actrec.simulation.room import Background
from actrec.simulation.textures import Atlas
from actrec.types import Intrinsics
from actrec.utils.errors import InputError

NEAR = 0.05
"""Nearest depth that is drawn, metres."""

_AMBIENT, _LAMP = 0.58, 0.52

_SHADOW = 0.38


@dataclass
class Rendering:
    """One noise-free frame.

    Attributes:
        color: [H, W, 3] uint8 RGB.
        depth: [H, W] float32 exact depth along the optical axis, metres.
        ids: [H, W] int16 index of the primitive seen, −1 the room.
        facing: [H, W] float32 cosine between surface normal and the ray to the camera.
        placed: The primitives that were drawn, None where there were none.
    """

    color: np.ndarray
    depth: np.ndarray
    ids: np.ndarray
    facing: np.ndarray
    placed: Placed | None

    @classmethod
    def empty(cls, background: Background) -> "Rendering":
        """The room with nobody in it."""
        ids = np.full(background.depth.shape, -1, np.int16)
        return cls(background.color.copy(), background.depth.copy(), ids, background.facing.copy(), None)

    @property
    def people(self) -> np.ndarray:
        """[H, W] int16 index of the actor seen, −1 the room."""
        return self.owner_at(slice(None), slice(None))

    def owner_at(self, rows: np.ndarray | slice, columns: np.ndarray | slice) -> np.ndarray:
        """Index of the actor seen at those pixels, −1 the room."""
        ids = self.ids[rows, columns]
        return ids if self.placed is None else np.append(self.placed.owner, np.int16(-1))[ids]


class Renderer:
    """Draws with one camera.

    Args:
        intrinsics: Of the camera; no distortion.
        atlas: The textures that primitives refer to.
        up: [3] unit vector, "up" in the camera's frame.

    Raises:
        InputError: The intrinsics have distortion coefficients.
    """

    def __init__(self, intrinsics: Intrinsics, atlas: Atlas, up: np.ndarray):
        if any(intrinsics.distortion):
            raise InputError("the renderer draws undistorted images; give intrinsics without distortion")
        self.intrinsics = intrinsics
        self._atlas = atlas
        self._camera = np.array([intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy], np.float32)
        lamp = np.asarray(up, np.float64) + np.array([-0.45, 0.0, -0.9])
        lamp /= np.linalg.norm(lamp)
        self._light = np.array([*lamp, *up, _AMBIENT, _LAMP], np.float32)

    def render(self, placed: Placed, background: Background, contacts: np.ndarray | None = None) -> Rendering:
        """Draws `placed` before `background`.

        Args:
            placed: What moves.
            background: What rests.
            contacts: [K, 4] float32 points on the floor (camera frame) and the radius of the soft shadow around each,
                metres.
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
            ground_shadow(
                contacts[:, :3].astype(np.float32), contacts[:, 3].astype(np.float32), np.float32(_SHADOW),
                background.floor,
                self._camera, depth, ids, color,
            )  # fmt: skip
        return Rendering(color, depth, ids, facing, placed)

    def scene_flow(self, frame: Rendering, following: Placed, dt: float, move: np.ndarray | None = None) -> np.ndarray:
        """Velocity of each visible surface point on its way to the next frame, in the first camera's frame axes.

        Args:
            frame: The first frame.
            following: The same primitives in the next frame, in the next frame's camera.
            dt: Seconds between the two.
            move: [3, 4] takes a resting point from the first camera's frame to the next one's; None for a fixed camera.

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
            raise InputError(f"{count} primitives in the first frame, {len(following.origin)} in the second")
        move = np.eye(3, 4, dtype=np.float32) if move is None else np.asarray(move, np.float32)
        flow = np.empty((*frame.depth.shape, 3), np.float32)
        kernels.scene_flow(
            frame.depth, frame.ids, first.origin, first.to_local, following.origin, following.to_camera, self._camera,
            move,
            np.float32(1.0 / dt), flow,
        )  # fmt: skip
        return flow
