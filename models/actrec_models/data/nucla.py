"""Northwestern-UCLA (Wang et al., CVPR 2014): 10 actions, 10 subjects, 3 views, Kinect v1."""

from typing import ClassVar

from actrec.errors import InputError
from actrec.recordings.nucla import CLASSES, parse_name, read_nucla_json, read_nucla_npz
from actrec_models.data.archive import ArchiveSource, files_by_name
from actrec_models.data.clips import Clip, clip_of
from actrec_models.data.source import Entry

KEYS = ("action", "subject", "episode", "view")
ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)
"""What the names of the files call the ten classes."""


class Nucla(ArchiveSource):
    """Split "view", the official one: views 1 and 2 train (1,020 clips), view 3 tests (464).

    Root holds `nucla_skeletons.npz`, or the sequences as published: `aAA_sSS_eEE_vVV.json` in whatever folders.
    """

    classes = CLASSES
    splits: ClassVar = ("view",)
    archive: ClassVar = "nucla_skeletons.npz"

    def read_all(self) -> list[tuple[Entry, Clip]]:
        """As the base says."""
        path, read = self.root / self.archive, []
        for s in read_nucla_npz(path):
            clip = clip_of(s, (s.label or 0) - 1)
            read.append((Entry(s.name, clip.label, {k: s.meta[k] for k in KEYS}, {"skeleton": path}), clip))
        return read

    def published(self) -> list[Entry]:
        """As the base says."""
        files = files_by_name(self.root, self.archive, r"(a\d+_s\d+_e\d+_v\d+)\.json")
        entries = []
        for name, path in files.items():
            meta = parse_name(name)
            if meta["action"] not in ACTIONS or not 1 <= meta["view"] <= 3:
                raise InputError(f"'{path}' is of an action or a view that N-UCLA does not have; move it elsewhere")
            entries.append(Entry(name, ACTIONS.index(meta["action"]), meta, {"skeleton": path}))
        return entries

    def read_published(self, entry: Entry) -> Clip:
        """As the base says; a file that says another name or label than its own is refused."""
        path = entry.files["skeleton"]
        sequence = read_nucla_json(path)
        if (sequence.name, sequence.label) != (entry.name, entry.label + 1):
            raise InputError(
                f"'{path}' says that it is {sequence.name} of class {sequence.label}, but its name that it is "
                f"{entry.name} of class {entry.label + 1}; copy it again"
            )
        return clip_of(sequence, entry.label)

    def part(self, entry: Entry, split: str) -> str:
        """As the base says."""
        self.check(split)
        return "test" if entry.meta["view"] == 3 else "train"
