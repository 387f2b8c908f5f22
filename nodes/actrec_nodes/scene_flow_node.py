"""Publishes the motion in space of what each pixel shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from actrec import sceneflow
from actrec.config import setting
from actrec.errors import InputError
from actrec.frames import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.sceneflow.base import SceneFlow, resize
from actrec_nodes import conversions, params, process, qos, topics
from actrec_nodes.frame_node import FrameNode


@dataclass(frozen=True)
class SceneFlowConfig:
    """Which method, at which size. The method's own settings are `<method>.<setting>`."""

    method: str = setting("dis", "Scene flow method: a name in actrec.sceneflow.")
    width: int = setting(320, "Width of the flow image.", unit="px", range=(16, 4096))
    height: int = setting(240, "Height of the flow image.", unit="px", range=(16, 4096))
    max_gap_s: float = setting(0.5, "Frames farther apart than this are no pair.", unit="s", range=(0.001, 10.0))


class SceneFlowNode(FrameNode[SceneFlowConfig]):
    """Each pair of frames worked on gives one message, stamped with the first: its pixels are those that move."""

    def __init__(self, **node_options: Any):
        super().__init__("scene_flow_node", SceneFlowConfig, **node_options)
        self._method: SceneFlow | None = None
        self._last: _Small | None = None
        self._flow_publisher: Any = None
        self._info_publisher: Any = None

    def configure(self) -> None:
        """Finds the method, declares its settings and makes it."""
        method = sceneflow.METHODS.get(self.config.method)
        options = params.declare(self, method.config_class, self.config.method).read()
        self._method = method(**params.as_options(options))
        self._flow_publisher = self.create_lifecycle_publisher(Image, topics.SCENE_FLOW, qos.IMAGE_PUBLISHER)
        self._info_publisher = self.create_lifecycle_publisher(CameraInfo, topics.SCENE_FLOW_INFO, qos.IMAGE_PUBLISHER)

    def activate(self) -> None:
        """Starts without a last frame."""
        self._last = None
        super().activate()

    def process(self, frame: RgbdFrame) -> None:
        """Pairs the frame with the last one worked on."""
        last, self._last = self._last, None
        newest = self._last = self._resized(frame)
        if last is None or last.intrinsics != newest.intrinsics:
            return
        dt = (newest.stamp_ns - last.stamp_ns) / NANOSECONDS
        # Time that jumps back, or a gap: this frame starts anew.
        if 0 < dt <= self.config.max_gap_s:
            self._publish(last, newest, dt)

    def cleanup(self) -> None:
        """Forgets the method."""
        for publisher in (self._flow_publisher, self._info_publisher):
            if publisher is not None:
                self.destroy_lifecycle_publisher(publisher)
        self._flow_publisher = self._info_publisher = self._method = None

    def _publish(self, first: "_Small", second: "_Small", dt: float) -> None:
        assert self._method is not None
        flow = self._method.estimate(first.colour, first.depth, second.colour, second.depth, first.intrinsics, dt)
        head = conversions.header(first.stamp_ns, first.frame_id)
        self._info_publisher.publish(conversions.intrinsics_to_info(first.intrinsics, head))
        self._flow_publisher.publish(conversions.flow_to_image(flow, head))

    def _resized(self, frame: RgbdFrame) -> "_Small":
        if frame.colour is None or frame.depth is None:
            raise InputError("scene flow needs depth, and this frame has none")
        colour, depth, intrinsics = resize(
            frame.colour, frame.depth, frame.intrinsics, self.config.width, self.config.height
        )
        return _Small(frame.stamp_ns, frame.frame_id, colour, depth, intrinsics)


@dataclass(frozen=True)
class _Small:
    """A frame at the size that flow is estimated at."""

    stamp_ns: int
    frame_id: str
    colour: np.ndarray
    depth: np.ndarray
    intrinsics: Intrinsics


def main() -> int:
    """Entry point of the executable `scene_flow_node`."""
    return process.spin(SceneFlowNode)
