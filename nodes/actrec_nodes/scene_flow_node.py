"""Publishes scene flow, the 3-D velocity of each pixel, and a preview image if it has subscribers."""

from typing import Any

from sensor_msgs.msg import CameraInfo, Image

from actrec import scene_flow
from actrec.scene_flow.preview import flow_image
from actrec.scene_flow.stream import FlowPairs, SceneFlowConfig
from actrec.types import RgbdFrame
from actrec_nodes.bringup import process
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.frame_nodes import FrameNode
from actrec_nodes.common.tf import TfCameraMotion


class SceneFlowNode(FrameNode[SceneFlowConfig]):
    """Publishes one message per processed pair of frames, with the stamp of the first frame and its pixels."""

    def __init__(self, **node_options: Any):
        super().__init__("scene_flow_node", SceneFlowConfig, **node_options)
        self._pairs: FlowPairs | None = None
        self._flow_publisher: Any = None
        self._info_publisher: Any = None
        self._preview_publisher: Any = None
        self._tf: TfCameraMotion | None = None

    def configure(self) -> None:
        """Find the method, declare its settings and make it."""
        method = scene_flow.METHODS.get(self.config.method)
        options = parameters.declare(self, method.config_class, self.config.method).read()
        made = method(**parameters.as_options(options))
        if self.config.camera_motion == "tf":
            self._tf = TfCameraMotion(self, self.config.fixed_frame, self._warn)
        self._pairs = FlowPairs(made, self.config, self._tf, self._warn)
        self._flow_publisher = self.create_lifecycle_publisher(Image, topics.SCENE_FLOW, topics.IMAGE_PUBLISHER)
        self._info_publisher = self.create_lifecycle_publisher(
            CameraInfo, topics.SCENE_FLOW_INFO, topics.IMAGE_PUBLISHER
        )
        self._preview_publisher = self.create_lifecycle_publisher(
            Image, topics.SCENE_FLOW_PREVIEW, topics.IMAGE_PUBLISHER
        )

    def activate(self) -> None:
        """Start without a last frame."""
        if self._pairs is not None:
            self._pairs.reset()
        super().activate()

    def process(self, frame: RgbdFrame) -> None:
        """Pairs the frame with the last one worked on."""
        assert self._pairs is not None
        flow = self._pairs.add(frame)
        if flow is None:
            return
        head = conversions.header(flow.stamp_ns, flow.frame_id)
        self._info_publisher.publish(conversions.intrinsics_to_info(flow.intrinsics, head))
        self._flow_publisher.publish(conversions.flow_to_image(flow.velocity, head))
        if self._preview_publisher.get_subscription_count():
            self._preview_publisher.publish(conversions.color_to_image(flow_image(flow.velocity), head))

    def cleanup(self) -> None:
        """Forgets the method."""
        for publisher in (self._flow_publisher, self._info_publisher, self._preview_publisher):
            if publisher is not None:
                self.destroy_lifecycle_publisher(publisher)
        if self._tf is not None:
            self._tf.close()
        self._flow_publisher = self._info_publisher = self._preview_publisher = self._pairs = self._tf = None


def main() -> int:
    """Entry point of the executable `scene_flow_node`."""
    return process.spin(SceneFlowNode)
