"""Malformed messages: each differs from a valid one by at least one defect of a broken or lying publisher."""

import array
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from actrec_msgs.action import WaitForAction
from actrec_msgs.msg import ActionLabel, Face, FaceArray, Hand, HandArray, Skeleton, SkeletonArray
from actrec_msgs.srv import LoadModel
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Point32, Vector3, Vector3Stamped
from sensor_msgs.msg import CameraInfo, Image, Imu
from std_msgs.msg import Header, String

from actrec.recordings.image_decoding import COLOR_ENCODINGS, DEPTH_ENCODINGS, FLOW_ENCODING
from actrec.skeleton.layouts import LAYOUTS
from actrec_nodes.common import topics

Random = np.random.Generator

WIDTH, HEIGHT = 32, 24
LONG = "x" * 10_000
TEXTS = ("", LONG, "\x1b[2J\r\n", "../../etc/passwd", "%s%n{0}", "\N{PILE OF POO}" * 50, "nan", "unknown")
LAYOUT_NAMES = (*LAYOUTS, "kinect_v9_99", *TEXTS)
NUMBERS = (math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1e-45, 3e38, -3e38, 1e30, 1e6)
SIZES = (0, 1, 2, 3, 65_535, 2**31 - 1, 2**32 - 1)
SECONDS = (0, 1, -1, -(2**31), 2**31 - 1, 1_700_000_000, 1_500_000_000)


def pick(random: Random, values: Any) -> Any:
    """Return one of the values."""
    return values[int(random.integers(len(values)))]


def header(random: Random, now_ns: int) -> Header:
    """Return a header, in half of all cases with a stamp of now."""
    sec, nanosec = divmod(now_ns, 10**9)
    if random.random() < 0.5:
        sec, nanosec = pick(random, SECONDS), pick(random, (0, 999_999_999, 2**32 - 1))
    frame = "camera_color_optical_frame" if random.random() < 0.8 else pick(random, TEXTS)
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame)


