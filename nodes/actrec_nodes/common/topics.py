"""Topics of the graph, relative so that namespaces and remaps apply, and their quality of service (REP-2003)."""

import re

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from actrec.utils.errors import ConfigError

CAMERA = "camera"
"""The camera's name, the first part of its topics."""

COLOR = f"{CAMERA}/color/image_raw"
COLOR_INFO = f"{CAMERA}/color/camera_info"
DEPTH = f"{CAMERA}/depth_registered/image_raw"
DEPTH_INFO = f"{CAMERA}/depth_registered/camera_info"
UP, MEASURED_UP = f"{CAMERA}/up", f"{CAMERA}/measured_up"
"""Direction of gravity: as stated (mount, recording), and by the camera's accelerometer."""

IMU = f"{CAMERA}/imu"
SKELETONS = "skeletons"
TRUE_SKELETONS = "ground_truth/skeletons"
TRUE_ACTION_LABEL = "ground_truth/action_label"
HANDS = "hands"
FACE = "face"
SCENE_FLOW = "scene_flow"
SCENE_FLOW_INFO = "scene_flow/camera_info"
SCENE_FLOW_PREVIEW = "scene_flow/preview"
SCENE_FLOW_STATISTICS = "scene_flow_node/statistics"
ACTION_LABEL = "action_label"
ACTION_LABEL_TEXT = "action_label/text"
ACTION_EVENTS = "action_events"
RECOGNIZER_STATISTICS = "recognizer_node/statistics"
ANNOTATED_IMAGE = "annotated_image"
ANNOTATED_COMPRESSED = "annotated_image/compressed"
MARKERS = "markers"
HUMANS_BODIES = "humans/bodies"
HUMANS_TRACKED = "humans/bodies/tracked"
INTENTS = "intents"

CAMERA_TOPICS = (COLOR, COLOR_INFO, DEPTH, DEPTH_INFO)

VENDORS: dict[str, dict[str, str]] = {
    "realsense2_camera": {
        COLOR: "/camera/camera/color/image_raw",
        COLOR_INFO: "/camera/camera/color/camera_info",
        DEPTH: "/camera/camera/aligned_depth_to_color/image_raw",
        DEPTH_INFO: "/camera/camera/aligned_depth_to_color/camera_info",
        IMU: "/camera/camera/imu",
    },
    "azure_kinect_ros_driver": {
        COLOR: "/rgb/image_raw",
        COLOR_INFO: "/rgb/camera_info",
        DEPTH: "/depth_to_rgb/image_raw",
        DEPTH_INFO: "/depth_to_rgb/camera_info",
        IMU: "/imu",
    },
    "orbbec_camera": {
        COLOR: "/camera/color/image_raw",
        COLOR_INFO: "/camera/color/camera_info",
        DEPTH: "/camera/depth/image_raw",
        DEPTH_INFO: "/camera/depth/camera_info",
        IMU: "/camera/gyro_accel/sample",
    },
}
"""By driver, its default names of the camera's topics, with depth registered to color
(realsense2_camera: `align_depth.enable:=true`; orbbec_camera: `depth_registration:=true`), and of the accelerometer
(realsense2_camera: `enable_accel:=true enable_gyro:=true unite_imu_method:=2`; orbbec_camera:
`enable_sync_output_accel_gyro:=true`)."""


def vendor_remaps(vendor: str) -> list[tuple[str, str]]:
    """Return the remaps (our topic, the driver's) of another camera driver; raise ConfigError if it is unknown."""
    if vendor not in VENDORS:
        raise ConfigError(f"unknown camera driver node '{vendor}'; known: {', '.join(sorted(VENDORS))}")
    return list(VENDORS[vendor].items())


