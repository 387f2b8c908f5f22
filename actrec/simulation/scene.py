"""Scene of actors in a room in front of a camera: images and exact ground truth at any time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from actrec.simulation import posture, renderer
from actrec.simulation import room as rooms
from actrec.simulation.actions import Performance
from actrec.simulation.actor import SIDES, ActorPose, Appearance, body_frames, body_shapes, bone_lengths, hand_joints
from actrec.simulation.renderer import Placed, Renderer, Rendering
from actrec.simulation.script import Script
from actrec.simulation.textures import atlas
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import Body, Hand, Intrinsics
from actrec.utils.errors import InputError
from actrec.utils.geometry import project

OCCLUDED_SCORE = 0.5
"""Score of an occluded joint or one outside the image, like a Kinect's inferred joint."""

# Maximum depth of each joint under the skin, m (kinect_v2_25 order).
_DEPTHS = {
    "spine_base": 0.16, "spine_mid": 0.15, "spine_shoulder": 0.13, "neck": 0.11, "head": 0.13, "shoulder": 0.09,
    "elbow": 0.07,
    "wrist": 0.06, "hand": 0.05, "hand_tip": 0.04, "thumb": 0.04, "hip": 0.14, "knee": 0.09, "ankle": 0.08,
    "foot": 0.07,
}  # fmt: skip

_UNDER_SKIN = np.array([_DEPTHS[j.replace("_left", "").replace("_right", "")] for j in KINECT_V2_25.joints])

_UNDER_SKIN_HAND = 0.04


def body_truth(index: int, pose: ActorPose, rendering: Rendering, intrinsics: Intrinsics) -> Body:
    """Return the exact joints of actor `index` as body "actor_<index + 1>"."""
    positions = pose.joints.astype(np.float32)
    pixels = project(positions, intrinsics)
    visible = visibility(index, positions, pixels, _UNDER_SKIN, rendering)
    scores = np.where(visible, 1.0, OCCLUDED_SCORE).astype(np.float32)
    return Body(f"actor_{index + 1}", KINECT_V2_25.name, positions, pixels, scores)


def hand_truth(
    index: int, pose: ActorPose, appearance: Appearance, rendering: Rendering, intrinsics: Intrinsics
) -> list[Hand]:
    """Return the exact joints of both hands, left first."""
    hands = []
    for side, joints in zip(SIDES, hand_joints(pose, appearance.hand_length), strict=True):
        positions = joints.astype(np.float32)
        pixels = project(positions, intrinsics)
        visible = visibility(index, positions, pixels, np.full(21, _UNDER_SKIN_HAND), rendering)
        scores = np.where(visible, 1.0, OCCLUDED_SCORE).astype(np.float32)
        hands.append(Hand(f"actor_{index + 1}", "hand_21", positions, pixels, scores, side=side))
    return hands


def visibility(
    index: int, positions: np.ndarray, pixels: np.ndarray, under_skin: np.ndarray, rendering: Rendering
) -> np.ndarray:
    """Return whether each joint's own body part is visible at its pixel.

    Args:
        index: Index of the actor.
        positions: [V, 3] m.
        pixels: [V, 2], NaN behind the camera.
        under_skin: [V] maximum distance from the skin to the joint, m.
        rendering: The rendered frame.

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
    """Pose of a camera in the room (x right, y down, z forward; the floor is y = 0).

    Attributes:
        height: Of its center above the floor, m.
        pitch: Downward tilt, radians.
    """

    height: float = 1.0
    pitch: float = 0.0

    @property
    def rotation(self) -> np.ndarray:
        """Return the camera axes as columns in room coordinates, [3, 3]."""
        c, s = np.cos(self.pitch), np.sin(self.pitch)
        return np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])

    @property
    def position(self) -> np.ndarray:
        """Return the camera center in room coordinates, [3] m."""
        return np.array([0.0, -self.height, 0.0])

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """Transform points [..., 3] from room coordinates to the camera's optical frame."""
        return (points - self.position) @ self.rotation


@dataclass(frozen=True)
class PlacedCamera(CameraPose):
    """Arbitrary camera pose: axes [3, 3] as columns and center [3], in the room."""

    axes: np.ndarray = field(default_factory=lambda: np.eye(3))
    center: np.ndarray = field(default_factory=lambda: np.array([0.0, -1.0, 0.0]))

    @property
    def rotation(self) -> np.ndarray:
        """Return the camera axes."""
        return self.axes

    @property
    def position(self) -> np.ndarray:
        """Return the camera center."""
        return self.center


class Actor(Protocol):
    """Actor in a scene. Times are seconds since the start of the scene."""

    appearance: Appearance
    rest: np.ndarray
    duration: float

    def pose(self, time: float) -> ActorPose | None:
        """Return the pose in the camera's optical frame; None while absent."""

    def label(self, time: float) -> str:
        """Return the action."""


class ProceduralActor:
    """Actor that performs actions at a place in the room.

    Args:
        performance: Its actions.
        appearance: Its appearance.
        camera: Pose of the camera.
        place: x and z in the room, m.
        facing: Heading, radians to its left from facing against the camera's z axis.
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
        self.rest = bone_lengths(standing.joints)

    def pose(self, time: float) -> ActorPose:
        """Return the pose in the camera's optical frame."""
        return self._performance.pose(time).transformed(self._rotation, self._shift)

    def label(self, time: float) -> str:
        """Return the name of the action."""
        return self._performance.segment(time).label


