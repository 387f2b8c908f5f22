"""What the Kinect saw of an NTU RGB+D sample: color and depth registered to it, turned back from the mirroring."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from actrec.datasets.ntu.cameras import NtuCameras, fit_cameras
from actrec.datasets.ntu.files import DEPTH
from actrec.datasets.ntu.skeletons import DEPTH_SIZE, read_ntu_file
from actrec.datasets.video_streams import ColorVideo
from actrec.recordings.image_decoding import MILLIMETER, depth_in_meters
from actrec.types import RgbdFrame
from actrec.utils import files
from actrec.utils.errors import DeviceError, InputError


def ntu_frames(skeleton: Path, video: ColorVideo, depth: Path | None) -> Iterator[RgbdFrame]:
    """The frames of a sample, in pictures of the video's size.

    Args:
        skeleton: The `.skeleton` file, from whose joints the cameras are found.
        video: Its color video, mirrored back.
        depth: Folder of its depth maps, `Depth-00000001.png` or `MDepth-00000001.png` and on, whole or of the bodies
            alone; None where there are none. A frame whose map is not there was lost, and is left out.

    Raises:
        DeviceError: A file is not there.
        InputError: A file is corrupt or empty, or the joints are too few to find the cameras from; names it.
    """
    cameras = cameras_of(skeleton)
    maps = None if depth is None else _maps(depth)
    for number, frame in enumerate(video.frames(cameras.color), start=1):
        if maps is None:
            yield frame
        elif number in maps:
            registered = cameras.register(_read(maps[number]), frame.intrinsics.width, frame.intrinsics.height)
            yield replace(frame, depth=registered)


def cameras_of(skeleton: Path) -> NtuCameras:
    """The cameras that a sample's joints and their pixels tell.

    Raises:
        DeviceError: There is no such file.
        InputError: It is corrupt or empty, or its joints are too few; names it.
    """
    try:
        return fit_cameras(read_ntu_file(skeleton))
    except InputError as error:
        raise InputError(f"'{skeleton}': {error}") from error


def _maps(folder: Path) -> dict[int, Path]:
    """Depth maps by the number of their frame, from 1."""
    if not folder.is_dir():
        raise DeviceError(f"there is no folder '{folder}'; check the path")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if match := DEPTH.fullmatch(path.name):
            if int(match[1]) in found:
                raise InputError(f"'{path}' and '{found[int(match[1])].name}' are of the same frame; remove one kind")
            found[int(match[1])] = path
    if not found:
        raise InputError(f"'{folder}' holds no depth map (Depth-00000001.png or MDepth-00000001.png and on)")
    return found


def _read(path: Path) -> np.ndarray:
    image = files.read_image(path, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"'{path}' is no picture, or truncated; copy it again")
    if image.dtype != np.uint16 or image.shape != DEPTH_SIZE[::-1]:
        raise InputError(f"'{path}' is {image.dtype}{list(image.shape)}, expected uint16{list(DEPTH_SIZE[::-1])}")
    return depth_in_meters(image[:, ::-1], MILLIMETER)
