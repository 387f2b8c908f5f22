"""The camera's place on the robot, as `actrec calibrate` found it, for TF."""

import importlib
from typing import Any

from actrec import camera_files
from actrec.capture.base import Camera
from actrec.errors import ActrecError
from actrec_nodes import qos
from actrec_nodes.lifecycle import ActrecNode

TOPIC = "/tf_static"


class CameraMount:
    """Publishes the static transform in a camera's `SERIAL_mount.yaml`; nothing where there is no such file.

    Args:
        node: Publishes.
    """

    def __init__(self, node: ActrecNode[Any]):
        self._node = node
        self._publisher: Any = None

    def publish(self, camera: Camera) -> None:
        """Publishes the place of an open camera; what stands in the way is said, and the camera goes on."""
        try:
            mount = camera_files.load(camera.serial).mount if camera.serial else None
        except ActrecError as error:
            self._node.complain(f"the camera's place on the robot is not published: {error}", "warning")
            return
        if mount is None:
            return
        images = getattr(camera.config, "frame_id", mount.child)
        if images != mount.child:
            self._node.complain(
                f"the camera's place is that of '{mount.child}', but its images are of '{images}': set its frame_id, "
                "or calibrate with --child",
                "warning",
            )
        self._send(mount)

    def _send(self, mount: camera_files.Mount) -> None:
        try:
            tf = importlib.import_module("tf2_msgs.msg")
        except ImportError:
            self._node.complain(
                f"the camera's place in {mount.parent} is not published: it needs tf2_msgs, which comes with ROS 2",
                "warning",
            )
            return
        from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3

        if self._publisher is None:
            self._publisher = self._node.create_publisher(tf.TFMessage, TOPIC, qos.LATCHED)
        x, y, z, w = camera_files.quaternion(mount.pose[:3, :3])
        where = dict(zip("xyz", map(float, mount.pose[:3, 3]), strict=True))
        sent = TransformStamped(child_frame_id=mount.child)
        sent.header.frame_id, sent.header.stamp = mount.parent, self._node.get_clock().now().to_msg()
        sent.transform = Transform(translation=Vector3(**where), rotation=Quaternion(x=x, y=y, z=z, w=w))
        self._publisher.publish(tf.TFMessage(transforms=[sent]))