def image(random: Random, now_ns: int, encoding: str) -> Image:
    """Return an image with a wrong step, size, encoding, byte order, amount of data, or stamp."""
    size = {"rgb8": 3, "16UC1": 2, FLOW_ENCODING: 12}[encoding]
    message = Image(header=header(random, now_ns), width=WIDTH, height=HEIGHT, encoding=encoding, step=WIDTH * size)
    data = random.integers(0, 256, WIDTH * HEIGHT * size, np.uint8).tobytes()
    for _ in range(random.integers(1, 3)):
        defect = random.integers(7)
        if defect == 0:
            message.step = pick(random, (*SIZES, WIDTH * size - 1, WIDTH * size + 1, WIDTH * size * 2))
        elif defect == 1:
            message.width = pick(random, SIZES)
        elif defect == 2:
            message.height = pick(random, SIZES)
        elif defect == 3:
            known = (*COLOR_ENCODINGS, *DEPTH_ENCODINGS, "8UC1", "bayer_rggb8", "16UC3", "32FC2")
            message.encoding = pick(random, (*known, *TEXTS))
        elif defect == 4:
            data = data[: int(random.integers(0, len(data) + 1))]
        elif defect == 5:
            message.is_bigendian = int(pick(random, (1, 2, 255)))
        else:
            data = np.full(len(data) // 4, pick(random, NUMBERS), np.float32).tobytes()
    message.data = array.array("B", data)
    return message


def camera_info(random: Random, now_ns: int) -> CameraInfo:
    """Return a camera_info whose size, K, D, R, P, lens model, binning or region is impossible."""
    k = [30.0, 0.0, 16.0, 0.0, 30.0, 12.0, 0.0, 0.0, 1.0]
    r, p = np.eye(3).ravel().tolist(), [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
    message = CameraInfo(header=header(random, now_ns), width=WIDTH, height=HEIGHT, distortion_model="plumb_bob")
    d = [0.0] * 5
    for _ in range(random.integers(1, 3)):
        defect = random.integers(8)
        if defect == 0:
            k = [pick(random, NUMBERS)] * 9
        elif defect == 1:
            k[int(random.integers(9))] = pick(random, NUMBERS)
        elif defect == 2:
            d = [pick(random, NUMBERS)] * int(pick(random, (0, 1, 3, 4, 5, 8, 13, 14, 1000)))
        elif defect == 3:
            message.width = pick(random, SIZES)
        elif defect == 4:
            message.height = pick(random, SIZES)
        elif defect == 5:
            message.distortion_model = pick(random, ("equidistant", "rational_polynomial", *TEXTS))
        elif defect == 6:
            message.binning_x, message.binning_y = pick(random, SIZES), pick(random, SIZES)
        else:
            message.roi.width, message.roi.x_offset = pick(random, SIZES), pick(random, SIZES)
            p[int(random.integers(12))] = pick(random, NUMBERS)
    message.k, message.d, message.r, message.p = k, d, r, p
    return message


def people(random: Random, now_ns: int, kind: type) -> Any:
    """Return skeletons, hands or faces whose joints are no person's, with wrong lengths, layouts, ids and stamps."""
    element, field, joints = {
        SkeletonArray: (Skeleton, "skeletons", 25),
        HandArray: (Hand, "hands", 21),
        FaceArray: (Face, "faces", 68),
    }[kind]
    number = int(pick(random, (1, 1, 1, 2, 3, 7)))
    if random.random() < 0.005:
        number, joints = 1000, 4
    found = [_person(random, element, joints, index) for index in range(number)]
    up = Vector3(x=0.0, y=-1.0, z=0.0)
    if random.random() < 0.3:
        up = Vector3(**{axis: float(pick(random, NUMBERS)) for axis in "xyz"})
    return kind(header=header(random, now_ns), up=up, **{field: found})


def _person(random: Random, kind: type, joints: int, index: int) -> Any:
    """Return a person; the joints are always impossible, as a valid person would have a right to a label."""
    body_id = f"storm_{index}" if random.random() < 0.8 else pick(random, TEXTS)
    layout = {25: "kinect_v2_25", 21: "hand_21", 68: "face_68"}.get(joints, "kinect_v2_25")
    if random.random() < 0.2:
        layout = pick(random, LAYOUT_NAMES)
    count = joints if random.random() < 0.7 else int(pick(random, (0, 1, joints - 1, joints + 1, 500)))
    defect = random.integers(4)
    if defect == 0:
        positions = np.full((count, 3), pick(random, NUMBERS))
    elif defect == 1:
        positions = random.normal(0, 1000, (count, 3))
    elif defect == 2:
        positions = np.zeros((count, 3)) + random.normal(0, 3, 3)  # all joints in one point
    else:
        positions = random.normal(0, 1, (count, 3)) * [1, 1, -1] - [0, 0, 9]  # behind the camera
    points = [Point32(x=float(x), y=float(y), z=float(z)) for x, y, z in positions.astype(np.float32)]
    lengths = [2 * count, count]
    if random.random() < 0.2:
        lengths = [int(pick(random, (0, 1, 7, 3 * count))) for _ in range(2)]
    pixels, confidences = (
        array.array("f", np.full(length, pick(random, (*NUMBERS, 0.9)), np.float32).tobytes()) for length in lengths
    )
    message = kind(body_id=body_id, layout=layout, positions=points, pixels=pixels, confidences=confidences)
    if isinstance(message, Hand):
        message.side = pick(random, ("left", "right", "right", *TEXTS))
    return message


def label(random: Random, now_ns: int) -> ActionLabel:
    """Return a label with unequal lists, impossible numbers and long texts."""
    return ActionLabel(
        header=header(random, now_ns),
        body_id=pick(random, ("storm_0", *TEXTS)),
        label=pick(random, TEXTS),
        class_id=int(pick(random, (-1, 2**31 - 1, -(2**31)))),
        confidence=float(np.float32(pick(random, NUMBERS))),
        top_labels=[pick(random, TEXTS)] * int(random.integers(4)),
        top_probabilities=[float(np.float32(pick(random, NUMBERS)))] * int(random.integers(4)),
        position=Point(x=float(pick(random, NUMBERS)), y=0.0, z=0.0),
        model_name=pick(random, TEXTS),
    )


def vector(random: Random, now_ns: int) -> Vector3Stamped:
    """Return a direction that is none: with a number that is not finite, or without length."""
    values = {axis: float(pick(random, (0.0, -0.0, 1e-45))) for axis in "xyz"}
    if random.random() < 0.8:
        values = {axis: float(pick(random, NUMBERS)) for axis in "xyz"}
        values[pick(random, "xyz")] = float(pick(random, (math.nan, math.inf, -math.inf)))
    return Vector3Stamped(header=header(random, now_ns), vector=Vector3(**values))


def imu(random: Random, now_ns: int) -> Imu:
    """Return a sample of an accelerometer and a gyroscope with impossible numbers."""
    acceleration, turn = (Vector3(**{axis: float(pick(random, NUMBERS)) for axis in "xyz"}) for _ in range(2))
    message = Imu(header=header(random, now_ns), linear_acceleration=acceleration, angular_velocity=turn)
    message.angular_velocity_covariance[0] = float(pick(random, NUMBERS))
    return message


def text(random: Random, now_ns: int) -> String:
    """Return a text that is no JSON object of statistics."""
    wrong = {"method": pick(random, (None, 3, [], LONG)), "height": pick(random, (None, "x", {}, -1))}
    return String(data=pick(random, ("[" * 3000, "{", "NaN", "[1, 2]", '"x"', "null", json.dumps(wrong), *TEXTS)))


def color(random: Random, now_ns: int) -> Image:
    """Return a malformed color image."""
    return image(random, now_ns, "rgb8")


def depth(random: Random, now_ns: int) -> Image:
    """Return a malformed depth image."""
    return image(random, now_ns, "16UC1")


def flow(random: Random, now_ns: int) -> Image:
    """Return malformed scene flow."""
    return image(random, now_ns, FLOW_ENCODING)


def skeletons(random: Random, now_ns: int) -> SkeletonArray:
    """Return malformed skeletons."""
    return people(random, now_ns, SkeletonArray)


def hands(random: Random, now_ns: int) -> HandArray:
    """Return malformed hands."""
    return people(random, now_ns, HandArray)


def faces(random: Random, now_ns: int) -> FaceArray:
    """Return malformed faces."""
    return people(random, now_ns, FaceArray)


MAKERS: dict[str, Callable[[Random, int], Any]] = {
    topics.COLOR: color,
    topics.DEPTH: depth,
    topics.COLOR_INFO: camera_info,
    topics.UP: vector,
    topics.MEASURED_UP: vector,
    topics.IMU: imu,
    topics.SKELETONS: skeletons,
    topics.HANDS: hands,
    topics.FACE: faces,
    topics.SCENE_FLOW: flow,
    topics.SCENE_FLOW_INFO: camera_info,
    topics.SCENE_FLOW_STATISTICS: text,
    topics.ACTION_LABEL: label,
}
"""Makers of malformed messages by topic; each takes a random generator and the time in ns."""


def load_request(random: Random) -> LoadModel.Request:
    """Return a request for a model that cannot be one."""
    return LoadModel.Request(package=pick(random, (*TEXTS, "/", ".", "..", "/dev/null", "~nobody/model", "a/" * 300)))


def goal(random: Random) -> WaitForAction.Goal:
    """Return a goal for labels that no model has, with impossible numbers."""
    return WaitForAction.Goal(
        labels=[pick(random, TEXTS) for _ in range(int(random.integers(1, 4)))],
        min_confidence=float(np.float32(pick(random, NUMBERS))),
        timeout=Duration(sec=pick(random, SECONDS), nanosec=pick(random, (0, 999_999_999, 2**32 - 1))),
        body_id=pick(random, TEXTS),
        accept_present=bool(random.random() < 0.5),
    )


REQUESTS: dict[str, Callable[[Random], Any]] = {
    "recognizer_node/load_model": load_request,
    "recognizer_node/wait_for_action": goal,
}
"""Makers of malformed requests to a service and an action."""


def messages(topic: str, number: int, now_ns: Callable[[], int], seed: int = 0) -> Any:
    """Yield malformed messages of a topic, the same for the same seed but for stamps of now."""
    for index in range(number):
        yield MAKERS[topic](np.random.default_rng([seed, index]), now_ns())
