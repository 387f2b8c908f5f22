"""Conversions between ROS messages and the core's arrays, without copies if the encoding allows."""

import array
import copy
import json
import math
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from actrec_msgs.msg import ActionEvent as ActionEventMsg
from actrec_msgs.msg import ActionLabel, FaceArray, HandArray, SkeletonArray
from actrec_msgs.msg import Face as FaceMsg
from actrec_msgs.msg import Hand as HandMsg
from actrec_msgs.msg import Skeleton as SkeletonMsg
from builtin_interfaces.msg import Duration as DurationMsg
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Point32, Vector3
from rclpy.duration import Duration
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String

from actrec.recognition import ActionEvent, ActionPrediction
from actrec.recognition.events import BEGAN, ENDED
from actrec.recordings import image_decoding
from actrec.types import NANOSECONDS, Body, Face, Hand, Intrinsics
from actrec.utils import camera_model
from actrec.utils.errors import InputError

BodyT = TypeVar("BodyT", bound=Body)

NOWHERE = (math.nan, math.nan, math.nan)
"""A position that is unknown."""


def stamp_to_ns(stamp: Time) -> int:
    """Return a message's stamp in nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def stamp_of(message: Any) -> int:
    """Return the stamp of a message's header in nanoseconds."""
    return stamp_to_ns(message.header.stamp)


def ns_to_stamp(nanoseconds: int) -> Time:
    """Return nanoseconds as a message's stamp; raise InputError if it does not fit."""
    sec, nanosec = divmod(int(nanoseconds), NANOSECONDS)
    if not -(2**31) <= sec < 2**31:
        raise InputError(f"stamp {sec} s is beyond the range of ROS messages (1901 to 2038): is its unit nanoseconds?")
    return Time(sec=sec, nanosec=nanosec)


def header(stamp_ns: int, frame_id: str) -> Header:
    """Return a header of this stamp and frame."""
    return Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)


def image_to_color(message: Image) -> np.ndarray:
    """Return [H, W, 3] uint8 RGB, a view of the message if it is rgb8; raise InputError for other encodings."""
    pixels = image_decoding.pixels(message, image_decoding.COLOR_ENCODINGS)
    return pixels if message.encoding == "rgb8" else image_decoding.color(message.encoding, pixels)


def image_to_depth(message: Image, scale: float = 0.0) -> np.ndarray:
    """Return [H, W] float32 metres, NaN for missing values; `scale` and InputError as in `image_decoding.depth`."""
    image_decoding.check_depth_encoding(message.encoding)
    return image_decoding.depth(message.encoding, image_decoding.pixels(message), scale)


def image_to_flow(message: Image) -> np.ndarray:
    """Return [H, W, 3] float32 m/s, a view of the message."""
    return image_decoding.pixels(message, (image_decoding.FLOW_ENCODING,))


def _image(pixels: np.ndarray, encoding: str, head: Header) -> Image:
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    # An array.array is assigned without a copy; bytes or an ndarray would be checked and copied item by item.
    data = array.array("B")
    data.frombytes(pixels.data.cast("B"))
    return Image(
        header=head,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=sys.byteorder == "big",
        step=pixels.strides[0],
        data=data,
    )


def message_to_statistics(message: String) -> dict[str, Any]:
    """Return the statistics of a node, as `NodeStatistics.json` writes them; raise InputError for another text."""
    try:
        figures = json.loads(message.data)
    except (ValueError, RecursionError):
        figures = None
    if not isinstance(figures, dict):
        raise InputError("statistics of a node are no JSON object: does another node publish on their topic?")
    return figures


def color_to_image(color: np.ndarray, head: Header) -> Image:
    """Convert [H, W, 3] uint8 RGB to rgb8; raise InputError for another shape or type."""
    _expect("color", color, np.uint8, 3)
    return _image(color, "rgb8", head)


def depth_to_image(depth: np.ndarray, head: Header) -> Image:
    """Convert [H, W] float32 metres to 16UC1 millimetres, 0 if missing or above the limit of 65.535 m."""
    _expect("depth", depth, np.float32, 1)
    return _image(image_decoding.depth_in_millimeters(depth), "16UC1", head)


