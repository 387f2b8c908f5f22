"""The node `visualization_node`: the camera's image with people and labels drawn on it, and markers for RViz."""

import array
import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import ColorRGBA

from actrec.skeleton import layouts
from actrec.types import NANOSECONDS, UNKNOWN, Body
from actrec.utils.config import setting
from actrec.utils.errors import InputError, MissingLibraryError
from actrec.visualization import overlay
from actrec.visualization.snapshots import Snapshot
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.frame_node import FrameNode
from actrec_nodes.common.snapshot_subscription import SnapshotConfig, SnapshotMessages, SnapshotSubscription
from actrec_nodes.common.synchronizer import RgbdMessages

TICK_S = 0.1  # interval at which images without skeletons are looked for
BONE_M, JOINT_M, FINGER_M, FACE_M, TEXT_M = 0.03, 0.05, 0.008, 0.006, 0.14
"""Thickness of bones, joints, fingers and points of a face, and height of a label's text."""

TEXT_OFFSET_M = 0.25  # of a label above the head
LEVEL = np.array([0.0, -1.0, 0.0])  # up, for a level camera


@dataclass(frozen=True)
class VisualizationConfig(SnapshotConfig):
    """Parameters of the visualization node."""

    max_rate_hz: float = setting(15.0, "Most images and markers in a second; 0: all.", unit="Hz", range=(0.0, 1000.0))
    max_width: int = setting(1280, "Wider images are reduced to this width; 0: never.", unit="px", range=(0, 16_384))
    jpeg_quality: int = setting(80, "Quality of the compressed image.", range=(1, 100))
    marker_lifetime_s: float = setting(
        1.0, "Time after which RViz removes a marker that is not updated.", unit="s", range=(0.1, 60.0)
    )


class VisualizationNode(FrameNode[VisualizationConfig]):
    """Publishes `annotated_image`, `annotated_image/compressed` and `markers`, each only if it has subscribers.

    An image is published when its skeletons have come, so that they do not lag. Without subscribers to either image,
    the node does not receive images.
    """

    def __init__(self, **node_options: Any):
        super().__init__("visualization_node", VisualizationConfig, **node_options)
        self._snapshots: SnapshotSubscription | None = None
        self._markers: Markers | None = None
        self._image: Any = None
        self._compressed: Any = None
        self._marker_array: Any = None
        self._next = 0.0

    def configure(self) -> None:
        """Make the publishers."""
        self._markers = Markers(self.config.marker_lifetime_s)
        self._image = self.create_output(Image, topics.ANNOTATED_IMAGE, topics.IMAGE_PUBLISHER)
        self._compressed = self.create_output(CompressedImage, topics.ANNOTATED_COMPRESSED, topics.IMAGE_PUBLISHER)
        self._marker_array = self.create_output(self._markers.array_class, topics.MARKERS)

    def activate(self) -> None:
        """Subscribe as far as there are subscribers."""
        super().activate()
        self.start_timer(TICK_S, self._tick)

    def subscribe(self) -> None:
        """Subscribe to people and labels, and to images if an image is wanted."""
        self._snapshots = SnapshotSubscription(self, self.config, self._on_snapshot, self.warn, with_images=False)
        self.reset()
        self._follow_images()

    def unsubscribe(self) -> None:
        """Unsubscribe."""
        super().unsubscribe()
        if self._snapshots is not None:
            self._snapshots.close()
            self._snapshots = None

    def follow_subscribers(self, event: Any = None) -> None:
        """Become idle, or work again, and subscribe to images, hands and faces only while they are shown."""
        with self._following:
            super().follow_subscribers(event)
            if self._snapshots is not None:
                self._follow_images()
                self._snapshots.follow()

    def receive(self, messages: RgbdMessages) -> None:
        """Let the images of a frame wait for its skeletons."""
        if (snapshots := self._snapshots) is not None:
            snapshots.add_images(messages)

    def reset(self) -> None:
        """Remove the markers of earlier people with the next message."""
        if self._markers is not None:
            self._markers.reset()

    def work(self, item: SnapshotMessages) -> None:
        """Draw and publish."""
        assert self._markers is not None
        wants_image, wants_jpeg, wants_markers = (
            output.get_subscription_count() > 0 for output in (self._image, self._compressed, self._marker_array)
        )
        snapshot = item.snapshot(color=wants_image or wants_jpeg)
        if snapshot.color is not None:
            self._publish_image(snapshot, item.header, wants_image, wants_jpeg)
        if wants_markers and item.matched.skeletons is not None:
            self._marker_array.publish(self._markers.array(snapshot, item.header))

    def cleanup(self) -> None:
        """Free the markers."""
        self._markers = None

    def _publish_image(self, snapshot: Snapshot, head: Any, wants_image: bool, wants_jpeg: bool) -> None:
        drawn = snapshot.annotated(self.config.max_width)
        if wants_image:
            self._image.publish(conversions.color_to_image(drawn, head))
        if wants_jpeg:
            quality = [cv2.IMWRITE_JPEG_QUALITY, self.config.jpeg_quality]
            encoded = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), quality)[1]
            data = array.array("B")
            data.frombytes(encoded.data)
            self._compressed.publish(CompressedImage(header=head, format="rgb8; jpeg compressed bgr8", data=data))

    def _follow_images(self) -> None:
        wanted = any(output.get_subscription_count() for output in (self._image, self._compressed))
        if wanted == (self._frames is not None):
            return
        assert self._snapshots is not None
        self._snapshots.show_images(wanted)
        if wanted:
            super().subscribe()
        else:
            super().unsubscribe()

    def _tick(self) -> None:
        if (snapshots := self._snapshots) is not None:
            snapshots.advance()

    def _on_snapshot(self, messages: SnapshotMessages) -> None:
        rate, now = self.config.max_rate_hz, time.monotonic()
        if rate and now < self._next:
            return
        # Half an interval less, as images jitter: 30 Hz becomes 15 Hz, not 10 Hz.
        self._next = max(self._next, now - 0.5 / rate) + 1 / rate if rate else 0.0
        self.put(messages)


