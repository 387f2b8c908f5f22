"""Recording of labeled clips from a camera or a running ROS graph: count down, record a bag, add a line to the labels.

Durations are measured by the camera's stamps.
"""

import math
import os
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from actrec.recordings.labels import (
    LABELS_FILE,
    LabeledClip,
    add_label,
    check_label,
    clips_by_folder,
    find_respelling,
    is_printable,
    own_labels,
    read_labels,
)
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.types import NANOSECONDS, Body
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError
from actrec.utils.folders import expanded

READ_TIMEOUT_S = 10.0
COUNTDOWN_SUFFIX = " s left"  # end of the status text that changes with every frame
UNFINISHED = ".unfinished"  # folder of the clip being recorded; after a crash it holds the incomplete clip


@dataclass(frozen=True)
class ClipRecorderConfig:
    """Settings of `actrec record --label`."""

    label: str = setting("", "action the person does; 'unknown' for anything that is not one of your actions")
    out: str = setting("my_actions", "folder for the clips and their labels.csv; may hold clips already")
    person: str = setting("", "name of the person; with two or more, `actrec teach` tests on held-out people")
    countdown: float = setting(3.0, "time to get ready before each clip", unit="s", range=(0.0, 60.0))
    seconds: float = setting(3.0, "length of a clip", unit="s", range=(0.5, 600.0))
    repeat: int = setting(1, "number of clips", range=(1, 1000))
    least_seen: float = setting(0.6, "share of a clip's frames in which the person must be detected", range=(0.01, 1.0))
    patience: int = setting(3, "rejected clips in a row after which recording stops", range=(1, 100))

    def check(self) -> None:
        """Check the label and the person's name.

        Raises:
            ConfigError: One is too long or not printable, or the label is empty or "Unknown".
        """
        for name, text in (("label", self.label), ("person", self.person)):
            if not is_printable(text) or text != text.strip() or (name == "label" and not text):
                raise ConfigError(f"{name} is {text!r}, expected up to 80 printable characters, such as 'wave'")
        try:
            check_label("--label", self.label)
        except InputError as error:
            raise ConfigError(str(error)) from error


@dataclass(frozen=True)
class Observation:
    """Bodies or an image message of one instant."""

    stamp_ns: int
    bodies: Sequence[Body] | None  # None for a message without bodies, such as an image
    write: Callable[[BagWriter], None]  # write it into a bag


@dataclass
class RecordedClips:
    """Result of a recording session."""

    kept: list[LabeledClip] = field(default_factory=list)  # in the order of recording
    rejected: list[str] = field(default_factory=list)  # reason of each rejection


ReadObservation = Callable[[float], Observation]
"""Returns the next observation within a timeout in s; raises EndOfStream at the end, DeviceError on a timeout."""


class _RejectedError(Exception):
    """The clip does not show a person well enough, or its stamps do not increase."""


class _StoppedError(Exception):
    """The user stopped the recording."""


def record(
    read: ReadObservation, config: ClipRecorderConfig, stopped: threading.Event, show: Callable[[str, bool], None]
) -> RecordedClips:
    """Record clips until there are enough; drop an interrupted clip and keep the finished ones.

    `stopped` ends the recording; a signal handler may set it. `show` displays a line of text; its second argument is
    False if the next line replaces it.

    Raises:
        ConfigError: The label is invalid, or the label or person is a respelling of a recorded one.
        DeviceError: No data arrives, the disk is full, the stream ended, or `patience` clips in a row were rejected.
        InputError: The labels file cannot be read, or the folder holds recordings in a folder per class instead.
    """
    config.check()
    clips, failed = RecordedClips(), 0
    folder = _prepare_folder(expanded(config.out), config)

    def read_next() -> Observation:
        if stopped.is_set():
            raise _StoppedError
        return read(READ_TIMEOUT_S)

    def show_status(text: str) -> None:
        show(f"{title}: {text}", False)

    while len(clips.kept) < config.repeat:
        title = f"'{config.label}', clip {len(clips.kept) + 1} of {config.repeat}"
        try:
            clip = _record_clip(read_next, config, folder, show_status)
        except EndOfStream as error:
            raise DeviceError(f"the recording has ended after {len(clips.kept)} of {config.repeat} clips") from error
        except _StoppedError:
            break
        except _RejectedError as error:
            failed += 1
            clips.rejected.append(str(error))
            show(f"{title}: rejected, {error}", True)
            if failed == config.patience:
                raise DeviceError(f"{failed} clips in a row were rejected, the last because {error}") from error
        else:
            failed = 0
            clips.kept.append(clip)
            show(f"{title}: kept as {clip.recording}", True)
    return clips


