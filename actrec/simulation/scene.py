"""Actors in a room before a camera: what is rendered at any instant, and all that is exactly known about it.

Exact joints as the data contract wants them, with what the camera can see of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from actrec.simulation import posture, primitives, rig
from actrec.simulation import room as rooms
from actrec.simulation.actions import Performance
from actrec.simulation.actor import Appearance, body_shapes
from actrec.simulation.primitives import Placed
from actrec.simulation.renderer import Renderer, Rendering
from actrec.simulation.rig import ActorPose
from actrec.simulation.script import Script
from actrec.simulation.textures import atlas
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import Body, Hand, Intrinsics
from actrec.utils.errors import InputError
from actrec.utils.geometry import project

HIDDEN_SCORE = 0.5
"""Score of a joint that is known but hidden or outside the image, as a Kinect scores an inferred one."""

# How deep under the skin each joint lies at most, metres (kinect_v2_25 order).
_DEPTHS = {
    "spine_base": 0.16, "spine_mid": 0.15, "spine_shoulder": 0.13, "neck": 0.11, "head": 0.13, "shoulder": 0.09,
    "elbow": 0.07,
    "wrist": 0.06, "hand": 0.05, "hand_tip": 0.04, "thumb": 0.04, "hip": 0.14, "knee": 0.09, "ankle": 0.08,
    "foot": 0.07,
}  # fmt: skip

_UNDER_SKIN = np.array([_DEPTHS[j.replace("_left", "").replace("_right", "")] for j in KINECT_V2_25.joints])

_UNDER_SKIN_HAND = 0.04


def body_truth(index: int, pose: ActorPose, rendering: Rendering, intrinsics: Intrinsics) -> Body:
    """Exact joints of actor `index` as a body "actor_<index + 1>"."""
    positions = pose.joints.astype(np.float32)
    pixels = project(positions, intrinsics)
    visible = visibility(index, positions, pixels, _UNDER_SKIN, rendering)
    scores = np.where(visible, 1.0, HIDDEN_SCORE).astype(np.float32)
    return Body(f"actor_{index + 1}", KINECT_V2_25.name, positions, pixels, scores)


def hand_truth(
    index: int, pose: ActorPose, appearance: Appearance, rendering: Rendering, intrinsics: Intrinsics
) -> list[Hand]:
    """Exact joints of both hands, left first."""
    hands = []
    for side, joints in zip(rig.SIDES, rig.hand_joints(pose, appearance.hand_length), strict=True):
        positions = joints.astype(np.float32)
        pixels = project(positions, intrinsics)
        visible = visibility(index, positions, pixels, np.full(21, _UNDER_SKIN_HAND), rendering)
        scores = np.where(visible, 1.0, HIDDEN_SCORE).astype(np.float32)
        hands.append(Hand(f"actor_{index + 1}", "hand_21", positions, pixels, scores, side=side))
    return hands


def visibility(
    index: int, positions: np.ndarray, pixels: np.ndarray, under_skin: np.ndarray, rendering: Rendering
) -> np.ndarray:
    """Whether each joint's own flesh is what the camera sees at its pixel.

    Args:
        index: Which actor.
        positions: [V, 3] metres.
        pixels: [V, 2], NaN behind the camera.
        under_skin: [V] how far before a joint its own skin can be, metres.
        rendering: The frame.

    Returns:
        [V] bool.
    """
    height, width = rendering.depth.shape
    u, v = np.nan_to_num(np.round(pixels), nan=-1, posinf=-1, neginf=-1).T
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = np.where(inside, u, 0).astype(int), np.where(inside, v, 0).astype(int)
    own = rendering.owner_at(v, u) == index
    return inside & own & (positions[:, 2] - rendering.depth[v, u] < under_skin)


@dataclass(frozen=True)
class CameraPose:
    """Where the camera is in the room (x right, y down, z ahead; the floor is y = 0).

    Attributes:
        height: Of its center over the floor, metres.
        pitch: How far it looks down, radians.
    """

    height: float = 1.0
    pitch: float = 0.0

    @property
    def rotation(self) -> np.ndarray:
        """[3, 3] camera axes as columns in room coordinates."""
        c, s = np.cos(self.pitch), np.sin(self.pitch)
        return np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])

    @property
    def position(self) -> np.ndarray:
        """[3] in room coordinates, metres."""
        return np.array([0.0, -self.height, 0.0])

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """[..., 3] room coordinates to the camera's optical frame."""
        return (points - self.position) @ self.rotation


