"""Cameras of NTU RGB+D, fitted to the joints of each recording (the dataset has no calibration), and its RGB-D frames.

Each `.skeleton` file has its joints in meters and in the pixels of both cameras. The cameras of a Kinect v2 are
parallel, so focal lengths, centers and an offset in x and y reproduce all pixels within 1 px (`actrec bench ntu`).
All images and pixels here are mirrored back: the dataset's images are mirrored.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from actrec.datasets.ntu.skeletons import COLOR_SIZE, DEPTH_SIZE, NtuRecording, read_ntu_file, unmirror
from actrec.datasets.video_streams import ColorVideo
from actrec.recordings.image_decoding import MILLIMETER, depth_in_meters
from actrec.recordings.image_folder import read_image
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.geometry import kinect_to_optical
from actrec.utils.jit import kernel

DEPTH = re.compile(r"M?Depth-(\d+)\.png", re.IGNORECASE)
"""File name of a depth map; "M" marks a map that is masked to the bodies."""

_MIN_JOINTS = 50
"""Observed joints needed for a fit: two frames of a body."""

_OUTLIER_PX = 5.0
"""Smallest residual of an outlier; the camera model fits to 1 px."""


@dataclass(frozen=True)
class NtuCameras:
    """Depth and color camera of a recording.

    Attributes:
        depth: Intrinsics of the 512×424 depth maps; joints are in this camera's optical frame.
        color: Intrinsics of the 1920×1080 color images.
        offset: [3] m, translation from the depth camera's frame to the color camera's.
    """

    depth: Intrinsics
    color: Intrinsics
    offset: np.ndarray

    def pixels(self, positions: np.ndarray) -> np.ndarray:
        """Project points [..., 3] of the depth camera's frame into the color image, [..., 2] px."""
        points = np.asarray(positions, np.float64) + self.offset
        focal = np.array([self.color.fx, self.color.fy])
        return points[..., :2] / points[..., 2:] * focal + [self.color.cx, self.color.cy]

    def register(self, depth: np.ndarray, width: int, height: int) -> np.ndarray:
        """Register a depth map [424, 512] m, mirrored back, to the color camera.

        Returns:
            [height, width] float32 m, NaN for missing; the nearest surface of each pixel.

        Raises:
            InputError: The map has another size.
        """
        if depth.shape != DEPTH_SIZE[::-1]:
            raise InputError(f"a depth map is {list(depth.shape)}, expected {list(DEPTH_SIZE[::-1])}")
        to = self.color.resized(width, height)
        # A depth pixel covers a rectangle of color pixels, so that neighbors leave no gap.
        cover = math.ceil(to.fx / self.depth.fx), math.ceil(to.fy / self.depth.fy)
        registered = np.full((height, width), np.nan, np.float32)
        _splat(
            np.ascontiguousarray(depth, np.float32),
            _parameters(self.depth),
            _parameters(to),
            self.offset,
            cover,
            registered,
        )
        return registered


def _parameters(camera: Intrinsics) -> np.ndarray:
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy])


@kernel
def _splat(
    depth: np.ndarray,
    camera: np.ndarray,
    to: np.ndarray,
    offset: np.ndarray,
    cover: tuple[int, int],
    registered: np.ndarray,
) -> None:  # pragma: no cover (compiled)
    """Write the depth of each pixel at its position in the other camera; keep the nearest."""
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            z = depth[v, u]
            if not z > 0:
                continue
            x = ((u - camera[2]) / camera[0] + offset[0] / z) * to[0] + to[2]
            y = ((v - camera[3]) / camera[1] + offset[1] / z) * to[1] + to[3]
            left = int(np.floor(x - (cover[0] - 1) / 2 + 0.5))
            top = int(np.floor(y - (cover[1] - 1) / 2 + 0.5))
            for row in range(max(top, 0), min(top + cover[1], registered.shape[0])):
                for column in range(max(left, 0), min(left + cover[0], registered.shape[1])):
                    if not registered[row, column] <= z:
                        registered[row, column] = z


