"""Takes of a person's own actions: count down, record into a bag, keep its label beside it. No ROS here.

What is seen comes as `Sight`s from a camera (`actrec.perception.pipeline`) or from a running graph
(`actrec_nodes.clip_node`). Time is the camera's: a take lasts so long by its stamps, whatever the machine's pace.
"""

import math
import os
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from actrec.recordings.labels import (
    FILE,
    LabeledClip,
    add_label,
    alike,
    by_folder,
    check_label,
    printable,
    read_labels,
)
from actrec.recordings.rosbag.writer import BagWriter
from actrec.types import NANOSECONDS, Body
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError

__all__ = ["CLOCK", "Read", "Refusal", "Show", "Sight", "TakeConfig", "Takes", "record"]

READ_TIMEOUT_S = 10.0

CLOCK = " s left"
"""Ends a line that is shown with every frame."""

UNFINISHED = ".unfinished"
"""Folder in which a take lies until it is one; what is found in it is what a killed recorder left."""


@dataclass(frozen=True)
class TakeConfig:
    """Settings of `actrec record --label`."""

    label: str = setting("", "what the person does; 'unknown' for anything that is none of your actions")
    out: str = setting("my_actions", "folder for the takes and their labels.csv; it may hold others that this names")
    person: str = setting("", "who does it; with two or more, `actrec teach` tests on people left out")
    countdown: float = setting(3.0, "time to get ready before each take", unit="s", range=(0.0, 60.0))
    seconds: float = setting(4.0, "length of a take", unit="s", range=(0.5, 600.0))
    repeat: int = setting(1, "how many takes", range=(1, 1000))
    least_seen: float = setting(0.6, "share of a take's frames in which the person must be seen", range=(0.01, 1.0))
    patience: int = setting(3, "takes in a row that may fail before it gives up", range=(1, 100))

    def check(self) -> None:
        """Refuses a label that cannot be one.

        Raises:
            ConfigError: It is empty, too long, holds a line break, or is "Unknown".
        """
        for name, text in (("label", self.label), ("person", self.person)):
            if not printable(text) or text != text.strip() or (name == "label" and not text):
                raise ConfigError(f"{name} is {text!r}, expected up to 80 printable characters, such as 'wave'")
        try:
            check_label("--label", self.label)
        except InputError as error:
            raise ConfigError(str(error)) from error


@dataclass(frozen=True)
class Sight:
    """Something that was seen.

    Attributes:
        stamp_ns: When.
        bodies: The people; None for what shows none of itself, such as a message with an image.
        write: Puts it into a bag.
    """

    stamp_ns: int
    bodies: Sequence[Body] | None
    write: Callable[[BagWriter], None]


@dataclass(frozen=True)
class Refusal:
    """Why a take is none."""

    reason: str


@dataclass
class Takes:
    """What came of it.

    Attributes:
        kept: In the order of recording.
        refused: Reasons of those that had to be repeated.
    """

    kept: list[LabeledClip] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


Read = Callable[[float], Sight]
"""Gives the next sight; takes the seconds to wait. Raises EndOfStream at the end, DeviceError where none comes."""

Show = Callable[[str, bool], None]
"""Shows a line; true where it will not be replaced by the next one."""


