"""Depth of a RealSense as its color camera sees it: filtered, in metres, registered.

The vendor's filters of depth images, in the order that the vendor applies them.

RealSense intrinsics as OpenCV's: librealsense has lens models of its own.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyrealsense2 as rs

from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError
from actrec.utils.registration import Registration

HOLE_FILLING = ("none", "left", "farthest", "nearest")


@dataclass(frozen=True)
class FilterSettings:
    """Which of librealsense's post-processing filters run; all off, as each costs time or smears edges."""

    decimation: int = setting(1, "Every so many depth pixels one; 1 takes them all.", range=(1, 8))
    spatial: bool = setting(False, "Smooths depth across the image, edges kept.")
    temporal: bool = setting(False, "Smooths depth over time; what moves fast leaves traces.")
    hole_filling: str = setting("none", "Where missing depth is taken from.", choices=HOLE_FILLING)
    farthest: float = setting(0.0, "Depth beyond it is missing; 0 for any.", unit="m", range=(0.0, 65.0))


def chain(settings: FilterSettings) -> list[Any]:
    """Return the filters to put depth frames through, one after another.

    Spatial and temporal work on disparity, whose noise is the same at every distance.
    """
    filters: list[Any] = []
    if settings.decimation > 1:
        filters.append(_with(rs.decimation_filter(), rs.option.filter_magnitude, settings.decimation))
    if settings.farthest:
        filters.append(_with(rs.threshold_filter(), rs.option.max_distance, settings.farthest))
        filters[-1].set_option(rs.option.min_distance, 0.0)
    if settings.spatial or settings.temporal:
        filters.append(rs.disparity_transform(True))
        filters += [rs.spatial_filter()] if settings.spatial else []
        filters += [rs.temporal_filter()] if settings.temporal else []
        filters.append(rs.disparity_transform(False))
    if settings.hole_filling != "none":
        mode = HOLE_FILLING.index(settings.hole_filling) - 1
        filters.append(_with(rs.hole_filling_filter(), rs.option.holes_fill, mode))
    return filters


def _with(made: Any, option: Any, value: float) -> Any:
    made.set_option(option, value)
    return made


LARGEST_MISFIT_PX = 0.1

_GRID = 25


def from_realsense(lens: Any) -> Intrinsics:
    """Return a `pyrealsense2.intrinsics` in the data contract.

    Brown-Conrady is OpenCV's own model. The others, of which "inverse Brown-Conrady" with coefficients in it says how
    to take distortion out rather than in, are fitted on a grid of pixels.

    Raises:
        DeviceError: The lens is none that five coefficients describe (a fisheye).
    """
    coefficients = tuple(float(value) for value in lens.coeffs)
    pinhole = Intrinsics(lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy)
    if lens.model == rs.distortion.none or not any(coefficients):
        return pinhole
    if lens.model != rs.distortion.brown_conrady:
        coefficients = _fitted(lens, pinhole)
    return Intrinsics(
        pinhole.width, pinhole.height, pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy, coefficients
    )  # fmt: skip


def _fitted(lens: Any, pinhole: Intrinsics) -> tuple[float, ...]:
    """k1, k2, p1, p2, k3 by least squares: given the straight rays of the pixels, the model is linear in them."""
    u, v = np.meshgrid(np.linspace(0, lens.width - 1, _GRID), np.linspace(0, lens.height - 1, _GRID))
    pixels = np.stack([u.ravel(), v.ravel()], -1)
    rays = np.array([rs.rs2_deproject_pixel_to_point(lens, pixel.tolist(), 1.0) for pixel in pixels])
    if lens.model == rs.distortion.modified_brown_conrady:
        # librealsense can only add this option; it ignores a request to remove it.
        pixels = np.array([rs.rs2_project_point_to_pixel(lens, ray.tolist()) for ray in rays])
    x, y = rays[:, 0], rays[:, 1]
    r = x * x + y * y
    across = np.stack([x * r, x * r**2, 2 * x * y, r + 2 * x * x, x * r**3], -1) * pinhole.fx
    down = np.stack([y * r, y * r**2, r + 2 * y * y, 2 * x * y, y * r**3], -1) * pinhole.fy
    wanted = pixels - np.stack([pinhole.fx * x + pinhole.cx, pinhole.fy * y + pinhole.cy], -1)
    rows, values = np.concatenate([across, down]), np.concatenate([wanted[:, 0], wanted[:, 1]])
    found = np.linalg.lstsq(rows, values, rcond=None)[0]
    misfit = float(np.abs(rows @ found - values).max())
    if not misfit < LARGEST_MISFIT_PX:
        raise DeviceError(
            f"the lens model {lens.model} of the camera's color images is {misfit:.2f} px off what five coefficients "
            "describe: calibrate it with actrec calibrate intrinsics, or use the vendor's rectified images"
        )
    return tuple(float(value) for value in found)