@dataclass(frozen=True)
class PlacedCamera(CameraPose):
    """A camera anywhere: [3, 3] axes as columns and [3] center, in the room."""

    axes: np.ndarray = field(default_factory=lambda: np.eye(3))
    center: np.ndarray = field(default_factory=lambda: np.array([0.0, -1.0, 0.0]))

    @property
    def rotation(self) -> np.ndarray:
        """As the base has it."""
        return self.axes

    @property
    def position(self) -> np.ndarray:
        """As the base has it."""
        return self.center


class Actor(Protocol):
    """Somebody in the scene. Times are seconds since the scene's start."""

    appearance: Appearance
    rest: np.ndarray
    duration: float

    def pose(self, time: float) -> ActorPose | None:
        """In the camera's optical frame; None while absent."""

    def label(self, time: float) -> str:
        """What the actor is doing."""


class ProceduralActor:
    """Performs actions at a place in the room.

    Args:
        performance: What it does.
        appearance: What it looks like.
        camera: Where the camera is.
        place: x and z of its place in the room, metres.
        facing: Which way it faces there, radians to its left from facing against the camera's z axis.
    """

    duration = float("inf")

    def __init__(
        self,
        performance: Performance,
        appearance: Appearance,
        camera: CameraPose,
        place: tuple[float, float],
        facing: float = 0.0,
    ):
        self.appearance = appearance
        self._performance = performance
        c, s = np.cos(facing), np.sin(facing)
        turned = np.diag([1.0, -1.0, -1.0]) @ np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
        self._rotation = camera.rotation.T @ turned
        self._shift = camera.to_camera(np.array([place[0], 0.0, place[1]]))
        standing = posture.pose(posture.REST, performance.physique)
        self.rest = rig.bone_lengths(standing.joints)

    def pose(self, time: float) -> ActorPose:
        """The pose in the camera's optical frame."""
        return self._performance.pose(time).transformed(self._rotation, self._shift)

    def label(self, time: float) -> str:
        """Name of the action."""
        return self._performance.segment(time).label


class ScriptedActor:
    """Follows a recorded skeleton, from the view of the camera that recorded it.

    Args:
        script: The track.
        appearance: What it looks like, at the track's own stature.
        label: What the recording shows.
        loop: Begin again at the end.
    """

    def __init__(self, script: Script, appearance: Appearance, label: str, loop: bool = False):
        self.appearance = appearance
        self._script, self._label, self._loop = script, label, loop
        self.duration = float("inf") if loop else script.duration
        self.rest = rig.bone_lengths(script.joints)

    def pose(self, time: float) -> ActorPose | None:
        """The pose in the camera's optical frame; None while the recording does not see the body, and after its end."""
        if time >= self.duration:
            return None
        return self._script.pose(time % self._script.duration)

    def label(self, time: float) -> str:
        """What the recording shows."""
        return self._label


@dataclass
class Snapshot:
    """One instant, without noise.

    Attributes:
        time: Seconds since the scene's start.
        rendering: Exact color, depth, ids.
        poses: Each actor's pose in the camera's frame, None while absent.
        bodies: Exact joints of everybody present, `kinect_v2_25`, ids "actor_1", … A joint that is hidden or outside
            the image has
            score 0.5, a visible one 1.
        labels: What each actor does, by its id.
    """

    time: float
    rendering: Rendering
    poses: list[ActorPose | None]
    bodies: list[Body]
    labels: dict[str, str]


