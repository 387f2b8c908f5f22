"""RealSense depth: post-processing filters, intrinsics, registration to color."""

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

logger = logging.getLogger(__name__)

LARGEST_MISFIT_PX = 0.1
_GRID = 25

HOLE_FILLING = ("none", "left", "farthest", "nearest")


@dataclass(frozen=True)
class FilterSettings:
    """Settings of librealsense's post-processing filters. All are off by default: each costs time or blurs edges."""

    decimation: int = setting(1, "Downsampling factor of depth; 1 for none.", range=(1, 8))
    spatial: bool = setting(False, "Smooth depth across the image, preserving edges.")
    temporal: bool = setting(False, "Smooth depth over time; fast motion leaves trails.")
    hole_filling: str = setting("none", "Neighbor that fills missing depth.", choices=HOLE_FILLING)
    farthest: float = setting(
        0.0, "Maximum depth; farther depth is missing. 0 for no limit.", unit="m", range=(0.0, 65.0)
    )


def make_filters(settings: FilterSettings) -> list[Any]:
    """Return the filters in the vendor's order.

    Spatial and temporal work on disparity, whose noise does not depend on the distance.
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


def _with(block: Any, option: Any, value: float) -> Any:
    block.set_option(option, value)
    return block


def from_realsense(lens: Any) -> Intrinsics:
    """Convert a `pyrealsense2.intrinsics`.

    OpenCV's Brown-Conrady model is fitted to the other lens models on a grid of pixels.

    Raises:
        DeviceError: Five coefficients cannot describe the lens (a fisheye).
    """
    coefficients = tuple(float(value) for value in lens.coeffs)
    pinhole = Intrinsics(lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy)
    if lens.model == rs.distortion.none or not any(coefficients):
        return pinhole
    if lens.model != rs.distortion.brown_conrady:
        coefficients = _fit_distortion(lens, pinhole)
    return replace(pinhole, distortion=coefficients)


def _fit_distortion(lens: Any, pinhole: Intrinsics) -> tuple[float, ...]:
    """Fit k1, k2, p1, p2, k3 by least squares: given undistorted rays, the model is linear in them."""
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
            f"five coefficients fit the lens model {lens.model} of the color camera only to {misfit:.2f} px: "
            "calibrate it with actrec calibrate intrinsics, or use the vendor's rectified images"
        )
    return tuple(float(value) for value in found)


class RegisteredDepth:
    """Filtered depth in the color camera's image.

    The calibration comes from `actrec calibrate` if there are files, else from the factory. librealsense's own aligner
    moves the pixels but keeps the depth along the depth camera's axis: centimeters of error at one degree of tilt.

    Attributes:
        color: Intrinsics of the color and depth images.
        calibration: Calibration in use.

    Args:
        profile: Profile of the started pipeline.
        settings: Filters.
        files: The camera's calibration files.
        register: False keeps the depth camera's image, not decimated.

    Raises:
        InputError: A calibration has another aspect ratio.
    """

    def __init__(
        self, profile: Any, settings: FilterSettings, files: calibration_files.CameraFiles, register: bool = True
    ):
        color = profile.get_stream(rs.stream.color).as_video_stream_profile()
        # Unregistered depth serves calibration, which needs every pixel.
        self._decimation = settings.decimation if register else 1
        self._filters = make_filters(replace(settings, decimation=self._decimation))
        self._registers = register
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
            logger.info("RealSense %s: using its files from actrec calibrate", files.serial)

    def register(self, frames: Any) -> np.ndarray:
        """Return the depth of a frameset in the color image: [H, W] float32 m, NaN if missing."""
        for block in self._filters:
            frames = block.process(frames).as_frameset()
        depth = _to_meters(frames.get_depth_frame())
        if not self._registers:
            return depth
        if self._registration is None:  # now, since filters change the size
            lens = _decimated(self._lens, self._decimation, *depth.shape)
            self._registration = Registration(lens, self.color, self._geometry)
        return self._registration.register(depth)


def _decimated(lens: Intrinsics, factor: int, height: int, width: int) -> Intrinsics:
    """Return the intrinsics of depth images decimated by `factor`.

    librealsense's own intrinsics take the first pixel of a block for its center, and its images are padded to a
    multiple of four.
    """
    cx, cy = ((center + 0.5) / factor - 0.5 for center in (lens.cx, lens.cy))
    return Intrinsics(width, height, lens.fx / factor, lens.fy / factor, cx, cy, lens.distortion)


def _factory_geometry(depth: Any, color: Any) -> calibration_files.DepthGeometry:
    extrinsics = depth.get_extrinsics_to(color)
    pose = np.eye(4)
    pose[:3, :3] = np.array(extrinsics.rotation).reshape(3, 3).T  # column-major
    pose[:3, 3] = extrinsics.translation
    return calibration_files.DepthGeometry(pose)


def _to_meters(frame: Any) -> np.ndarray:
    depth = np.asanyarray(frame.get_data()).astype(np.float32) * np.float32(frame.get_units())
    depth[depth == 0] = np.nan
    return depth
