"""Campaign of malformed messages on each topic to which a node subscribes."""

import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifecycle_msgs.srv import GetState
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from actrec.types import NANOSECONDS
from actrec.utils.errors import DeviceError
from actrec_nodes.bringup.processes import wait_until_active
from actrec_nodes.common import topics
from benchmarks.faults.live_graph import LiveGraph, camera_arguments, run_command, running
from benchmarks.faults.malformed import MAKERS, messages
from benchmarks.faults.outcome import Outcome, chosen
from tests.example_scene import ALL, WINDOW
from tests.tiny_model import write_any

NODES = ("skeleton_node", "hand_node", "face_node", "scene_flow_node", "recognizer_node")
VIEWS = ((Image, topics.ANNOTATED_IMAGE), (CompressedImage, topics.ANNOTATED_COMPRESSED), (MarkerArray, topics.MARKERS))
BURST, PAUSE_S = 20, 0.01  # messages, and the pause after them, so that the queues hold them
PROBE = 500  # messages between two checks that all nodes answer
HANG_S, GROWTH_MB, BACK_S = 5.0, 50.0, 15.0
START_S = 60.0
WARM_UP = 300  # messages of each topic before the memory is measured

FOREIGN = re.compile(r"\b(?!(?:Config|MissingLibrary|Device|Package|Input)Error)\w*(?:Error|Exception|error): .{0,100}")
"""An exception in the log that is none of `actrec.utils.errors`: `lifecycle.one_line` writes it with its type."""


