"""The node `scene_flow_node`: pairs of RGB-D frames to scene flow, the 3-D velocity of each pixel."""

from collections.abc import Callable
from functools import partial
from typing import Any

from sensor_msgs.msg import CameraInfo, Image

from actrec import scene_flow
from actrec.scene_flow.camera_motion import CameraMotion
from actrec.scene_flow.stream import FlowPairs, SceneFlowConfig, flow_image
from actrec.types import RgbdFrame
from actrec.utils.errors import DeviceError
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.frame_node import FrameNode
from actrec_nodes.common.tf import WAIT_S, TfPoses


class SceneFlowNode(FrameNode[SceneFlowConfig]):
    """Publishes one message per processed pair of frames, with the stamp and pixels of the first frame.

    A preview image is published too if it has subscribers.
    """

    def __init__(self, **node_options: Any):
        super().__init__("scene_flow_node", SceneFlowConfig, **node_options)
        self._pairs: FlowPairs | None = None
        self._flow: Any = None
        self._info: Any = None
        self._preview: Any = None
        self._tf: TfPoses | None = None
        self._device = ""

    @classmethod
    def preload(cls, value: Callable[[str], Any]) -> None:
        """Import the method."""
        scene_flow.METHODS.get(value("method") or SceneFlowConfig.method)

    def configure(self) -> None:
        """Find the method, declare its settings, make it and prepare it."""
        method = scene_flow.METHODS.get(self.config.method)
        options = parameters.Parameters(self, method.config_class, self.config.method).read()
        made = method(**parameters.as_options(options))
        made.prepare()
        self._device = made.device
        if line := scene_flow.device_line(self.config.method, made):
            log = self.get_logger()
            (log.warning if made.unused_gpu else log.info)(line)
        lookup = None
        if self.config.camera_motion == "tf":
            self._tf = TfPoses(self, "camera_motion 'tf'", "set camera_motion to 'estimate'")
            lookup = partial(camera_motion, self._tf, self.config.fixed_frame, self.warn)
        self._pairs = FlowPairs(made, self.config, lookup, self.warn)
        self._flow = self.create_output(Image, topics.SCENE_FLOW, topics.IMAGE_PUBLISHER)
        self._info = self.create_output(CameraInfo, topics.SCENE_FLOW_INFO, topics.IMAGE_PUBLISHER)
        self._preview = self.create_output(Image, topics.SCENE_FLOW_PREVIEW, topics.IMAGE_PUBLISHER)

    def reset(self) -> None:
        """Drop the last frame."""
        if self._pairs is not None:
            self._pairs.reset()

    def process(self, frame: RgbdFrame) -> None:
        """Compute the flow from the last processed frame to this one, and publish it."""
        assert self._pairs is not None
        flow = self._pairs.add(frame)
        if flow is None:
            return
        head = conversions.header(flow.stamp_ns, flow.frame_id)
        self._info.publish(conversions.intrinsics_to_info(flow.intrinsics, head))
        self._flow.publish(conversions.flow_to_image(flow.velocity, head))
        if self._preview.get_subscription_count():
            self._preview.publish(conversions.color_to_image(flow_image(flow.velocity), head))

    def figures(self) -> dict[str, float | int | str]:
        """Return the device, and method and height, which the recognizer compares with its model's training."""
        return {**super().figures(), **self.config.identity, "device": self._device}

    def cleanup(self) -> None:
        """Free the method."""
        if self._tf is not None:
            self._tf.close()
        self._pairs = self._tf = None


def camera_motion(
    tf: TfPoses, fixed_frame: str, warn: Callable[[str], None], first: RgbdFrame, second: RgbdFrame
) -> CameraMotion | None:
    """Return the camera's motion between two frames by TF, with `fixed_frame` at rest; warn and return None without."""
    try:
        poses = [tf.pose(fixed_frame, frame.frame_id, frame.stamp_ns, WAIT_S) for frame in (first, second)]
    except DeviceError as error:
        warn(f"the camera's motion is not subtracted from the flow, because TF does not have it: {error}")
        return None
    return CameraMotion.between(*poses)
