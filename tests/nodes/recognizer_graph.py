"""A recognizer node over real DDS, with a peer that publishes its inputs and stores its labels."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from actrec_msgs.msg import ActionEvent, ActionLabel, SkeletonArray
from actrec_msgs.srv import LoadModel
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String

from actrec.types import Body
from actrec_nodes.common import conversions, topics
from actrec_nodes.recognizer_node import RecognizerNode
from tests.tiny_model import person_at

TIMEOUT_S = 60.0
PERIOD_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000


def stamp(frame: float) -> int:
    return START_NS + round(frame * PERIOD_NS)


def body(x: float, body_id: str = "body_1", layout: str = "kinect_v2_25") -> Body:
    return Body(body_id, layout, person_at(x), np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32))


class Graph:
    """A recognizer node and a peer that publishes skeletons and stores labels, in one executor thread."""

    def __init__(self, **parameters: Any):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
        self.node = RecognizerNode(context=self.context, parameter_overrides=overrides)
        self.peer = Node("peer", context=self.context)
        self.labels: list[ActionLabel] = []
        self.texts: list[str] = []
        self.events: list[ActionEvent] = []
        self._by_topic: dict[str, Any] = {}
        self._arrived = threading.Condition()
        self._publisher = self.peer.create_publisher(SkeletonArray, topics.SKELETONS, topics.SMALL)
        self.peer.create_subscription(ActionLabel, topics.ACTION_LABEL, self._on_label, topics.SMALL)
        self.peer.create_subscription(String, topics.ACTION_LABEL_TEXT, self._on_text, topics.SMALL)
        self.peer.create_subscription(ActionEvent, topics.ACTION_EVENTS, self._on_event, topics.SMALL)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._executor.add_node(self.peer)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def start(self) -> bool:
        """Start the node and wait until it and the peer have discovered each other."""
        started = self.node.start()
        self._thread.start()
        if started:
            self._discover()
        return started

    def _discover(self) -> None:
        """Publish an empty scene until its label arrives, because DDS does not report discovery."""
        attempts = range(600)
        for attempt in attempts:
            self.publish(stamp(-1000 + attempt))
            with self._arrived:
                if self._arrived.wait_for(lambda: bool(self.labels and self.texts), 0.1):
                    break
        last = stamp(-1000 + attempt)
        self.wait(lambda: self.labels[-1].header.stamp == conversions.ns_to_stamp(last))
        self.labels.clear()

    def stop(self) -> None:
        self._stopping.set()
        # A last task ends the thread; a shutdown, as in Host, would destroy the guard condition it waits for.
        self._executor.create_task(lambda: None)
        if self._thread.ident is not None:
            self._thread.join()
        self._executor.shutdown()
        self.node.close()
        self.node.destroy_node()
        self.peer.destroy_node()
        rclpy.shutdown(context=self.context)

    def publish(self, stamp_ns: int, *bodies: Body) -> None:
        self._publisher.publish(conversions.bodies_to_message(bodies, conversions.header(stamp_ns, "camera")))

    def step(self, stamp_ns: int, *bodies: Body) -> list[ActionLabel]:
        """Publish one frame, wait for the labels with its stamp, and return them."""
        self.publish(stamp_ns, *bodies)
        expected = conversions.ns_to_stamp(stamp_ns)
        count = max(len(bodies), 1)
        self.wait(lambda: sum(label.header.stamp == expected for label in self.labels) >= count)
        return [label for label in self.labels if label.header.stamp == expected]

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._arrived:
            assert self._arrived.wait_for(condition, TIMEOUT_S), f"timeout; {self.node.last_error or 'no error'}"

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that does not depend on messages."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"timeout; {self.node.last_error or 'no error'}"
            time.sleep(0.01)

    def send(self, topic: str, message: Any) -> None:
        """Publish on any topic, reliably."""
        if topic not in self._by_topic:
            self._by_topic[topic] = self.peer.create_publisher(type(message), topic, topics.SMALL)
        self._by_topic[topic].publish(message)

    def wait_for_subscribers(self, topic: str, number: int) -> None:
        """Wait until the graph has this number of subscriptions."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.peer.count_subscribers(topic) != number:
            found = self.peer.count_subscribers(topic)
            assert time.monotonic() < deadline, f"{found} subscribe {topic}, not {number}"
            time.sleep(0.02)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.peer.create_client(kind, f"recognizer_node/{name}")
        assert client.wait_for_service(TIMEOUT_S)
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        assert answered.wait(TIMEOUT_S), f"{name} did not answer"
        self.peer.destroy_client(client)
        return future.result()

    def load_model(self, package: str | Path) -> Any:
        return self.call(LoadModel, "load_model", LoadModel.Request(package=str(package)))

    def _spin(self) -> None:
        while not self._stopping.is_set():
            self._executor.spin_once()

    def _on_label(self, message: ActionLabel) -> None:
        with self._arrived:
            self.labels.append(message)
            self._arrived.notify_all()

    def _on_event(self, message: ActionEvent) -> None:
        with self._arrived:
            self.events.append(message)
            self._arrived.notify_all()

    def _on_text(self, message: String) -> None:
        with self._arrived:
            self.texts.append(message.data)
            self._arrived.notify_all()


Make = Callable[..., Graph]
"""Creates a graph from parameters with __ for dots; the fixture stops it after the test."""
