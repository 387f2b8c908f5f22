"""Recorded skeletons that are rendered and estimated again, as further training clips.

A network trained only on a Kinect's joints has not learned the errors of an estimator: exchanged sides, wrong occluded
limbs, other proportions. `actrec prepare --render-every` renders recorded skeletons and estimates them as in the live
graph; a recipe's `rendered` adds these clips. The dataset `rendered_everyday` also has their color and depth,
from which `actrec prepare --estimate` makes hands, face and scene flow.
"""

import contextlib
import hashlib
import io
import json
import math
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from tqdm import tqdm

from actrec import __version__
from actrec.datasets.base import IDENTITY, Clip, ClipDataset, Entry
from actrec.datasets.everyday import Everyday, EverydayConfig
from actrec.perception.pipeline import BodyPerception, HandPerception
from actrec.simulation.actor import PALM_SHARE, recorded_hand_frames
from actrec.simulation.appearance import Appearance, atlas, hand_shapes
from actrec.simulation.noise import SENSORS, SensorNoise
from actrec.simulation.renderer import Background, Renderer, furnished_room, place_shapes, render_room
from actrec.simulation.scene import CameraPose, Scene, scene_from_scripts
from actrec.simulation.script import scripts_from_recording
from actrec.skeleton.layouts import CANONICAL, HAND_22, KINECT_V2_25, LAYOUTS, convert
from actrec.skeleton.sequence import from_joints, load_npz
from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils import config, gravity
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, InputError
from actrec.utils.folders import write_file
from actrec.utils.geometry import rotation, unit
from actrec_models.data.samplers import ORIGIN

FPS = 15.0


def staged(clip: Clip, seed: int, mount: Callable[[CameraPose], CameraPose] | None = None) -> Scene:
    """Return the scene in which the bodies of a clip move the actor before a camera that looks down as the clip's own.

    The seed determines the room; `mount` returns another pose of the camera from that one.
    """
    pitch = np.radians(gravity.angles_from_up(clip.streams.get("up", np.array(gravity.LEVEL)))[1])
    clip = clip.leveled()

    def pose(level: CameraPose) -> CameraPose:
        recorded = CameraPose(level.height, level.pitch + pitch)
        return recorded if mount is None else mount(recorded)

    recording = from_joints(clip.name, clip.stamps_ns, clip.bodies, up=np.array(gravity.LEVEL))
    return scene_from_scripts(KINECT_V1, scripts_from_recording(recording), clip.name, seed=seed, mount=pose)


def _times(scene: Scene, fps: float) -> list[float]:
    return [number / fps for number in range(max(1, int(scene.duration * fps)))]


def frames(
    clip: Clip, seed: int, fps: float = FPS, mount: Callable[[CameraPose], CameraPose] | None = None
) -> Iterator[RgbdFrame]:
    """Yield the frames of a staged clip with sensor noise, of this seed too, and `up`."""
    scene, noise = staged(clip, seed, mount), SensorNoise(SENSORS["structured_light"], KINECT_V1, seed)
    for number, time in enumerate(_times(scene, fps)):
        shown = scene.at(time).rendering
        color, depth = noise.color(shown.color, number), noise.depth(shown.depth, shown.facing, number)
        yield RgbdFrame(round(time * NANOSECONDS), color, depth, KINECT_V1, up=scene.camera.up)


WAIST_M, MIN_HEIGHT_M = 0.9, 0.15
"""Height that a pitched camera looks at, and the least height of a camera."""

LONGEST_S = 12.0
"""Of longer clips only so much is rendered."""

CAMERAS = ("recorded", "varied", "pitched")
"""Cameras of rendered clips: as the recording's; within `TURN_DEG` around the person and for two seeds in three pitched
by up to `PITCH_DEG`; or always pitched by at least `LEAST_PITCH_DEG`."""

PITCH_DEG, LEAST_PITCH_DEG, TURN_DEG = 35.0, 20.0, 30.0


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


