"""What lies in a folder of NTU RGB+D: samples by name, their videos and depth maps, the list of incomplete ones."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from actrec.datasets.base import closed, no_folder, walk
from actrec.datasets.ntu.actions import ACTIONS
from actrec.datasets.ntu.skeletons import parse_name
from actrec.skeleton.sequence import read_text
from actrec.utils.errors import DeviceError, InputError

_NAME = re.compile(r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}")

_VIDEO = re.compile(rf"({_NAME.pattern})_rgb\.(?:avi|mp4)", re.IGNORECASE)

DEPTH = re.compile(r"M?Depth-(\d+)\.png", re.IGNORECASE)
"""A depth map: whole, or of the bodies alone."""

_LIST_HEAD = re.compile(r"(\d+) of the captured samples")

_LARGEST = {"setup": 32, "camera": 3, "subject": 106, "replication": 2, "action": len(ACTIONS)}


def read_list(path: Path) -> frozenset[str]:
    """The names in a published list of samples with missing skeletons: a head that says how many, then a name a line.

    A name that the root has no file of is no error: nothing is to be left out.

    Raises:
        DeviceError: There is no such file.
        InputError: A line is no name, names twice what was named, or there are not as many as the head says.
    """
    lines = read_text(path).splitlines()
    promised = [int(match[1]) for line in lines if (match := _LIST_HEAD.match(line))]
    begin = next((i for i, line in enumerate(lines) if _NAME.fullmatch(line.strip())), len(lines))
    names: set[str] = set()
    for number, line in enumerate(lines[begin:], start=begin + 1):
        name = line.strip()
        if not name:
            continue
        if not _NAME.fullmatch(name):
            raise InputError(f"'{path}' line {number}: '{name[:40]}' is no sample's name; copy the list again")
        if name in names:
            raise InputError(f"'{path}' line {number}: {name} is listed twice; copy the list again")
        names.add(name)
    if not names or (promised and promised[0] != len(names)):
        expected = f", its head says {promised[0]}" if promised else ""
        raise InputError(f"'{path}' names {len(names)} samples{expected}: it is truncated; copy the list again")
    return frozenset(names)


@dataclass
class NtuFiles:
    """What lies under a root: by sample, its skeleton, video and folder of depth maps."""

    root: Path
    skeletons: dict[str, Path] = field(default_factory=dict)
    videos: dict[str, Path] = field(default_factory=dict)
    depths: dict[str, Path] = field(default_factory=dict)
    masked: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def under(cls, root: Path) -> "NtuFiles":
        """All that lies in a folder and those in it.

        Raises:
            DeviceError: There is no such folder, or no `.skeleton` file in it.
            InputError: A `.skeleton` file bears another name than the dataset's, or a sample is there twice.
        """
        if not root.is_dir():
            raise no_folder(root)
        files = cls(root)
        for folder, names in _walk(root, files):
            for name in names:
                files.take(folder, name)
        if not files.skeletons:
            raise DeviceError(f"'{root}' holds no .skeleton file; give the folder that nturgb+d_skeletons lies in")
        return files

    def take(self, folder: Path, name: str) -> None:
        """Notes a file; not a hidden one: a Mac puts a `._` beside each file on a disk that is not its own."""
        if name.startswith("."):
            return
        if name.endswith(".skeleton"):
            sample = name.removesuffix(".skeleton")
            if not _NAME.fullmatch(sample):
                raise InputError(f"'{folder / name}' is not named SsssCcccPpppRrrrAaaa.skeleton; move it elsewhere")
            self.put(self.skeletons, sample, folder / name)
        elif match := _VIDEO.fullmatch(name):
            self.put(self.videos, match[1].upper(), folder / name)

    def put(self, found: dict[str, Path], sample: str, path: Path) -> None:
        """Notes what belongs to a sample, once."""
        if sample in found:
            raise InputError(f"'{path}' and '{found[sample]}' are of the same sample; remove one of them")
        found[sample] = path

    def of(self, sample: str) -> dict[str, Path]:
        """What belongs to a sample."""
        depths = self.depths if sample in self.depths else self.masked  # whole maps before those of the bodies alone
        kinds = {"skeleton": self.skeletons, "color": self.videos, "depth": depths}
        return {kind: paths[sample] for kind, paths in kinds.items() if sample in paths}


def _walk(root: Path, files: NtuFiles) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and its files, but for those of depth maps, which are noted and not listed: they hold millions."""
    for folder, folders, names in walk(root):
        for name in [name for name in folders if _NAME.fullmatch(name) and _holds_depth(Path(folder, name))]:
            masked = "masked" in Path(folder).name.lower()
            files.put(files.masked if masked else files.depths, name, Path(folder, name))
            folders.remove(name)
        yield Path(folder), names


def _holds_depth(folder: Path) -> bool:
    """Whether a folder named as a sample is of depth maps, by the first things in it, or empty; not of its skeleton."""
    try:
        with os.scandir(folder) as inside:
            first = [item.name for item in islice(inside, 8)]
        return not first or any(DEPTH.fullmatch(name) for name in first)
    except OSError as error:
        raise closed(error) from error


def sample_meta(path: Path) -> dict[str, int]:
    """Setup, camera, subject, replication and action from a file's name.

    Raises:
        InputError: NTU RGB+D 120 has no such.
    """
    meta = parse_name(path.stem)
    for key, value in meta.items():
        if not 1 <= value <= _LARGEST[key]:
            raise InputError(f"'{path}' is of {key} {value}, but NTU RGB+D 120 has 1 to {_LARGEST[key]}; move it away")
    return meta