def record(read: Read, config: TakeConfig, stopped: threading.Event, show: Show) -> Takes:
    """Records takes until there are enough; one that is interrupted is dropped, finished ones stay.

    Args:
        read: Where sights come from.
        config: What to record.
        stopped: Set it, from a signal handler if need be, to end.
        show: Tells the person what to do.

    Raises:
        ConfigError: The label is none, or it or the person is one of those before, written otherwise.
        DeviceError: Nothing comes, the disk is full, the stream has ended, or `patience` takes in a row were refused.
        InputError: There is a labels file that cannot be read, or none and recordings in a folder a class.
    """
    config.check()
    takes, failed = Takes(), 0
    folder = _prepared(Path(config.out).expanduser(), config)
    while len(takes.kept) < config.repeat:
        title = f"'{config.label}', take {len(takes.kept) + 1} of {config.repeat}"
        try:
            outcome = _next(read, config, folder, stopped, _titled(show, title))
        except EndOfStream as error:
            raise DeviceError(f"the recording has ended after {len(takes.kept)} of {config.repeat} takes") from error
        if outcome is None:
            break
        if isinstance(outcome, Refusal):
            failed += 1
            takes.refused.append(outcome.reason)
            show(f"{title}: refused, {outcome.reason}", True)
            if failed == config.patience:
                raise DeviceError(f"{failed} takes in a row were refused, the last because {outcome.reason}")
            continue
        failed = 0
        takes.kept.append(outcome)
        show(f"{title}: kept as {outcome.recording}", True)
    return takes


def _titled(show: Show, title: str) -> Callable[[str], None]:
    return lambda text: show(f"{title}: {text}", False)


def _next(
    read: Read, config: TakeConfig, folder: Path, stopped: threading.Event, show: Callable[[str], None]
) -> LabeledClip | Refusal | None:
    """Counts down and takes one take."""
    ready = _count_down(read, config.countdown, stopped, show)
    return _take(read, config, folder, stopped, show) if ready else None


