"""Calibration of cameras, behind `actrec calibrate`.

A lens from views of a board (`intrinsics`) and whether it still holds (`holding`); where a depth camera sits and what
its readings are off by (`extrinsics`, `depth`); a camera's place on a robot (`hand_eye`, `floor`). What comes out are
files that `actrec.utils.calibration_files` writes and every driver loads by serial number.
"""