class ScriptedActor:
    """Actor that follows a recorded skeleton, in the recording camera's frame.

    Args:
        script: The recorded motion.
        appearance: Its appearance, with the recorded stature.
        label: Action of the recording.
        loop: Repeat at the end.
    """

    def __init__(self, script: Script, appearance: Appearance, label: str, loop: bool = False):
        self.appearance = appearance
        self._script, self._label, self._loop = script, label, loop
        self.duration = float("inf") if loop else script.duration
        self.rest = bone_lengths(script.joints)

    def pose(self, time: float) -> ActorPose | None:
        """Return the pose in the camera's optical frame; None while the body is absent and after the end."""
        if time >= self.duration:
            return None
        return self._script.pose(time % self._script.duration)

    def label(self, time: float) -> str:
        """Return the action of the recording."""
        return self._label


@dataclass
class Snapshot:
    """Scene at one time, without noise.

    Attributes:
        time: Seconds since the start of the scene.
        rendering: Exact color, depth, ids.
        poses: Each actor's pose in the camera's frame, None while absent.
        bodies: Exact joints of all present actors, `kinect_v2_25`, ids "actor_1", … Visible joints have score 1, others
            (occluded or outside the image) 0.5.
        labels: Action of each actor, by id.
    """

    time: float
    rendering: Rendering
    poses: list[ActorPose | None]
    bodies: list[Body]
    labels: dict[str, str]


class Scene:
    """Renderable scene of actors in a room.

    Args:
        actors: The actors.
        intrinsics: Of the camera.
        camera: Pose of the camera.
        room: The room; None for the default one.
        stools: x and z of stools in the room, m.
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
        """Draw stools into the static background."""
        shapes = rooms.stool_shapes()
        axes = np.broadcast_to(self.camera.rotation.T, (1, 3, 3))
        parts = [renderer.place(shapes, self.camera.to_camera(np.array([[x, 0.0, z]])), axes, -1) for x, z in places]
        shadows = np.concatenate([self.camera.to_camera(np.array([[x, 0.0, z]])) for x, z in places])
        contacts = np.concatenate([shadows, np.full((len(shadows), 1), 0.2)], axis=1)
        drawn = self._renderer.render(renderer.join(parts), self._background, contacts)
        floor = self._background.floor & (drawn.ids < 0)
        self._background = rooms.Background(drawn.color, drawn.depth, drawn.facing, floor)

    @property
    def duration(self) -> float:
        """Return the seconds until the last actor's script ends; infinite if an actor does not stop."""
        return max((actor.duration for actor in self.actors), default=float("inf"))

    def place(self, poses: Sequence[ActorPose | None]) -> Placed | None:
        """Place the primitives of all present actors; None if there are none."""
        parts = [self._place(i, pose) for i, pose in enumerate(poses) if pose is not None]
        return renderer.join(parts) if parts else None

    def _place(self, index: int, pose: ActorPose) -> Placed:
        actor = self.actors[index]
        origins, axes = body_frames(pose, actor.rest, actor.appearance.hand_length)
        return renderer.place(self._shapes[index], origins, axes, index)

    def at(self, time: float) -> Snapshot:
        """Render the scene `time` seconds after the start."""
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
        """Return the floor points under feet and hips and the radius of each one's shadow, [K, 4]."""
        joints = np.concatenate([p.joints[[15, 19, 0]] for p in poses if p is not None])
        points = joints @ self.camera.rotation.T + self.camera.position
        radius = np.tile([0.13, 0.13, 0.30], len(points) // 3) + 0.25 * np.clip(-points[:, 1] - 0.1, 0, 0.2)
        points[:, 1] = 0.0
        return np.concatenate([self.camera.to_camera(points), radius[:, None]], axis=1)

    def scene_flow(self, snapshot: Snapshot, dt: float) -> np.ndarray:
        """Return the exact velocity of every visible surface point over the next `dt` seconds.

        Returns:
            [H, W, 3] float32 m/s in the optical frame; 0 on the room, NaN on an actor that is absent then.

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
        """Return the exact velocity to a later snapshot that is seen from another camera pose.

        Args:
            snapshot: Of this scene.
            other: Scene of the same actors and room with another camera pose.
            later: Snapshot of `other`, with the same actors present.
            dt: Seconds between the snapshots.

        Returns:
            [H, W, 3] float32 m/s, from this camera's frame to the other's.

        Raises:
            InputError: dt is not positive, or the actors differ.
        """
        following = other.place(later.poses)
        if following is None:
            raise InputError("no actor in the second snapshot: use a time at which the actors are present")
        move = np.eye(4)
        for camera, step in ((self.camera, np.asarray), (other.camera, np.linalg.inv)):
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = camera.rotation, camera.position
            move = step(pose) @ move
        return self._renderer.scene_flow(snapshot.rendering, following, dt, move[:3])

    def hands(self, snapshot: Snapshot) -> list[Hand]:
        """Return the exact hand joints of all present actors, left hand then right, layout `hand_21`."""
        return [
            hand
            for i, pose in enumerate(snapshot.poses)
            if pose is not None
            for hand in hand_truth(i, pose, self.actors[i].appearance, snapshot.rendering, self.intrinsics)
        ]
