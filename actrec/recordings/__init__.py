"""Readers of recordings: bags, color and depth folders, videos, skeleton files; and the bag writer."""

from pathlib import Path
from typing import Any

from actrec.recordings.base import Recording, RecordingConfig, existing
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.registry import Registry

FORMATS = Registry(
    "recording format",
    {
        "bag": "actrec.recordings.rosbag.reader:open_bag",
        "folder": "actrec.recordings.image_folder:FolderRecording",
        "video": "actrec.recordings.video:VideoRecording",
        "skeleton": "actrec.recordings.skeleton_playback:SkeletonRecording",
    },
    install={"rosbags": "pip install rosbags", "av": "pip install av", "cv2": "pip install opencv-contrib-python"},
)

_VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")


def sniff(path: str | Path) -> str:
    """The name in `FORMATS` of the recording at `path`.

    Raises:
        DeviceError: There is nothing there, or it cannot be read.
        InputError: It is of no known format; lists those.
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
            f"'{path}' is a bag of ROS 1: convert it with `rosbags-convert --src '{path}' --dst NEW`, or, where "
            "librealsense recorded it, play it with driver realsense and its option recording"
        )
    if path.suffix == ".zstd":
        raise InputError(f"'{path}' is a file of a compressed bag: play the bag's folder, or unpack it first (zstd -d)")
    if skeleton_files.sniff(path) is not None:
        return "skeleton"
    raise InputError(
        f"'{path}' is no recording that is known by its name: bags (.mcap, .db3, their folder), folders of images, "
        f"videos ({', '.join(_VIDEO_SUFFIXES)}), skeleton files (.skeleton, .json, .mat, .npz, .csv); or name its "
        f"format: {', '.join(FORMATS.names())}"
    )


def open_recording(path: str | Path, config: RecordingConfig | None = None, format: str = "auto") -> Recording:
    """Opens a recording of any known format; a context manager.

    Args:
        path: The file or folder.
        config: What the recording does not tell of itself.
        format: A name in `FORMATS`, or "auto".

    Raises:
        DeviceError: There is nothing there.
        InputError: It is corrupt, of no known format, or lacks what its frames need.
        ConfigError: An option does not fit it.
        MissingLibraryError: A library is not installed; says how to install it.
    """
    name = sniff(path) if format == "auto" else format
    arguments: dict[str, Any] = {"path": path, "config": config or RecordingConfig()}
    recording: Recording = FORMATS.create(name, **arguments)
    return recording