class Scene:
    """Renders actors in a room.

    Args:
        actors: Who is there.
        intrinsics: Of the camera.
        camera: Where it is.
        room: The room; None furnishes one.
        stools: x and z in the room of what actors sit down on, metres.
    """

    def __init__(
        self,
        actors: Sequence[Actor],
        intrinsics: Intrinsics,
        camera: CameraPose,
        room: rooms.Room | None = None,
        stools: Sequence[tuple[float, float]] = (),
    ):
        self.actors, self.intrinsics, self.camera = list(actors), intrinsics, camera
        faces = tuple(actor.appearance.face for actor in actors) or (Appearance().face,)
        up = camera.rotation.T @ np.array([0.0, -1.0, 0.0])
        self._renderer = Renderer(intrinsics, atlas(faces), up)
        self._shapes = [body_shapes(a.appearance, a.rest, i, len(faces)) for i, a in enumerate(actors)]
        self._background = rooms.render(room or rooms.furnished(), intrinsics, camera.rotation, camera.position)
        if stools:
            self._add_stools(stools)

    def _add_stools(self, places: Sequence[tuple[float, float]]) -> None:
        """Draws stools into the background: they do not move."""
        shapes = rooms.stool_shapes()
        axes = np.broadcast_to(self.camera.rotation.T, (1, 3, 3))
        parts = [primitives.place(shapes, self.camera.to_camera(np.array([[x, 0.0, z]])), axes, -1) for x, z in places]
        shadows = np.concatenate([self.camera.to_camera(np.array([[x, 0.0, z]])) for x, z in places])
        contacts = np.concatenate([shadows, np.full((len(shadows), 1), 0.2)], axis=1)
        drawn = self._renderer.render(primitives.join(parts), self._background, contacts)
        floor = self._background.floor & (drawn.ids < 0)
        self._background = rooms.Background(drawn.color, drawn.depth, drawn.facing, floor)

    @property
    def duration(self) -> float:
        """Seconds until the last actor's script ends; infinite where one performs for ever."""
        return max((actor.duration for actor in self.actors), default=float("inf"))

    def place(self, poses: Sequence[ActorPose | None]) -> Placed | None:
        """The primitives of everybody present; None where there is nobody."""
        parts = [self._place(i, pose) for i, pose in enumerate(poses) if pose is not None]
        return primitives.join(parts) if parts else None

    def _place(self, index: int, pose: ActorPose) -> Placed:
        actor = self.actors[index]
        origins, axes = rig.frames(pose, actor.rest, actor.appearance.hand_length)
        return primitives.place(self._shapes[index], origins, axes, index)

    def at(self, time: float) -> Snapshot:
        """Renders the instant `time` seconds after the start."""
        poses = [actor.pose(time) for actor in self.actors]
        placed = self.place(poses)
        if placed is None:
            rendering = Rendering.empty(self._background)
        else:
            rendering = self._renderer.render(placed, self._background, self._contacts(poses))
        labels = {f"actor_{i + 1}": actor.label(time) for i, actor in enumerate(self.actors) if poses[i] is not None}
        bodies = [body_truth(i, pose, rendering, self.intrinsics) for i, pose in enumerate(poses) if pose is not None]
        return Snapshot(time, rendering, poses, bodies, labels)

    def _contacts(self, poses: Sequence[ActorPose | None]) -> np.ndarray:
        """[K, 4] points on the floor under feet and hips, and the radius of the shadow of each."""
        joints = np.concatenate([p.joints[[15, 19, 0]] for p in poses if p is not None])
        points = joints @ self.camera.rotation.T + self.camera.position
        radius = np.tile([0.13, 0.13, 0.30], len(points) // 3) + 0.25 * np.clip(-points[:, 1] - 0.1, 0, 0.2)
        points[:, 1] = 0.0
        return np.concatenate([self.camera.to_camera(points), radius[:, None]], axis=1)

    def scene_flow(self, snapshot: Snapshot, dt: float) -> np.ndarray:
        """Exact velocity of every visible surface point over the next `dt` seconds.

        Returns:
            [H, W, 3] float32 m/s in the optical frame; 0 where the room is seen, NaN on an actor who is gone by then.

        Raises:
            InputError: dt is not positive.
        """
        if not dt > 0:
            raise InputError(f"scene flow over {dt} s: the second frame must be later than the first")
        poses = [
            later if now is not None and (later := actor.pose(snapshot.time + dt)) is not None else now
            for actor, now in zip(self.actors, snapshot.poses, strict=True)
        ]
        following = self.place(poses)
        if following is None:
            return np.zeros((*snapshot.rendering.depth.shape, 3), np.float32)
        flow = self._renderer.scene_flow(snapshot.rendering, following, dt)
        for i, (performer, now) in enumerate(zip(self.actors, snapshot.poses, strict=True)):
            if now is not None and performer.pose(snapshot.time + dt) is None:
                flow[snapshot.rendering.people == i] = np.nan
        return flow

    def flow_to(self, snapshot: Snapshot, other: "Scene", later: Snapshot, dt: float) -> np.ndarray:
        """Exact velocity of what is seen on its way to another snapshot of it, from wherever that was seen.

        Args:
            snapshot: Of this scene.
            other: The same actors in the same room, before a camera elsewhere.
            later: Of that scene, with the same actors present.
            dt: Seconds from one to the other.

        Returns:
            [H, W, 3] float32 m/s: from the place in this camera's frame to that in the other's.

        Raises:
            InputError: dt is not positive, or the actors differ.
        """
        following = other.place(later.poses)
        if following is None:
            raise InputError("nobody is in the second snapshot")
        move = np.eye(4)
        for camera, step in ((self.camera, np.asarray), (other.camera, np.linalg.inv)):
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = camera.rotation, camera.position
            move = step(pose) @ move
        return self._renderer.scene_flow(snapshot.rendering, following, dt, move[:3])

    def hands(self, snapshot: Snapshot) -> list[Hand]:
        """Exact finger joints of everybody present, left hand then right, layout `hand_21`."""
        return [
            hand
            for i, pose in enumerate(snapshot.poses)
            if pose is not None
            for hand in hand_truth(i, pose, self.actors[i].appearance, snapshot.rendering, self.intrinsics)
        ]
