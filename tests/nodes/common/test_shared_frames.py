"""Frames of a node whose image topics are remapped, or have the images of two cameras."""

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from actrec.types import Intrinsics
from actrec_nodes.bringup.processes import Host
from actrec_nodes.common import conversions as c
from actrec_nodes.common import topics
from actrec_nodes.common.frame_node import FrameSubscription
from actrec_nodes.common.subscriptions import Kept, Numbers
from actrec_nodes.common.synchronizer import FirstCamera, SynchronizerConfig


def test_listen_rectified_images_have_rectified_intrinsics(context, host, peer) -> None:
    remaps = ["--ros-args", "-r", "camera/color/image_raw:=lens/image_rect_color"]
    node = Node("looker", context=context, cli_args=[*remaps, "-r", "camera/color/camera_info:=lens/camera_info"])
    host.add(node)
    received: list[Any] = []
    complaints: list[str] = []
    frames = FrameSubscription(node, SynchronizerConfig(use_depth=False), received.append, complaints.append)
    raw = c.intrinsics_to_info(Intrinsics(8, 6, 10, 10, 4, 3, (0.1, -0.2, 0.0, 0.0, 0.05)), c.header(0, "lens"))
    raw.p = [9.0, 0.0, 3.5, 0.0, 0.0, 9.0, 2.5, 0.0, 0.0, 0.0, 1.0, 0.0]

    def publish() -> bool:
        peer.send("lens/camera_info", raw)
        peer.send("lens/image_rect_color", c.color_to_image(np.zeros((6, 8, 3), np.uint8), c.header(10**9, "lens")))
        return bool(received)

    peer.wait_until(publish)
    frames.close()
    assert received[0].frame(complaints.append).intrinsics == Intrinsics(8, 6, 9, 9, 3.5, 2.5)


def test_first_camera_second_one_on_its_topics_is_ignored() -> None:
    lines: list[str] = []
    now = [0.0]
    camera = FirstCamera(lines.append, lambda: now[0])

    def send(frame_id: str, width: int = 640) -> bool:
        now[0] += 0.03
        return camera.accepts(Image(header=Header(frame_id=frame_id), width=width, height=480))

    assert all(send("left") for _ in range(5)) and all(send("left", 1280) for _ in range(5)), "its size was changed"
    now[0] += 3.0
    assert send("left", 1280)
    found = [send(frame_id, 1280) for frame_id in 10 * ("left", "right")]
    assert found[:2] == [True, True] and found[2:] == 9 * [True, False] and "'right' (1280×480) are ignored" in lines[0]
    now[0] += 3.0
    assert send("right"), "the first one has gone"


# -- two cameras of one model, frame id and size --------------------------------------------------------------------

LENS = Intrinsics(8, 6, 10, 10, 4, 3)
LEFT, RIGHT = 10, 200
"""Gray levels of their color images, and their depth in cm."""
STEP_NS = 33_000_000


class TwinCamera(Node):
    """A camera that publishes color and depth of one gray level and depth."""

    def __init__(self, name: str, context: Any, level: int):
        super().__init__(name, context=context)
        self.level = level
        kinds = {topics.COLOR: Image, topics.DEPTH: Image, topics.COLOR_INFO: CameraInfo}
        self._publish = {
            name: self.create_publisher(kinds[name], name, topics.IMAGE_PUBLISHER).publish for name in kinds
        }

    def send(self, stamp_ns: int) -> None:
        head = c.header(stamp_ns, "camera_color_optical_frame")
        depth = np.full((6, 8), self.level / 100, np.float32)
        self._publish[topics.COLOR_INFO](c.intrinsics_to_info(LENS, head))
        self._publish[topics.DEPTH](c.depth_to_image(depth, head))
        self._publish[topics.COLOR](c.color_to_image(np.full((6, 8, 3), self.level, np.uint8), head))


@pytest.fixture
def twins(context) -> Iterator[tuple[TwinCamera, TwinCamera]]:
    cameras = TwinCamera("left_camera", context, LEFT), TwinCamera("right_camera", context, RIGHT)
    yield cameras
    for camera in cameras:
        camera.destroy_node()


@contextlib.contextmanager
def looking(node: Node, host: Host) -> Iterator["Seen"]:
    """Yield color and depth in cm of each frame that the node gets."""
    found = Seen()
    host.add(node)

    def receive(messages: Any) -> None:
        frame = messages.frame(found.complaints.append)
        found.append((int(frame.color[0, 0, 0]), round(100 * float(frame.depth[0, 0]))))

    frames = FrameSubscription(node, SynchronizerConfig(), receive, found.complaints.append)
    yield found
    frames.close()


