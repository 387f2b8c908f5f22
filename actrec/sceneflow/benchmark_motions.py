"""Exact rigid motion for `actrec bench scene-flow`: a person moved as a statue is, a camera that moves or stands."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actrec.frames import Intrinsics, RgbdFrame
from actrec.geometry import rotation
from actrec.sceneflow import camera_motion, turning
from actrec.sceneflow.base import SceneFlow, resize
from actrec.simulation import cast, room
from actrec.simulation.appearance import Appearance
from actrec.simulation.noise import SensorNoise, structured_light
from actrec.simulation.performance import Performance
from actrec.simulation.rig import ActorPose
from actrec.simulation.scene import PlacedCamera, ProceduralActor, Scene

DT = 1 / 30
FULL = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
DISTANCES = (1.8, 2.4, 3.0)


def _turn(axis: int, degrees: float) -> np.ndarray:
    return rotation(axis, float(np.radians(degrees))).astype(np.float64)


@dataclass(frozen=True)
class Motion:
    """What moves from one frame to the next, in the first camera's axes: metres and rotations.

    Attributes:
        name: For the table.
        shift, turn: The statue's, about its hips.
        camera_shift, camera_turn: The camera's.
    """

    name: str
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: np.ndarray = field(default_factory=lambda: np.eye(3))
    camera_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_turn: np.ndarray = field(default_factory=lambda: np.eye(3))


STATUES = (
    Motion("right 30 mm", (0.03, 0, 0)),
    Motion("right 60 mm", (0.06, 0, 0)),
    Motion("down 30 mm", (0, 0.03, 0)),
    Motion("away 30 mm", (0, 0, 0.03)),
    Motion("nearer 60 mm", (0, 0, -0.06)),
    Motion("turn 4°", turn=_turn(1, 4)),
    Motion("tilt 4°", turn=_turn(2, 4)),
)
CAMERAS = (
    Motion("camera right 20 mm", camera_shift=(0.02, 0, 0)),
    Motion("camera ahead 30 mm", camera_shift=(0, 0, 0.03)),
    Motion("camera turns 1°", camera_turn=_turn(1, 1)),
    Motion("camera ahead 30 mm, turns 1°, person right 40 mm", (0.04, 0, 0), np.eye(3), (0, 0, 0.03), _turn(1, 1)),
    Motion("camera turns 5°, person right 40 mm", (0.04, 0, 0), camera_turn=_turn(1, 5)),
    Motion("camera nods 4°, rolls 4°, right 20 mm", (0, 0, 0), np.eye(3), (0.02, 0, 0), _turn(0, 4) @ _turn(2, 4)),
    Motion("camera turns 10°, person nearer 40 mm", (0, 0, -0.04), camera_turn=_turn(1, 10)),
)


class _Statue:
    """Somebody of one pose, given in the camera's frame."""

    duration = float("inf")

    def __init__(self, appearance: Appearance, rest: np.ndarray, pose: ActorPose):
        self.appearance, self.rest, self._pose = appearance, rest, pose

    def pose(self, time: float) -> ActorPose:
        return self._pose

    def label(self, time: float) -> str:
        return "idle"


@dataclass(frozen=True)
class Pair:
    """Two frames with all that is known of them: images of the flow's size, exact flow, where the statue is."""

    first: tuple[np.ndarray, np.ndarray, Intrinsics]
    second: tuple[np.ndarray, np.ndarray, Intrinsics]
    exact: np.ndarray
    person: np.ndarray