def flow_to_image(flow: np.ndarray, head: Header) -> Image:
    """Convert [H, W, 3] float32 m/s to 32FC3."""
    _expect("scene flow", flow, np.float32, 3)
    return _image(flow, "32FC3", head)


def _expect(what: str, pixels: np.ndarray, dtype: Any, channels: int) -> None:
    dimensions = 2 if channels == 1 else 3
    if pixels.ndim != dimensions or pixels.dtype != dtype or (channels > 1 and pixels.shape[2] != channels):
        shape = "[H, W]" if channels == 1 else f"[H, W, {channels}]"
        raise InputError(f"{what} is {pixels.dtype}{list(pixels.shape)}, expected {np.dtype(dtype)}{shape}")


def info_to_intrinsics(message: CameraInfo) -> Intrinsics:
    """Return the intrinsics of a full, not binned image (K and D).

    Raises:
        InputError: As `camera_model.make_intrinsics`, or for binning or a region of interest.
    """
    roi, full = message.roi, (0, 0, message.width, message.height)  # a full region may be stated as zeros
    is_cut = any((roi.width, roi.height)) and (roi.x_offset, roi.y_offset, roi.width, roi.height) != full
    if max(message.binning_x, message.binning_y) > 1 or is_cut:
        raise InputError("camera_info with binning or a region of interest is not supported: publish the full image")
    return camera_model.from_camera_info("camera_info", message)


def rectified_info(message: CameraInfo) -> CameraInfo:
    """Return the camera_info of the rectified images: P in place of K, and no distortion."""
    p = [float(value) for value in message.p]
    if not p[0] > 0:  # no P
        p[0:3], p[4:7], p[8:11] = message.k[0:3], message.k[3:6], message.k[6:9]
    info = copy.deepcopy(message)
    info.distortion_model, info.d, info.p = "plumb_bob", [0.0] * 5, p
    info.k, info.r = [*p[0:3], *p[4:7], *p[8:11]], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    return info


