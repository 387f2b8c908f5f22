"""UTKinect-Action3D (Xia, Chen and Aggarwal, CVPRW 2012): Kinect v1 joints, 10 actions in one recording, 10 people.

A file `joints_sSS_eEE.txt` has a line a frame: number of the frame, then x, y, z in m of 20 joints in the order and the
space of the Kinect SDK. `actionLabel.txt` holds for each recording its name and a line `walk: 252 390` for each action:
first and last frame, NaN if it is missing. Only frames with a skeleton were recorded, so frame numbers, at 30 Hz, have
gaps (the mean rate is about 15 Hz); of frames that occur twice the first counts.
"""

import re
from pathlib import Path
from typing import ClassVar

import numpy as np

from actrec.datasets.archive import PeopleSource, files_by_name, read_table
from actrec.datasets.base import Clip, Entry, find_files
from actrec.skeleton.layouts import KINECT_V1_20
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, read_text
from actrec.types import NANOSECONDS
from actrec.utils.errors import DeviceError, InputError

FPS = 30.0
CLASSES = (
    "walk", "sit down", "stand up", "pick up", "carry", "throw", "push", "pull", "wave hands", "clap hands",
)  # fmt: skip

LABELS = "actionLabel.txt"
_FRAME = re.compile(r"\d{1,9}", re.ASCII)
_TOKENS = tuple(re.sub(r" (\w)", lambda match: match[1].upper(), name) for name in CLASSES)
"""Names of the classes in the labels file: `sitDown`."""


def read_utkinect(path: str | Path, span: tuple[int, int] | None = None) -> SkeletonSequence:
    """Read the frames of `joints_sSS_eEE.txt`, or the ones numbered from `span[0]` to `span[1]`.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt, or has no frame in the span.
    """
    path = Path(path)
    table = read_table(path, 1 + 3 * len(KINECT_V1_20))
    if not np.isfinite(table[:, 0]).all() or (table[:, 0] % 1).any() or not (np.abs(table[:, 0]) < 1e7).all():
        raise InputError(f"'{path}' is corrupt: a frame number is no whole number; copy it again")
    numbers, first = np.unique(table[:, 0].astype(np.int64), return_index=True)
    if span is not None:
        inside = (numbers >= span[0]) & (numbers <= span[1])
        numbers, first = numbers[inside], first[inside]
        if not len(numbers):
            raise InputError(
                f"'{path}' has no frame from {span[0]} to {span[1]}, which {LABELS} lists; copy both again"
            )
    stamps = np.round((numbers - numbers[0]) * (NANOSECONDS / FPS)).astype(np.int64)
    xyz = table[first, 1:].reshape(1, -1, len(KINECT_V1_20), 3)
    return from_kinect(path.stem, xyz, KINECT_V1_20.name, stamps, meta={"format": "utkinect", "fps": FPS})


def read_labels(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Read `actionLabel.txt`: first and last frame by recording ("s01_e01") and class; missing actions are skipped.

    Raises:
        DeviceError: There is no such file.
        InputError: A line is of another form.
    """
    recordings: dict[str, dict[str, tuple[int, int]]] = {}
    spans: dict[str, tuple[int, int]] | None = None
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if len(words) == 1 and re.fullmatch(r"s\d+_e\d+", words[0]):
            spans = recordings.setdefault(words[0], {})
        elif words:
            token, *limits = words
            if spans is None or len(limits) != 2 or token.rstrip(":") not in _TOKENS:
                raise InputError(
                    f"'{path}' line {number}: '{line.strip()[:60]}' is no recording and no action with two frames"
                )
            if not any(limit.lower() == "nan" for limit in limits):
                if not all(_FRAME.fullmatch(limit) for limit in limits) or int(limits[0]) > int(limits[1]):
                    raise InputError(f"'{path}' line {number}: frames {' to '.join(limits)} are no span; copy it again")
                spans[CLASSES[_TOKENS.index(token.rstrip(":"))]] = (int(limits[0]), int(limits[1]))
    return recordings


class Utkinect(PeopleSource):
    """Split "subject": odd subjects train, even ones test.

    The root holds `actionLabel.txt` and the published `joints_sSS_eEE.txt` in any folders. Each labeled action is an
    item; its span in the recording is in the metadata `first` and `last`.
    """

    title: ClassVar = "UTKinect"
    classes = CLASSES
    people: ClassVar = tuple(range(1, 11))
    pattern: ClassVar = r"joints_(s\d+_e\d+)\.txt"

    def published(self) -> list[Entry]:
        """Return every labeled action of the recordings that are there."""
        files = files_by_name(self.root, self.archive, self.pattern)
        found = list(find_files(self.root, lambda path: (str(path), "labels") if path.name == LABELS else None))
        if not found:
            raise DeviceError(f"'{self.root}' holds no {LABELS}, which has the actions of UTKinect: copy it there")
        entries = []
        for recording, spans in read_labels(Path(found[0])).items():
            subject, trial = (int(number) for number in re.findall(r"\d+", recording))
            for name, (first, last) in spans.items() if recording in files else ():
                label = CLASSES.index(name)
                meta = {"action": label + 1, "subject": subject, "trial": trial, "first": first, "last": last}
                if subject not in self.people:
                    raise InputError(
                        f"'{found[0]}' lists '{recording}', but UTKinect has subjects 1 to 10; copy it again"
                    )
                entries.append(Entry(f"{recording}_{_TOKENS[label]}", label, meta, {"skeleton": files[recording]}))
        return entries

    def read_published(self, entry: Entry) -> Clip:
        """Read the clip of an item."""
        span = (int(entry.meta["first"]), int(entry.meta["last"]))
        sequence = read_utkinect(entry.files["skeleton"], span)
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies)
