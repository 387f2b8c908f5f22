"""The people, or the hands, of any recording as joints: recorded with it, or estimated from its images."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from actrec.datasets.shrec17 import read_gesture
from actrec.recordings import open_recording, sniff
from actrec.recordings.base import Recording, RecordingConfig, existing, log
from actrec.recordings.rosbag.reader import messages, open_reader, reading, stamp_ns
from actrec.recordings.rosbag.skeletons import choose_topic, typestore_of
from actrec.recordings.skeleton_files import open_sequence
from actrec.skeleton.conversions import convert
from actrec.skeleton.sequence import SkeletonSequence, load_npz
from actrec.types import Body, RgbdFrame
from actrec.utils.errors import ConfigError, InputError

CACHE_VERSION = 1
"""Of the estimator's part in what is cached; raise it when the same images give other joints."""

_KEYS = ("stamps_ns", "bodies", "scores", "pixels", "body_ids")


def read_people(path: str | Path, config: RecordingConfig | None = None) -> SkeletonSequence:
    """Everybody in a recording, in `kinect_v2_25`.

    A bag's skeletons are taken where it holds some; images go through the same perception as in the live graph, once:
    what it finds is kept in `cache_folder()`.

    Args:
        path: A bag, a skeleton file, a video, a folder of images.
        config: What the recording does not tell of itself.

    Raises:
        DeviceError: There is nothing there.
        InputError: It is corrupt, holds neither joints nor images, or shows nobody.
        ConfigError: An option does not fit it.
        MissingLibraryError: A library is not installed.
    """
    path, config = existing(path), config or RecordingConfig()
    kind = sniff(path)
    if kind == "skeleton":
        return _somebody(path, open_sequence(path, config.sequence or None, config.fps))
    if kind == "bag" and _holds_skeletons(path):
        from actrec.recordings.rosbag.skeletons import SkeletonBagRecording

        with SkeletonBagRecording(path, config) as bag:
            return _somebody(path, tracks(path.stem, ((f.stamp_ns, f.skeletons) for f in bag.frames())))
    return _somebody(path, _estimated(path, config))


def tracks(name: str, frames: Iterable[tuple[int, list[Body]]]) -> SkeletonSequence:
    """(stamp in nanoseconds, bodies) of successive frames as a sequence, a body an id.

    Args:
        name: Of the sequence.
        frames: Bodies in `kinect_v2_25`. A frame that is not later than the one before is left out.
    """
    kept: list[tuple[int, list[Body]]] = []
    for stamp, bodies in frames:
        if not kept or stamp > kept[-1][0]:
            kept.append((stamp, bodies))
    ids = tuple(dict.fromkeys(body.body_id for _, bodies in kept for body in bodies))
    shape = len(ids), len(kept), 25
    positions, pixels = (np.full((*shape, size), np.nan, np.float32) for size in (3, 2))
    scores = np.zeros(shape, np.float32)
    for t, (_, bodies) in enumerate(kept):
        for body in bodies:
            m = ids.index(body.body_id)
            positions[m, t], pixels[m, t], scores[m, t] = body.positions, body.pixels, body.scores
    stamps = np.array([stamp for stamp, _ in kept], np.int64)
    return SkeletonSequence(name, stamps, positions, scores, pixels, ids, meta={"format": "tracks"})