class Markers:
    """Turns snapshots into `visualization_msgs/MarkerArray`: bones, joints, hands, faces, and a label above each head.

    A person has the same ids in the namespaces `bones`, `joints`, `labels`, `hands` and `faces` until it is lost, and
    is then deleted. The first array deletes all markers of an earlier run.

    Args:
        lifetime_s: Time after which RViz removes a marker by itself.

    Raises:
        MissingLibraryError: visualization_msgs is not installed.
    """

    def __init__(self, lifetime_s: float = 1.0):
        try:
            self._msg: Any = importlib.import_module("visualization_msgs.msg")
        except ImportError as error:
            raise MissingLibraryError(
                "visualization_node needs visualization_msgs: make venv build, or: apt install "
                "ros-$ROS_DISTRO-visualization-msgs"
            ) from error
        self.array_class: type = self._msg.MarkerArray
        whole, part = divmod(lifetime_s, 1.0)
        self._lifetime = Duration(sec=int(whole), nanosec=int(part * NANOSECONDS))
        self._numbers: dict[str, int] = {}
        self._count = 0
        self.reset()

    def reset(self) -> None:
        """Let the next array begin with the deletion of all markers."""
        self._shown: set[tuple[str, int]] | None = None

    def array(self, snapshot: Snapshot, head: Any) -> Any:
        """Return the markers of a snapshot, with the deletion of the ones that are no longer in it.

        Raises InputError if a body has not the joints of its layout, ConfigError if the layout is unknown.
        """
        up = LEVEL if snapshot.up is None else snapshot.up
        markers = [marker for body in snapshot.bodies for marker in self._body(body, snapshot, up)]
        for hand in snapshot.hands:
            number = 2 * self._number(hand.body_id) + (hand.side == "left")
            color = overlay.color_of(hand.body_id)
            markers += self._lines("hands", number, hand, FINGER_M, color)
            if hand.body_id in snapshot.captions and all(body.body_id != hand.body_id for body in snapshot.bodies):
                markers += self._label(hand, snapshot, up)
        for face in snapshot.faces:
            points = face.positions[np.isfinite(face.positions).all(axis=1)]
            color = overlay.color_of(face.body_id)
            markers += self._points("faces", self._number(face.body_id), self._msg.Marker.POINTS, points, FACE_M, color)
        shown = {(marker.ns, marker.id) for marker in markers}
        if self._shown is None:
            deleted = [self._msg.Marker(action=self._msg.Marker.DELETEALL)]
        else:
            gone = sorted(self._shown - shown)
            deleted = [self._msg.Marker(ns=ns, id=number, action=self._msg.Marker.DELETE) for ns, number in gone]
        self._shown = shown
        seen = {one.body_id for one in (*snapshot.bodies, *snapshot.hands, *snapshot.faces)}
        self._numbers = {name: number for name, number in self._numbers.items() if name in seen}
        for marker in (*deleted, *markers):
            marker.header = head
        return self.array_class(markers=[*deleted, *markers])

    def _body(self, body: Body, snapshot: Snapshot, up: np.ndarray) -> list[Any]:
        number, color = self._number(body.body_id), overlay.color_of(body.body_id)
        points = body.positions[np.isfinite(body.positions).all(axis=1)]
        joints = self._points("joints", number, self._msg.Marker.SPHERE_LIST, points, JOINT_M, color)
        return [*self._lines("bones", number, body, BONE_M, color), *joints, *self._label(body, snapshot, up)]

    def _label(self, body: Body, snapshot: Snapshot, up: np.ndarray) -> list[Any]:
        points = body.positions[np.isfinite(body.positions).all(axis=1)]
        if not len(points):
            return []
        names = layouts.get(body.layout).index
        head = body.positions[names["head"]] if "head" in names else np.full(3, np.nan)
        top = head if np.isfinite(head).all() else points[np.argmax(points @ up)]
        caption = snapshot.captions.get(body.body_id)
        known = caption is not None and caption.label not in ("", UNKNOWN)
        color = overlay.color_of(body.body_id) if known else (170, 174, 180)
        marker = self._marker("labels", self._number(body.body_id), self._msg.Marker.TEXT_VIEW_FACING, color)
        marker.text = "\n".join(overlay.text_of(body.body_id, caption).rsplit("  ", 1))
        marker.scale.z = TEXT_M
        marker.pose.position = _point(top + TEXT_OFFSET_M * up)
        return [marker]

    def _lines(self, ns: str, number: int, body: Body, width: float, color: overlay.Color) -> list[Any]:
        layout = layouts.get(body.layout)
        if len(body.positions) != len(layout):
            raise InputError(f"'{body.body_id}' has {len(body.positions)} joints, {layout.name} has {len(layout)}")
        bones = body.positions[np.array(layout.edges)]  # (bones, 2, 3)
        ends = bones[np.isfinite(bones).all(axis=(1, 2))].reshape(-1, 3)
        return self._points(ns, number, self._msg.Marker.LINE_LIST, ends, width, color)

    def _points(
        self, ns: str, number: int, kind: int, points: np.ndarray, size: float, color: overlay.Color
    ) -> list[Any]:
        """Return a marker of points, or pairs of points; none without points, which RViz reports as an error."""
        if not len(points):
            return []
        marker = self._marker(ns, number, kind, color)
        marker.scale.x = marker.scale.y = marker.scale.z = size
        marker.points = [_point(point) for point in points]
        return [marker]

    def _marker(self, ns: str, number: int, kind: int, color: overlay.Color) -> Any:
        red, green, blue = (channel / 255 for channel in color)
        marker = self._msg.Marker(ns=ns, id=number, type=kind, action=self._msg.Marker.ADD, lifetime=self._lifetime)
        marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
        marker.pose.orientation.w = 1.0
        return marker

    def _number(self, body_id: str) -> int:
        if body_id not in self._numbers:
            self._numbers[body_id] = self._count
            self._count = (self._count + 1) % (1 << 29)
        return self._numbers[body_id]


def _point(position: Sequence[float] | np.ndarray) -> Point:
    return Point(x=float(position[0]), y=float(position[1]), z=float(position[2]))
