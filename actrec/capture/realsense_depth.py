"""Depth of a RealSense as its colour camera sees it: filtered, in metres, registered."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pyrealsense2 as rs

from actrec import camera_files
from actrec.capture import realsense_filters
from actrec.capture.realsense_filters import FilterSettings
from actrec.capture.realsense_lens import from_realsense
from actrec.capture.registration import Registration
from actrec.frames import Intrinsics

logger = logging.getLogger(__name__)


class RegisteredDepth:
    """Registers by the camera's own calibration, or by its files of `actrec calibrate` where it has some.

    librealsense's own aligner moves the pixels but keeps the depth that the depth camera read: centimetres off where
    the two cameras are tilted by a degree. `Registration` does both, in less time.

    Attributes:
        colour: Intrinsics of the colour images, and so of the depth.
        calibration: All that it goes by.

    Args:
        profile: The pipeline's, started.
        settings: Which filters run.
        files: What is known of this camera beside what it tells itself.
        register: False leaves depth as the depth camera reads it, in its own image, not decimated.

    Raises:
        InputError: A calibration is of another aspect.
    """

    def __init__(self, profile: Any, settings: FilterSettings, files: camera_files.CameraFiles, register: bool = True):
        colour = profile.get_stream(rs.stream.color).as_video_stream_profile()
        # What is measured of the depth camera's own pixels holds for all of them.
        self._every = settings.decimation if register else 1
        self._filters = realsense_filters.chain(replace(settings, decimation=self._every))
        self._register = register
        self.colour: Intrinsics
        if files.colour is not None:
            self.colour = camera_files.fitted(files.colour, colour.width(), colour.height())
        else:
            self.colour = from_realsense(colour.get_intrinsics())
        depth = profile.get_stream(rs.stream.depth).as_video_stream_profile()
        self._geometry = files.geometry or _factory_geometry(depth, colour)
        self._lens = from_realsense(depth.get_intrinsics())
        if files.depth is not None:
            self._lens = camera_files.fitted(files.depth, self._lens.width, self._lens.height)
        self.calibration = camera_files.CameraFiles(files.serial, self.colour, self._lens, self._geometry)
        self._registration: Registration | None = None
        if files.colour is not None or files.geometry is not None:
            logger.info("RealSense %s: registered by its files of actrec calibrate", files.serial)

    def of(self, frames: Any) -> np.ndarray:
        """[H, W] float32 metres in the colour image, NaN where missing, of a frameset."""
        for each in self._filters:
            frames = each.process(frames).as_frameset()
        depth = _metres(frames.get_depth_frame())
        if not self._register:
            return depth
        if self._registration is None:  # made now, as a filter may have changed the size
            lens = _decimated(self._lens, self._every, *depth.shape)
            self._registration = Registration(lens, self.colour, self._geometry)
        return self._registration.register(depth)


def _decimated(lens: Intrinsics, every: int, height: int, width: int) -> Intrinsics:
    """Of depth images of which a pixel stands for `every` × `every` of the camera's.

    What librealsense tells of them takes the first pixel of a square for its middle. Their size tells nothing: it fills
    them up with pixels that have no depth, to a multiple of four.
    """
    cx, cy = ((centre + 0.5) / every - 0.5 for centre in (lens.cx, lens.cy))
    return Intrinsics(width, height, lens.fx / every, lens.fy / every, cx, cy, lens.distortion)


def _factory_geometry(depth: Any, colour: Any) -> camera_files.DepthGeometry:
    moved = depth.get_extrinsics_to(colour)
    pose = np.eye(4)
    pose[:3, :3] = np.array(moved.rotation).reshape(3, 3).T  # librealsense counts column by column
    pose[:3, 3] = moved.translation
    return camera_files.DepthGeometry(pose)


def _metres(frame: Any) -> np.ndarray:
    depth = np.asanyarray(frame.get_data()).astype(np.float32) * np.float32(frame.get_units())
    depth[depth == 0] = np.nan
    return depth