def cache_folder() -> Path:
    """Where estimated skeletons are kept; it may be emptied at any time."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "actrec/skeletons"


def _somebody(path: Path, sequence: SkeletonSequence) -> SkeletonSequence:
    if not len(sequence) or not np.isfinite(sequence.bodies).any():
        raise InputError(f"'{path}' shows nobody in any of its {len(sequence)} frames: record it again")
    return sequence


def _holds_skeletons(path: Path) -> bool:
    from actrec.recordings.rosbag.skeletons import SKELETONS

    reader = open_reader(path)
    try:
        return any(c.msgtype == SKELETONS and c.msgcount for c in reader.connections)
    finally:
        reader.close()


def _estimated(path: Path, config: RecordingConfig) -> SkeletonSequence:
    file = cache_folder() / f"{_key(path, config)}.npz"
    if file.is_file():
        with contextlib.suppress(InputError):  # a damaged cache is made again
            a = load_npz(file, _KEYS)
            ids = tuple(str(body_id) for body_id in a["body_ids"])
            return SkeletonSequence(path.stem, a["stamps_ns"], a["bodies"], a["scores"], a["pixels"], ids)
    with _opened(path, config) as recording:
        found = tracks(path.stem, _seen(recording.frames()))
    _keep(file, found)
    return found


def _opened(path: Path, config: RecordingConfig) -> Recording:
    try:
        return open_recording(path, config)
    except ConfigError as error:
        raise ConfigError(f"'{path}': {error}") from error


def _seen(frames: Iterator[RgbdFrame]) -> Iterator[tuple[int, list[Body]]]:
    from actrec.perception.pipeline import BodyPerception

    with contextlib.closing(BodyPerception()) as perception:
        for frame in frames:
            yield frame.stamp_ns, perception.process(frame)


def _key(path: Path, config: RecordingConfig) -> str:
    """Of a recording as it lies there now, the options it is read with, and the estimator."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    sizes = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    told = json.dumps([CACHE_VERSION, str(path.resolve()), sizes, asdict(config)])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _keep(file: Path, found: SkeletonSequence) -> None:
    """Keeps it, at once, where the disk lets us; it can always be made again."""
    staging = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            staging, stamps_ns=found.stamps_ns, bodies=found.bodies, scores=found.scores, pixels=found.pixels,
            body_ids=np.array(found.body_ids, dtype=np.str_),
        )  # fmt: skip
        os.replace(staging, file)
    except OSError as error:
        staging.unlink(missing_ok=True)
        log.warning("skeletons of '%s' are not kept in %s: %s", found.name, file.parent, error.strerror)


HANDS = "actrec_msgs/msg/HandArray"


def read_hands(path: str | Path, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """All hands of a recording.

    Args:
        path: A bag that holds `HandArray` messages, or a `skeletons_world.txt` of SHREC'17.
        layout: What the joints are wanted as: `hand_22`, or as they were recorded.

    Returns:
        Stamps [T] int64 nanoseconds, and joints [M, T, V, 3] float32 metres in the optical frame, NaN where missing;
        one of the M for each side of each person.

    Raises:
        DeviceError: There is nothing there.
        InputError: It is corrupt, of another kind, or shows no hand.
        ConfigError: A bag holds several topics of hands.
    """
    path = existing(path)
    if path.suffix == ".txt":
        gesture = read_gesture(path)
        stamps, hands = gesture.stamps_ns, gesture.hands
        if layout != "hand_22":
            raise InputError(f"'{path}' holds joints in hand_22, not in {layout}")
    elif sniff(path) == "bag":
        stamps, hands = _of_bag(path, layout)
    else:
        raise InputError(f"'{path}' holds no hands: give bags with {HANDS} messages, or skeletons_world.txt files")
    if not np.isfinite(hands).any():
        raise InputError(f"'{path}' shows no hand in any of its {len(stamps)} frames: record it again")
    return stamps, hands


def _of_bag(path: Path, layout: str) -> tuple[np.ndarray, np.ndarray]:
    reader = open_reader(path)
    try:
        if not any(c.msgtype == HANDS and c.msgcount for c in reader.connections):
            raise InputError(f"bag '{path}' holds no {HANDS} messages: record the topic hands")
        topic = choose_topic(path, reader, HANDS, ("/hands",))
        store = typestore_of(path, reader, topic, HANDS)
        seen: dict[int, dict[str, np.ndarray]] = {}
        with reading(path):
            for _, _, raw in messages(reader, [topic]):
                found = store.deserialize_cdr(raw, HANDS).hands
                seen.setdefault(stamp_ns(raw), {}).update({f"{h.body_id} {h.side}": _joints(h, layout) for h in found})
    finally:
        reader.close()
    stamps = sorted(seen)
    names = dict.fromkeys(name for hands in seen.values() for name in hands)
    missing = next((np.full_like(joints, np.nan) for hands in seen.values() for joints in hands.values()), np.empty(0))
    tracks = [[seen[stamp].get(name, missing) for stamp in stamps] for name in names]
    return np.array(stamps, np.int64), np.array(tracks, np.float32)


def _joints(hand: Any, layout: str) -> np.ndarray:
    positions = np.array([(p.x, p.y, p.z) for p in hand.positions], np.float32).reshape(-1, 3)
    return convert(positions, np.array(hand.confidences, np.float32), hand.layout, layout)[0]
