"""Recorded skeletons, rendered by the simulated camera and estimated again as in the live graph.

A network trained only on a Kinect's joints has not learned the errors of an estimator: exchanged sides, wrong occluded
limbs, other proportions. `actrec prepare --render-every` writes such clips; a recipe's `rendered` adds them.
"""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from actrec.datasets.base import Clip, ClipDataset
from actrec.perception.pipeline import BodyPerception
from actrec.simulation.noise import SENSORS, SensorNoise
from actrec.simulation.scene import CameraPose, scene_from_scripts
from actrec.simulation.script import scripts_from_recording
from actrec.skeleton.layouts import CANONICAL
from actrec.skeleton.sequence import SkeletonSequence, load_npz
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import gravity
from actrec.utils.errors import ActrecError, ConfigError, InputError

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

    known = np.isfinite(clip.bodies).all(axis=-1).astype(np.float32)
    pixels = np.full((*clip.bodies.shape[:-1], 2), np.nan, np.float32)
    ids = tuple(f"body_{m + 1}" for m in range(len(clip.bodies)))
    recording = SkeletonSequence(clip.name, clip.stamps_ns, clip.bodies, known, pixels, ids)
    scene = scene_from_scripts(INTRINSICS, scripts_from_recording(recording), clip.name, seed=seed, mount=pose)
    noise = SensorNoise(SENSORS["structured_light"], INTRINSICS, seed)
    for number in range(max(1, int(scene.duration * fps))):
        shown = scene.at(number / fps).rendering
        color, depth = noise.color(shown.color, number), noise.depth(shown.depth, shown.facing, number)
        yield RgbdFrame(round(number / fps * NANOSECONDS), color, depth, INTRINSICS, up=scene.camera.up)


def estimate(clip: Clip, seed: int, fps: float = FPS) -> Clip | None:
    """Render the bodies of a clip at `fps` and estimate them again as [1, T, 25, 3]; None if most frames have no body.

    The seed determines room and noise. The clip holds `up` of its camera.
    """
    found: dict[int, np.ndarray] = {}
    with contextlib.closing(BodyPerception()) as perception:
        for frame in frames(clip, seed, fps):
            if bodies := perception.process(frame):
                found[frame.stamp_ns] = bodies[0].positions
    if not found or len(found) < 0.5 * (frame.stamp_ns * fps / NANOSECONDS + 1):
        return None
    assert frame.up is not None, "the simulated camera has it"
    stamps, bodies = np.array(list(found), np.int64), np.stack(list(found.values()))[None]
    return Clip(clip.name, clip.label, stamps, bodies, {"up": frame.up})


def estimate_all(clips: ClipDataset, every: int, fps: float, workers: int) -> tuple[list[Clip], list[str]]:
    """Render and estimate every n-th clip in several processes; return the clips, and messages about skipped ones.

    Raises:
        ConfigError: The clips do not show bodies.
    """
    if clips.layout != CANONICAL:
        raise ConfigError(f"only bodies ({CANONICAL}) can be rendered, but these clips hold {clips.layout}")
    tasks = [(clips[index], seed, fps) for seed, index in enumerate(range(0, len(clips), every))]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = list(tqdm(pool.imap(_task, tasks), total=len(tasks), unit="clip"))
    skipped = [f"{task[0].name} skipped: {result}" for task, result in zip(tasks, results, strict=True)
               if isinstance(result, str)]  # fmt: skip
    return [result for result in results if isinstance(result, Clip)], skipped


def _task(arguments: tuple[Clip, int, float]) -> Clip | str:
    """Return one clip in a worker process, or the reason for skipping it."""
    try:
        return estimate(*arguments) or "half of its frames have no body"
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


def read(path: Path) -> list[Clip]:
    """Read the clips written by `write`.

    Raises:
        DeviceError: There is no such file.
        InputError: It is corrupt or another kind of file.
    """
    arrays = load_npz(path, ("bodies", "length", "stamps_ns", "label", "name", "up"))
    if len(arrays["bodies"]) != arrays["length"].sum() or arrays["bodies"].shape[1:] != (25, 3):
        raise InputError(f"'{path}' is no file of rendered clips; make it with actrec prepare --render-every")
    cuts = np.cumsum(arrays["length"])[:-1]
    parts = np.split(arrays["stamps_ns"], cuts), np.split(arrays["bodies"], cuts)
    rows = zip(arrays["name"], arrays["label"], *parts, arrays["up"], strict=True)
    return [Clip(str(name), int(label), stamps, bodies[None], {"up": up}) for name, label, stamps, bodies, up in rows]
