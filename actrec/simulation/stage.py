"""Scenes of procedural actors or of recorded skeletons, and a cast of people of different size, clothes and tempo."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from actrec.recordings.skeleton_files import open_sequence
from actrec.simulation import actions, room
from actrec.simulation.actions import CYCLE, Performance
from actrec.simulation.actor import REFERENCE_STATURE, WARDROBE, Appearance
from actrec.simulation.posture import Physique
from actrec.simulation.scene import Actor, CameraPose, ProceduralActor, Scene, ScriptedActor
from actrec.simulation.script import Script, estimate_ground, from_recording
from actrec.simulation.textures import FaceColors
from actrec.skeleton.sequence import SkeletonSequence
from actrec.types import NANOSECONDS, Intrinsics
from actrec.utils.errors import InputError

_SKINS = (
    (0.87, 0.68, 0.57),
    (0.80, 0.60, 0.48),
    (0.71, 0.51, 0.39),
    (0.58, 0.40, 0.30),
    (0.43, 0.29, 0.21),
)

_HAIRS = ((0.08, 0.06, 0.05), (0.16, 0.11, 0.08), (0.32, 0.21, 0.12), (0.55, 0.42, 0.24), (0.45, 0.44, 0.43))


@dataclass(frozen=True)
class Person:
    """Person of the cast.

    Attributes:
        appearance: Colors, stature and girth.
        limbs: Factor on the length of arms and legs.
        tempo: Factor on the speed of all movements.
    """

    appearance: Appearance
    limbs: float
    tempo: float

    @property
    def physique(self) -> Physique:
        """Return the bone lengths."""
        return Physique(self.appearance.stature, self.limbs)


def cast_member(number: int) -> Person:
    """Return the person of a number, always the same one.

    Statures are between 1.52 and 1.92 m, spread evenly over successive numbers.
    """
    random = np.random.default_rng([number, 17])
    share = (number * 0.618034) % 1.0  # the golden ratio: successive numbers lie far apart
    skin = _SKINS[random.integers(len(_SKINS))]
    lips = (0.80 * skin[0], 0.58 * skin[1], 0.62 * skin[2])
    shirt, trousers = _cloth(random, (0.25, 0.75), (0.25, 0.75)), _cloth(random, (0.05, 0.45), (0.15, 0.55))
    sleeves = shirt if random.random() < 0.5 else _cloth(random, (0.25, 0.75), (0.25, 0.75))
    appearance = Appearance(
        stature=round(1.52 + 0.40 * share, 3),
        girth=round(float(random.uniform(0.86, 1.22)), 3),
        face=FaceColors(skin, _HAIRS[random.integers(len(_HAIRS))], lips),
        shirt=shirt,
        sleeves=sleeves,
        trousers=trousers,
        shoes=_cloth(random, (0.0, 0.4), (0.08, 0.5)),
    )
    limbs, tempo = float(random.uniform(0.94, 1.06)), float(random.uniform(0.82, 1.22))
    return Person(appearance, round(limbs, 3), round(tempo, 3))


def _cloth(
    random: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> tuple[float, float, float]:
    """Return a color of random hue."""
    r, g, b = colorsys.hsv_to_rgb(random.random(), random.uniform(*saturation), random.uniform(*value))
    return round(r, 3), round(g, 3), round(b, 3)


_PLACES = ((0.0, 0.0), (-0.62, -0.15), (0.72, 0.30))
"""Places relative to `distance`: of a single actor, and of the first and second of two."""

_BEHIND = 1.5  # m from the farthest actor to the wall


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
) -> Scene:
    """Create a room in which actors perform.

    Args:
        intrinsics: Of the camera.
        names: Actions in order, "all" for all of them.
        actors: Number of actors, 0 to 2. The second performs the same actions in another order and tempo.
        seed: Of performances and room.
        side: Acting arm: "left", "right", or "any" for a random one.
        camera: Pose of the camera.
        distance: From the camera to the first actor's place, m.
        person: Number of the first actor (see `cast_member`); 0 for the `WARDROBE`.
        facing: Heading, radians to the actor's left from facing the camera.

    Raises:
        ConfigError: An action is unknown.
    """
    camera = camera or CameraPose()
    players: list[Actor] = []
    stools = []
    sitting = any(actions.ACTIONS[name].end == "seated" for entry in names for name in _expand(entry))
    for i in range(actors):
        x, z = _PLACES[i if actors == 1 else i + 1]
        place = (x, distance + z)
        who = cast_member(person + i) if person else Person(WARDROBE[i % len(WARDROBE)], 1.0, 1.0)
        own_side = "" if side == "any" else side
        order = list(names) if i == 0 else _rotated(names)
        performance = Performance(
            tuple(order),
            seed + 1000 * i,
            own_side,
            room=1.0 if actors == 1 else 0.65,
            physique=who.physique,
            tempo=who.tempo,
        )
        players.append(ProceduralActor(performance, who.appearance, camera, place, facing))
        if sitting:
            stools.append(stool_place(place, facing, who.appearance.stature))
    around = room.furnished(back=distance + _BEHIND, seed=seed, camera_height=camera.height)
    return Scene(players, intrinsics, camera, around, stools)


def stool_place(place: tuple[float, float], facing: float, stature: float) -> tuple[float, float]:
    """Return x and z in the room (m) of the stool of an actor at `place`."""
    behind = actions.SEAT_BEHIND * stature / REFERENCE_STATURE
    return place[0] - behind * float(np.sin(facing)), place[1] + behind * float(np.cos(facing))


def _expand(name: str) -> tuple[str, ...]:
    return CYCLE if name == "all" else (actions.get(name).name,)


def _rotated(names: Sequence[str]) -> list[str]:
    """Rotate the actions by half, so that two actors seldom do the same."""
    cycle = [name for entry in names for name in _expand(entry)]
    middle = len(cycle) // 2
    return cycle[middle:] + cycle[:middle]


def scripted_scene(
    intrinsics: Intrinsics, path: str | Path, sequence: str = "", *, actors: int = 1, loop: bool = False, seed: int = 0
) -> Scene:
    """Create a room in which actors follow a recorded skeleton, from the recording camera's view.

    Args:
        intrinsics: Of the rendering camera.
        path: A skeleton recording.
        sequence: Name or index of the sequence in a file with several.
        actors: Number of bodies; bodies with more frames come first.
        loop: Repeat at the end.
        seed: Of the room.

    Raises:
        DeviceError: The file does not exist.
        ConfigError: The sequence does not exist.
        InputError: The file is no skeleton recording, or has no usable body.
    """
    recording = open_sequence(path, sequence or None)
    scripts = scripts_from_recording(recording, actors)
    return scene_from_scripts(intrinsics, scripts, recording_label(recording), loop=loop, seed=seed)


def scripts_from_recording(recording: SkeletonSequence, actors: int = 1) -> list[Script]:
    """Return scripts of the bodies of a recording that have most frames.

    Raises:
        InputError: The recording has no joints, or too few to pose an actor.
    """
    present = np.isfinite(recording.bodies).all(-1).any(-1).sum(axis=1)
    chosen = [m for m in np.argsort(-present, kind="stable")[:actors] if present[m]]
    if not chosen and actors:
        raise InputError(f"skeleton recording '{recording.name}' has no joint in any frame")
    times = (recording.stamps_ns - recording.stamps_ns[:1]) / NANOSECONDS
    return [
        from_recording(recording.bodies[m], times, f"{recording.name} {recording.body_ids[m]}") for m in sorted(chosen)
    ]


def scene_from_scripts(
    intrinsics: Intrinsics, scripts: Sequence[Script], label: str, *, loop: bool = False, seed: int = 0
) -> Scene:
    """Create a room around scripts: floor under the lowest foot, walls behind and beside."""
    appearances = [replace(WARDROBE[i % len(WARDROBE)], stature=script.stature) for i, script in enumerate(scripts)]
    actors = [
        ScriptedActor(script, appearance, label, loop) for script, appearance in zip(scripts, appearances, strict=True)
    ]
    if not scripts:
        return Scene(actors, intrinsics, CameraPose(), room.furnished(seed=seed))
    joints = np.concatenate([s.joints[s.present] for s in scripts])
    ground = estimate_ground(joints, max(s.stature for s in scripts))
    camera = CameraPose(ground.height, ground.pitch)
    points = joints.reshape(-1, 3) @ camera.rotation.T + camera.position
    width = 2 * max(2.7, float(np.abs(points[:, 0]).max()) + 0.5)
    back = max(float(points[:, 2].max()), 2.5) + _BEHIND
    return Scene(actors, intrinsics, camera, room.furnished(back, width, seed, camera.height))


def recording_label(recording: SkeletonSequence) -> str:
    """Return the recording's label name, else its label number, else its own name."""
    name = recording.meta.get("label_name")
    if name:
        return str(name)
    return recording.name if recording.label is None else str(recording.label)