def fit_cameras(recording: NtuRecording) -> NtuCameras:
    """Fit both cameras to the joints of a recording by least squares, without outliers (joints out of view).

    Raises:
        InputError: The recording has too few joints.
    """
    positions = kinect_to_optical(recording.positions).astype(np.float64)
    depth, _ = _fit(positions, unmirror(recording.depth_pixels, DEPTH_SIZE[0]), DEPTH_SIZE, with_offset=False)
    color, offset = _fit(positions, unmirror(recording.color_pixels, COLOR_SIZE[0]), COLOR_SIZE, with_offset=True)
    return NtuCameras(depth, color, offset)


def _fit(
    positions: np.ndarray, pixels: np.ndarray, size: tuple[int, int], with_offset: bool
) -> tuple[Intrinsics, np.ndarray]:
    known = np.isfinite(positions).all(-1) & np.isfinite(pixels).all(-1) & (positions[..., 2] > 0)
    points, observed = positions[known], pixels[known].astype(np.float64)
    if len(points) < _MIN_JOINTS:
        raise InputError(f"{len(points)} joints with pixels cannot fit the cameras; needed: {_MIN_JOINTS}")
    solutions = []
    for axis in (0, 1):
        z = points[:, 2]
        design = np.stack([points[:, axis] / z, np.ones_like(z), 1 / z][: 3 if with_offset else 2], axis=1)
        near = np.ones(len(z), bool)
        for _ in range(2):
            solution = np.linalg.lstsq(design[near], observed[near, axis], rcond=None)[0]
            residual = np.abs(design @ solution - observed[:, axis])
            near = residual <= max(_OUTLIER_PX, 3 * float(np.median(residual)))
        solutions.append(solution)
    (fx, cx, *dx), (fy, cy, *dy) = ([float(value) for value in solution] for solution in solutions)
    offset = np.array([dx[0] / fx, dy[0] / fy, 0.0]) if with_offset else np.zeros(3)
    return Intrinsics(*size, fx, fy, cx, cy), offset


def ntu_frames(skeleton: Path, video: ColorVideo, depth: Path | None) -> Iterator[RgbdFrame]:
    """Yield the frames of a sample at the size of its video.

    Args:
        skeleton: The `.skeleton` file; its joints determine the cameras.
        video: The color video, mirrored back.
        depth: Folder of depth maps (`Depth-00000001.png` or masked `MDepth-00000001.png`); None for frames without
            depth. A frame without a depth map is skipped.

    Raises:
        DeviceError: A file is missing.
        InputError: A file is corrupt or empty, or has too few joints to fit the cameras.
    """
    cameras = cameras_of(skeleton)
    maps = None if depth is None else _depth_maps(depth)
    for number, frame in enumerate(video.frames(cameras.color), start=1):
        if maps is None:
            yield frame
        elif number in maps:
            registered = cameras.register(_read_depth(maps[number]), frame.intrinsics.width, frame.intrinsics.height)
            yield replace(frame, depth=registered)


def cameras_of(skeleton: Path) -> NtuCameras:
    """Fit the cameras to a `.skeleton` file; raises like `read_ntu_file`, and InputError if it has too few joints."""
    try:
        return fit_cameras(read_ntu_file(skeleton))
    except InputError as error:
        raise InputError(f"'{skeleton}': {error}") from error


def _depth_maps(folder: Path) -> dict[int, Path]:
    """Return the depth maps by frame number, from 1."""
    if not folder.is_dir():
        raise DeviceError(f"there is no folder '{folder}'; check the path")
    maps: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if match := DEPTH.fullmatch(path.name):
            if int(match[1]) in maps:
                raise InputError(f"'{path}' and '{maps[int(match[1])].name}' are the same frame; remove one kind")
            maps[int(match[1])] = path
    if not maps:
        raise InputError(f"'{folder}' holds no depth map (Depth-00000001.png or MDepth-00000001.png and on)")
    return maps


def _read_depth(path: Path) -> np.ndarray:
    image = read_image(path, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint16 or image.shape != DEPTH_SIZE[::-1]:
        raise InputError(f"'{path}' is {image.dtype}{list(image.shape)}, expected uint16{list(DEPTH_SIZE[::-1])}")
    return depth_in_meters(image[:, ::-1], MILLIMETER)