def _prepare_folder(folder: Path, config: ClipRecorderConfig) -> Path:
    """Create the folder for clips if needed, and check its labels file against the settings."""
    if os.path.exists(folder / "metadata.yaml"):  # pathlib would raise in a folder without search permission
        raise InputError(f"'{folder}' is a bag itself, and clips in it would damage it; choose another --out")
    try:
        (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        action = "write into" if os.path.isdir(folder) else "create"
        raise DeviceError(f"cannot {action} the folder '{folder}': {error.strerror}; choose another --out") from error
    if (folder / LABELS_FILE).exists():
        clips = read_labels(folder / LABELS_FILE)
        # A respelling would count as a second label or person.
        for kind, name in (("label", config.label), ("person", config.person)):
            known = {getattr(clip, kind) for clip in clips}
            if name not in known and (other := find_respelling(name, sorted(known))):
                raise ConfigError(
                    f"the {kind} is '{name}', but '{folder}' has clips of '{other}'; use the same spelling"
                )
    elif clips_present := clips_by_folder(
        folder, {name: () for name, file in own_labels(folder).items() if file.actions is not None}
    ):
        raise InputError(
            f"'{folder}' holds {len(clips_present)} recordings in folders named as their labels, first "
            f"'{clips_present[0].recording}'; a {LABELS_FILE} would hide them: choose another --out, or list them in "
            f"'{folder / LABELS_FILE}'"
        )
    return folder


def _record_clip(
    read: Callable[[], Observation], config: ClipRecorderConfig, folder: Path, show: Callable[[str], None]
) -> LabeledClip:
    """Count down, record one clip and add it to the labels file."""
    _count_down(read, config.countdown, show)
    name = _free_name(folder, config.label)
    path = folder / UNFINISHED / name
    try:
        body = _main_body(_record_bag(read, config.seconds, path, show), config.least_seen)
        clip = LabeledClip(name, config.label, 0.0, math.inf, config.person, body)
        path.rename(folder / name)
        try:
            add_label(folder / LABELS_FILE, clip)
        except (DeviceError, OSError) as error:
            shutil.rmtree(folder / name, ignore_errors=True)
            raise DeviceError(f"clip '{name}' is dropped: {error}; earlier clips are kept") from error
        return clip
    except OSError as error:
        raise DeviceError(f"clip '{name}' is dropped: {error.strerror}; earlier clips are kept") from error
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _count_down(read: Callable[[], Observation], seconds: float, show: Callable[[str], None]) -> None:
    start_ns, shown = None, -1
    while True:
        observation = read()
        if observation.bodies is None:  # a latched camera_info may be as old as its driver
            continue
        if start_ns is None or observation.stamp_ns < start_ns:
            start_ns = observation.stamp_ns
        remaining = seconds - (observation.stamp_ns - start_ns) / NANOSECONDS
        if remaining <= 0:
            return
        if math.ceil(remaining) != shown:
            shown, count = math.ceil(remaining), len(observation.bodies)
            people = {0: "no person", 1: "1 person"}.get(count, f"{count} people")
            show(f"get ready … {shown} ({people} in view)")


def _record_bag(
    read: Callable[[], Observation], seconds: float, path: Path, show: Callable[[str], None]
) -> list[Sequence[Body]]:
    """Write `seconds` of observations into a bag; return the bodies of each frame."""
    frames: list[Sequence[Body]] = []
    start_ns, last, repeats = None, 0, 0
    show(f"GO! {seconds:g} s")
    try:
        with BagWriter(path) as bag:
            while True:
                observation = read()
                if observation.bodies is not None:
                    repeats = repeats + 1 if start_ns is not None and observation.stamp_ns == last else 0
                    if repeats == 1:  # some drivers send an image twice
                        continue
                    if start_ns is not None and observation.stamp_ns <= last:
                        raise _RejectedError("the camera's stamps did not increase")
                    start_ns = observation.stamp_ns if start_ns is None else start_ns
                    last = observation.stamp_ns
                    if last - start_ns >= seconds * NANOSECONDS:
                        return frames
                    frames.append(observation.bodies)
                    remaining = seconds - (last - start_ns) / NANOSECONDS
                    show(f"{'●' if observation.bodies else '○'} {remaining:4.1f}{COUNTDOWN_SUFFIX}")
                observation.write(bag)
    except DeviceError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error  # the bag is removed, so the bag's remedy (recover it) does not apply
        raise


def _main_body(frames: list[Sequence[Body]], least_seen: float) -> str:
    """Return the id of the nearest body in at least a share `least_seen` of the frames.

    The distance of a body is |x| + z of its mean joint, in m.
    """
    if not frames:
        raise _RejectedError("no frame arrived")
    distances: dict[str, list[float]] = defaultdict(list)
    for body in (body for bodies in frames for body in bodies):
        joints = body.positions[np.isfinite(body.positions).all(axis=-1)]
        if len(joints):
            x, _, z = joints.mean(axis=0)
            distances[body.body_id].append(abs(float(x)) + float(z))
    if not distances:
        raise _RejectedError("no person was detected: stand 2 to 4 m in front of the camera, whole body in view")
    candidates = [body_id for body_id, d in distances.items() if len(d) / len(frames) >= least_seen]
    if not candidates:
        share = max(map(len, distances.values())) / len(frames)
        raise _RejectedError(
            f"one person was detected in {share:.0%} of the frames at most, {least_seen:.0%} are "
            "required: stay in view, with light on you"
        )
    return min(candidates, key=lambda body_id: float(np.median(distances[body_id])))


def _free_name(folder: Path, label: str) -> str:
    """Return `label_007`, with a number higher than any existing one."""
    stem = re.sub(r"\W+", "_", label).strip("_") or "clip"
    pattern = re.compile(rf"{re.escape(stem)}_(\d+)")
    # After a crash an incomplete clip stays in UNFINISHED.
    names = [path.name for place in (folder, folder / UNFINISHED) for path in place.iterdir()]
    if (folder / LABELS_FILE).exists():
        names += [clip.recording for clip in read_labels(folder / LABELS_FILE)]
    numbers = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
    return f"{stem}_{max(numbers, default=0) + 1:03d}"
