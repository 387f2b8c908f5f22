"""Why no image comes on a topic, in words."""

import posixpath

from rclpy.node import Node


def why(node: Node, topic: str) -> str:
    """What the graph tells of a topic on which nothing comes: whether it has a publisher, and where else images are.

    Args:
        node: Asks the graph.
        topic: Whole and remapped, as `resolve_topic_name` gives it.
    """
    if node.count_publishers(topic):
        return "it has a publisher: is the camera connected? (a recording of joints alone has no images)"
    images = [name for name, types in node.get_topic_names_and_types() if "sensor_msgs/msg/Image" in types]
    # A camera's are called image, image_raw, image_rect, …; scene flow is of that type too.
    named = [name for name in images if name != topic and "image" in posixpath.basename(name)]
    others = sorted(name for name in named if node.count_publishers(name))
    return f"nobody publishes it; images are on {', '.join(others)}" if others else "nobody publishes it"
