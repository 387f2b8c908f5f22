"""UTD-MHAD (Chen et al., ICIP 2015): 27 actions, 8 subjects, Kinect v1."""

from typing import ClassVar

from actrec.recordings.utd_mhad import CLASSES, read_utd_mhad_npz
from actrec_models.data.archive import ArchiveSource
from actrec_models.data.clips import Clip, clip_of
from actrec_models.data.source import Entry

KEYS = ("action", "subject", "trial")


class UtdMhad(ArchiveSource):
    """Split "subject", the official one: odd subjects train (431 clips), even ones test (430)."""

    classes = CLASSES
    splits: ClassVar = ("subject",)
    archive: ClassVar = "utd_mhad_skeletons.npz"

    def read_all(self) -> list[tuple[Entry, Clip]]:
        """As the base says."""
        path, read = self.root / self.archive, []
        for s in read_utd_mhad_npz(path):
            clip = clip_of(s, (s.label or 0) - 1)
            read.append((Entry(s.name, clip.label, {k: s.meta[k] for k in KEYS}, {"skeleton": path}), clip))
        return read

    def part(self, entry: Entry, split: str) -> str:
        """As the base says."""
        self.check(split)
        return "train" if int(entry.meta["subject"]) % 2 else "test"
