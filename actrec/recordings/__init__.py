"""Readers of recordings (bags, image folders, videos, skeleton files) and the bag writer."""

from pathlib import Path
from typing import Any

from actrec.recordings.base import Recording, RecordingConfig, existing
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.registry import Registry

__all__ = ["FORMATS", "Recording", "RecordingConfig", "open_recording", "sniff"]

FORMATS = Registry(
    "recording format",
    {
        "bag": "actrec.recordings.rosbag:open_bag",
        "folder": "actrec.recordings.image_folder:FolderRecording",
        "video": "actrec.recordings.video:VideoRecording",
        "skeleton": "actrec.recordings.skeleton_files:SkeletonRecording",
    },
    install={"rosbags": "pip install rosbags", "av": "pip install av", "cv2": "pip install opencv-contrib-python"},
)

_VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")


def sniff(path: str | Path) -> str:
    """Return the name in `FORMATS` of the recording at `path`.

    Raises:
        DeviceError: The path does not exist or cannot be read.
        InputError: The format is unknown; the message lists the known ones.
    """
    from actrec.recordings import skeleton_files

    path = existing(path)
    if path.is_dir():
        files = [path / "metadata.yaml", *path.glob("*.mcap"), *path.glob("*.db3")]
        try:
            return "bag" if any(file.is_file() for file in files) else "folder"
        except OSError as error:
            raise DeviceError(f"cannot read '{path}': {error.strerror}") from error
    if path.suffix.lower() in _VIDEO_SUFFIXES:
        return "video"
    if path.suffix in (".mcap", ".db3"):
        return "bag"
    if path.suffix == ".bag":
        raise InputError(
            f"'{path}' is a ROS 1 bag: convert it with `rosbags-convert --src '{path}' --dst NEW`; or, if librealsense "
            "recorded it, play it with driver realsense and its option recording"
        )
    if path.suffix == ".zstd":
        raise InputError(f"'{path}' is part of a compressed bag: play the bag's folder, or unpack it first (zstd -d)")
    if skeleton_files.sniff(path) is not None:
        return "skeleton"
    raise InputError(
        f"'{path}' is not a known recording: expected a bag (.mcap, .db3, their folder), a folder of images, a video "
        f"({', '.join(_VIDEO_SUFFIXES)}) or a skeleton file (.skeleton, .json, .mat, .npz, .csv); or give its format: "
        f"{', '.join(FORMATS.names())}"
    )


def open_recording(path: str | Path, config: RecordingConfig | None = None, format: str = "auto") -> Recording:
    """Open a recording of any known format; a context manager.

    Args:
        path: The file or folder.
        config: Settings that complete or override the recording.
        format: A name in `FORMATS`, or "auto".

    Raises:
        DeviceError: The path does not exist.
        InputError: The recording is corrupt, of no known format, or incomplete.
        ConfigError: An option does not fit it.
        MissingLibraryError: A library is not installed; the message names the package.
    """
    name = sniff(path) if format == "auto" else format
    arguments: dict[str, Any] = {"path": path, "config": config or RecordingConfig()}
    recording: Recording = FORMATS.create(name, **arguments)
    return recording
