"""For `nucla-live`: a node in a process of its own, and a peer that feeds it and waits for its labels."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from actrec_msgs.msg import ActionLabel, SkeletonArray
from rclpy.node import Node
from std_msgs.msg import String

from actrec.errors import DeviceError
from actrec.frames import NANOSECONDS
from actrec.recordings.sequence import SkeletonSequence
from actrec_nodes import conversions, qos, topics

FRAME_ID = "camera_color_optical_frame"
FIRST_STAMP_NS = 1_000_000 * NANOSECONDS
MEETING_S = 60.0
EXIT_S = 15.0


@contextlib.contextmanager
def node_process(name: str, namespace: str, parameters: Mapping[str, Any]) -> "Iterator[subprocess.Popen[bytes]]":
    """Runs one node in a process of its own; interrupts it at the end, and kills it where that does not help."""
    command = [sys.executable, "-m", "actrec_nodes.process", name, "--ros-args", "-r", f"__ns:=/{namespace}"]
    for key, value in {"autostart": "true", **parameters}.items():
        command += ["-p", f"{key}:={value}"]
    child = subprocess.Popen([*command, "--log-level", "warn"], start_new_session=True)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Peer(Node):
    """Publishes skeletons and collects the labels and the figures of a recognizer_node in the same namespace.

    Attributes:
        last_stamp_ns: Of the last frame published; stamps only ever grow.
        label_count: Labels received since the meeting.
    """

    def __init__(self, **node_options: Any):
        super().__init__("benchmark_peer", **node_options)
        self.last_stamp_ns = FIRST_STAMP_NS
        self.label_count = 0
        self._changed = threading.Condition()
        self._labels: dict[int, list[ActionLabel]] = {}
        self._figures: dict[str, Any] = {}
        self._figures_count = 0
        self._received_before = 0
        # As deep as the recognizer's queue: what is published at once must not overwrite itself.
        self._publisher = self.create_publisher(SkeletonArray, topics.SKELETONS, qos.WINDOW_SUBSCRIBER)
        self.create_subscription(ActionLabel, topics.ACTION_LABEL, self._on_label, qos.SMALL)
        self.create_subscription(String, "recognizer_node/statistics", self._on_statistics, qos.LATCHED)

    def meet(self, check_alive: Callable[[], None]) -> None:
        """Publishes empty scenes until labels and figures come back; what was sent by then is not counted.

        Args:
            check_alive: Called now and then; raises where the node has ended.

        Raises:
            DeviceError: Nothing came back in a minute.
        """
        for _ in range(int(MEETING_S / 0.1)):
            check_alive()
            self.last_stamp_ns += NANOSECONDS
            self._publish(self.last_stamp_ns, [])
            if self._wait(lambda: self.last_stamp_ns in self._labels and self._figures_count > 0, 0.1):
                break
        else:
            raise DeviceError(f"no label from recognizer_node in {MEETING_S:g} s: is it active?")
        # The second set of figures from here on was surely taken after the last empty scene.
        count = self._figures_count
        self._wait(lambda: self._figures_count >= count + 2, MEETING_S)
        self._received_before = int(self._figures["received"])
        self.label_count = 0

    def received_since_meeting(self, expected: int, timeout_s: float = 5.0) -> int:
        """How many messages the node says it has received; waits until these are as many as `expected`."""
        self._wait(lambda: self._figures["received"] - self._received_before >= expected, timeout_s)
        return int(self._figures["received"]) - self._received_before

    def play(
        self, sequence: SkeletonSequence, stamps_ns: np.ndarray, body_id: str, timeout_s: float
    ) -> ActionLabel | None:
        """Publishes a sequence of one person at once.

        Args:
            sequence: The joints.
            stamps_ns: [T] stamps to publish them with.
            body_id: Whose they are.
            timeout_s: How long to wait.

        Returns:
            The label that bears the last frame's stamp; None where none came in time.
        """
        for index, stamp_ns in enumerate(stamps_ns):
            bodies = sequence.bodies_at(index)[:1]
            for body in bodies:
                body.body_id = body_id
            self._publish(int(stamp_ns), bodies)
        self.last_stamp_ns = int(stamps_ns[-1])
        owner = body_id if bodies else ""

        def found() -> list[ActionLabel]:
            return [label for label in self._labels.get(self.last_stamp_ns, []) if label.body_id == owner]

        self._wait(lambda: bool(found()), timeout_s)
        label = next(iter(found()), None)
        self._labels.clear()
        return label

    def _publish(self, stamp_ns: int, bodies: list[Any]) -> None:
        self._publisher.publish(conversions.bodies_to_message(bodies, conversions.header(stamp_ns, FRAME_ID)))

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def _on_label(self, message: ActionLabel) -> None:
        with self._changed:
            self.label_count += 1
            self._labels.setdefault(conversions.stamp_to_ns(message.header.stamp), []).append(message)
            self._changed.notify_all()

    def _on_statistics(self, message: String) -> None:
        with self._changed:
            self._figures = json.loads(message.data)
            self._figures_count += 1
            self._changed.notify_all()
