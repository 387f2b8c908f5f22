"""What a bag tells of its cameras: the lens of each by its camera_info, by /tf_static where they sit to each other."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from actrec.camera_files import DepthGeometry, rotation_matrix
from actrec.capture.registration import Registration
from actrec.errors import InputError
from actrec.frames import Intrinsics
from actrec.recordings import intrinsics

TRANSFORMS = "tf2_msgs/msg/TFMessage"
STATIC = "tf_static"
"""What the topic of transforms that hold for all times is called, whatever its namespace."""


def lens(topic: str, info: Any, width: int, height: int, rectified: bool) -> Intrinsics:
    """The intrinsics of width×height images by the CameraInfo `info` on `topic`.

    Raises:
        InputError: It is of images of another size, of no calibrated camera, or of a lens model that is not known.
    """
    if (info.width, info.height) != (width, height):
        raise InputError(
            f"{topic} is of {info.width}×{info.height} images, but the colour images are {width}×{height}; "
            "choose another with camera_info_topic, or give the option intrinsics"
        )
    k = [float(value) for value in info.k]
    if not (k[0] > 0 and k[4] > 0):  # nor NaN
        raise InputError(f"{topic} is of an uncalibrated camera (fx is {k[0]:g}): {intrinsics.REMEDY}")
    if rectified:
        p = [float(value) for value in info.p]
        fx, cx, fy, cy = (p[0], p[2], p[5], p[6]) if p[0] > 0 else (k[0], k[2], k[4], k[5])
        return Intrinsics(width, height, fx, fy, cx, cy)
    if not intrinsics.is_known(info.distortion_model, info.d):
        raise InputError(f"{topic} has distortion '{info.distortion_model}'; play the rectified images instead")
    try:
        distortion = intrinsics.distortion(info.d)
    except ValueError as error:
        raise InputError(f"{topic} has {error}; play the rectified images instead") from error
    return Intrinsics(width, height, k[0], k[4], k[2], k[5], distortion)


def registration(
    depth: Intrinsics, depth_frame: str, colour: Intrinsics, colour_frame: str, messages: Iterable[Any]
) -> Registration:
    """What registers depth images to the colour images.

    Args:
        depth: Lens of the depth images.
        depth_frame: Optical frame that they are seen from.
        colour: Lens of the colour images.
        colour_frame: Optical frame that those are seen from.
        messages: Of /tf_static.

    Raises:
        InputError: The messages do not tell where one frame is in the other.
    """
    held = {
        each.child_frame_id.lstrip("/"): (each.header.frame_id.lstrip("/"), _matrix(each.transform))
        for message in messages
        for each in message.transforms
    }
    root, pose = _in_root(held, depth_frame.lstrip("/"))
    other, colour_pose = _in_root(held, colour_frame.lstrip("/"))
    if root != other:
        raise InputError(f"/{STATIC} does not say where '{depth_frame}' is in '{colour_frame}'")
    return Registration(depth, colour, DepthGeometry(np.linalg.inv(colour_pose) @ pose))


def _in_root(held: dict[str, tuple[str, np.ndarray]], frame: str) -> tuple[str, np.ndarray]:
    """The frame at the root of this one's tree, and the pose [4, 4] of this one in it."""
    pose = np.eye(4)
    for _ in range(len(held)):  # a loop of frames ends too
        if frame not in held:
            break
        frame, step = held[frame]
        pose = step @ pose
    return frame, pose


def _matrix(transform: Any) -> np.ndarray:
    """[4, 4] of a geometry_msgs Transform."""
    where, turn = transform.translation, transform.rotation
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(turn.x, turn.y, turn.z, turn.w)
    matrix[:3, 3] = where.x, where.y, where.z
    return matrix
