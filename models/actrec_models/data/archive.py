"""Datasets that lie in one small archive, read whole."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from actrec_models.data.clips import Clip
from actrec_models.data.source import Entry, Source


class ArchiveSource(Source):
    """A dataset whose clips are all read, once, when the first is asked for.

    Attributes:
        archive: Name of its file in the root.
    """

    archive: ClassVar[str]

    def __init__(self, root: str | Path):
        super().__init__(root)
        self._read: dict[str, tuple[Entry, Clip]] | None = None

    @abstractmethod
    def read_all(self) -> list[tuple[Entry, Clip]]:
        """Every item and its clip.

        Raises:
            DeviceError: The dataset is not there.
            InputError: It is corrupt.
        """

    def entries(self) -> list[Entry]:
        """As the base says."""
        return [entry for entry, _ in self._all().values()]

    def read(self, entry: Entry) -> Clip:
        """As the base says."""
        return self._all()[entry.name][1]

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """SHA-256 over names and joints."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for entry in entries:
            digest.update(f"{entry.name} {entry.label}".encode())
            digest.update(self.read(entry).bodies.tobytes())
        return digest.hexdigest()

    def _all(self) -> dict[str, tuple[Entry, Clip]]:
        if self._read is None:
            self._read = {entry.name: (entry, clip) for entry, clip in self.read_all()}
        return self._read

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": None}  # another process reads its own
