"""The graph's topics: relative, so that a namespace moves them, and remappable to any vendor's driver."""

from typing import TYPE_CHECKING

from actrec.errors import ConfigError

if TYPE_CHECKING:
    from rclpy.node import Node

COLOUR = "camera/color/image_raw"
COLOUR_INFO = "camera/color/camera_info"
DEPTH = "camera/depth_registered/image_raw"
DEPTH_INFO = "camera/depth_registered/camera_info"
SKELETONS = "skeletons"
TRUE_SKELETONS = "ground_truth/skeletons"
HANDS = "hands"
FACE = "face"
SCENE_FLOW = "scene_flow"
SCENE_FLOW_INFO = "scene_flow/camera_info"
SCENE_FLOW_PREVIEW = "scene_flow/preview"
ACTION_LABEL = "action_label"
ACTION_LABEL_TEXT = "action_label/text"

CAMERA_TOPICS = (COLOUR, COLOUR_INFO, DEPTH, DEPTH_INFO)

VENDORS: dict[str, dict[str, str]] = {
    "realsense2_camera": {
        COLOUR: "/camera/camera/color/image_raw",
        COLOUR_INFO: "/camera/camera/color/camera_info",
        DEPTH: "/camera/camera/aligned_depth_to_color/image_raw",
        DEPTH_INFO: "/camera/camera/aligned_depth_to_color/camera_info",
    },
    "azure_kinect_ros_driver": {
        COLOUR: "/rgb/image_raw",
        COLOUR_INFO: "/rgb/camera_info",
        DEPTH: "/depth_to_rgb/image_raw",
        DEPTH_INFO: "/depth_to_rgb/camera_info",
    },
    "orbbec_camera": {
        COLOUR: "/camera/color/image_raw",
        COLOUR_INFO: "/camera/color/camera_info",
        DEPTH: "/camera/depth/image_raw",
        DEPTH_INFO: "/camera/depth/camera_info",
    },
}
"""What other camera drivers call the camera's topics, as they start by default with depth registered to colour
(realsense2_camera: `align_depth.enable:=true`; orbbec_camera: `depth_registration:=true`)."""


def vendor_remaps(vendor: str) -> list[tuple[str, str]]:
    """The remaps that feed the graph from another driver.

    Raises:
        ConfigError: The vendor's driver is unknown; the known ones are listed.
    """
    if vendor not in VENDORS:
        raise ConfigError(f"unknown camera driver node '{vendor}'; known: {', '.join(sorted(VENDORS))}")
    return list(VENDORS[vendor].items())


def publishers(node: "Node", topic: str) -> int:
    """How many publish a topic, whatever `node` has it remapped to; ROS itself counts by the name as it is given."""
    return node.count_publishers(node.resolve_topic_name(topic))
