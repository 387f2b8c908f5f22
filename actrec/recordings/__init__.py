"""Readers of recordings (bags, image folders, videos, skeleton files) and the bag writer."""

import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from actrec.skeleton.sequence import open_npz
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils import gravity
from actrec.utils.calibration_files import TYPICAL_FOV_DEG, from_fov, from_hfov, from_yaml
from actrec.utils.camera_model import make_intrinsics
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.folders import expanded
from actrec.utils.registry import INSTALL_OPENCV, Registry

__all__ = ["FORMATS", "Recording", "RecordingConfig", "detect_format", "open_recording"]
log = logging.getLogger("actrec.recordings")

FORMATS = Registry(
    "recording format",
    {
        "bag": "actrec.recordings.rosbag.image_bag:open_bag",
        "folder": "actrec.recordings.image_folder:FolderRecording",
        "video": "actrec.recordings.video:VideoRecording",
        "skeleton": "actrec.recordings.skeleton_files:SkeletonRecording",
    },
    install={"rosbags": "pip install rosbags", "av": "pip install av", "cv2": INSTALL_OPENCV},
)

BAG_SUFFIXES, PACKED_SUFFIXES = (".mcap", ".db3"), (".zstd", ".zst", ".lz4")
_VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp",
                   ".wmv", ".flv", ".ogv")  # fmt: skip
_SKELETON_SUFFIXES = {".skeleton": "ntu", ".json": "nucla_json", ".mat": "utd_mhad_mat", ".csv": "kinect_v2_csv",
                      ".bvh": "bvh", ".amc": "amc"}  # fmt: skip
_NPZ_KEYS = {
    "nucla_npz": {"name", "label"},
    "kinder_gator_npz": {"order", "seconds"},
    "bandai_namco_npz": {"content", "style"},
    "hdm05_npz": {"actor", "number"},
    "kard_npz": {"joints", "trial"},
    "utd_mhad_npz": {"action", "trial"},
    "cad60_npz": {"action", "joints", "subject"},
}
"""Keys of each archive's arrays besides xyz and length; the first match counts."""

INTRINSICS_FILE = "intrinsics.yaml"

INTRINSICS_REMEDY = (
    "give option intrinsics='fx,fy,cx,cy' or a YAML file, put intrinsics.yaml (width, height, fx, fy, cx, cy) beside "
    "the images, or state the field of view with hfov_deg"
)

MOUNT_OPTION = "--recording mount="
"""How the user sets the mounting in a recording, for warnings."""


@dataclass(frozen=True)
class RecordingConfig:
    """Settings that complete or override a recording; empty or 0 uses the recording's own value."""

    color_topic: str = setting("", "Color topic of a bag; empty finds it by type and name")
    depth_topic: str = setting(
        "", "Depth topic of a bag; empty finds it by type and name, 'none' plays a bag or folder without depth"
    )
    camera_info_topic: str = setting("", "CameraInfo topic of a bag; empty takes the color topic's neighbor")
    skeleton_topic: str = setting("", "SkeletonArray topic of a bag without images; empty finds it")
    intrinsics: str = setting("", "Pinhole intrinsics: 'fx,fy,cx,cy' in pixels, or the path of a YAML file")
    hfov_deg: float = setting(0.0, "Horizontal field of view, if no intrinsics are known", unit="degrees",
                              range=(0.0, 179.0))  # fmt: skip
    depth_scale: float = setting(0.0, "Length of one unit of a depth image", unit="m", range=(0.0, 1000.0))
    fps: float = setting(0.0, "Frame rate of a recording without stamps; 0 uses the default of its format", unit="Hz",
                         range=(0.0, 1000.0))  # fmt: skip
    max_edge: int = setting(0, "Longest edge of a video's images, to which larger ones are scaled; 0: as recorded",
                            unit="px", range=(0, 16384))  # fmt: skip
    sequence: str = setting("", "Sequence of a file with several: its name, or, in quotes, its index from 0")
    mirror: str = setting("auto", "Flip mirrored images back; 'auto' flips NTU RGB+D videos only",
                          choices=("auto", "yes", "no"))  # fmt: skip
    mount: str = setting("auto", "How the camera was mounted: level, upside_down, portrait_left, portrait_right, "
                         "roll and pitch in degrees such as 0,25, or auto: as recorded, else by people and floor; "
                         "a skeleton file that states it keeps its own")  # fmt: skip


