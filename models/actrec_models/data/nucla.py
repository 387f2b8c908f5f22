"""Northwestern-UCLA (Wang et al., CVPR 2014): 10 actions, 10 subjects, 3 views, Kinect v1."""

from typing import ClassVar

from actrec.recordings.nucla import CLASSES, read_nucla_npz
from actrec_models.data.archive import ArchiveSource
from actrec_models.data.clips import Clip, clip_of
from actrec_models.data.source import Entry

KEYS = ("action", "subject", "episode", "view")


class Nucla(ArchiveSource):
    """Split "view", the official one: views 1 and 2 train (1,020 clips), view 3 tests (464)."""

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

    def part(self, entry: Entry, split: str) -> str:
        """As the base says."""
        self.check(split)
        return "test" if entry.meta["view"] == 3 else "train"
