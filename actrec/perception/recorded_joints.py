"""Bodies of recordings as joint sequences: recorded, or estimated and cached; bodies of camera frames."""

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from actrec.cameras.mounting import DRIVER_OPTION, open_mounted
from actrec.perception import networks
from actrec.perception.gravity import GravityEstimator
from actrec.perception.pipeline import BodyPerception
from actrec.recordings import MOUNT_OPTION, RecordingConfig, detect_format, existing_path, log, open_recording
from actrec.recordings.clip_recorder import Observation, ReadObservation
from actrec.recordings.rosbag.bag_reader import SKELETONS, SkeletonBagRecording, message_types
from actrec.recordings.rosbag.bag_writer import SKELETONS_TOPIC, BagWriter
from actrec.recordings.skeleton_files import open_sequence
from actrec.skeleton.layouts import CANONICAL
from actrec.skeleton.sequence import SkeletonSequence, load_npz
from actrec.types import Body, RgbdFrame
from actrec.utils import folders, gravity
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError

_FIRST_TIMEOUT_S = 10.0

CODE = Path(__file__).resolve().parents[1]
ESTIMATING = ("perception", "recordings", "skeleton", "utils")
"""Packages in `CODE` on which estimated joints depend: after a change there, cached ones are estimated again."""

_CACHE_KEYS = ("stamps_ns", "bodies", "scores", "pixels", "body_ids", "up")


def read_bodies(path: str | Path, config: RecordingConfig | None = None) -> SkeletonSequence:
    """Return all bodies of a recording in `kinect_v2_25`, or the hands of a skeleton file in `hand_22`.

    Skeletons in a bag are used if there are any. Otherwise `BodyPerception` estimates them from the images, once: the
    result is cached in `cache_folder()`.

    Args:
        path: A bag, skeleton file, video, or folder of images.
        config: Settings that complete or override the recording.

    Raises:
        DeviceError: The path does not exist.
        InputError: The recording is corrupt, has neither joints nor images, or shows no person.
        ConfigError: An option does not fit it.
        MissingLibraryError: A library is not installed.
    """
    path, config = existing_path(path), config or RecordingConfig()
    kind = detect_format(path)
    holds_joints = kind == "skeleton" or (kind == "bag" and SKELETONS in message_types(path))
    if config.mirror == "yes" and holds_joints:
        raise ConfigError(f"'{path}' holds joints, and mirror=yes flips images alone: leave it out")
    if kind == "skeleton":
        sequence = read_skeleton_file(path, config, hands=True)
    elif holds_joints:
        bag = SkeletonBagRecording(path, config)
        with bag:
            frames = list(bag.frames())
            found = ((frame.stamp_ns, frame.skeletons, frame.up) for frame in frames)
            sequence = stack_bodies(path.stem, found, functools.partial(_up_by_people, frames))
            sequence.meta["start_ns"] = bag.start_ns
    else:
        sequence = _read_estimated(path, config)
    if not len(sequence) or not np.isfinite(sequence.bodies).any():
        raise InputError(f"'{path}' shows no person in any of its {len(sequence)} frames; record it again")
    return sequence


def read_skeleton_file(path: Path, config: RecordingConfig, hands: bool = False) -> SkeletonSequence:
    """Return a sequence of a skeleton file, with `up` by the file, the setting `mount`, or the people in it.

    `hands` and errors are as for `open_sequence`.
    """
    mount = None if config.mount == "auto" else gravity.parse_mount(config.mount)
    sequence = open_sequence(path, config.sequence or None, config.fps, hands=hands)
    if sequence.up is not None:
        return sequence
    if mount is not None or sequence.layout != CANONICAL:
        return replace(sequence, up=mount)
    bodies = ((int(stamp_ns), sequence.bodies_at(t)) for t, stamp_ns in enumerate(sequence.stamps_ns))
    frames = (RgbdFrame(stamp_ns, None, None, KINECT_V1, skeletons=each) for stamp_ns, each in bodies)
    return replace(sequence, up=_up_by_people(frames))


def _up_by_people(frames: Iterable[RgbdFrame]) -> np.ndarray | None:
    """Return the direction of gravity by the skeletons of frames, None if it stays unknown."""
    estimator = GravityEstimator(MOUNT_OPTION)
    for frame in frames:
        estimator.update(frame, frame.skeletons)
    return estimator.conclude()


Observed = tuple[int, list[Body], np.ndarray | None]
"""Stamp, bodies (`kinect_v2_25`) and `up` of a frame."""