class Recording(AbstractContextManager["Recording", None]):
    """Recorded frames in order; a context manager.

    Attributes:
        intrinsics: Intrinsics of the images; nominal ones for a recording with joints only.
        duration_s: Seconds from the first frame to the last, from the file's header or index.
    """

    intrinsics: Intrinsics
    duration_s: float

    def __init__(self, path: Path, config: RecordingConfig):
        self.path = path
        self.config = config
        self._mount = None if config.mount == "auto" else gravity.parse_mount(config.mount)
        self._warned: set[str] = set()

    def __exit__(self, *error: object) -> None:
        self.close()

    def frames(self, start_s: float = 0.0) -> Iterator[RgbdFrame]:
        """Yield every frame from `start_s` after the first, in order; each call starts again.

        `up` comes from the setting `mount`, else from the recording.

        Raises:
            InputError: The recording is corrupt from here on; the message names the file.
        """
        for frame in self._frames(start_s):
            if self._mount is not None:
                frame.up, frame.up_source = self._mount, "setting"
            yield frame

    @abstractmethod
    def _frames(self, start_s: float) -> Iterator[RgbdFrame]:
        """Yield the frames for `frames`, with `up` as recorded."""

    def _warn_once(self, text: str, *values: object) -> None:
        """Log a warning unless an earlier call of `frames` did."""
        if (line := text % values) not in self._warned:
            self._warned.add(line)
            log.warning("%s", line)

    def close(self) -> None:
        """Close the files; safe to call twice."""
        return


def open_recording(path: str | Path, config: RecordingConfig | None = None, format: str = "auto") -> Recording:
    """Open a recording of any known format (a name in `FORMATS`, or "auto"); a context manager.

    Raises:
        DeviceError: The path does not exist.
        InputError: The recording is corrupt, of no known format, or incomplete.
        ConfigError: An option does not fit the recording.
        MissingLibraryError: A library is not installed; the message names the package.
    """
    name = detect_format(path) if format == "auto" else format
    recording: Recording = FORMATS.create(name, path=path, config=config or RecordingConfig())
    if recording.config.mirror != "yes" or name == "video":  # which flips while it decodes
        return recording
    return _FlippedRecording(recording)


class _FlippedRecording(Recording):
    """A recording of mirrored images, which are flipped back."""

    def __init__(self, recording: Recording):
        super().__init__(recording.path, recording.config)
        self._recording = recording
        self.intrinsics, self.duration_s = recording.intrinsics.mirrored(), recording.duration_s

    def _frames(self, start_s: float) -> Iterator[RgbdFrame]:
        for frame in self._recording._frames(start_s):
            if frame.color is None:
                raise ConfigError(f"'{self.path}' has joints without images: mirror=yes is for mirrored images alone")
            color, depth = (
                None if image is None else np.ascontiguousarray(image[:, ::-1]) for image in (frame.color, frame.depth)
            )
            yield replace(frame, color=color, depth=depth, intrinsics=frame.intrinsics.mirrored())

    def close(self) -> None:
        self._recording.close()


def existing_path(path: str | Path) -> Path:
    """Return `path` with `~` expanded.

    Raises:
        DeviceError: There is no such file or folder.
    """
    path = expanded(path)
    try:
        is_there = path.exists()
    except OSError as error:  # before Python 3.14, in a folder of another user
        raise DeviceError(f"recording '{path}' cannot be read: {error.strerror}") from error
    if not is_there:
        raise DeviceError(f"there is no recording '{path}'; check the path")
    if not (path.is_file() or path.is_dir()):
        raise DeviceError(f"'{path}' is a pipe or a device, no recording: copy it to a file, or take driver webcam")
    return path


