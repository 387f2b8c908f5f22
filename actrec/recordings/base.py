"""Base class and options of all recordings, and their intrinsics."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.calibration_files import check_intrinsics, from_hfov, from_yaml
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, DeviceError, InputError

log = logging.getLogger("actrec.recordings")

INTRINSICS_FILE = "intrinsics.yaml"

INTRINSICS_REMEDY = (
    "give option intrinsics='fx,fy,cx,cy' or a YAML file, put intrinsics.yaml (width, height, fx, fy, cx, cy) beside "
    "the images, or state the field of view with hfov_deg"
)


@dataclass(frozen=True)
class RecordingConfig:
    """Settings that complete or override a recording; empty or 0 uses the recording's own value."""

    color_topic: str = setting("", "Color topic of a bag; empty finds it by type and name")
    depth_topic: str = setting("", "Depth topic of a bag; empty finds it by type and name, 'none' plays without depth")
    camera_info_topic: str = setting("", "CameraInfo topic of a bag; empty takes the color topic's neighbor")
    skeleton_topic: str = setting("", "SkeletonArray topic of a bag without images; empty finds it")
    intrinsics: str = setting("", "Pinhole intrinsics: 'fx,fy,cx,cy' in pixels, or the path of a YAML file")
    hfov_deg: float = setting(0.0, "Horizontal field of view, if no intrinsics are known", unit="degrees",
                              range=(0.0, 179.0))  # fmt: skip
    depth_scale: float = setting(0.0, "Length of one unit of a depth image", unit="m", range=(0.0, 1.0))
    fps: float = setting(0.0, "Frame rate of a recording without stamps; 0 uses the default of its format", unit="Hz",
                         range=(0.0, 1000.0))  # fmt: skip
    sequence: str = setting("", "Sequence of a file with several: its name, or, in quotes, its index from 0")
    mirror: str = setting("auto", "Flip mirrored images back; 'auto' flips NTU RGB+D videos only",
                          choices=("auto", "yes", "no"))  # fmt: skip


class Recording(ABC):
    """Frames on disk, in recorded order; a context manager.

    Attributes:
        path: The file or folder.
        config: The settings.
        intrinsics: Intrinsics of the images; nominal ones for a recording of joints alone.
    """

    intrinsics: Intrinsics

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
    def duration_s(self) -> float:
        """Seconds from the first frame to the last, from the file's header or index."""

    @abstractmethod
    def frames(self, start_s: float = 0.0) -> Iterator[RgbdFrame]:
        """Yield every frame from `start_s` after the first, in order; each call starts again.

        Raises:
            InputError: The recording is corrupt from here on; the message names the file.
        """

    def close(self) -> None:
        """Close the files; safe to call twice."""
        return


def existing(path: str | Path) -> Path:
    """Return `path` with `~` expanded.

    Raises:
        DeviceError: It does not exist.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DeviceError(f"there is no recording '{path}'; check the path")
    return path


def resolve_intrinsics(
    path: Path, config: RecordingConfig, width: int, height: int, folder: Path | None = None
) -> Intrinsics:
    """Return the intrinsics of width×height images of the recording at `path`.

    The option `intrinsics` wins over `intrinsics.yaml` in `folder`, which wins over a field of view.

    Raises:
        InputError: None of these is given, or they are for another image size.
    """
    if config.intrinsics:
        found = _from_option(config.intrinsics, width, height)
    elif folder is not None and (folder / INTRINSICS_FILE).is_file():
        found = from_yaml(folder / INTRINSICS_FILE)
    elif config.hfov_deg > 0:
        log.warning("'%s': assuming a horizontal field of view of %g degrees and no distortion", path, config.hfov_deg)
        found = from_hfov(width, height, config.hfov_deg)
    else:
        raise InputError(f"'{path}' has no intrinsics: {INTRINSICS_REMEDY}")
    if (found.width, found.height) != (width, height):
        raise InputError(
            f"'{path}': the intrinsics are for {found.width}×{found.height} images, but these are {width}×{height}; "
            "give intrinsics for this size"
        )
    return found


def resolve_or_nominal(path: Path, config: RecordingConfig, nominal: Intrinsics) -> Intrinsics:
    """Return the intrinsics from the options, or `nominal` for a recording without images."""
    if config.intrinsics or config.hfov_deg:
        return resolve_intrinsics(path, config, nominal.width, nominal.height)
    return nominal


def _from_option(text: str, width: int, height: int) -> Intrinsics:
    if text.count(",") == 3:
        try:
            fx, fy, cx, cy = (float(value) for value in text.split(","))
            return check_intrinsics(Intrinsics(width, height, fx, fy, cx, cy))
        except ValueError as error:
            raise ConfigError(f"intrinsics is '{text}', expected four numbers 'fx,fy,cx,cy' or a YAML file") from error
    return from_yaml(Path(text).expanduser())
