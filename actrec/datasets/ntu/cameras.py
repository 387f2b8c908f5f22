"""The cameras of an NTU RGB+D recording, found from its own joints: the dataset comes without any calibration.

Each `.skeleton` file gives its joints in metres and in the pixels of both cameras. The two lie side by side in a Kinect
v2 and look the same way, so that focal lengths, centers and a distance in x and y explain the pixels of all files here
to less than one (`actrec bench ntu`). Everything is of the pictures turned back from the dataset's mirroring.
"""

import math
from dataclasses import dataclass

import numpy as np

from actrec.datasets.ntu.skeletons import COLOR_SIZE, DEPTH_SIZE, NtuRecording, unmirror
from actrec.types import Intrinsics
from actrec.utils.errors import InputError
from actrec.utils.geometry import kinect_to_optical
from actrec.utils.jit import kernel

_LEAST = 50  # observed joints: two frames of a body

_OUTLIER = 5.0  # px; the cameras' model is good to 1


@dataclass(frozen=True)
class NtuCameras:
    """Both cameras of a recording.

    Attributes:
        depth: Of the 512×424 depth maps; joints are in this camera's optical frame.
        color: Of the 1920×1080 pictures.
        offset: [3] metres from a point in the depth camera's frame to the same in the color camera's.
    """

    depth: Intrinsics
    color: Intrinsics
    offset: np.ndarray

    def pixels(self, positions: np.ndarray) -> np.ndarray:
        """[..., 2] px in the color picture of joints [..., 3] in the depth camera's frame."""
        seen = np.asarray(positions, np.float64) + self.offset
        focal = np.array([self.color.fx, self.color.fy])
        return seen[..., :2] / seen[..., 2:] * focal + [self.color.cx, self.color.cy]

    def register(self, depth: np.ndarray, width: int, height: int) -> np.ndarray:
        """A depth map as the color camera sees it.

        Args:
            depth: [424, 512] metres, NaN where missing, turned back.
            width: Of the color pictures, to whatever size they are scaled.
            height: Alike.

        Returns:
            [height, width] float32 metres, NaN where nothing was measured; of surfaces behind one another the nearer.

        Raises:
            InputError: The map is of another size.
        """
        if depth.shape != DEPTH_SIZE[::-1]:
            raise InputError(f"a depth map is {list(depth.shape)}, expected {list(DEPTH_SIZE[::-1])}")
        to = self.color.resized(width, height)
        # A pixel of the map covers a rectangle of the picture: neighbors leave no gap between them.
        cover = math.ceil(to.fx / self.depth.fx), math.ceil(to.fy / self.depth.fy)
        registered = np.full((height, width), np.nan, np.float32)
        _splat(
            np.ascontiguousarray(depth, np.float32), _numbers(self.depth), _numbers(to), self.offset, cover, registered
        )
        return registered


def _numbers(camera: Intrinsics) -> np.ndarray:
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy])


@kernel
def _splat(
    depth: np.ndarray,
    seen_by: np.ndarray,
    to: np.ndarray,
    offset: np.ndarray,
    cover: tuple[int, int],
    registered: np.ndarray,
) -> None:  # pragma: no cover (compiled)
    """Puts each pixel's depth where the other camera sees it; the nearest stays."""
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            z = depth[v, u]
            if not z > 0:
                continue
            x = ((u - seen_by[2]) / seen_by[0] + offset[0] / z) * to[0] + to[2]
            y = ((v - seen_by[3]) / seen_by[1] + offset[1] / z) * to[1] + to[3]
            left = int(np.floor(x - (cover[0] - 1) / 2 + 0.5))
            top = int(np.floor(y - (cover[1] - 1) / 2 + 0.5))
            for row in range(max(top, 0), min(top + cover[1], registered.shape[0])):
                for column in range(max(left, 0), min(left + cover[0], registered.shape[1])):
                    if not registered[row, column] <= z:
                        registered[row, column] = z


def fit_cameras(recording: NtuRecording) -> NtuCameras:
    """Fits both cameras to the joints of a recording by least squares; joints far off (out of view) do not count.

    Raises:
        InputError: It shows too few joints.
    """
    positions = kinect_to_optical(recording.positions).astype(np.float64)
    depth, _ = _fit(positions, unmirror(recording.depth_pixels, DEPTH_SIZE[0]), DEPTH_SIZE, apart=False)
    color, offset = _fit(positions, unmirror(recording.color_pixels, COLOR_SIZE[0]), COLOR_SIZE, apart=True)
    return NtuCameras(depth, color, offset)


def _fit(
    positions: np.ndarray, pixels: np.ndarray, size: tuple[int, int], apart: bool
) -> tuple[Intrinsics, np.ndarray]:
    known = np.isfinite(positions).all(-1) & np.isfinite(pixels).all(-1) & (positions[..., 2] > 0)
    points, seen = positions[known], pixels[known].astype(np.float64)
    if len(points) < _LEAST:
        raise InputError(f"{len(points)} joints with pixels are too few to find the cameras from, {_LEAST} are needed")
    found = []
    for axis in (0, 1):
        z = points[:, 2]
        design = np.stack([points[:, axis] / z, np.ones_like(z), 1 / z][: 3 if apart else 2], axis=1)
        near = np.ones(len(z), bool)
        for _ in range(2):
            solution = np.linalg.lstsq(design[near], seen[near, axis], rcond=None)[0]
            away = np.abs(design @ solution - seen[:, axis])
            near = away <= max(_OUTLIER, 3 * float(np.median(away)))
        found.append(solution)
    (fx, cx, *dx), (fy, cy, *dy) = ([float(value) for value in solution] for solution in found)
    offset = np.array([dx[0] / fx, dy[0] / fy, 0.0]) if apart else np.zeros(3)
    return Intrinsics(*size, fx, fy, cx, cy), offset
