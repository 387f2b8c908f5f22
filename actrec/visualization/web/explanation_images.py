"""Images that `actrec explain` writes into a folder, for the page of the live view."""

import contextlib
from pathlib import Path
from typing import Any

from actrec.utils.errors import DeviceError

KIND = ".png"


class ExplanationImages:
    """The PNG files of a folder, which may change while the page is shown.

    Raises:
        DeviceError: There is no such folder.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise DeviceError(
                f"there is no folder '{folder}': write the images first: actrec explain MODEL CLIP --out …"
            )
        self.folder = folder

    def listed(self) -> dict[str, Any]:
        """Return the folder, and names and versions of its images, for JSON; none if it cannot be read."""
        found: list[dict[str, Any]] = []
        with contextlib.suppress(OSError):  # it was removed, or is being written
            paths = sorted(path for path in self.folder.iterdir() if path.suffix == KIND)
            found = [{"name": path.name, "version": path.stat().st_mtime_ns} for path in paths]
        return {"folder": str(self.folder), "files": found}

    def read(self, name: str) -> bytes | None:
        """Return an image; None if the folder has none of this name."""
        with contextlib.suppress(OSError):
            if any(each["name"] == name for each in self.listed()["files"]):
                return (self.folder / name).read_bytes()
        return None
