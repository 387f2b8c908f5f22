"""Calibration of cameras: intrinsics and the transform between colour and depth.

Empty so far: the drivers take the factory calibration that a camera or a recording brings along.
"""
