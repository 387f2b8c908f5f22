"""Fixtures: a ROS context for each test, nodes in it, and a peer that publishes and receives messages."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there: source a distribution or scripts/env.sh")
pytest.importorskip("actrec_msgs.msg", reason="the messages are not built: make build")

from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

from actrec.types import Intrinsics, RgbdFrame
from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.frame_node import FrameNode

TIMEOUT_S = 60.0
"""A generous timeout, as a loaded machine is much slower than an idle one."""
INTRINSICS = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)


class Peer(Node):
    """A node that publishes messages and stores all messages of the subscribed topics."""

    def __init__(self, context: Any):
        super().__init__("peer", context=context)
        self.received: dict[str, list[Any]] = {}
        self._condition = threading.Condition()
        self._by_topic: dict[str, Any] = {}

    def subscribe(self, kind: type, topic: str, profile: Any = topics.SMALL) -> Any:
        self.received[topic] = []

        def store(message: Any) -> None:
            with self._condition:
                self.received[topic].append(message)
                self._condition.notify_all()

        return self.create_subscription(kind, topic, store, profile)

    def wait(self, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> bool:
        with self._condition:
            return self._condition.wait_for(condition, timeout_s)

    def wait_for(self, topic: str, number: int = 1) -> list[Any]:
        assert self.wait(lambda: len(self.received[topic]) >= number), (
            f"{len(self.received[topic])} of {number} on {topic}"
        )
        return list(self.received[topic])

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Wait for a condition that does not depend on messages to the peer."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "timeout"
            time.sleep(0.01)

    def wait_for_subscribers(self, topic: str, number: int) -> None:
        """Wait until the graph has this number of subscriptions."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.count_subscribers(topic) != number:
            assert time.monotonic() < deadline, f"{self.count_subscribers(topic)} subscribe {topic}, not {number}"
            self.wait(lambda: False, 0.02)

    def send(self, topic: str, message: Any, profile: Any = topics.SMALL) -> None:
        if topic not in self._by_topic:
            self._by_topic[topic] = self.create_publisher(type(message), topic, profile)
        self._by_topic[topic].publish(message)

    def send_frame(self, frame: RgbdFrame, depth_image: Image | None = None, color_image: Image | None = None) -> None:
        """Publish a frame as a camera does, with the given images instead of the frame's."""
        head = conversions.header(frame.stamp_ns, frame.frame_id)
        self.send(topics.COLOR_INFO, conversions.intrinsics_to_info(frame.intrinsics, head), topics.IMAGE_PUBLISHER)
        if depth_image is not None or frame.depth is not None:
            depth_image = depth_image or conversions.depth_to_image(frame.depth, head)  # type: ignore[arg-type]
            self.send(topics.DEPTH, depth_image, topics.IMAGE_PUBLISHER)
        color_image = color_image or conversions.color_to_image(frame.color, head)  # type: ignore[arg-type]
        self.send(topics.COLOR, color_image, topics.IMAGE_PUBLISHER)

    def send_frames_until(self, frames: Iterator[RgbdFrame], condition: Callable[[], bool], **images: Any) -> None:
        """Publish the frames, 0.1 s apart, until the condition holds."""
        for frame in frames:
            self.send_frame(frame, **images)
            if self.wait(condition, 0.1):
                return
        raise AssertionError("the frames have ended and the condition does not hold")


def participants() -> int:
    """Return the number of DDS participants, by the event threads of Fast DDS; 0 with other middleware."""
    names = []
    for name in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread may end during the count
            names.append(name.read_text())
    return sum(name.startswith("dds.ev") for name in names)


@pytest.fixture(autouse=True)
def no_participant_outlives_its_test() -> Iterator[None]:
    """Check that a test destroys its nodes, as Fast DDS 2.14 may hang with many participants in a process."""
    count = participants()
    yield
    assert participants() <= count, "a node was not destroyed, or a reference keeps it alive"


class Output(NamedTuple):
    """Text written to standard output and standard error."""

    out: str
    err: str


class Capture:
    """Captured output; reading does not change the files that hold it.

    pytest rewinds and truncates them when it reads: a line that a node logs at that moment then replaces their
    beginning.
    """

    def __init__(self) -> None:
        self._read = [0, 0]

    def readouterr(self) -> Output:
        """Return the text written since the last call."""
        return Output(*(self._new(index) for index in range(2)))

    def _new(self, index: int) -> str:
        with open(f"/proc/self/fd/{index + 1}", "rb") as file:
            file.seek(self._read[index])
            data = file.read()
        self._read[index] += len(data)
        return data.decode(errors="replace")


@pytest.fixture
def capfd(capfd: pytest.CaptureFixture[str]) -> Capture:
    return Capture()


@pytest.fixture
def context() -> Iterator[Any]:
    with ros() as context:
        yield context


@pytest.fixture
def host(context: Any) -> Iterator[Host]:
    with Host(context) as host:
        yield host


@pytest.fixture
def peer(context: Any, host: Host) -> Peer:
    peer = Peer(context)
    host.add(peer)
    return peer


@pytest.fixture
def add(context: Any, host: Host) -> Callable[..., Any]:
    """Return a function that adds a node with parameters given by name, with __ for dots; it works unsubscribed."""

    def add(node_class: Any, **parameters: Any) -> Any:
        if issubclass(node_class, FrameNode):
            parameters = {"idle_after_s": 0.0, **parameters}
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
        node = node_class(context=context, parameter_overrides=overrides)
        host.add(node)
        return node

    return add


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Return a function that creates recognizer graphs; see `tests.nodes.recognizer_graph`."""
    from tests.nodes.recognizer_graph import Graph

    graphs: list[Graph] = []

    def create(**parameters: Any) -> Graph:
        graphs.append(Graph(**{"interval_s": 0.0, "watchdog_s": 0.0, **parameters}))
        return graphs[-1]

    yield create
    for graph in graphs:
        graph.stop()


def still(
    number: int = 600, color: np.ndarray | None = None, depth: Any = 2.0, dt: float = 1 / 15, start_s: float = 1.0
) -> Iterator[RgbdFrame]:
    """Yield frames with the same images and increasing stamps, for a minute at 10 Hz."""
    shape = (INTRINSICS.height, INTRINSICS.width)
    color = np.full((*shape, 3), 128, np.uint8) if color is None else color
    depth = np.full(shape, depth, np.float32) if isinstance(depth, float) else depth
    for k in range(number):
        yield RgbdFrame(int((start_s + k * dt) * 1e9), color, depth, INTRINSICS)


__all__ = ["CameraInfo", "Peer", "still"]