def storm(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Publish `times` malformed messages on each topic.

    The graph without a camera receives all topics of its nodes, then a recognizer whose network takes every stream. At
    the end the simulated camera joins the first graph.
    """
    wanted = chosen(only, MAKERS)
    everything = [*NODES, "visualization_node"]
    arguments = ["--ros-args", "-p", "statistics_period_s:=1.0", "-p", "idle_after_s:=0.0"]
    with running(NODES, command=run_command(everything, *arguments), wait=False, images=True) as graph:
        outcomes = _attack(graph, everything, [name for name in wanted if name != topics.SCENE_FLOW], times)
        outcomes.append(_recovery(graph))
    with tempfile.TemporaryDirectory() as folder:
        model = str(write_any(Path(folder) / "all", ALL, WINDOW).path)
        command = run_command(["recognizer_node"], "--model", model, *arguments)
        with running(["recognizer_node"], command=command, wait=False, images=True) as graph:
            streams = (topics.HANDS, topics.FACE, topics.SCENE_FLOW, topics.SCENE_FLOW_INFO)
            taken = [*streams, topics.SCENE_FLOW_STATISTICS, topics.COLOR, topics.COLOR_INFO, topics.SKELETONS]
            named = [name for name in taken if name in wanted]
            outcomes += _attack(graph, ["recognizer_node"], named, times, "network of all streams: ")
    return outcomes


def _attack(graph: LiveGraph, nodes: Sequence[str], named: Sequence[str], times: int, where: str = "") -> list[Outcome]:
    monitor = graph.monitor
    if missing := wait_until_active(monitor, nodes, START_S):
        raise DeviceError(f"{missing} is not active: … {graph.text()[-500:]}")
    views = [monitor.create_subscription(kind, name, lambda _: None, topics.SMALL) for kind, name in VIEWS]
    graph.settle(2.0)
    received = [name for name in named if monitor.count_subscribers(name) - _own(graph, name) > 0]
    if where == "" and (unknown := _unknown(graph)):
        raise DeviceError(f"no malformed messages are made for {', '.join(unknown)}")
    for name in received:
        _publish(graph, nodes, name, WARM_UP, seed=1)
    outcomes = [_on_topic(graph, nodes, name, times, where) for name in received]
    for view in views:
        monitor.destroy_subscription(view)
    return outcomes


def _own(graph: LiveGraph, topic: str) -> int:
    """Return the number of the monitor's own subscriptions to a topic."""
    name, own = graph.monitor.resolve_topic_name(topic), graph.monitor.get_name()
    return sum(info.node_name == own for info in graph.monitor.get_subscriptions_info_by_topic(name))


def _unknown(graph: LiveGraph) -> list[str]:
    """Return the topics to which nodes of the graph subscribe and for which no malformed messages are made."""
    monitor, found = graph.monitor, []
    known = {monitor.resolve_topic_name(name) for name in MAKERS}
    for topic, _ in monitor.get_topic_names_and_types():
        names = {info.node_name for info in monitor.get_subscriptions_info_by_topic(topic)}
        own = any(each in topic for each in ("/parameter_events", "/_action/", "/statistics", "ground_truth"))
        if topic not in known and not own and names - {monitor.get_name()}:
            found.append(topic)
    return found


def _on_topic(graph: LiveGraph, nodes: Sequence[str], topic: str, times: int, where: str) -> Outcome:
    outcome = Outcome("messages", f"{where}{topic}", times)
    pids = {name: graph.pid(name) for name in nodes}
    before, count, log = graph.memory_mb(), len(graph.monitor.labels), len(graph.text())
    slowest = _publish(graph, nodes, topic, times)
    labels = graph.monitor.labels_since(count)
    outcome.growth_mb = graph.memory_mb() - before
    outcome.figures["slowest answer of a node, s"] = round(slowest, 2)
    outcome.figures["labels"] = len(labels)
    outcome.check(growth_mb=GROWTH_MB)
    ended = [name for name, pid in pids.items() if graph.pid(name) != pid]
    outcome.require(not ended, f"{', '.join(ended)} ended")
    outcome.require(slowest < HANG_S, f"a node answered after {slowest:.1f} s")
    # The network of all streams is not trained and rejects nothing; labels on their own topic are the malformed ones.
    if not where and topic != topics.ACTION_LABEL:
        wrong = {label.label for label in labels if label.class_id >= 0}
        outcome.require(not wrong, f"labels {', '.join(sorted(wrong))}")
    text = graph.text()[log:]
    outcome.require("Traceback" not in text, f"{text.count('Traceback')} tracebacks")
    foreign = sorted(set(FOREIGN.findall(text)))
    outcome.require(not foreign, f"foreign exceptions: {'; '.join(foreign[:5])}")
    return outcome


def _publish(graph: LiveGraph, nodes: Sequence[str], topic: str, times: int, seed: int = 0) -> float:
    """Publish malformed messages; return the seconds of the slowest answer of a node meanwhile."""
    monitor = graph.monitor
    kind = type(next(messages(topic, 1, time.time_ns)))
    profile = topics.LATCHED if topic == topics.SCENE_FLOW_STATISTICS else topics.IMAGE_PUBLISHER
    publisher = monitor.create_publisher(kind, topic, profile)
    clients = [monitor.create_client(GetState, f"{name}/get_state") for name in nodes]
    monitor.wait_for(lambda: publisher.get_subscription_count() > 0, HANG_S)
    slowest = 0.0
    for index, message in enumerate(messages(topic, times, time.time_ns, seed), 1):
        publisher.publish(message)
        if index % BURST == 0:
            time.sleep(PAUSE_S)
        if index % PROBE == 0 or index == times:
            slowest = max([slowest, *(_answer(client) for client in clients)])
    for client in clients:
        monitor.destroy_client(client)
    monitor.destroy_publisher(publisher)
    return slowest


def _answer(client: Any) -> float:
    """Return the seconds until a node answers; at most twice `HANG_S`."""
    began = time.monotonic()
    future = client.call_async(GetState.Request())
    while not future.done() and time.monotonic() - began < 2 * HANG_S:
        time.sleep(0.005)
    return time.monotonic() - began


def _recovery(graph: LiveGraph) -> Outcome:
    """Start the simulated camera, and wait for its person's labels."""
    outcome = Outcome("messages", "labels of the simulated camera afterwards")
    with running(["camera_node"], command=run_command(["camera_node"], *camera_arguments()), wait=False) as camera:
        wait_until_active(camera.monitor, ["camera_node"], START_S)
        camera.monitor.wait_for(lambda: camera.monitor.newest_ns("camera_node") > 0, START_S)
        count, since_ns = len(graph.monitor.labels), time.time_ns()

        def is_back() -> bool:  # stamps of malformed messages may be later than now
            new = graph.monitor.labels[count:]
            return any(since_ns < label.stamp_ns <= label.received_ns for label in new)

        came = graph.monitor.wait_for(is_back, START_S)
        outcome.add((time.time_ns() - since_ns) / NANOSECONDS if came else None)
    outcome.check(BACK_S)
    return outcome
