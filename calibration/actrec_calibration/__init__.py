"""Calibration of cameras: intrinsics, depth, and the camera's pose on a robot.

`actrec calibrate` is its command line. Results are files that `actrec.utils.calibration_files` writes and each driver
loads by serial number.
"""
