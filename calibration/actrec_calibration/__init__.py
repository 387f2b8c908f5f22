"""Calibration of cameras: intrinsics, depth, and the camera's pose on a robot.

`actrec calibrate` is its command line. Results are files that `actrec.utils.calibration_files` writes and each driver
loads by serial number.
"""

from actrec_calibration.board import Board
from actrec_calibration.depth import calibrate as calibrate_depth
from actrec_calibration.floor import calibrate as calibrate_floor
from actrec_calibration.hand_eye import calibrate as calibrate_hand_eye
from actrec_calibration.intrinsics import calibrate as calibrate_intrinsics
from actrec_calibration.poses import calibrate_from_points

__all__ = [
    "Board",
    "calibrate_depth",
    "calibrate_floor",
    "calibrate_from_points",
    "calibrate_hand_eye",
    "calibrate_intrinsics",
]
