"""Scenes of procedural or scripted actors in a room: images and exact ground truth at any time."""

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from actrec.recordings.skeleton_files import open_sequence
from actrec.simulation import actions, posture, renderer
from actrec.simulation.actions import ACTIONS, CYCLE, Action, Performance
from actrec.simulation.actor import REFERENCE_STATURE, SIDES, ActorPose, body_frames, bone_lengths, hand_joints
from actrec.simulation.appearance import DEFAULT_APPEARANCES, Appearance, Person, atlas, body_shapes, cast_member
from actrec.simulation.performances.gestures import MAKERS, NO_CLASS
from actrec.simulation.performances.performance import BOTH, Draw, shorten_arm
from actrec.simulation.posture import Style, ease
from actrec.simulation.renderer import Background, Placed, Renderer, Rendering, Room, furnished_room, render_room
from actrec.simulation.script import Script, estimate_ground, recording_label, scripts_from_recording
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import Body, Hand, Intrinsics
from actrec.utils.camera_model import project
from actrec.utils.errors import ConfigError

OCCLUDED_SCORE = 0.5
"""Score of an occluded joint or one outside the image, like a Kinect's inferred joint."""

# Maximum depth of each joint under the skin, m.
_DEPTHS = {
    "spine_base": 0.16, "spine_mid": 0.15, "spine_shoulder": 0.13, "neck": 0.11, "head": 0.13, "shoulder": 0.09,
    "elbow": 0.07, "wrist": 0.06, "hand": 0.05, "hand_tip": 0.04, "thumb": 0.04, "hip": 0.14, "knee": 0.09,
    "ankle": 0.08, "foot": 0.07,
}  # fmt: skip

_UNDER_SKIN = np.array([_DEPTHS[j.replace("_left", "").replace("_right", "")] for j in KINECT_V2_25.joints])
_UNDER_SKIN_HAND = np.full(21, 0.04)

_PLACES: dict[int, tuple[tuple[float, float], ...]] = {
    0: (),
    1: ((0.0, 0.0),),
    2: ((-0.62, -0.15), (0.72, 0.30)),
    3: ((-1.0, 0.1), (0.05, 0.65), (1.05, 0.0)),
    4: ((-1.15, 0.0), (-0.45, 1.0), (0.4, 0.35), (1.25, 0.15)),
    5: ((-1.3, 0.15), (-0.75, 1.15), (0.0, 0.3), (0.8, 1.05), (1.35, 0.1)),
}
"""Places of the actors relative to `distance`, by their number; no actor hides another."""

MAX_ACTORS = max(_PLACES)

_WALL_DISTANCE = 1.5  # from the farthest actor to the back wall, m
_BLEND_S = 0.4  # from rest to the first posture of a gesture, and back

ACTION_NAMES = tuple(sorted({name.replace("_", " ") for name in ACTIONS} | {*MAKERS} - {*NO_CLASS}))
"""Actions that actors can perform; blanks may be underscores."""


# Not in `actions` or `gestures`: their code is part of the fingerprint of the dataset `acted`.
@lru_cache(maxsize=256)
def find_action(name: str, seed: int = 0) -> Action:
    """Return an action of `ACTIONS`, else a performance of `MAKERS` that begins and ends at rest, at the actor's place.

    Raises:
        ConfigError: The action is unknown.
    """
    if (known := name.replace(" ", "_")) in ACTIONS:
        return ACTIONS[known]
    name = name.replace("_", " ")
    if name not in ACTION_NAMES:
        raise ConfigError(f"unknown simulated action '{name}'; known: all, {', '.join(ACTION_NAMES)}")
    make, seated = MAKERS[name]
    sits = seated == 1
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    motion = make(Draw(rng, sits))
    while any(speed for _, _, speed in motion.ways):  # leaves its place
        motion = make(Draw(rng))
    rest, seconds = (actions.SEATED if sits else actions.STANDING).copy(), float(motion.times[-1])
    for side in BOTH:
        shorten_arm(rest, side)

    def at(elapsed: float, style: Style) -> np.ndarray:
        share = float(ease(elapsed / _BLEND_S) * ease((seconds - elapsed) / _BLEND_S))
        vector: np.ndarray = rest + share * (motion.postures(np.array([elapsed]))[0] - rest)
        return vector

    where = "seated" if sits else "standing"
    return Action(name, seconds, where, where, at)


