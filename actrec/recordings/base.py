"""What every reader of recordings offers, and the options that they share."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.calibration_files import _possible, from_hfov, from_yaml
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, DeviceError, InputError

log = logging.getLogger("actrec.recordings")


@dataclass(frozen=True)
class RecordingConfig:
    """What a recording does not tell of itself. Empty or 0 means: as the recording says."""

    color_topic: str = setting("", "Color topic of a bag; empty finds it by type and name")
    depth_topic: str = setting("", "Depth topic of a bag; empty finds it by type and name, 'none' plays without depth")
    camera_info_topic: str = setting("", "CameraInfo topic of a bag; empty takes the color topic's neighbor")
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


FILE_NAME = "intrinsics.yaml"

REMEDY = (
    "give option intrinsics='fx,fy,cx,cy' or a YAML file, put intrinsics.yaml (width, height, fx, fy, cx, cy) beside "
    "the images, or state the field of view with hfov_deg"
)


def _from_option(text: str, width: int, height: int) -> Intrinsics:
    if text.count(",") == 3:
        try:
            fx, fy, cx, cy = (float(value) for value in text.split(","))
            return _possible(Intrinsics(width, height, fx, fy, cx, cy))
        except ValueError as error:
            raise ConfigError(f"intrinsics is '{text}', expected four numbers 'fx,fy,cx,cy' or a YAML file") from error
    return from_yaml(Path(text).expanduser())


def resolve(path: Path, config: RecordingConfig, width: int, height: int, beside: Path | None = None) -> Intrinsics:
    """The intrinsics of width×height images of the recording at `path`.

    An option wins over `intrinsics.yaml` in the folder `beside`, which wins over a field of view.

    Raises:
        InputError: Nothing says what they are, or they are of another image size.
    """
    if config.intrinsics:
        found = _from_option(config.intrinsics, width, height)
    elif beside is not None and (beside / FILE_NAME).is_file():
        found = from_yaml(beside / FILE_NAME)
    elif config.hfov_deg > 0:
        log.warning("'%s': assuming a horizontal field of view of %g degrees and no distortion", path, config.hfov_deg)
        found = from_hfov(width, height, config.hfov_deg)
    else:
        raise InputError(f"'{path}' has no intrinsics: {REMEDY}")
    if (found.width, found.height) != (width, height):
        raise InputError(
            f"'{path}': the intrinsics are of {found.width}×{found.height} images, but these are {width}×{height}; "
            "give those of this size"
        )
    return found
