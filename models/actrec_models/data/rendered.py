"""Clips of the simulated camera: a dataset of procedural actors, and recorded skeletons that are estimated again.

The dataset needs no files: color, depth, scene flow, bodies and hands take some milliseconds a frame. It tests training
with images and flow end to end. Its movements are procedural and repetitive: accuracy on these clips shows that a
network, its inputs and its training work, and nothing about people.

A network trained only on a Kinect's joints has not learned the errors of an estimator: exchanged sides, wrong occluded
limbs, other proportions. `actrec prepare --render-every` renders recorded skeletons and estimates them as in the live
graph; a recipe's `rendered` adds these clips.
"""

import contextlib
import dataclasses
import hashlib
import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from actrec import __version__
from actrec.datasets.base import Clip, ClipDataset, Entry, LazyStreams, Source
from actrec.perception.pipeline import BodyPerception, HandPerception
from actrec.simulation.actions import ACTIONS, CYCLE, Performance, Segment
from actrec.simulation.actor import PALM_SHARE, hand_joints, recorded_hand_frames, unit
from actrec.simulation.appearance import Appearance, atlas, cast_member, hand_shapes
from actrec.simulation.noise import SENSORS, SensorNoise
from actrec.simulation.renderer import Background, Renderer, furnished_room, place_shapes, render_room
from actrec.simulation.scene import (
    CameraPose,
    ProceduralActor,
    Scene,
    SceneFrame,
    scene_from_scripts,
    stool_place,
)
from actrec.simulation.script import scripts_from_recording
from actrec.skeleton.layouts import CANONICAL, HAND_22, LAYOUTS, convert
from actrec.skeleton.sequence import from_joints, load_npz
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import config, gravity
from actrec.utils.camera_model import project
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, ConfigError, InputError
from actrec.utils.geometry import motion_at_joints, rotation

_BEHIND = 1.5  # meters from the actor's place to the wall
_LEAD_S, _TAIL_S = 0.4, 0.3  # of idling, at most, before and after the action


class View(NamedTuple):
    """A camera pose: the actor's yaw to its left (deg), height (m), downward pitch (deg), distance to the actor (m)."""

    facing: float
    height: float
    pitch: float
    distance: float


VIEWS = (View(-35.0, 0.85, -2.0, 2.8), View(35.0, 1.45, 9.0, 3.2), View(0.0, 1.1, 2.0, 2.95))
"""Views 1, 2 and 3; split "cross_view" tests on the last one."""