def stack_bodies(
    name: str, frames: Iterable[Observed], estimate: Callable[[], np.ndarray | None] | None = None
) -> SkeletonSequence:
    """Stack the bodies of successive frames into a sequence with one track for each id.

    Frames whose stamp does not increase are skipped. If `up` changes, as of a camera on a robot's head, all joints are
    rotated to the camera's last direction. If no frame has it, `estimate` returns it after the last frame.
    """
    kept: list[Observed] = []
    for observed in frames:
        if not kept or observed[0] > kept[-1][0]:
            kept.append(observed)
    known = [up for *_, up in kept if up is not None]
    last = known[-1] if known else estimate() if estimate is not None else None
    ids = tuple(dict.fromkeys(body.body_id for _, bodies, _ in kept for body in bodies))
    shape = len(ids), len(kept), 25
    positions, pixels = (np.full((*shape, size), np.nan, np.float32) for size in (3, 2))
    scores = np.zeros(shape, np.float32)
    up = known[0] if known else last
    for t, (_, bodies, now) in enumerate(kept):
        up = up if now is None else now
        for body in bodies:
            m = ids.index(body.body_id)
            positions[m, t], pixels[m, t], scores[m, t] = body.positions, body.pixels, body.scores
        if up is not None and last is not None and up @ last < 1 - 1e-7:
            positions[:, t] = positions[:, t] @ gravity.rotation_between(up, last).T
    stamps = np.array([stamp for stamp, *_ in kept], np.int64)
    return SkeletonSequence(name, stamps, positions, scores, pixels, ids, meta={"format": "tracks"}, up=last)


def cache_folder() -> Path:
    """Return the folder of cached skeletons; it may be emptied at any time."""
    try:
        return folders.user_folder("", "XDG_CACHE_HOME", "~/.cache", "actrec/skeletons")
    except DeviceError as error:
        folder = folders.temporary("skeletons")
        log.warning("skeletons are cached in %s: %s", folder, error)
        return folder


def _read_estimated(path: Path, config: RecordingConfig) -> SkeletonSequence:
    file = cache_folder() / f"{_cache_key(path, config)}.npz"
    if file.is_file():
        with contextlib.suppress(InputError):  # a damaged cache is replaced
            a = load_npz(file, _CACHE_KEYS)
            ids = tuple(str(body_id) for body_id in a["body_ids"])
            up = a["up"] if np.isfinite(a["up"]).all() else None
            return SkeletonSequence(path.stem, a["stamps_ns"], a["bodies"], a["scores"], a["pixels"], ids, up=up)
    try:
        recording = open_recording(path, config)
    except ConfigError as error:
        raise ConfigError(f"'{path}': {error}") from error
    with recording, contextlib.closing(BodyPerception(MOUNT_OPTION)) as perception:
        perception.find_gravity(recording.frames())
        found = ((frame.stamp_ns, perception.process(frame), perception.up) for frame in recording.frames())
        sequence = stack_bodies(path.stem, found, perception.gravity.conclude)
    arrays = {key: getattr(sequence, key) for key in _CACHE_KEYS[:-2]}
    arrays["up"] = np.full(3, np.nan, np.float32) if sequence.up is None else sequence.up
    content = io.BytesIO()
    np.savez_compressed(content, **arrays, body_ids=np.array(sequence.body_ids, dtype=np.str_))
    try:
        folders.write_file(file, content.getvalue(), "they are estimated again; set XDG_CACHE_HOME")
    except DeviceError as error:
        log.warning("the skeletons of '%s' are not cached: %s", sequence.name, error)
    return sequence


def _cache_key(path: Path, config: RecordingConfig) -> str:
    """Hash the recording's files (by size and time), the options, the lens file, the estimator's code and networks."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    sizes = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    lens = Path(config.intrinsics).expanduser()
    lens_text = lens.read_text(errors="replace") if config.intrinsics and lens.is_file() else ""
    hashes = [file.sha256 for file in networks.files().values()]
    content = json.dumps([_estimator(CODE), hashes, str(path.resolve()), sizes, asdict(config), lens_text])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


@functools.cache
def _estimator(code: Path) -> str:
    """Return a digest of the code of `ESTIMATING`: another version may return other joints for the same images."""
    digest = hashlib.sha256()
    for file in sorted(file for package in ESTIMATING for file in (code / package).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def camera_observations(driver: str, options: dict[str, Any], images: bool) -> Iterator[ReadObservation]:
    """Open a camera as a source of observations for the clip recorder; with `images` they write color and depth.

    `options` are as for `open_mounted`.
    """
    with contextlib.ExitStack() as stack:
        read_frame = stack.enter_context(open_mounted(driver, options))
        add_bodies = body_annotator(stack)
        with contextlib.suppress(EndOfStream):
            add_bodies(read_frame(_FIRST_TIMEOUT_S))  # loads the networks, for seconds that no countdown may count

        def read(timeout_s: float) -> Observation:
            frame = add_bodies(read_frame(timeout_s))
            bodies = frame.skeletons

            def write(bag: BagWriter) -> None:
                bag.write_bodies(SKELETONS_TOPIC, frame.stamp_ns, frame.frame_id, bodies, frame.up)
                if images and frame.color is not None:
                    bag.write_frame(replace(frame, skeletons=[]))

            return Observation(frame.stamp_ns, bodies, write)

        yield read


def body_annotator(stack: contextlib.ExitStack) -> Callable[[RgbdFrame], RgbdFrame]:
    """Return a function that adds the detected bodies and `up` to a frame; frames without color stay unchanged.

    The models are loaded at the first color image and freed by `stack`.
    """
    perceptions: list[BodyPerception] = []

    def annotate(frame: RgbdFrame) -> RgbdFrame:
        if frame.color is None:
            return frame
        if not perceptions:
            perceptions.append(stack.enter_context(contextlib.closing(BodyPerception(DRIVER_OPTION))))
        bodies = perceptions[0].process(frame)
        return replace(frame, skeletons=bodies, up=perceptions[0].up)

    return annotate