def detect_format(path: str | Path) -> str:
    """Return the name in `FORMATS` of the recording at `path`.

    Raises:
        DeviceError: The path does not exist or cannot be read.
        InputError: The format is unknown; the message lists the known ones.
    """
    path = existing_path(path)
    if path.is_dir():
        try:
            files = [path / "metadata.yaml", *filter(_is_bag, path.iterdir())]
            return "bag" if any(file.is_file() for file in files) else "folder"
        except OSError as error:
            raise DeviceError(f"cannot read '{path}': {error.strerror}") from error
    if path.suffix.lower() in _VIDEO_SUFFIXES:
        return "video"
    if _is_bag(path):
        return "bag"
    if path.suffix == ".bag":
        raise InputError(
            f"'{path}' is a ROS 1 bag: convert it with `rosbags-convert --src '{path}' --dst NEW`; or, if librealsense "
            "recorded it, play it with driver realsense and its option recording"
        )
    if skeleton_format(path) is not None:
        return "skeleton"
    raise InputError(
        f"'{path}' is not a known recording: expected a bag (.mcap, .db3, their folder), a folder of images, a video "
        f"({', '.join(_VIDEO_SUFFIXES)}) or a skeleton file (.skeleton, .json, .mat, .npz, .csv, .bvh, .amc); "
        "or convert it, e.g. ffmpeg -i IN OUT.mp4"
    )


def _is_bag(path: Path) -> bool:
    name = path.stem if path.suffix in PACKED_SUFFIXES else path.name
    return name.endswith(BAG_SUFFIXES)


def skeleton_format(path: Path) -> str | None:
    """Return the name in `actrec.recordings.skeleton_files.FORMATS` of a skeleton file, or None for any other file.

    Raises:
        InputError: An .npz file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix != ".npz" or not path.is_file():
        return _SKELETON_SUFFIXES.get(suffix)
    try:
        with open_npz(path) as archive:
            keys = set(archive.files)
    except InputError:
        raise
    except Exception as error:  # zipfile and numpy raise various errors for a damaged file
        raise InputError(f"'{path}' is corrupt or not an .npz archive; copy it again ({error})") from error
    found = next((name for name, own in _NPZ_KEYS.items() if {"xyz", "length"} | own <= keys), None)
    return found or ("npz" if "positions" in keys else None)


def resolve_intrinsics(
    path: Path, config: RecordingConfig, width: int, height: int, folder: Path | None = None, estimate: bool = False
) -> Intrinsics:
    """Return the intrinsics of width×height images of the recording at `path`.

    In order of precedence: the option `intrinsics`, `intrinsics.yaml` in `folder`, the option `hfov_deg`. With
    `estimate`, for images without depth, a typical field of view is assumed otherwise, with a warning.

    Raises:
        ConfigError: The option is neither four numbers nor a file.
        InputError: None of these is given, or they are for another image size.
    """
    text = config.intrinsics
    if text.count(",") == 3:
        try:
            fx, fy, cx, cy = (float(value) for value in text.split(","))
            return make_intrinsics("intrinsics", width, height, [fx, 0, cx, 0, fy, cy, 0, 0, 1])
        except (ValueError, InputError) as error:
            raise ConfigError(
                f"intrinsics is '{text}', expected four numbers 'fx,fy,cx,cy' or a YAML file ({error})"
            ) from error
    if text:
        camera = from_yaml(expanded(text))
    elif folder is not None and (folder / INTRINSICS_FILE).is_file():
        camera = from_yaml(folder / INTRINSICS_FILE)
    elif config.hfov_deg > 0:
        log.warning("'%s': assuming a horizontal field of view of %g degrees and no distortion", path, config.hfov_deg)
        camera = from_hfov(width, height, config.hfov_deg)
    elif estimate:
        text = "'%s': assuming a field of view of %g degrees along the longer edge, by which distances are estimated"
        log.warning(f"{text}; set hfov_deg or intrinsics if you know them", path, TYPICAL_FOV_DEG)
        camera = from_fov(width, height, TYPICAL_FOV_DEG)
    else:
        raise InputError(f"'{path}' has no intrinsics: {INTRINSICS_REMEDY}")
    if (camera.width, camera.height) != (width, height):
        raise InputError(
            f"'{path}': the intrinsics are for {camera.width}×{camera.height} images, but these are {width}×{height}; "
            "give intrinsics for this size"
        )
    return camera


def resolve_nominal_intrinsics(path: Path, config: RecordingConfig, nominal: Intrinsics) -> Intrinsics:
    """Return the intrinsics of a recording without images: from the options, else `nominal`."""
    if config.intrinsics or config.hfov_deg:
        return resolve_intrinsics(path, config, nominal.width, nominal.height)
    return nominal
