"""UTD-MHAD (Chen et al., ICIP 2015): 27 actions, 8 subjects, Kinect v1."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from actrec.errors import DeviceError, InputError
from actrec.frames import RgbdFrame
from actrec.recordings.utd_mhad import CLASSES, parse_name, read_utd_mhad_mat, read_utd_mhad_npz
from actrec.recordings.utd_mhad_depth import INTRINSICS, read_utd_mhad_depth
from actrec_models.data.archive import ArchiveSource, files_by_name
from actrec_models.data.clips import Clip, clip_of
from actrec_models.data.source import Entry

KEYS = ("action", "subject", "trial")
PUBLISHED = {"skeleton": "skeleton.mat", "depth": "depth.mat", "colour": "color.avi"}
"""How the names of an item's files end, by kind."""


class UtdMhad(ArchiveSource):
    """Split "subject", the official one: odd subjects train (431 clips), even ones test (430).

    Root holds `utd_mhad_skeletons.npz`, or the files as published: `aA_sS_tT_skeleton.mat` and, where they are,
    `…_depth.mat` and `…_color.avi`, in whatever folders. Clips are skeletons; the other files stand in `Entry.files`.
    """

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

    def published(self) -> list[Entry]:
        """As the base says."""
        files = {kind: self._files(kind) for kind in PUBLISHED}
        entries = []
        for name, path in files["skeleton"].items():
            meta = parse_name(name)
            if not (1 <= meta["action"] <= len(CLASSES) and 1 <= meta["subject"] <= 8):
                raise InputError(
                    f"'{path}' is of an action or a subject that UTD-MHAD does not have; move it elsewhere"
                )
            own = {kind: paths[name] for kind, paths in files.items() if name in paths}
            entries.append(Entry(name, meta["action"] - 1, meta, own))
        return sorted(entries, key=lambda entry: [entry.meta[key] for key in KEYS])

    def _files(self, kind: str) -> dict[str, Path]:
        try:
            return files_by_name(self.root, self.archive, rf"(a\d+_s\d+_t\d+)_{PUBLISHED[kind]}")
        except DeviceError:
            if kind == "skeleton":
                raise
            return {}

    def read_published(self, entry: Entry) -> Clip:
        """As the base says."""
        return clip_of(read_utd_mhad_mat(entry.files["skeleton"]), entry.label)

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """The depth maps, without colour: what the two cameras are to one another is not published.

        Raises:
            InputError: There are none, or not as many as frames of the skeleton; names both counts.
        """
        if "depth" not in entry.files:
            raise self.no_pictures(entry, f"{entry.name}_depth.mat")
        stamps, maps = self.read(entry).stamps_ns, read_utd_mhad_depth(entry.files["depth"])
        if len(maps) != len(stamps):
            raise InputError(
                f"'{entry.files['depth']}' has {len(maps)} frames but its skeleton {len(stamps)}: copy both again"
            )
        pairs = zip(stamps, maps, strict=True)
        return (RgbdFrame(int(stamp), None, depth, INTRINSICS) for stamp, depth in pairs)

    def part(self, entry: Entry, split: str) -> str:
        """As the base says."""
        self.check(split)
        return "train" if int(entry.meta["subject"]) % 2 else "test"
