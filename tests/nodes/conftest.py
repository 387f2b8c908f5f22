"""A ROS context of its own for each test, nodes in it, and ears that wait without polling."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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

TIMEOUT_S = 60.0
"""For what takes a moment on an idle machine; a loaded one may need much longer."""
INTRINSICS = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)


class Ears(Node):
    """Keeps every message of the topics it listens to."""

    def __init__(self, context: Any):
        super().__init__("ears", context=context)
        self.heard: dict[str, list[Any]] = {}
        self._condition = threading.Condition()
        self._mouths: dict[str, Any] = {}

    def listen(self, kind: type, topic: str, profile: Any = topics.SMALL) -> None:
        self.heard[topic] = []

        def keep(message: Any) -> None:
            with self._condition:
                self.heard[topic].append(message)
                self._condition.notify_all()

        self.create_subscription(kind, topic, keep, profile)

    def wait(self, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> bool:
        with self._condition:
            return self._condition.wait_for(condition, timeout_s)

    def wait_for(self, topic: str, number: int = 1) -> list[Any]:
        assert self.wait(lambda: len(self.heard[topic]) >= number), f"{len(self.heard[topic])} of {number} on {topic}"
        return list(self.heard[topic])

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Waits for something that no message to these ears tells of."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    def wait_for_subscribers(self, topic: str, number: int) -> None:
        """The graph learns of new and ended subscriptions a moment later."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.count_subscribers(topic) != number:
            assert time.monotonic() < deadline, f"{self.count_subscribers(topic)} subscribe {topic}, not {number}"
            self.wait(lambda: False, 0.02)

    def say(self, topic: str, message: Any, profile: Any = topics.SMALL) -> None:
        if topic not in self._mouths:
            self._mouths[topic] = self.create_publisher(type(message), topic, profile)
        self._mouths[topic].publish(message)

    def show(self, frame: RgbdFrame, depth_image: Image | None = None, color_image: Image | None = None) -> None:
        """Publishes a frame as a camera does; an image given replaces the frame's own."""
        head = conversions.header(frame.stamp_ns, frame.frame_id)
        self.say(topics.COLOR_INFO, conversions.intrinsics_to_info(frame.intrinsics, head), topics.IMAGE_PUBLISHER)
        if depth_image is not None or frame.depth is not None:
            depth_image = depth_image or conversions.depth_to_image(frame.depth, head)  # type: ignore[arg-type]
            self.say(topics.DEPTH, depth_image, topics.IMAGE_PUBLISHER)
        color_image = color_image or conversions.color_to_image(frame.color, head)  # type: ignore[arg-type]
        self.say(topics.COLOR, color_image, topics.IMAGE_PUBLISHER)

    def show_until(self, frames: Iterator[RgbdFrame], condition: Callable[[], bool], **images: Any) -> None:
        """Show frame after frame, a tenth of a second apart, until their effect is received."""
        for frame in frames:
            self.show(frame, **images)
            if self.wait(condition, 0.1):
                return
        raise AssertionError("the frames have ended and the condition does not hold")


def participants() -> int:
    """DDS participants of this process, by the event thread that Fast DDS gives each; 0 with other middleware."""
    names = []
    for name in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread may end while they are counted
            names.append(name.read_text())
    return sum(name.startswith("dds.ev") for name in names)


@pytest.fixture(autouse=True)
def no_participant_outlives_its_test() -> Iterator[None]:
    """Those that do meet the next test's: with many in one process, Fast DDS 2.14 may hang where an endpoint ends."""
    before = participants()
    yield
    assert participants() <= before, "a node was not destroyed, or a reference keeps it alive"


@pytest.fixture
def context() -> Iterator[Any]:
    with ros() as context:
        yield context


@pytest.fixture
def host(context: Any) -> Iterator[Host]:
    with Host(context) as host:
        yield host


@pytest.fixture
def ears(context: Any, host: Host) -> Ears:
    ears = Ears(context)
    host.add(ears)
    return ears


@pytest.fixture
def add(context: Any, host: Host) -> Callable[..., Any]:
    """Adds a node of a class with parameters given by name, dots written as __."""

    def add(node_class: Any, **parameters: Any) -> Any:
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
        node = node_class(context=context, parameter_overrides=overrides)
        host.add(node)
        return node

    return add


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Makes recognizer graphs; see `tests.nodes.recognizer_graph`."""
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
    """The same image at growing stamps; shown at ten a second, they last a minute."""
    shape = (INTRINSICS.height, INTRINSICS.width)
    color = np.full((*shape, 3), 128, np.uint8) if color is None else color
    depth = np.full(shape, depth, np.float32) if isinstance(depth, float) else depth
    for k in range(number):
        yield RgbdFrame(int((start_s + k * dt) * 1e9), color, depth, INTRINSICS)


__all__ = ["CameraInfo", "Ears", "still"]
