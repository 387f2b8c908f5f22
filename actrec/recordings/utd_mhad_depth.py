"""Depth maps of UTD-MHAD: Kinect v1, 320×240, the background removed, frame for frame with the skeleton.

The maps are mirrored. Turned back, joints projected with the sensor's nominal intrinsics lie on the body, and a line
fitted through where the bodies are gives a focal length of 284 px and a centre at 161, over the 14 recordings here.
"""

from pathlib import Path

import numpy as np

from actrec.errors import InputError
from actrec.frames import Intrinsics
from actrec.recordings.images import MILLIMETRE, depth_in_metres
from actrec.recordings.matlab import read_mat

INTRINSICS = Intrinsics(320, 240, 285.63, 285.63, 159.5, 119.5)
"""Nominal, of the Kinect SDK's depth camera; the joints' own frame."""


def read_utd_mhad_depth(path: str | Path) -> np.ndarray:
    """[T, 240, 320] float32 metres of `aA_sS_tT_depth.mat`, turned back, NaN where nothing was measured.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated, corrupt, or holds no `d_depth` [240, 320, T] of millimetres.
        MissingLibraryError: scipy is not installed.
    """
    path = Path(path)
    value = read_mat(path, "d_depth")
    if value.ndim == 2:  # MATLAB stores an array of one frame without its last axis
        value = value[..., None]
    if value.ndim != 3 or value.shape[:2] != (240, 320) or not value.shape[2]:
        raise InputError(f"'{path}': d_depth is {value.dtype}{list(value.shape)}, expected [240, 320, frames]")
    return depth_in_metres(np.ascontiguousarray(value.transpose(2, 0, 1)[:, :, ::-1]), MILLIMETRE)
