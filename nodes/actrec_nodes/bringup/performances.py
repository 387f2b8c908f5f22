"""One image of each action that simulated actors perform, for `actrec run --image`."""

import threading
from collections import deque
from typing import Any

from actrec_msgs.msg import ActionLabel
from rclpy.node import Node

from actrec.recognition.ground_truth import RESTING
from actrec.types import NANOSECONDS
from actrec.visualization.snapshots import Snapshot
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.frame_node import FrameSubscription
from actrec_nodes.common.snapshot_subscription import SnapshotConfig, SnapshotMessages, SnapshotSubscription
from actrec_nodes.common.synchronizer import SynchronizerConfig

INTERVAL_NS = NANOSECONDS // 5  # between images that are kept of an action that goes on
RECENT = 100  # stamps whose action is remembered
ACTIONS = 60  # actions of which an image is kept


class PerformanceImages(Node):
    """Keeps the image in the middle of the first performance of each action."""

    def __init__(self, **node_options: Any):
        super().__init__("actrec_images", **node_options)
        self._lock = threading.Lock()
        self._performed: deque[tuple[int, str]] = deque(maxlen=RECENT)
        self._kept: dict[str, SnapshotMessages] = {}
        self._action, self._newest_ns = "", 0
        self._current: list[SnapshotMessages] = []
        self._snapshots = SnapshotSubscription(self, SnapshotConfig(hands_and_face="never"), self._add, self._warn)
        self._frames = FrameSubscription(self, SynchronizerConfig(), self._snapshots.add_images, self._warn)
        self.create_subscription(ActionLabel, topics.TRUE_ACTION_LABEL, self._on_action, topics.SMALL)

    def destroy_node(self) -> None:
        """Unsubscribe, then destroy the node."""
        self._frames.close()
        self._snapshots.close()
        super().destroy_node()

    def snapshots(self) -> dict[str, Snapshot]:
        """Return an image with people for each action so far."""
        with self._lock:
            self._finish()
            return {action: messages.snapshot() for action, messages in self._kept.items()}

    def _on_action(self, message: ActionLabel) -> None:
        with self._lock:
            self._performed.append((conversions.stamp_to_ns(message.header.stamp), message.label))

    def _add(self, messages: SnapshotMessages) -> None:
        with self._lock:
            if messages.stamp_ns < self._newest_ns:  # late skeletons, perhaps of the action before
                return
            self._newest_ns = messages.stamp_ns
            found = [action for stamp_ns, action in self._performed if stamp_ns == messages.stamp_ns]
            action = next((action for action in found if action not in RESTING), "")
            if action != self._action:
                self._finish()
                self._action = action
            last_ns = self._current[-1].stamp_ns if self._current else -INTERVAL_NS
            is_wanted = action and action not in self._kept and len(self._kept) < ACTIONS
            if is_wanted and messages.matched.image is not None and messages.stamp_ns - last_ns >= INTERVAL_NS:
                self._current.append(messages)

    def _finish(self) -> None:
        if self._current:
            self._kept[self._action] = self._current[len(self._current) // 2]
        self._current = []

    def _warn(self, line: str) -> None:
        self.get_logger().debug(line)