def intrinsics_to_info(intrinsics: Intrinsics, head: Header) -> CameraInfo:
    """Return the camera_info of an image; R is the identity, and P repeats K."""
    c = intrinsics
    model, d = camera_model.ros_lens(intrinsics)
    return CameraInfo(
        header=head,
        width=c.width,
        height=c.height,
        distortion_model=model,
        d=d,
        k=[c.fx, 0.0, c.cx, 0.0, c.fy, c.cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[c.fx, 0.0, c.cx, 0.0, 0.0, c.fy, c.cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def bodies_to_message(bodies: Sequence[Body], head: Header, up: np.ndarray | None = None) -> SkeletonArray:
    """Convert bodies to a SkeletonArray; `up` [3] is the unit vector against gravity, None if unknown."""
    return SkeletonArray(header=head, up=up_to_vector(up), skeletons=[_fill(SkeletonMsg(), body) for body in bodies])


def hands_to_message(hands: Sequence[Hand], head: Header, up: np.ndarray | None = None) -> HandArray:
    """Convert hands to a HandArray."""
    return HandArray(header=head, up=up_to_vector(up), hands=[_fill(HandMsg(side=hand.side), hand) for hand in hands])


def faces_to_message(faces: Sequence[Face], head: Header, up: np.ndarray | None = None) -> FaceArray:
    """Convert faces to a FaceArray."""
    return FaceArray(header=head, up=up_to_vector(up), faces=[_fill(FaceMsg(), face) for face in faces])


def up_to_vector(up: np.ndarray | None) -> Vector3:
    """Convert a unit vector against gravity; zeros if it is unknown."""
    return Vector3() if up is None else Vector3(x=float(up[0]), y=float(up[1]), z=float(up[2]))


def message_to_bodies(message: SkeletonArray) -> list[Body]:
    """Return the bodies of a SkeletonArray; raise InputError if a skeleton's arrays differ in length."""
    return [_read(Body, skeleton) for skeleton in message.skeletons]


def message_to_hands(message: HandArray) -> list[Hand]:
    """Return the hands of a HandArray."""
    hands = []
    for hand in message.hands:
        if hand.side not in ("left", "right"):
            raise InputError(f"side of hand '{hand.body_id}' is '{hand.side}', expected left or right")
        hands.append(_read(Hand, hand, side=hand.side))
    return hands


def message_to_faces(message: FaceArray) -> list[Face]:
    """Return the faces of a FaceArray."""
    return [_read(Face, face) for face in message.faces]


def prediction_to_message(
    prediction: ActionPrediction, frame_id: str, age_s: float = 0.0, valid_for_s: float = 0.0
) -> ActionLabel:
    """Return the label message of a prediction, with its age and validity."""
    return ActionLabel(
        header=header(prediction.stamp_ns, frame_id),
        body_id=prediction.body_id,
        label=prediction.label,
        class_id=prediction.class_id,
        confidence=prediction.confidence,
        top_labels=list(prediction.top_labels),
        top_probabilities=list(prediction.top_probabilities),
        position=_point(prediction.position),
        duration=Duration(seconds=prediction.duration_s).to_msg(),
        window_start=ns_to_stamp(prediction.window_start_ns),
        model_name=prediction.model_name,
        age=_duration(age_s),
        valid_for=_duration(valid_for_s),
        reason=prediction.reason,
    )


def _duration(seconds: float) -> DurationMsg:
    """Return a duration message; its range is 68 years."""
    return Duration(seconds=min(max(seconds, 0.0), 2.0**31 - 1)).to_msg()


def event_to_message(
    event: ActionEvent, frame_id: str, target_frame: str = "", target_position: Sequence[float] = NOWHERE
) -> ActionEventMsg:
    """Return the message of an event; `target_position` [3] is its position in `target_frame`, m."""
    return ActionEventMsg(
        header=header(event.stamp_ns, frame_id),
        kind=ActionEventMsg.BEGAN if event.kind == BEGAN else ActionEventMsg.ENDED,
        event_id=event.event_id,
        body_id=event.body_id,
        label=event.label,
        class_id=event.class_id,
        confidence=event.confidence,
        start=ns_to_stamp(event.start_ns),
        end=ns_to_stamp(event.end_ns),
        position=_point(event.position),
        target_frame=target_frame,
        target_position=_point(target_position),
        model_name=event.model_name,
    )


def _point(position: Sequence[float]) -> Point:
    x, y, z = (float(value) for value in position)
    return Point(x=x, y=y, z=z)


def message_to_event(message: ActionEventMsg) -> ActionEvent:
    """Return the event of a message; raise InputError if it is neither a begin nor an end."""
    kinds = {ActionEventMsg.BEGAN: BEGAN, ActionEventMsg.ENDED: ENDED}
    if message.kind not in kinds:
        raise InputError(f"kind of event {message.event_id} is {message.kind}, expected {' or '.join(map(str, kinds))}")
    return ActionEvent(
        event_id=message.event_id,
        kind=kinds[message.kind],
        body_id=message.body_id,
        label=message.label,
        class_id=message.class_id,
        confidence=message.confidence,
        start_ns=stamp_to_ns(message.start),
        end_ns=stamp_to_ns(message.end),
        stamp_ns=stamp_to_ns(message.header.stamp),
        position=(message.position.x, message.position.y, message.position.z),
        model_name=message.model_name,
    )


def _fill(message: Any, body: Body) -> Any:
    message.body_id = body.body_id
    message.layout = body.layout
    message.positions = [Point32(x=x, y=y, z=z) for x, y, z in np.asarray(body.positions, np.float64).tolist()]
    message.pixels = array.array("f", np.asarray(body.pixels, np.float32).tobytes())
    message.confidences = array.array("f", np.asarray(body.scores, np.float32).tobytes())
    return message


def _read(kind: type[BodyT], message: Any, **more: Any) -> BodyT:
    joints = len(message.positions)
    if len(message.pixels) != 2 * joints or len(message.confidences) != joints:
        raise InputError(
            f"'{message.body_id}' has {joints} positions, {len(message.pixels)} pixel coordinates and "
            f"{len(message.confidences)} confidences; expected V, 2 V and V"
        )
    positions = np.array([(p.x, p.y, p.z) for p in message.positions], np.float32).reshape(joints, 3)
    pixels = np.array(message.pixels, np.float32).reshape(joints, 2)
    scores = np.array(message.confidences, np.float32)
    return kind(message.body_id, message.layout, positions, pixels, scores, **more)
