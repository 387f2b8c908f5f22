"""What every reader of recordings offers, and the options that they share."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from actrec.config import setting
from actrec.errors import DeviceError
from actrec.frames import Intrinsics, RgbdFrame

log = logging.getLogger("actrec.recordings")


@dataclass(frozen=True)
class RecordingConfig:
    """What a recording does not tell of itself. Empty or 0 means: as the recording says."""

    colour_topic: str = setting("", "Colour topic of a bag; empty finds it by type and name")
    depth_topic: str = setting("", "Depth topic of a bag; empty finds it by type and name, 'none' plays without depth")
    camera_info_topic: str = setting("", "CameraInfo topic of a bag; empty takes the colour topic's neighbour")
    skeleton_topic: str = setting("", "SkeletonArray topic of a bag without images; empty finds it")
    intrinsics: str = setting("", "Pinhole intrinsics: 'fx,fy,cx,cy' in pixels, or the path of a YAML file")
    hfov_deg: float = setting(0.0, "Horizontal field of view assumed where nothing better is known", unit="degrees",
                              range=(0.0, 179.0))  # fmt: skip
    depth_scale: float = setting(0.0, "Length of one unit of a depth image", unit="m", range=(0.0, 1.0))
    fps: float = setting(0.0, "Frame rate of a recording without stamps; 0 takes its format's own", unit="Hz",
                         range=(0.0, 1000.0))  # fmt: skip
    sequence: str = setting("", "Which sequence of a file with several: its name, or, in quotes, its index from 0")
    mirror: str = setting("auto", "Turns mirrored images back; 'auto' does so for NTU RGB+D videos alone",
                          choices=("auto", "yes", "no"))  # fmt: skip


class Recording(ABC):
    """Frames on disk, in recorded order. A context manager.

    Attributes:
        path: The file or folder.
        config: The options it was opened with.
    """

    def __init__(self, path: Path, config: RecordingConfig):
        self.path = path
        self.config = config

    def __enter__(self) -> "Recording":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    @abstractmethod
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images."""

    @property
    @abstractmethod
    def duration_s(self) -> float:
        """Seconds from the first frame to the last, as far as the format tells without reading it all."""

    @abstractmethod
    def frames(self, start_s: float = 0.0) -> Iterator[RgbdFrame]:
        """Every frame from `start_s` after the first, in order; each call starts anew.

        Raises:
            InputError: The recording is corrupt from here on; the message names the file.
        """

    def close(self) -> None:
        """Lets go of the files; safe to call twice."""
        return


def existing(path: str | Path) -> Path:
    """`path`, made sure of.

    Raises:
        DeviceError: There is nothing there.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DeviceError(f"there is no recording '{path}'; check the path")
    return path