def camera(clip: Clip, seed: int, kind: str) -> tuple[Clip, Callable[[CameraPose], CameraPose] | None]:
    """Return a clip and the mounting of one of the `CAMERAS` before it, None for the recording's own."""
    if kind == "recorded":
        return clip, None
    rng = np.random.default_rng((seed, 44))
    clip = _turned(clip, math.radians(rng.uniform(-TURN_DEG, TURN_DEG)))
    pitch = rng.uniform(-PITCH_DEG, PITCH_DEG) * (rng.random() < 2 / 3)
    if kind == "pitched":
        pitch = rng.uniform(LEAST_PITCH_DEG, PITCH_DEG) * rng.choice((-1.0, 1.0))
    return clip, partial(aimed, clip, 0.0, math.radians(pitch))


def estimate(
    clip: Clip, seed: int, fps: float = FPS, cameras: str = "recorded", has_depth: bool = True, **options: Any
) -> Clip | None:
    """Render the bodies of a clip at `fps` and estimate them again as [1, T, 25, 3]; None if most frames have no body.

    The seed determines room and noise. `cameras` is one of `CAMERAS`; the clip holds `up` of its camera. Without
    `has_depth`, the estimator gets the color image alone. `options` are fields of `BodyPerceptionConfig`.
    """
    clip, mount = camera(clip, seed, cameras)
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
"""Roll and pitch (degrees) of the cameras, but recorded ones, before which hands of training clips move, in turn."""


@lru_cache(len(HAND_MOUNTINGS))
def _hand_room(camera: CameraPose) -> Background:
    return render_room(furnished_room(3.0), KINECT_V1, camera.rotation, camera.position)


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
    renderer = Renderer(KINECT_V1, atlas((appearance.face,)), camera.up)
    noise = SensorNoise(SENSORS["stereo"], KINECT_V1, len(clip.name))  # others do not see that near
    for number, hand, along in zip(known.tolist(), joints, unit(fingers), strict=True):
        forearm = FOREARM_M * unit(0.4 * camera.rotation[2] - 0.7 * camera.up - 0.6 * along)  # down and away
        shown = renderer.render(place_shapes(shapes, *recorded_hand_frames(hand, length, forearm), 0), background)
        color, depth = noise.color(shown.color, number), noise.depth(shown.depth, shown.facing, number)
        yield RgbdFrame(int(clip.stamps_ns[number]), color, depth, KINECT_V1, up=camera.up)


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


PART = 32
"""Clips of one file of an unfinished rendering."""


def estimate_all(
    parts: Sequence[ClipDataset],
    every: int,
    fps: float,
    workers: int,
    cameras: str = "recorded",
    has_depth: bool = True,
    cpu_precision: str = "fp32",
    unfinished: Path | None = None,
    quiet: bool = False,
) -> tuple[list[Clip], list[str]]:
    """Render and estimate every n-th clip of each part in several processes; return them, and why others are skipped.

    `cameras` and `has_depth` as for `estimate`; hands have the cameras of `HAND_MOUNTINGS` unless recorded.
    `cpu_precision` as in `NetworkConfig`. The folder `unfinished` keeps the clips for a later call with the same
    arguments, which goes on after them; the caller deletes it.

    Raises:
        ConfigError: The clips show neither bodies nor right hands.
        InputError: The folder holds something else, or is damaged.
        DeviceError: The folder cannot be written.
    """
    if (layout := parts[0].layout) not in (CANONICAL, HAND_22.name):
        raise ConfigError(f"only {CANONICAL} and {HAND_22.name} can be rendered, but these clips hold {layout}")
    chosen = [(clips, index) for clips in parts for index in range(0, len(clips), every)]
    options = fps, cameras, has_depth, cpu_precision
    results = []
    if unfinished is not None:
        parts_of = [clips.subset(range(0, len(clips), every)) for clips in parts]
        items = [[part.names, part.labels.tolist(), part.fingerprint()] for part in parts_of]
        key = hashlib.sha256(json.dumps([__version__, layout, options, items]).encode()).hexdigest()
        results = _resume(unfinished, key, layout)
    rest = list(enumerate(chosen))[len(results) :]
    tasks = ((_read(clips, index), seed, *options) for seed, (clips, index) in rest)
    progress = tqdm(total=len(chosen), initial=len(results), unit="clip", disable=quiet)
    with multiprocessing.get_context("spawn").Pool(workers) as pool, progress:
        for result in pool.imap(_task, tasks):
            results.append(result)
            progress.update()
            if unfinished is not None and len(results) % PART == 0:
                _keep(unfinished, len(results) - PART, results[-PART:])
    skipped = [f"{clips.names[index]} skipped: {result}" for (clips, index), result in zip(chosen, results, strict=True)
               if isinstance(result, str)]  # fmt: skip
    return [result for result in results if isinstance(result, Clip)], skipped


