"""Recorded skeletons rendered by the simulated camera and estimated again, as in the live graph.

A network trained on a Kinect's joints only has not learned the errors of an estimator: exchanged sides, wrong occluded
limbs, other proportions. `python -m actrec_models.data.rendered_skeletons --help` makes such clips of a dataset's
training part, once; a recipe's `rendered` adds them.
"""

import multiprocessing
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from actrec.datasets.base import Clip
from actrec.datasets.nucla import read_nucla_npz
from actrec.datasets.utd_mhad import read_utd_mhad_npz
from actrec.perception.pipeline import BodyPerception
from actrec.simulation.noise import SensorNoise, structured_light
from actrec.simulation.scene import Scene
from actrec.simulation.stage import scene_from_scripts, scripts_from_recording
from actrec.skeleton.sequence import SkeletonSequence, load_npz
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils.errors import ActrecError, InputError

INTRINSICS = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)

DATASETS = ("nucla", "utd_mhad")

_TRAINING_VIEWS = (1, 2)  # of N-UCLA

KEYS = ("bodies", "length", "stamps_ns", "label", "name")


def estimate(recording: SkeletonSequence, label: int, fps: float, seed: int) -> Clip | None:
    """Render a recording and estimate it again as a clip [1, T, 25, 3]; None if most frames have no body.

    Args:
        recording: Joints of the actor.
        label: Label of the clip.
        fps: Frame rate of the rendering.
        seed: Seed of room and noise.
    """
    scene = scene_from_scripts(INTRINSICS, scripts_from_recording(recording), recording.name, seed=seed)
    perception = BodyPerception()
    try:
        bodies = [perception.process(frame) for frame in _frames(scene, fps, seed)]
    finally:
        perception.close()
    seen = [(k, found[0]) for k, found in enumerate(bodies) if found]
    if len(seen) < 0.5 * len(bodies) or not seen:
        return None
    stamps = np.array([round(k / fps * NANOSECONDS) for k, _ in seen], np.int64)
    return Clip(recording.name, label, stamps, np.stack([body.positions for _, body in seen])[None])


def _frames(scene: Scene, fps: float, seed: int) -> Iterable[RgbdFrame]:
    noise = SensorNoise(structured_light(), INTRINSICS, seed)
    for number in range(max(1, int(scene.duration * fps))):
        shown = scene.at(number / fps).rendering
        color, depth = noise.color(shown.color, number), noise.depth(shown.depth, shown.facing, number)
        yield RgbdFrame(round(number / fps * NANOSECONDS), color, depth, INTRINSICS)


def write(path: Path, clips: Sequence[Clip]) -> None:
    """Write clips as one .npz."""
    np.savez_compressed(
        path,
        bodies=np.concatenate([clip.bodies[0] for clip in clips]),
        length=np.array([len(clip.stamps_ns) for clip in clips]),
        stamps_ns=np.concatenate([clip.stamps_ns for clip in clips]),
        label=np.array([clip.label for clip in clips]),
        name=np.array([clip.name for clip in clips]),
    )


def read(path: Path) -> list[Clip]:
    """Read the clips written by `write`.

    Raises:
        DeviceError: There is no such file.
        InputError: It is corrupt or another kind of file.
    """
    arrays = load_npz(path, KEYS)
    if len(arrays["bodies"]) != arrays["length"].sum() or arrays["bodies"].shape[1:] != (25, 3):
        raise InputError(
            f"'{path}' is no file of rendered clips; make it with python -m actrec_models.data.rendered_skeletons"
        )
    cuts = np.cumsum(arrays["length"])[:-1]
    parts = zip(np.split(arrays["bodies"], cuts), np.split(arrays["stamps_ns"], cuts), strict=True)
    labeled = zip(parts, arrays["label"], arrays["name"], strict=True)
    return [Clip(str(name), int(label), stamps, bodies[None]) for (bodies, stamps), label, name in labeled]


def _task(arguments: tuple[SkeletonSequence, float, int]) -> Clip | str:
    """Return one clip in a worker process, or the reason for skipping it."""
    recording, fps, seed = arguments
    try:
        return estimate(recording, (recording.label or 0) - 1, fps, seed) or "half of its frames have no body"
    except ActrecError as error:
        return str(error)


def recordings(dataset: str, root: Path, part: str = "train") -> list[SkeletonSequence]:
    """Return the "train" or "test" part of one of `DATASETS`; `root` holds one folder per dataset."""
    if dataset == "utd_mhad":
        read = read_utd_mhad_npz(root / "utd_mhad/utd_mhad_skeletons.npz")
        trained = [int(recording.meta["subject"]) % 2 == 1 for recording in read]
    else:
        read = read_nucla_npz(root / "nucla/nucla_skeletons.npz")
        trained = [recording.meta["view"] in _TRAINING_VIEWS for recording in read]
    return [recording for recording, train in zip(read, trained, strict=True) if train == (part == "train")]


def estimate_all(chosen: Sequence[SkeletonSequence], fps: float, workers: int) -> tuple[list[Clip], list[str]]:
    """Render and estimate recordings in several processes; return the clips, and messages about skipped recordings.

    Room and noise of recording n have seed n.
    """
    tasks = [(recording, fps, seed) for seed, recording in enumerate(chosen)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = list(tqdm(pool.imap(_task, tasks), total=len(tasks), unit="clip"))
    named = zip(chosen, results, strict=True)
    out = [f"{recording.name} left out: {result}" for recording, result in named if isinstance(result, str)]
    return [result for result in results if isinstance(result, Clip)], out


def main() -> None:
    """Render every n-th training clip of N-UCLA or UTD-MHAD."""
    import argparse  # this module is a program of its own

    parser = argparse.ArgumentParser(prog="python -m actrec_models.data.rendered_skeletons", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds a folder a dataset")
    parser.add_argument("--dataset", choices=DATASETS, default="nucla", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="file to write (.npz)")
    parser.add_argument("--every", type=int, default=4, help="take every n-th clip (default: %(default)s)")
    parser.add_argument("--fps", type=float, default=15.0, help="of the rendering (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    args = parser.parse_args()
    chosen = recordings(args.dataset, args.data)[:: args.every]
    clips, out = estimate_all(chosen, args.fps, args.workers)
    print("".join(f"{line}\n" for line in out), end="")
    write(args.out, clips)
    print(f"{len(clips)} of {len(chosen)} clips in {args.out}")


if __name__ == "__main__":
    main()