logger = logging.getLogger(__name__)


class RegisteredDepth:
    """Register by the camera's own calibration, or by its files of `actrec calibrate` if it has some.

    librealsense's own aligner moves the pixels but keeps the depth that the depth camera read: centimetres off where
    the two cameras are tilted by a degree. `Registration` does both, in less time.

    Attributes:
        color: Intrinsics of the color images, and so of the depth.
        calibration: All that it goes by.

    Args:
        profile: The pipeline's, started.
        settings: Which filters run.
        files: The camera's calibration files.
        register: False leaves depth as the depth camera reads it, in its own image, not decimated.

    Raises:
        InputError: A calibration is of another aspect.
    """

    def __init__(
        self, profile: Any, settings: FilterSettings, files: calibration_files.CameraFiles, register: bool = True
    ):
        color = profile.get_stream(rs.stream.color).as_video_stream_profile()
        # What is measured of the depth camera's own pixels holds for all of them.
        self._every = settings.decimation if register else 1
        self._filters = chain(replace(settings, decimation=self._every))
        self._register = register
        self.color: Intrinsics
        if files.color is not None:
            self.color = calibration_files.fitted(files.color, color.width(), color.height())
        else:
            self.color = from_realsense(color.get_intrinsics())
        depth = profile.get_stream(rs.stream.depth).as_video_stream_profile()
        self._geometry = files.geometry or _factory_geometry(depth, color)
        self._lens = from_realsense(depth.get_intrinsics())
        if files.depth is not None:
            self._lens = calibration_files.fitted(files.depth, self._lens.width, self._lens.height)
        self.calibration = calibration_files.CameraFiles(files.serial, self.color, self._lens, self._geometry)
        self._registration: Registration | None = None
        if files.color is not None or files.geometry is not None:
            logger.info("RealSense %s: registered by its files of actrec calibrate", files.serial)

    def of(self, frames: Any) -> np.ndarray:
        """[H, W] float32 metres in the color image, NaN where missing, of a frameset."""
        for each in self._filters:
            frames = each.process(frames).as_frameset()
        depth = _metres(frames.get_depth_frame())
        if not self._register:
            return depth
        if self._registration is None:  # made now, as a filter may have changed the size
            lens = _decimated(self._lens, self._every, *depth.shape)
            self._registration = Registration(lens, self.color, self._geometry)
        return self._registration.register(depth)


def _decimated(lens: Intrinsics, every: int, height: int, width: int) -> Intrinsics:
    """Of depth images of which a pixel stands for `every` × `every` of the camera's.

    What librealsense tells of them takes the first pixel of a square for its middle. Their size tells nothing: it fills
    them up with pixels that have no depth, to a multiple of four.
    """
    cx, cy = ((center + 0.5) / every - 0.5 for center in (lens.cx, lens.cy))
    return Intrinsics(width, height, lens.fx / every, lens.fy / every, cx, cy, lens.distortion)


def _factory_geometry(depth: Any, color: Any) -> calibration_files.DepthGeometry:
    moved = depth.get_extrinsics_to(color)
    pose = np.eye(4)
    pose[:3, :3] = np.array(moved.rotation).reshape(3, 3).T  # librealsense counts column by column
    pose[:3, 3] = moved.translation
    return calibration_files.DepthGeometry(pose)


def _metres(frame: Any) -> np.ndarray:
    depth = np.asanyarray(frame.get_data()).astype(np.float32) * np.float32(frame.get_units())
    depth[depth == 0] = np.nan
    return depth