class Routine(Performance):
    """Endless performance of actions of `ACTION_NAMES`.

    Args:
        names, seed, **options: See `Performance`.
        pause: Mean time between two actions, s; 0 for 0.5 to 1.

    Raises:
        ConfigError: An action is unknown, or there is none.
    """

    def __init__(self, names: Sequence[str], seed: int = 0, pause: float = 0.0, **options: Any):
        chosen = [find_action(name, seed) for entry in names for name in (CYCLE if entry == "all" else (entry,))]
        super().__init__(CYCLE if chosen else (), seed, **options)
        self._cycle, self._state, self._pause = chosen, chosen[0].start, pause

    def _append(self, action: Action) -> None:
        super()._append(action)
        if self._pause and action.name.startswith("idle"):
            segment = self._segments[-1]
            end = segment.start + self._pause * float(self._random.uniform(0.8, 1.2))
            self._segments[-1], self._ends[-1] = replace(segment, end=end), end


@dataclass(frozen=True)
class CameraPose:
    """Pose of a camera in the room (x right, y down, z forward; the floor is y = 0)."""

    height: float = 1.0  # height of its center above the floor, m
    pitch: float = 0.0  # downward tilt, radians
    roll: float = 0.0  # clockwise about its optical axis, seen from behind, radians
    forward: float = 0.0  # z of its center, m

    @property
    def rotation(self) -> np.ndarray:
        """Return the camera axes as columns in room coordinates, [3, 3]."""
        c, s = np.cos(self.pitch), np.sin(self.pitch)
        pitched = np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])
        c, s = np.cos(self.roll), np.sin(self.roll)
        return pitched @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    @property
    def up(self) -> np.ndarray:
        """Return the unit vector [3] float32 against gravity in the camera's optical frame."""
        return (-self.rotation[1]).astype(np.float32)

    @property
    def position(self) -> np.ndarray:
        """Return the camera center in room coordinates, [3] m."""
        return np.array([0.0, -self.height, self.forward])

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """Transform points [..., 3] from room coordinates to the camera's optical frame."""
        return (points - self.position) @ self.rotation


class Actor(Protocol):
    """Actor in a scene. Times are seconds since the start of the scene."""

    appearance: Appearance
    rest: np.ndarray  # [bones] lengths from `bone_lengths`, m
    duration: float  # until it leaves, possibly infinite

    def pose(self, time: float) -> ActorPose | None:
        """Return the pose in the camera's optical frame; None while absent."""

    def label(self, time: float) -> str:
        """Return the action."""


class ProceduralActor:
    """Actor that performs actions at a place in the room, x and z in m.

    `facing` is its heading, radians to its left from facing against the camera's z axis.
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
        self.rest = bone_lengths(posture.pose(posture.REST, performance.physique).joints)

    def pose(self, time: float) -> ActorPose:
        """Return the pose in the camera's optical frame."""
        return self._performance.pose(time).transformed(self._rotation, self._shift)

    def label(self, time: float) -> str:
        """Return the name of the action."""
        return self._performance.segment(time).label


class ScriptedActor:
    """Actor that follows a recorded skeleton, in the recording camera's frame, with the recorded stature."""

    def __init__(self, script: Script, appearance: Appearance, label: str, loop: bool = False):
        self.appearance = replace(appearance, stature=script.stature)
        self._script, self._label = script, label
        self.duration = float("inf") if loop else script.duration
        self.rest = bone_lengths(script.joints)

    def pose(self, time: float) -> ActorPose | None:
        """Return the pose in the camera's optical frame; None while the body is absent and after the end."""
        return None if time >= self.duration else self._script.pose(time % self._script.duration)

    def label(self, time: float) -> str:
        """Return the action of the recording."""
        return self._label