def camera_remaps(vendor: str, camera_name: str, camera_namespace: str = CAMERA) -> list[tuple[str, str]]:
    """Return the remaps of the topics of one of several cameras.

    Args:
        vendor: Its driver, of `VENDORS`; empty for `camera_node`.
        camera_name: As the argument `camera_name` of realsense2_camera and orbbec_camera.
        camera_namespace: As the argument of realsense2_camera; empty for none.

    Raises:
        ConfigError: The driver is unknown, has no names or namespaces of cameras, or a name is no part of a topic's.
    """
    if re.fullmatch(r"[A-Za-z]\w*", camera_name) is None:
        raise ConfigError(f"camera_name is '{camera_name}', expected a name of letters, digits and underscores")
    if re.fullmatch(r"([A-Za-z]\w*(/[A-Za-z]\w*)*)?", camera_namespace.strip("/")) is None:
        raise ConfigError(f"camera_namespace is '{camera_namespace}', expected names, with a slash between two")
    remaps = vendor_remaps(vendor) if vendor else [(topic, topic) for topic in (*CAMERA_TOPICS, UP, MEASURED_UP, IMU)]
    if camera_namespace != CAMERA:
        default = f"/{CAMERA}/{CAMERA}/"
        if not all(theirs.startswith(default) for _, theirs in remaps):
            raise ConfigError("camera_namespace is only for vendor:=realsense2_camera: leave it out, or set namespace")
        prefix = "".join(f"/{part}" for part in camera_namespace.split("/") if part)
        remaps = [(topic, f"{prefix}/{CAMERA}/{theirs.removeprefix(default)}") for topic, theirs in remaps]
    if camera_name == CAMERA:
        return remaps if vendor else []
    if vendor and not all(f"{CAMERA}/" in theirs for _, theirs in remaps):
        raise ConfigError(f"{vendor} has no names of cameras: leave out camera_name, and start each in its namespace")
    if vendor:  # realsense2_camera has its namespace before the name
        return [(topic, f"/{camera_name}/".join(theirs.rsplit(f"/{CAMERA}/", 1))) for topic, theirs in remaps] + [
            (topic, topic.replace(CAMERA, camera_name, 1)) for topic in (UP, MEASURED_UP)
        ]
    return [(topic, topic.replace(CAMERA, camera_name, 1)) for topic, _ in remaps]


TF = (("/tf", "tf"), ("/tf_static", "tf_static"))
"""Remaps to the transforms of a namespace."""


def publishers(node: Node, topic: str) -> int:
    """Return the number of publishers of a topic, under the name that `node` has it remapped to."""
    return node.count_publishers(node.resolve_topic_name(topic))


def _profile(depth: int, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


IMAGE_PUBLISHER = _profile(5, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Of images and camera_info: reliable, so that subscribers of either kind connect."""

IMAGE_SUBSCRIBER = _profile(5, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
"""Of images: best effort, so that any driver connects; a lost image is not sent again."""

INFO_SUBSCRIBER = _profile(5, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.TRANSIENT_LOCAL)
"""Of camera_info and `camera/up`, by `Subscription`: from any publisher, and earlier messages of one that latches."""

SMALL = _profile(50, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Of skeletons, hands, face and labels: small, and a lost frame damages a window."""

SMALL_SUBSCRIBER = _profile(5, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Of the same, for nodes that take the newest. DDS keeps the memory of all that a queue ever held at once."""

LATCHED = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
"""Of lists and statistics, which a late subscriber still receives."""

WINDOW_SUBSCRIBER = _profile(1000, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Of the skeletons that all must enter a window or a file: the queue holds half a minute."""

PART_SUBSCRIBER = _profile(20, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Of the hands and faces beside them: windows bridge a gap of half a second."""

LEASE_S = 1.0
"""Liveliness lease that publishers offer: a subscriber that requests it, or a longer one, has an event if they die."""


def leased(profile: QoSProfile, deadline_s: float = 0.0) -> QoSProfile:
    """Return a publisher's profile that also offers a lease of `LEASE_S`, and a deadline if one is given.

    A subscriber that requests neither connects as before.
    """
    offered = {"deadline": Duration(seconds=deadline_s)} if deadline_s > 0 else {}
    return QoSProfile(
        history=profile.history,
        depth=profile.depth,
        reliability=profile.reliability,
        durability=profile.durability,
        liveliness_lease_duration=Duration(seconds=LEASE_S),
        **offered,
    )