def _resume(folder: Path, key: str, layout: str) -> list[Clip | str]:
    """Return the results that an unfinished rendering with this key left in a folder; else make or empty the folder."""
    mark = folder / "key"
    if not mark.is_file() or mark.read_text() != key:
        if folder.exists() and not mark.is_file():
            raise InputError(f"'{folder}' is no unfinished rendering; move it, or choose another --out")
        shutil.rmtree(folder, ignore_errors=True)
        write_file(mark, key.encode())
    results: list[Clip | str] = []
    while (reasons := folder / f"{len(results)}.json").is_file():
        try:
            skipped = dict(json.loads(reasons.read_text()))
            clips = read(reasons.with_suffix(".npz"), layout) if len(skipped) < PART else []
            places = [str(place) for place in range(PART)]
            part = skipped | dict(zip((place for place in places if place not in skipped), clips, strict=True))
            results += [part[place] for place in places]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"'{reasons}' is damaged; delete '{folder}' to render all clips again") from error
    return results


def _keep(folder: Path, first: int, results: Sequence[Clip | str]) -> None:
    """Write one part: its clips, then the reasons for skipping others, which make it complete."""
    if clips := [result for result in results if isinstance(result, Clip)]:
        file = io.BytesIO()
        write(file, clips)
        write_file(folder / f"{first}.npz", file.getvalue())
    skipped = {place: result for place, result in enumerate(results) if isinstance(result, str)}
    write_file(folder / f"{first}.json", json.dumps(skipped).encode())


def _read(clips: ClipDataset, index: int) -> Clip | str:
    """Return a clip to send to a process, or why it cannot be read."""
    try:
        return _loaded(clips[index])
    except (DeviceError, InputError) as error:
        return str(error)


def _loaded(clip: Clip) -> Clip:
    """Return the skeletons of a clip, at most `LONGEST_S` of them, and `up` of its camera, to send to a process."""
    streams = {"up": np.array(clip.streams["up"])} if "up" in clip.streams else {}
    stamps = np.array(clip.stamps_ns)
    short = stamps - stamps[0] <= LONGEST_S * NANOSECONDS
    return Clip(clip.name, clip.label, stamps[short], np.array(clip.bodies)[:, short], streams)


def _task(arguments: tuple[Clip | str, int, float, str, bool, str]) -> Clip | str:
    """Return one clip in a worker process, or the reason for skipping it."""
    clip, seed, fps, cameras, has_depth, cpu_precision = arguments
    if isinstance(clip, str):
        return clip
    options: dict[str, Any] = {"cpu_precision": cpu_precision}
    try:
        if clip.bodies.shape[2] == len(HAND_22):
            roll, pitch = np.radians(
                (0.0, 0.0) if cameras == "recorded" else HAND_MOUNTINGS[seed % len(HAND_MOUNTINGS)]
            )
            return estimate_hand(clip, roll, pitch, fps=fps, **options) or "its hand is found in less than two frames"
        return estimate(clip, seed, fps, cameras, has_depth, **options) or "half of its frames have no body"
    except ActrecError as error:
        return str(error)