def _prepared(folder: Path, config: TakeConfig) -> Path:
    """The folder, made where it is not there, for takes of this label by this person."""
    if os.path.exists(folder / "metadata.yaml"):  # false, where pathlib raises, in a folder that cannot be searched
        raise InputError(f"'{folder}' is a bag itself, which takes in it would change: choose another --out")
    try:
        (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = "write into" if os.path.isdir(folder) else "make"
        raise DeviceError(f"cannot {what} the folder '{folder}': {error.strerror}; choose another --out") from error
    if (folder / FILE).exists():
        clips = read_labels(folder / FILE)
        _check_alike("label", config.label, {clip.label for clip in clips}, folder)
        _check_alike("person", config.person, {clip.person for clip in clips}, folder)
    elif there := by_folder(folder):
        raise InputError(
            f"'{folder}' holds {len(there)} recordings in folders named as their labels, first '{there[0].recording}'; "
            f"beside a {FILE} they count no more: choose another --out, or name them in '{folder / FILE}'"
        )
    return folder


def _check_alike(what: str, name: str, there: Set[str], folder: Path) -> None:
    """Refuses one of those in a folder, written otherwise: an action would be two classes, a person two people."""
    if name not in there and (other := alike(name, sorted(there))):
        raise ConfigError(f"the {what} is '{name}', and '{folder}' has clips of '{other}': write it alike")


def _count_down(read: Read, seconds: float, stopped: threading.Event, show: Callable[[str], None]) -> bool:
    """Tells how long there still is; false where it was stopped."""
    began, shown = None, -1
    while not stopped.is_set():
        sight = read(READ_TIMEOUT_S)
        if began is None or sight.stamp_ns < began:
            began = sight.stamp_ns
        left = seconds - (sight.stamp_ns - began) / NANOSECONDS
        if left <= 0:
            return True
        if sight.bodies is not None and math.ceil(left) != shown:
            shown = math.ceil(left)
            show(f"get ready … {shown} ({_people(sight.bodies)})")
    return False


def _people(bodies: Sequence[Body]) -> str:
    return {0: "nobody in view", 1: "1 person in view"}.get(len(bodies), f"{len(bodies)} people in view")


def _take(
    read: Read, config: TakeConfig, folder: Path, stopped: threading.Event, show: Callable[[str], None]
) -> LabeledClip | Refusal | None:
    """One take: its line in the labels file, why it is refused, or None where it was stopped."""
    name = _free_name(folder, config.label)
    path = folder / UNFINISHED / name
    try:
        filmed = _film(read, path, config.seconds, stopped, show)
        if not isinstance(filmed, _Filmed):
            return filmed
        body = filmed.judge(config.least_seen)
        if isinstance(body, Refusal):
            return body
        return _kept(path, LabeledClip(name, config.label, 0.0, math.inf, config.person, body))
    except OSError as error:
        raise DeviceError(f"take '{name}' is dropped: {error.strerror}; those before it are kept") from error
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _kept(path: Path, clip: LabeledClip) -> LabeledClip:
    """Moves a take out of the unfinished ones and names it in the labels file, or drops it."""
    folder = path.parent.parent
    path.rename(folder / clip.recording)
    try:
        add_label(folder / FILE, clip)
    except (DeviceError, OSError) as error:  # the disk was full for the one line more
        shutil.rmtree(folder / clip.recording, ignore_errors=True)
        raise DeviceError(f"take '{clip.recording}' is dropped: {error}; those before it are kept") from error
    return clip


def _film(
    read: Read, path: Path, seconds: float, stopped: threading.Event, show: Callable[[str], None]
) -> "_Filmed | Refusal | None":
    """Fills a bag with `seconds` of what is seen."""
    filmed, began, last, again = _Filmed(), None, 0, 0
    show(f"GO! {seconds:g} s")
    try:
        with BagWriter(path) as bag:
            while not stopped.is_set():
                sight = read(READ_TIMEOUT_S)
                if sight.bodies is not None:
                    again = again + 1 if began is not None and sight.stamp_ns == last else 0
                    if again == 1:  # some drivers send a picture twice
                        continue
                    if began is not None and sight.stamp_ns <= last:
                        return Refusal("the camera's stamps stood or went back in the middle of it")
                    began = sight.stamp_ns if began is None else began
                    last = sight.stamp_ns
                    if last - began >= seconds * NANOSECONDS:
                        return filmed
                    filmed.add(sight.bodies)
                    show(f"{'●' if sight.bodies else '○'} {seconds - (last - began) / NANOSECONDS:4.1f}{CLOCK}")
                sight.write(bag)
    except DeviceError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error  # what the bag says of recovering it does not hold: it is removed
        raise
    return None


class _Filmed:
    """Who was seen in a take, and where."""

    def __init__(self) -> None:
        self.frames = 0
        self._places: dict[str, list[float]] = defaultdict(list)

    def add(self, bodies: Sequence[Body]) -> None:
        """One frame. A metre to the side counts as a metre further away."""
        self.frames += 1
        for body in bodies:
            joints = body.positions[np.isfinite(body.positions).all(axis=-1)]
            if len(joints):
                x, _, z = joints.mean(axis=0)
                self._places[body.body_id].append(abs(float(x)) + float(z))

    def judge(self, least_seen: float) -> str | Refusal:
        """Id of the person whom the take is about: the nearest of those seen long enough."""
        if not self.frames:
            return Refusal("no frame came")
        shares = {body_id: len(places) / self.frames for body_id, places in self._places.items()}
        long_enough = [body_id for body_id, share in shares.items() if share >= least_seen]
        if long_enough:
            return min(long_enough, key=lambda body_id: float(np.median(self._places[body_id])))
        if not shares:
            return Refusal("nobody was seen: stand 2 to 4 m before the camera, whole body in the picture")
        return Refusal(
            f"one person was seen in {max(shares.values()):.0%} of the frames at most, {least_seen:.0%} are needed: "
            "stay in the picture, with light on you"
        )


def _free_name(folder: Path, label: str) -> str:
    """`label_007`, a number higher than any that is there."""
    stem = re.sub(r"\W+", "_", label).strip("_") or "take"
    pattern = re.compile(rf"{re.escape(stem)}_(\d+)")
    # A take that was killed lies among the unfinished until the next one is begun.
    named = [path.name for place in (folder, folder / UNFINISHED) for path in place.iterdir()]
    if (folder / FILE).exists():
        named += [clip.recording for clip in read_labels(folder / FILE)]
    taken = [int(match[1]) for name in named if (match := pattern.fullmatch(name))]
    return f"{stem}_{max(taken, default=0) + 1:03d}"