def measure(methods: dict[str, SceneFlow], cameras: bool, width: int = 320) -> list[dict[str, Any]]:
    """A row for each motion, noise and method.

    Args:
        methods: By name.
        cameras: Cameras that move; false: statues that are moved.
        width: Of the flow image.
    """
    rows = []
    for motion in CAMERAS if cameras else STATUES:
        for noise in (False, True):
            pairs = list(pairs_of(motion, noise, FULL, 640 // width))
            for name, method in methods.items():
                row = {"motion": motion.name, "noise": "on" if noise else "off", "method": name}
                rows.append({**row, **(_without_camera(motion, method, pairs) if cameras else _judged(method, pairs))})
    return rows


def sampled(image: np.ndarray, step: int) -> np.ndarray:
    """What is known of the pixels whose depth `resize` keeps at a `step`-th of the size."""
    return image[step // 2 :: step, step // 2 :: step]


def pairs_of(motion: Motion, noise: bool, intrinsics: Intrinsics, step: int) -> Iterator[Pair]:
    """The motion at each distance, as a camera of these intrinsics sees it, at a `step`-th of its size."""
    for number, distance in enumerate(DISTANCES):
        before, after = _scenes(motion, distance, number, intrinsics)
        shots = before.at(0.0), after.at(0.0)
        exact = sampled(before.flow_to(shots[0], after, shots[1], DT), step)
        size = intrinsics.width // step, intrinsics.height // step
        sensor = SensorNoise(structured_light(), intrinsics, number) if noise else None
        images = []
        for k, shot in enumerate(shots):
            colour, depth = shot.rendering.colour, shot.rendering.depth
            if sensor is not None:
                colour, depth = sensor.colour(colour, k), sensor.depth(depth, shot.rendering.facing, k)
            images.append(resize(colour, depth, intrinsics, *size))
        yield Pair(images[0], images[1], exact, sampled(shots[0].rendering.people, step) >= 0)


def _scenes(motion: Motion, distance: float, seed: int, intrinsics: Intrinsics) -> tuple[Scene, Scene]:
    """The scene before and after."""
    camera, who = PlacedCamera(), cast.person(seed + 1)
    performance = Performance(("wave",), seed, physique=who.physique)
    actor = ProceduralActor(performance, who.appearance, camera, (0.0, distance), 0.3)
    pose = actor.pose(1.5)
    hips = pose.joints[0]
    moved = pose.transformed(motion.turn, hips - motion.turn @ hips + np.array(motion.shift))
    back = motion.camera_turn.T
    seen = moved.transformed(back, -back @ np.array(motion.camera_shift))
    where = camera.position + camera.rotation @ np.array(motion.camera_shift)
    elsewhere = PlacedCamera(axes=camera.rotation @ motion.camera_turn, centre=where)
    scenery = room.furnished(back=distance + 1.5, seed=seed)
    first, second = (
        Scene([_Statue(who.appearance, actor.rest, p)], intrinsics, c, scenery)
        for p, c in ((pose, camera), (seen, elsewhere))
    )
    return first, second


def _judged(method: SceneFlow, pairs: list[Pair]) -> dict[str, float]:
    """Errors in millimetres over the frame, of the statue and of what stands still."""
    off, share, still, known = [], [], [], []
    for pair in pairs:
        flow = _estimated(method, pair)
        error = np.linalg.norm(flow - pair.exact, axis=-1) * DT * 1000
        off.append(error[pair.person])
        share.append(np.linalg.norm(pair.exact, axis=-1)[pair.person] * DT * 1000)
        still.append(error[~pair.person])
        known.append(np.isfinite(error[pair.person]))
    error, seen, rest = np.concatenate(off), np.concatenate(known), np.concatenate(still)
    return {
        "person_epe_mm": round(float(error[seen].mean()), 1),
        "person_median_mm": round(float(np.median(error[seen])), 1),
        "of_motion": round(float(error[seen].mean() / np.concatenate(share)[seen].mean()), 3),
        "known": round(float(seen.mean()), 3),
        "still_median_mm": round(float(np.nanmedian(rest)), 2),
    }


def _without_camera(motion: Motion, method: SceneFlow, pairs: list[Pair]) -> dict[str, Any]:
    """What is left where all stands still, as the flow is and once the estimated motion of the camera is taken away.

    The flow is made as `FlowPairs` makes it, a fast turn turned back.
    """
    true = camera_motion.CameraMotion(motion.camera_turn.T, -motion.camera_turn.T @ np.array(motion.camera_shift))
    before, after, person, angle, place, found = [], [], [], [], [], 0
    for pair in pairs:
        first, second = (RgbdFrame(k, *images, "camera") for k, images in enumerate((pair.first, pair.second)))
        flow = turning.flow(method, first, second, DT, turning.estimate(first, second))
        _, depth, intrinsics = pair.first
        before.append(np.linalg.norm(flow, axis=-1)[~pair.person])
        estimated = camera_motion.estimate(flow, depth, intrinsics, DT)
        if estimated is None:
            continue
        found += 1
        own = camera_motion.own_motion(flow, depth, intrinsics, DT, estimated)
        wanted = camera_motion.own_motion(pair.exact, depth, intrinsics, DT, true)
        after.append(np.linalg.norm(own, axis=-1)[~pair.person])
        person.append(np.linalg.norm(own - wanted, axis=-1)[pair.person])
        apart = estimated.rotation @ true.rotation.T
        angle.append(np.degrees(np.arccos(np.clip((np.trace(apart) - 1) / 2, -1, 1))))
        place.append(np.linalg.norm(estimated.translation - true.translation) * 1000)
    figures: dict[str, Any] = {"still_median_mm": _median_mm(before), "found": f"{found} of {len(pairs)}"}
    if found:
        figures |= {
            "still_after_mm": _median_mm(after), "person_error_after_mm": _median_mm(person),
            "camera_off_deg": round(float(np.mean(angle)), 3), "camera_off_mm": round(float(np.mean(place)), 1),
        }  # fmt: skip
    return figures


def _median_mm(speeds: list[np.ndarray]) -> float:
    return round(float(np.nanmedian(np.concatenate(speeds))) * DT * 1000, 2)


def _estimated(method: SceneFlow, pair: Pair) -> np.ndarray:
    (colour0, depth0, intrinsics), (colour1, depth1, _) = pair.first, pair.second
    return method.estimate(colour0, depth0, colour1, depth1, intrinsics, DT)