def write(file: Path | BinaryIO, clips: Sequence[Clip]) -> None:
    """Write clips as one .npz."""
    np.savez_compressed(
        file,
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


def add(clips: ClipDataset, files: str) -> ClipDataset:
    """Return clips and the rendered ones of the same names in files; these have the original's subject and recording.

    Rendered clips of others, as the test part's, are ignored. `files` are paths, separated by commas.
    """
    identities = ({IDENTITY: recording} if recording else {} for recording in clips.recordings)
    rows = zip(clips.names, clips.labels.tolist(), clips.metas, identities, strict=True)
    entries = {name: Entry(name, label, {**meta, **identity}) for name, label, meta, identity in rows}
    found = [
        clip for file in files.split(",") for clip in read(Path(file.strip()), clips.layout) if clip.name in entries
    ]
    more = [replace(clip, label=entries[clip.name].label) for clip in found]
    both = ClipDataset([*(clips[index] for index in range(len(clips))), *more], clips.classes, clips.layout)
    both.scene_flow = dict(clips.scene_flow)
    own = [entries[clip.name] for clip in more]
    metas = [{**entry.meta, "set": RENDERED, ORIGIN: entry.meta.get("set", "")} for entry in own]
    both.entries = [*entries.values(), *(replace(entry, meta=meta) for entry, meta in zip(own, metas, strict=True))]
    return both


@dataclass(frozen=True)
class RenderedEverydayConfig(EverydayConfig):
    """Options of the merged dataset, and how it is rendered."""

    every: int = setting(1, "only every n-th item of each class, counted from the first", range=(1, 10_000))
    cameras: str = setting("varied", "as of actrec prepare --render-cameras", choices=CAMERAS)
    fps: float = setting(FPS, "frames a second", unit="Hz", range=(2, 120))


class RenderedEveryday(Everyday):
    """The merged dataset `everyday` with color and depth: its skeletons move the simulated actor.

    `actrec prepare --estimate` finds bodies, hands, face and flow in the images. Of longer clips, `LONGEST_S` is
    rendered. The options are fields of `RenderedEverydayConfig`.
    """

    config: RenderedEverydayConfig
    caveat: ClassVar = f"{Everyday.caveat}; recorded movements of people, rendered by the simulated camera"

    @classmethod
    def configured(cls, options: Mapping[str, Any]) -> RenderedEverydayConfig:
        """Return the options, checked."""
        return config.build(RenderedEverydayConfig, dict(options))

    def entries(self) -> list[Entry]:
        """Return every n-th item of each class."""
        return self._chosen(super().entries())

    def unknown_entries(self) -> list[Entry]:
        """Return every n-th item that shows none of the classes."""
        return self._chosen(super().unknown_entries())

    def _chosen(self, entries: Sequence[Entry]) -> list[Entry]:
        counts: Counter[int] = Counter()
        chosen = []
        for entry in entries:
            if counts[entry.label] % self.config.every == 0:
                chosen.append(entry)
            counts[entry.label] += 1
        return chosen

    def _directed(self, entry: Entry) -> tuple[Clip, int, Callable[[CameraPose], CameraPose] | None]:
        """Return the recorded clip, the seed of room and camera, and the mounting of the camera."""
        seed = int.from_bytes(hashlib.sha256(entry.name.encode()).digest()[:4], "big")
        clip, mount = camera(_loaded(super().read(entry)), seed, self.config.cameras)
        return clip, seed, mount

    def read(self, entry: Entry) -> Clip:
        """Return the clip of an item with the exact joints [M, T, 25, 3], including occluded ones."""
        clip, seed, mount = self._directed(entry)
        scene = staged(clip, seed, mount)
        times = _times(scene, self.config.fps)
        absent = np.full((len(KINECT_V2_25), 3), np.nan, np.float32)
        poses = [[actor.pose(time) for time in times] for actor in scene.actors]
        bodies = np.array([[absent if pose is None else pose.joints for pose in way] for way in poses], np.float32)
        stamps = np.array([round(time * NANOSECONDS) for time in times], np.int64)
        return Clip(entry.name, entry.label, stamps, bodies, {"up": scene.camera.up})

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """Yield the rendered frames of an item, with sensor noise."""
        clip, seed, mount = self._directed(entry)
        return frames(clip, seed, self.config.fps, mount)

    def with_options(self, digest: str) -> str:
        """Return a digest of `digest`, the options and the version, which renders."""
        return super().with_options(f"{digest} {__version__}")