@dataclass
class SceneFrame:
    """Scene at one time, without noise.

    Visible joints have score 1, others (occluded or outside the image) 0.5.
    """

    time: float  # seconds since the start of the scene
    rendering: Rendering  # exact color, depth, ids
    poses: list[ActorPose | None]  # in the camera's frame, None while absent
    bodies: list[Body]  # exact joints of all present actors, `kinect_v2_25`, ids "actor_1", …
    labels: dict[str, str]  # action of each present actor, by id


class Scene:
    """Renderable scene of actors in a room, by default the furnished one; `stools` are x and z in the room, m."""

    def __init__(
        self,
        actors: Sequence[Actor],
        intrinsics: Intrinsics,
        camera: CameraPose,
        room: Room | None = None,
        stools: Sequence[tuple[float, float]] = (),
    ):
        self.actors, self.intrinsics, self.camera = list(actors), intrinsics, camera
        faces = tuple(actor.appearance.face for actor in actors) or (Appearance().face,)
        up = camera.rotation.T @ np.array([0.0, -1.0, 0.0])
        self.renderer = Renderer(intrinsics, atlas(faces), up)
        self._shapes = [body_shapes(a.appearance, a.rest, i, len(faces)) for i, a in enumerate(actors)]
        self._background = render_room(room or furnished_room(), intrinsics, camera.rotation, camera.position)
        if stools:  # static, so part of the background
            shapes, axes = renderer.stool_shapes(), np.broadcast_to(camera.rotation.T, (1, 3, 3))
            feet = [camera.to_camera(np.array([[x, 0.0, z]])) for x, z in stools]
            placed = renderer.join_placed([renderer.place_shapes(shapes, foot, axes, -1) for foot in feet])
            contacts = np.concatenate([np.concatenate(feet), np.full((len(feet), 1), 0.2)], axis=1)
            drawn = self.renderer.render(placed, self._background, contacts)
            floor = self._background.floor & (drawn.ids < 0)
            self._background = Background(drawn.color, drawn.depth, drawn.facing, floor)

    @property
    def duration(self) -> float:
        """Return the seconds until the last actor's script ends; infinite if an actor does not stop."""
        return max((actor.duration for actor in self.actors), default=float("inf"))

    def place(self, poses: Sequence[ActorPose | None]) -> Placed | None:
        """Place the primitives of all present actors; None if there are none."""
        parts = []
        for index, (actor, pose) in enumerate(zip(self.actors, poses, strict=True)):
            if pose is not None:
                frames = body_frames(pose, actor.rest, actor.appearance.hand_length)
                parts.append(renderer.place_shapes(self._shapes[index], *frames, index))
        return renderer.join_placed(parts) if parts else None

    def at(self, time: float) -> SceneFrame:
        """Render the scene `time` seconds after the start."""
        poses = [actor.pose(time) for actor in self.actors]
        placed = self.place(poses)
        rendering = self.renderer.render(placed, self._background, self._contacts(poses))
        bodies, labels = [], {}
        for index, (actor, pose) in enumerate(zip(self.actors, poses, strict=True)):
            if pose is not None:
                body_id = f"actor_{index + 1}"
                joints = self._visible_joints(index, pose.joints, _UNDER_SKIN, rendering)
                bodies.append(Body(body_id, KINECT_V2_25.name, *joints))
                labels[body_id] = actor.label(time)
        return SceneFrame(time, rendering, poses, bodies, labels)

    def hands(self, frame: SceneFrame) -> list[Hand]:
        """Return the exact hand joints of all present actors, left hand before right, layout `hand_21`."""
        hands = []
        for index, (actor, pose) in enumerate(zip(self.actors, frame.poses, strict=True)):
            if pose is not None:
                for side, positions in zip(SIDES, hand_joints(pose, actor.appearance.hand_length), strict=True):
                    joints = self._visible_joints(index, positions, _UNDER_SKIN_HAND, frame.rendering)
                    hands.append(Hand(f"actor_{index + 1}", "hand_21", *joints, side=side))
        return hands

    def _visible_joints(
        self, index: int, joints: np.ndarray, under_skin: np.ndarray, rendering: Rendering
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return joints [V, 3] of actor `index` as float32, their pixels [V, 2], and their scores [V].

        A joint is visible if its pixel shows the actor at most `under_skin` [V] m in front of it.
        """
        positions = joints.astype(np.float32)
        pixels = project(positions, self.intrinsics)
        height, width = rendering.depth.shape
        u, v = np.nan_to_num(np.round(pixels), nan=-1, posinf=-1, neginf=-1).T
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        u, v = np.where(inside, u, 0).astype(int), np.where(inside, v, 0).astype(int)
        shows_actor = rendering.owner_at(v, u) == index
        visible = inside & shows_actor & (positions[:, 2] - rendering.depth[v, u] < under_skin)
        return positions, pixels, np.where(visible, 1.0, OCCLUDED_SCORE).astype(np.float32)

    def _contacts(self, poses: Sequence[ActorPose | None]) -> np.ndarray:
        """Return the floor points under feet and hips and the radius of each one's shadow, [K, 4]."""
        joints = [p.joints[[15, 19, 0]] for p in poses if p is not None]
        points = np.reshape(joints, (-1, 3)) @ self.camera.rotation.T + self.camera.position
        radius = np.tile([0.13, 0.13, 0.30], len(points) // 3) + 0.25 * np.clip(-points[:, 1] - 0.1, 0, 0.2)
        points[:, 1] = 0.0
        return np.concatenate([self.camera.to_camera(points), radius[:, None]], axis=1)

    def scene_flow(self, frame: SceneFrame, dt: float) -> np.ndarray:
        """Return the exact velocity of every visible surface point over the next `dt` seconds, [H, W, 3] float32 m/s.

        It is in the optical frame, 0 on the room, NaN on an actor that is absent after `dt`.

        Raises:
            InputError: dt is not positive.
        """
        steps = [(pose, actor.pose(frame.time + dt)) for actor, pose in zip(self.actors, frame.poses, strict=True)]
        placed_later = self.place([pose if pose is None or later is None else later for pose, later in steps])
        if placed_later is None:
            return np.zeros((*frame.rendering.depth.shape, 3), np.float32)
        flow = self.renderer.scene_flow(frame.rendering, placed_later, dt)
        for index, (pose, later) in enumerate(steps):
            if pose is not None and later is None:
                flow[frame.rendering.people == index] = np.nan
        return flow


def performed_scene(
    intrinsics: Intrinsics,
    names: Sequence[str] = ("all",),
    actors: int = 1,
    *,
    seed: int = 0,
    side: str = "any",
    camera: CameraPose | None = None,
    distance: float = 2.9,
    person: int = 0,
    facing: float = 0.0,
    pause: float = 0.0,
) -> Scene:
    """Create a room in which actors perform.

    Args:
        intrinsics: Intrinsics of the camera.
        names: Actions in order (see `ACTION_NAMES`); "all" stands for `CYCLE`.
        actors: Number of actors, 0 to `MAX_ACTORS`. The others perform the same actions in another order and tempo.
        seed: Seed of performances and room.
        side: Acting arm: "left", "right", or "any" for a random one.
        camera: Pose of the camera.
        distance: Distance from the camera to the first actor's place, m.
        person: Number of the first actor (see `cast_member`); 0 for `DEFAULT_APPEARANCES`.
        facing: Heading, radians to the actor's left from facing the camera.
        pause: Mean time between two actions, s; 0 for 0.5 to 1.

    Raises:
        ConfigError: An action is unknown.
    """
    camera = camera or CameraPose()
    order = [name for entry in names for name in (CYCLE if entry == "all" else (entry,))]
    sitting = any("seated" in (find_action(name, seed).start, find_action(name, seed).end) for name in order)
    performers: list[Actor] = []
    stools = []
    for i, (x, z) in enumerate(_PLACES[actors]):
        place = (x, distance + z)
        default = i < len(DEFAULT_APPEARANCES) and not person
        member = Person(DEFAULT_APPEARANCES[i]) if default else cast_member(person + i)
        performance = Routine(
            order,
            seed + 1000 * i,
            pause,
            side="" if side == "any" else side,
            room=min(1.0, 1.3 / actors),
            physique=member.appearance,
            tempo=member.tempo,
        )
        performers.append(ProceduralActor(performance, member.appearance, camera, place, facing))
        if sitting:
            stools.append(stool_place(place, facing, member.appearance.stature))
        shift = len(order) // actors  # actors seldom do the same
        order = order[shift:] + order[:shift]
    farthest = max((z for _, z in _PLACES[actors]), default=0.0)
    room = furnished_room(back=distance + max(_WALL_DISTANCE, farthest + 1.0), seed=seed, camera_height=camera.height)
    return Scene(performers, intrinsics, camera, room, stools)


def stool_place(place: tuple[float, float], facing: float, stature: float) -> tuple[float, float]:
    """Return x and z in the room (m) of the stool of an actor at `place`."""
    behind = actions.SEAT_BEHIND * stature / REFERENCE_STATURE
    return place[0] - behind * float(np.sin(facing)), place[1] + behind * float(np.cos(facing))


def scripted_scene(
    intrinsics: Intrinsics, path: str | Path, sequence: str = "", *, actors: int = 1, loop: bool = False, seed: int = 0
) -> Scene:
    """Create a room in which actors follow a recorded skeleton, from the recording camera's view.

    `sequence` is the name or index in a file with several; of more than `actors` bodies, the ones with most frames are
    shown. Raise as `open_sequence`, and InputError if there is no usable body.
    """
    recording = open_sequence(path, sequence or None)
    scripts = scripts_from_recording(recording, actors)
    return scene_from_scripts(intrinsics, scripts, recording_label(recording), loop=loop, seed=seed)


def scene_from_scripts(
    intrinsics: Intrinsics,
    scripts: Sequence[Script],
    label: str,
    *,
    loop: bool = False,
    seed: int = 0,
    mount: Callable[[CameraPose], CameraPose] | None = None,
) -> Scene:
    """Create a room around scripts: floor under the lowest foot, walls behind and beside.

    `mount` returns another pose of the camera in that room, from the pose of the camera that recorded the scripts.
    """
    if not scripts:
        return Scene([], intrinsics, CameraPose(), furnished_room(seed=seed))
    joints = np.concatenate([s.joints[s.present] for s in scripts])
    recorded = camera = CameraPose(*estimate_ground(joints, max(s.stature for s in scripts), scripts[0].pitch))
    points = joints.reshape(-1, 3) @ recorded.rotation.T + recorded.position
    width = 2 * max(2.7, float(np.abs(points[:, 0]).max()) + 0.5)
    back = max(float(points[:, 2].max()), 2.5) + _WALL_DISTANCE
    if mount is not None:
        camera = mount(recorded)
        offset = camera.to_camera(recorded.position)
        scripts = [script.moved(camera.rotation.T @ recorded.rotation, offset) for script in scripts]
    appearances = itertools.cycle(DEFAULT_APPEARANCES)
    actors = [ScriptedActor(script, next(appearances), label, loop) for script in scripts]
    return Scene(actors, intrinsics, camera, furnished_room(back, width, seed, camera.height))
