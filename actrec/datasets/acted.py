"""Everyday actions as the procedural actor performs them (`actrec.simulation.performances.gestures`), without files."""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.base import Clip, Entry, Source
from actrec.datasets.fingerprints import content
from actrec.simulation import actions, posture
from actrec.simulation.performances import gestures, movements, others, performance
from actrec.simulation.performances.gestures import MAKERS, NO_CLASS, perform
from actrec.utils import config
from actrec.utils.config import setting

_UNKNOWN = 4  # performances of waiting for one of each class
_PEOPLE = 20
_HZ = 20.0


@dataclass(frozen=True)
class ActedConfig:
    """Options of the dataset."""

    clips: int = setting(80, "performances of each class", range=(1, 10_000))


class Acted(Source):
    """Performances of the procedural actor, every one different and always the same; every second person tests."""

    classes = tuple(name for name in MAKERS if name not in NO_CLASS)
    splits: ClassVar = ("people",)
    caveat: ClassVar = "performed by a procedural actor, without the noise of a sensor"
    license: ClassVar = "the same as actrec"
    has_files: ClassVar = False

    def __init__(self, root: str | Path = "", **options: Any):
        super().__init__(root)
        self.config = config.build(ActedConfig, options)

    def entries(self) -> list[Entry]:
        """Return the performances of each class."""
        return [
            e for label, name in enumerate(self.classes) for e in self._performances(name, label, self.config.clips)
        ]

    def unknown_entries(self) -> list[Entry]:
        """Return performances of waiting, and of actions that are in no class."""
        return [e for name in NO_CLASS for e in self._performances(name, -1, _UNKNOWN * self.config.clips)]

    def _performances(self, name: str, label: int, count: int) -> list[Entry]:
        # A prepared store performs an item again if the code has changed.
        meta = {"code": hashlib.sha256(_code()).hexdigest()[:16]}
        return [Entry(f"{name} {k}", label, {"subject": k % _PEOPLE, "take": k, **meta}) for k in range(count)]

    def read(self, entry: Entry) -> Clip:
        """Perform an item."""
        name = self.classes[entry.label] if entry.label >= 0 else entry.name.split()[0]
        stamps_ns, joints = perform(name, (zlib.crc32(name.encode()), int(entry.meta["take"])), hz=_HZ)
        return Clip(entry.name, entry.label, stamps_ns, joints[None].astype(np.float32))

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item."""
        self.check(split)
        return "test" if int(entry.meta["subject"]) % 2 else "train"

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return the SHA-256 of the items' names and of the code that performs them."""
        digest = hashlib.sha256("\n".join(f"{entry.name} {entry.label}" for entry in entries).encode())
        digest.update(_code())
        return digest.hexdigest()


def _code() -> bytes:
    """Return the code that performs the items."""
    modules = (gestures, movements, others, performance, posture, actions)
    return b"".join(part for module in modules for part in content(Path(str(module.__file__))))
