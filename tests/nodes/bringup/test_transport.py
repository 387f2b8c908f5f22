"""The shipped transport profile: images arrive between two real processes, and memory of large messages is freed."""

import os
import subprocess
import sys
import textwrap
from xml.etree import ElementTree

import pytest
from rclpy.node import Node

from actrec.utils.errors import DeviceError
from actrec_nodes.bringup import transport


@pytest.mark.ros
def test_transport_measure_images_arrive_with_the_profile() -> None:
    # A busy machine may lose many images for a while; without the profile, most are lost on any machine.
    for _ in range(4):
        figures = transport.measure(seconds=1.0)
        if figures["share"] > 0.5:
            break
    assert figures["sent"] == 30
    assert figures["share"] > 0.5
    assert figures["median_ms"] > 0


def crash(node: Node, seconds: float) -> None:
    os._exit(3)


@pytest.mark.parametrize("process", ["publish", "subscribe"])
def test_transport_measure_crashed_process_is_reported_at_once(monkeypatch: pytest.MonkeyPatch, process: str) -> None:
    monkeypatch.setattr(transport, process, crash)
    with pytest.raises(DeviceError, match="check failed"):
        transport.measure(seconds=0.1)


def test_transport_measure_failed_process_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "RMW_IMPLEMENTATION", "rmw_unknown")
    with pytest.raises(DeviceError) as raised:
        transport.measure(seconds=0.1)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.ros
def test_transport_memory_of_large_messages_is_freed() -> None:
    """A queue of Fast DDS keeps all entries that it ever held at once, as large as the largest message: 86 MB here."""
    arguments = ["--ros-args", "-r", "__ns:=/robot", "-r", "skeletons:=people"]
    code = """
        import sys, time
        import psutil
        import rclpy
        from rclpy.node import Node
        from actrec_msgs.msg import Skeleton, SkeletonArray
        from actrec_nodes.bringup.processes import ros
        from actrec_nodes.common import topics

        with ros(sys.argv) as context:
            node, received = Node("burst", context=context), []
            publisher = node.create_publisher(SkeletonArray, topics.SKELETONS, topics.WINDOW_SUBSCRIBER)
            node.create_subscription(
                SkeletonArray, topics.SKELETONS, lambda _: received.append(1), topics.WINDOW_SUBSCRIBER, raw=True
            )
            executor = rclpy.executors.SingleThreadedExecutor(context=context)
            executor.add_node(node)
            large = SkeletonArray(skeletons=[Skeleton(layout="x" * 2_000_000)])

            def burst(count):
                for _ in range(count):
                    publisher.publish(large)
                deadline = time.monotonic() + 30
                while len(received) < count and time.monotonic() < deadline:
                    executor.spin_once(0.1)
                found = len(received)
                received.clear()
                return found

            while not publisher.get_subscription_count():
                executor.spin_once(0.1)
            burst(1)
            before = psutil.Process().memory_info().rss
            print(publisher.topic_name, burst(40), (psutil.Process().memory_info().rss - before) / 1e6)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    topic, received, growth_mb = ended.stdout.split()
    assert (topic, received) == ("/robot/people", "40")
    assert float(growth_mb) < 30


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], ["/skeletons", "/hands", "/face"]),
        (["-r", "__ns:=/a/b"], ["/a/b/skeletons", "/a/b/hands", "/a/b/face"]),
        (["-r", "hands:=/far/hands", "-r", "recognizer_node:face:=it"], ["/skeletons", "/far/hands", "/it"]),
        (["-p", "top_k:=3", "-r", 'hands:=/"<&'], ["/skeletons", '/"<&', "/face"]),
    ],
)
def test_transport_profile_names_the_topics_of_people(args: list[str], expected: list[str]) -> None:
    environment: dict[str, str] = {}
    assert transport.prepare(environment, args=["--ros-args", *args])
    root = ElementTree.parse(environment["FASTDDS_DEFAULT_PROFILES_FILE"]).getroot()
    space = "{http://www.eprosima.com}"
    policies = {
        each.get("profile_name"): each.findtext(f"{space}historyMemoryPolicy")
        for each in root.iter(f"{space}data_reader")
    }
    assert [name for name, policy in policies.items() if policy == "DYNAMIC"] == expected
    assert environment["RMW_FASTRTPS_USE_QOS_FROM_XML"] == "1"