@dataclass(frozen=True)
class RenderedConfig:
    """Options of the rendered dataset: by default 384 clips, of which 240 (cross_actor) or 256 (cross_view) train."""

    width: int = setting(160, "width of the images", unit="px", range=(64, 1920))
    height: int = setting(120, "height of the images", unit="px", range=(48, 1080))
    hfov: float = setting(62.7, "horizontal field of view", unit="deg", range=(20, 120))
    fps: float = setting(15.0, "frames a second", unit="Hz", range=(2, 120))
    actors: int = setting(8, "people, numbers 1, 2, … of actrec.simulation.appearance", range=(2, 1000))
    held_out: int = setting(3, "of these, the last so many are split cross_actor's test part", range=(1, 999))
    actions: list = setting(["all"], f"classes: all, or some of {', '.join(CYCLE)}")
    takes: int = setting(2, "clips of each action, actor and view", range=(1, 100))
    flow_shrink: int = setting(2, "so many columns and rows of the flow are averaged to one", range=(1, 16))
    noise: bool = setting(True, "degrade color and depth as a real sensor does")
    sensor: str = setting("structured_light", "error model of the depth sensor", choices=tuple(SENSORS))
    seed: int = setting(1, "of performances, rooms and noise", range=(0, 2**31 - 1))

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the actions; raises ConfigError if one is unknown or a duplicate."""
        names = CYCLE if self.actions == ["all"] else tuple(self.actions)
        if not names or not set(names) <= set(CYCLE) or len(set(names)) < len(names):
            given = ", ".join(map(str, names)) or "empty"
            raise ConfigError(f"RenderedConfig.actions is {given}; choose all, or from {', '.join(CYCLE)}, each once")
        return names


class RenderedItem:
    """One clip of the dataset, determined by the options and the entry; stamps [T] start at zero."""

    def __init__(self, options: RenderedConfig, entry: Entry):
        try:
            subject, view, take = (int(entry.meta[key]) for key in ("subject", "view", "take"))
            self._view, name = VIEWS[view - 1], options.classes[entry.label]
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"'{entry.name}' is no item of the rendered dataset: {dict(entry.meta)}") from error
        self.options, self._who = options, cast_member(subject)
        states = np.random.SeedSequence([options.seed, CYCLE.index(name), subject, view, take]).generate_state(4)
        self._seed, self._room_seed, self._noise_seed, chance = (int(state) for state in states)
        width, height, focal = options.width, options.height, options.width / 2 / np.tan(np.radians(options.hfov) / 2)
        self.intrinsics = Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
        self._pose = CameraPose(self._view.height, float(np.radians(self._view.pitch)))
        self._place, self._facing = (0.0, self._view.distance), float(np.radians(self._view.facing))
        self._actor, action = self._performer(name)
        self._sits = "seated" in (action.action.start, action.action.end)
        lead, tail = np.random.default_rng(chance).random(2) * (_LEAD_S, _TAIL_S)
        start = action.start - float(lead)
        ticks = np.arange(max(2, int((action.end + float(tail) - start) * options.fps) + 1))
        self._times = start + ticks / options.fps
        self.stamps_ns = np.round(ticks / options.fps * NANOSECONDS).astype(np.int64)

    def _performer(self, name: str) -> tuple[ProceduralActor, Segment]:
        """Return the actor and the segment of the action, which follows a short idle phase in its start posture."""
        before = "idle" if ACTIONS[name].start == "standing" else "idle_seated"
        played = Performance((before, name), self._seed, physique=self._who.appearance, tempo=self._who.tempo)
        segment = played.segment(0.0)
        while segment.action.name != name:
            segment = played.segment(segment.end)
        return ProceduralActor(played, self._who.appearance, self._pose, self._place, self._facing), segment

    @cached_property
    def scene(self) -> Scene:
        """Return the actor in its room."""
        look = furnished_room(back=self._view.distance + _BEHIND, seed=self._room_seed)
        stools = [stool_place(self._place, self._facing, self._who.appearance.stature)] if self._sits else []
        return Scene([self._actor], self.intrinsics, self._pose, look, stools)

    @cached_property
    def bodies(self) -> np.ndarray:
        """Return the exact joints [1, T, 25, 3] in m, including occluded ones."""
        return np.stack([self._actor.pose(time).joints for time in self._times]).astype(np.float32)[None]

    @property
    def streams(self) -> Mapping[str, Callable[[], np.ndarray]]:
        """Return the function that renders each stream; there is no face."""
        return {
            "pixels": lambda: project(self.bodies, self.intrinsics),
            "hands": self.hands,
            "hand_pixels": lambda: project(self.hands(), self.intrinsics),
            "size": lambda: np.array([self.options.width, self.options.height], np.float32),
            "color": self.color,
            "flow": self.flow,
            "motion": self.motion,
        }

    def hands(self) -> np.ndarray:
        """Return the exact joints [1, T, 2, 21, 3] of both hands in m."""
        length = self._who.appearance.hand_length
        return np.stack([hand_joints(self._actor.pose(time), length) for time in self._times]).astype(np.float32)[None]

    def color(self, numbers: Iterable[int] | None = None) -> np.ndarray:
        """Return color [T, H, W, 3] uint8, of all frames or of the frames `numbers`."""
        wanted = range(len(self._times)) if numbers is None else numbers
        return np.stack([self._seen(int(number))[0] for number in wanted])

    def flow(self, numbers: Iterable[int] | None = None) -> np.ndarray:
        """Return scene flow [T, h, w, 3] float16 m/s, reduced by `flow_shrink`, of all frames or of `numbers`."""
        wanted = range(len(self._times)) if numbers is None else numbers
        size = self.options.width // self.options.flow_shrink, self.options.height // self.options.flow_shrink
        fields = (self._field(int(number)) for number in wanted)
        return np.stack([cv2.resize(field, size, interpolation=cv2.INTER_AREA) for field in fields]).astype(np.float16)

    def motion(self) -> np.ndarray:
        """Return the optical flow [1, T, 25, 2] at the joints, px/s."""
        size, pixels = (self.options.width, self.options.height), project(self.bodies, self.intrinsics)
        places = enumerate(zip(self.bodies[0], pixels[0], strict=True))
        moved = [motion_at_joints(self._field(t), joints, px, size, self.intrinsics) for t, (joints, px) in places]
        return np.stack(moved)[None]

    def frames(self) -> Iterator[RgbdFrame]:
        """Yield the camera frames with exact skeletons."""
        for number, stamp in enumerate(self.stamps_ns):
            color, depth, shown = self._seen(number)
            yield RgbdFrame(int(stamp), color, depth, self.intrinsics, skeletons=shown.bodies)

    def _seen(self, number: int) -> tuple[np.ndarray, np.ndarray, SceneFrame]:
        """Return color, depth and the exact snapshot of one frame."""
        shown = self.scene.at(float(self._times[0] + number / self.options.fps))
        color, depth = shown.rendering.color, shown.rendering.depth
        if self.options.noise:
            color, depth = self._noise.color(color, number), self._noise.depth(depth, shown.rendering.facing, number)
        return color, depth, shown

    def _field(self, number: int) -> np.ndarray:
        """Return the scene flow [H, W, 3] m/s from one frame to the next."""
        return self.scene.scene_flow(self.scene.at(float(self._times[number])), 1 / self.options.fps)

    @cached_property
    def _noise(self) -> SensorNoise:
        return SensorNoise(SENSORS[self.options.sensor], self.intrinsics, self._noise_seed)


class RenderedRgbd(Source):
    """Clips of the simulated camera, which test the training machinery and say nothing about people.

    Eight actions by actors of different sizes, proportions, clothes and tempo, from three views, in different rooms.
    Split "cross_actor" tests on unseen actors, "cross_view" on an unseen view. The root need not exist; the options are
    fields of `RenderedConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
    """

    splits: ClassVar = ("cross_actor", "cross_view")
    caveat: ClassVar = (
        "A test of the machinery on clips that the simulated camera rendered: it says nothing about people."
    )
    has_files: ClassVar = False
    license: ClassVar = "none needed: the clips are rendered by this program"

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = config.build(RenderedConfig, options)
        self.classes = self.config.classes
        if self.config.held_out >= self.config.actors:
            raise ConfigError(
                f"RenderedConfig.held_out is {self.config.held_out} of {self.config.actors} actors: leave one to train"
            )

    def entries(self) -> list[Entry]:
        """Return every item, sorted by action, actor and view."""
        c, made = self.config, []
        numbers = range(1, c.actors + 1), range(1, len(VIEWS) + 1), range(1, c.takes + 1)
        for label, subject, view, take in product(range(len(self.classes)), *numbers):
            meta = {"subject": subject, "view": view, "take": take}
            made.append(Entry(f"{self.classes[label]}_p{subject}_v{view}_t{take}", label, meta))
        return made

    def read(self, entry: Entry) -> Clip:
        """Return the clip of an item; all streams are rendered on access."""
        shown = RenderedItem(self.config, entry)
        images = {"color": shown.color, "flow": shown.flow}
        return Clip(entry.name, entry.label, shown.stamps_ns, shown.bodies, LazyStreams(shown.streams, images))

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item in a split."""
        self.check(split)
        if split == "cross_view":
            return "test" if entry.meta["view"] == len(VIEWS) else "train"
        return "test" if int(entry.meta["subject"]) > self.config.actors - self.config.held_out else "train"

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """Yield the camera frames; `skeletons` are exact."""
        return RenderedItem(self.config, entry).frames()

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return the SHA-256 of the options, the version and the names of the items."""
        parts = [__version__, *self.classes, *map(str, dataclasses.astuple(self.config)), *(e.name for e in entries)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# -- recorded skeletons ------------------------------------------------------------------------------------------------

INTRINSICS = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
FPS = 15.0


def frames(
    clip: Clip, seed: int, fps: float = FPS, mount: Callable[[CameraPose], CameraPose] | None = None
) -> Iterator[RgbdFrame]:
    """Yield the frames of the simulated camera before which the bodies of a clip move, with sensor noise and `up`.

    The camera looks down as the one that recorded the clip. The seed determines room and noise; `mount` returns another
    pose of the camera from that one.
    """
    pitch = np.radians(gravity.angles_from_up(clip.streams.get("up", np.array(gravity.LEVEL)))[1])
    clip = clip.leveled()

    def pose(level: CameraPose) -> CameraPose:
        recorded = CameraPose(level.height, level.pitch + pitch)
        return recorded if mount is None else mount(recorded)

    recording = from_joints(clip.name, clip.stamps_ns, clip.bodies)
    scene = scene_from_scripts(INTRINSICS, scripts_from_recording(recording), clip.name, seed=seed, mount=pose)
    noise = SensorNoise(SENSORS["structured_light"], INTRINSICS, seed)
    for number in range(max(1, int(scene.duration * fps))):
        shown = scene.at(number / fps).rendering
        color, depth = noise.color(shown.color, number), noise.depth(shown.depth, shown.facing, number)
        yield RgbdFrame(round(number / fps * NANOSECONDS), color, depth, INTRINSICS, up=scene.camera.up)


WAIST_M, MIN_HEIGHT_M = 0.9, 0.15
"""Height that a pitched camera looks at, and the least height of a camera."""

LONGEST_S = 12.0
"""Of longer clips only so much is rendered."""

PITCH_DEG, TURN_DEG = 35.0, 30.0
"""Largest pitch of varied cameras, and how far around the person they stand."""


def aimed(clip: Clip, roll: float, pitch: float, recorded: CameraPose) -> CameraPose:
    """Return a camera with this roll, and, unless the pitch is 0, with this pitch and aimed at the person of the clip.

    It is as far from the waist as `recorded`, the clip's own camera, and at least `MIN_HEIGHT_M` above the floor.
    Angles in radians.
    """
    if not pitch:
        return CameraPose(recorded.height, recorded.pitch, roll)
    distance = float(np.nanmedian(clip.leveled().bodies[0, :, 0, 2]))
    height = max(MIN_HEIGHT_M, WAIST_M + distance * math.sin(pitch))
    return CameraPose(height, pitch, roll, distance * (1.0 - math.cos(pitch)))


def _turned(clip: Clip, angle: float) -> Clip:
    """Return a leveled clip whose people are turned by `angle` (radians) about the vertical through their middle."""
    clip = clip.leveled()
    middle = np.nanmedian(clip.bodies[:, :, 0], axis=(0, 1)) * np.array([1.0, 0.0, 1.0])
    bodies = (clip.bodies - middle) @ rotation(1, angle).T + middle
    return replace(clip, bodies=bodies.astype(np.float32))


def estimate(
    clip: Clip, seed: int, fps: float = FPS, varied: bool = False, has_depth: bool = True, **options: Any
) -> Clip | None:
    """Render the bodies of a clip at `fps` and estimate them again as [1, T, 25, 3]; None if most frames have no body.

    The seed determines room and noise. The clip holds `up` of its camera, which is the recording's; or, if `varied`, a
    camera within `TURN_DEG` around the person, and for two clips in three pitched by up to `PITCH_DEG`. Without
    `has_depth`, the estimator gets the color image alone. `options` are fields of `BodyPerceptionConfig`.
    """
    mount = None
    if varied:
        rng = np.random.default_rng((seed, 44))
        clip = _turned(clip, math.radians(rng.uniform(-TURN_DEG, TURN_DEG)))
        pitch = math.radians(rng.uniform(-PITCH_DEG, PITCH_DEG)) * (rng.random() < 2 / 3)
        mount = partial(aimed, clip, 0.0, pitch)
    found: dict[int, np.ndarray] = {}
    with contextlib.closing(BodyPerception(**options)) as perception:
        for frame in frames(clip, seed, fps, mount):
            if bodies := perception.process(frame if has_depth else replace(frame, depth=None)):
                found[frame.stamp_ns] = bodies[0].positions
    if not found or len(found) < 0.5 * (frame.stamp_ns * fps / NANOSECONDS + 1):
        return None
    assert frame.up is not None, "the simulated camera has it"
    stamps, joints = np.array(list(found), np.int64), np.stack(list(found.values()))[None]
    return Clip(clip.name, clip.label, stamps, joints, {"up": frame.up})


HAND_M, FOREARM_M = 0.5, 0.4
"""Distance of the camera from a hand, and length of its forearm."""

HAND_MOUNTINGS = tuple((15.0 * number if number % 2 else 0.0, 3.0 * number - 34.5) for number in range(24))
"""Roll and pitch (degrees) of the varied cameras before which hands of training clips are rendered, in turn."""


@lru_cache(len(HAND_MOUNTINGS))
def _hand_room(camera: CameraPose) -> Background:
    return render_room(furnished_room(3.0), INTRINSICS, camera.rotation, camera.position)


def hand_frames(clip: Clip, roll: float, pitch: float, fps: float = 0.0) -> Iterator[RgbdFrame]:
    """Yield the frames of a camera with this roll and pitch (radians), on whose axis a right hand (`hand_22`) moves.

    If `fps` is not 0, only frames of about this rate are rendered.
    """
    camera = CameraPose(1.2, pitch, roll)
    background = _hand_room(camera)
    known = np.flatnonzero(np.isfinite(clip.bodies[0]).all(axis=(1, 2)))
    if fps and len(known) > 1:
        known = known[:: max(1, round(NANOSECONDS / fps / float(np.median(np.diff(clip.stamps_ns[known])))))]
    joints = clip.bodies[0, known].astype(np.float64)
    middle = (joints.min(axis=(0, 1)) + joints.max(axis=(0, 1))) / 2
    joints = (joints - middle) @ camera.rotation + np.array([0.0, 0.0, HAND_M])
    fingers = joints[:, HAND_22.index["middle_base"]] - joints[:, HAND_22.index["wrist"]]
    length = float(np.median(np.linalg.norm(fingers, axis=1))) / PALM_SHARE
    appearance = Appearance(stature=Appearance().stature * length / Appearance().hand_length)
    shapes = hand_shapes(appearance, FOREARM_M)
    renderer = Renderer(INTRINSICS, atlas((appearance.face,)), camera.up)
    noise = SensorNoise(SENSORS["stereo"], INTRINSICS, len(clip.name))  # others do not see that near
    for number, hand, along in zip(known.tolist(), joints, unit(fingers), strict=True):
        forearm = FOREARM_M * unit(0.4 * camera.rotation[2] - 0.7 * camera.up - 0.6 * along)  # down and away
        shown = renderer.render(place_shapes(shapes, *recorded_hand_frames(hand, length, forearm), 0), background)
        color, depth = noise.color(shown.color, number), noise.depth(shown.depth, shown.facing, number)
        yield RgbdFrame(int(clip.stamps_ns[number]), color, depth, INTRINSICS, up=camera.up)


def estimate_hand(
    clip: Clip, roll: float, pitch: float, leveled: bool = True, fps: float = 0.0, **options: Any
) -> Clip | None:
    """Render the hand of a clip as `hand_frames`, and estimate it again as [1, T, 22, 3]; None without two frames.

    The estimator and the clip get `up` of the camera if `leveled`. `options` are fields of `HandPerceptionConfig`.
    """
    found: dict[int, np.ndarray] = {}
    with contextlib.closing(HandPerception(**options)) as perception:
        for frame in hand_frames(clip, roll, pitch, fps):
            for hand in perception.process(frame if leveled else replace(frame, up=None), [])[:1]:
                found[frame.stamp_ns] = convert(hand.positions, hand.scores, hand.layout, HAND_22.name)[0]
    if len(found) < 2:
        return None
    streams = {"up": CameraPose(0.0, pitch, roll).up} if leveled else {}
    return Clip(clip.name, clip.label, np.array(list(found), np.int64), np.stack(list(found.values()))[None], streams)


def estimate_all(
    parts: Sequence[ClipDataset],
    every: int,
    fps: float,
    workers: int,
    varied: bool = False,
    has_depth: bool = True,
    cpu_precision: str = "fp32",
) -> tuple[list[Clip], list[str]]:
    """Render and estimate every n-th clip of each part in several processes; return them, and why others are skipped.

    `varied` and `has_depth` as for `estimate`; for varied hands, the cameras of `HAND_MOUNTINGS` in turn.
    `cpu_precision` as in `NetworkConfig`.

    Raises:
        ConfigError: The clips show neither bodies nor right hands.
    """
    if (layout := parts[0].layout) not in (CANONICAL, HAND_22.name):
        raise ConfigError(f"only {CANONICAL} and {HAND_22.name} can be rendered, but these clips hold {layout}")
    chosen = [(clips, index) for clips in parts for index in range(0, len(clips), every)]
    options = fps, varied, has_depth, cpu_precision
    tasks = ((_loaded(clips[index]), seed, *options) for seed, (clips, index) in enumerate(chosen))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = list(tqdm(pool.imap(_task, tasks), total=len(chosen), unit="clip"))
    skipped = [f"{clips.names[index]} skipped: {result}" for (clips, index), result in zip(chosen, results, strict=True)
               if isinstance(result, str)]  # fmt: skip
    return [result for result in results if isinstance(result, Clip)], skipped


def _loaded(clip: Clip) -> Clip:
    """Return the skeletons of a clip, at most `LONGEST_S` of them, and `up` of its camera, to send to a process."""
    streams = {"up": np.array(clip.streams["up"])} if "up" in clip.streams else {}
    stamps = np.array(clip.stamps_ns)
    short = stamps - stamps[0] <= LONGEST_S * NANOSECONDS
    return Clip(clip.name, clip.label, stamps[short], np.array(clip.bodies)[:, short], streams)


def _task(arguments: tuple[Clip, int, float, bool, bool, str]) -> Clip | str:
    """Return one clip in a worker process, or the reason for skipping it."""
    clip, seed, fps, varied, has_depth, cpu_precision = arguments
    options: dict[str, Any] = {"cpu_precision": cpu_precision}
    try:
        if clip.bodies.shape[2] == len(HAND_22):
            roll, pitch = np.radians(HAND_MOUNTINGS[seed % len(HAND_MOUNTINGS)] if varied else (0.0, 0.0))
            return estimate_hand(clip, roll, pitch, fps=fps, **options) or "its hand is found in less than two frames"
        return estimate(clip, seed, fps, varied, has_depth, **options) or "half of its frames have no body"
    except ActrecError as error:
        return str(error)


def write(path: Path, clips: Sequence[Clip]) -> None:
    """Write clips as one .npz."""
    np.savez_compressed(
        path,
        bodies=np.concatenate([clip.bodies[0] for clip in clips]),
        length=np.array([len(clip.stamps_ns) for clip in clips]),
        stamps_ns=np.concatenate([clip.stamps_ns for clip in clips]),
        label=np.array([clip.label for clip in clips]),
        name=np.array([clip.name for clip in clips]),
        up=np.stack([clip.streams.get("up", gravity.LEVEL) for clip in clips]).astype(np.float32),
    )


def read(path: Path, layout: str = CANONICAL) -> list[Clip]:
    """Read the clips written by `write`, of this joint layout; raise DeviceError or InputError like `load_npz`."""
    arrays = load_npz(path, ("bodies", "length", "stamps_ns", "label", "name", "up"))
    if len(arrays["bodies"]) != arrays["length"].sum() or arrays["bodies"].shape[1:] != (len(LAYOUTS[layout]), 3):
        raise InputError(f"'{path}' is no file of rendered clips; make it with actrec prepare --render-every")
    cuts = np.cumsum(arrays["length"])[:-1]
    parts = np.split(arrays["stamps_ns"], cuts), np.split(arrays["bodies"], cuts)
    rows = zip(arrays["name"], arrays["label"], *parts, arrays["up"], strict=True)
    return [Clip(str(name), int(label), stamps, bodies[None], {"up": up}) for name, label, stamps, bodies, up in rows]


RENDERED = "rendered"
"""Name of the set of rendered clips (`Sampling.balance_by`)."""


def add(clips: ClipDataset, path: Path) -> ClipDataset:
    """Return clips and the rendered ones of the same names in a file; these have the original's subject.

    Rendered clips of others, as the test part's, are ignored.
    """
    rows = zip(clips.names, clips.labels.tolist(), clips.metas, strict=True)
    entries = {name: Entry(name, label, meta) for name, label, meta in rows}
    found = [clip for clip in read(path, clips.layout) if clip.name in entries]
    more = [replace(clip, label=entries[clip.name].label) for clip in found]
    both = ClipDataset([*(clips[index] for index in range(len(clips))), *more], clips.classes, clips.layout)
    both.scene_flow = clips.scene_flow
    own = [entries[clip.name] for clip in more]
    both.entries = [*entries.values(), *(replace(entry, meta={**entry.meta, "set": RENDERED}) for entry in own)]
    return both