@pytest.fixture
def seen(context, host) -> Iterator["Seen"]:
    with looking(Node("looker", context=context), host) as found:
        yield found


class Seen(list[tuple[int, int]]):
    def __init__(self) -> None:
        super().__init__()
        self.complaints: list[str] = []


def send_all(seen: Seen, stamps: Iterator[int], count: int, *cameras: TwinCamera) -> Seen:
    """Let the cameras publish in turn; return the frames that came meanwhile."""
    before = len(seen)
    for stamp in itertools.islice(stamps, count):
        for k, camera in enumerate(cameras):
            camera.send(stamp + k * STEP_NS // 2)
            time.sleep(0.01)
    found = Seen()
    found.extend(seen[before:])
    return found


def test_second_camera_of_the_same_frame_id_and_size_is_ignored(twins, seen, peer) -> None:
    left, right = twins
    stamps = itertools.count(10**9, STEP_NS)
    peer.wait_until(lambda: bool(send_all(seen, stamps, 1, left)))
    assert set(send_all(seen, stamps, 60, left)) == {(LEFT, LEFT)}
    first = send_all(seen, stamps, 10, left, right)
    assert len([frame for frame in first if frame != (LEFT, LEFT)]) <= Numbers.FALLS, "until it is known to be another"
    assert set(send_all(seen, stamps, 30, left, right)) == {(LEFT, LEFT)}
    assert "(8×6) publish on one topic: images of one are ignored; stop one of them" in seen.complaints[-1]
    time.sleep(Numbers.GONE_S)
    assert set(send_all(seen, stamps, 10, right)) == {(RIGHT, RIGHT)}, "the first one has gone"


def test_cameras_that_publish_before_a_node_starts_are_not_combined(twins, context, host, peer) -> None:
    """Color would be of one and depth of the other if the first messages to come decided on each topic."""
    left, right = twins
    stamps = itertools.count(10**9, STEP_NS)
    for camera, count in ((left, 50), (right, 5)):
        send_all(Seen(), stamps, count, camera)
    with looking(Node("looker", context=context), host) as seen:
        peer.wait_until(lambda: len(send_all(seen, stamps, 1, left, right)) > 1)
        send_all(seen, stamps, 10, left, right)
        assert len(set(send_all(seen, stamps, 30, left, right))) == 1
        assert {color == depth for color, depth in seen} == {True}


def numbers_of(*publishers: Iterable[int]) -> list[tuple[float, int, int]]:
    """Return (time in s, publisher, number) of the messages of publishers at 30 Hz, in the order of their times."""
    return sorted((k / 30 + p / 90, p, n) for p, numbers in enumerate(publishers) for k, n in enumerate(numbers) if n)


def kept_of(messages: Iterable[tuple[float, int, int]], kept: Kept | None = None) -> list[tuple[int, int]]:
    """Return (publisher, number) of the accepted messages."""
    now, found = [0.0], []
    numbers = Numbers(kept or Kept(), lambda: now[0])
    for now[0], publisher, number in messages:
        if numbers.accepts(number):
            found.append((publisher, number))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_numbers_of_one_publisher_are_accepted_whatever_is_lost_or_comes_twice(seed: int) -> None:
    random = np.random.default_rng(seed)
    sent: list[int] = []
    for _ in range(5):  # it starts again every few seconds
        numbers = np.cumsum(random.choice([1, 1, 1, 2, 40, 400], 200)) * (random.random(200) > 0.3)
        sent += list(np.repeat(numbers, random.integers(1, 3)))
    messages = numbers_of(sent)
    assert len(kept_of(messages)) == len(messages) > 500


@pytest.mark.parametrize("start", [1, 5000])
def test_numbers_of_the_publisher_that_came_first_are_kept(start: int) -> None:
    alone, twice = range(1000, 1090), range(1090, 1300)
    messages = numbers_of([*alone, *twice], [*([0] * 90), *range(start, start + 210)])
    found = kept_of(messages)
    assert [number for publisher, number in found if publisher == 0] == [*alone, *twice]
    assert len(found) - 300 <= Numbers.FALLS + 1


def test_numbers_of_topics_that_share_their_choice_are_of_one_publisher() -> None:
    kept = Kept()
    color = numbers_of(range(100, 200), range(500, 600))
    depth = [(at, publisher, number + 3) for at, publisher, number in color[1:]]  # the other one's comes first
    chosen = [{publisher for publisher, _ in kept_of(messages, kept)[20:]} for messages in (color, depth)]
    assert chosen == [{0}, {0}]


def test_numbers_of_publishers_that_are_near_are_all_accepted() -> None:
    messages = numbers_of(range(100, 200), range(115, 215))
    assert len(kept_of(messages)) == 200
