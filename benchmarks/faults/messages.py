"""Campaign of malformed messages on each topic to which a node subscribes, and of malformed requests."""

import re
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from actrec_msgs.action import WaitForAction
from actrec_msgs.srv import LoadModel
from lifecycle_msgs.srv import GetState
from rclpy.action import ActionClient
from rclpy.duration import Duration
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from actrec.types import NANOSECONDS
from actrec.utils.errors import DeviceError
from actrec_nodes.bringup.processes import wait_until_active
from actrec_nodes.common import topics
from benchmarks.faults.deaths import NODES
from benchmarks.faults.live_graph import Label, LiveGraph, camera_arguments, run_command, running
from benchmarks.faults.malformed import MAKERS, REQUESTS, messages
from benchmarks.faults.outcome import Outcome, chosen
from tests.example_scene import ALL, WINDOW
from tests.tiny_model import write_any

VIEWER = "visualization_node"
FPS, PERFORMED = 15.0, "wave"  # of the simulated camera
SEEN = "body_"  # begin of the ids that skeleton_node gives
REFUSED_GOALS = (WaitForAction.Result.UNKNOWN_LABEL, WaitForAction.Result.INVALID_GOAL)
VIEWS = ((Image, topics.ANNOTATED_IMAGE), (CompressedImage, topics.ANNOTATED_COMPRESSED), (MarkerArray, topics.MARKERS))
BURST, PAUSE_S = 20, 0.01  # messages, and the pause after them, so that the queues hold them
PROBE = 500  # messages between two checks that all nodes answer
HANG_S, GROWTH_MB, BACK_S = 5.0, 50.0, 15.0
START_S = 60.0
WARM_UP = 300  # messages of each topic before the memory is measured
CALM_S = 10.0  # after the messages, until the memory is read: nodes return it once they see one publisher again
WARM_S = 300.0  # until the memory of the nodes no longer grows by their own work: as in the campaign soak
SILENT = (topics.UP, topics.MEASURED_UP, topics.IMU, topics.SCENE_FLOW_STATISTICS, topics.ACTION_LABEL)
"""Topics whose malformed messages nodes may ignore without a word."""
MESSAGES_A_REQUEST = 100  # a request is answered after up to a second, as the installed models are listed

FOREIGN = re.compile(r"\b(?!(?:Config|MissingLibrary|Device|Package|Input)Error)\w*(?:Error|Exception|error): .{0,100}")
"""An exception in the log that is none of `actrec.utils.errors`: `lifecycle.one_line` writes it with its type."""


def storm(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Publish `times` malformed messages on each topic, and send a malformed request for each `MESSAGES_A_REQUEST`.

    All nodes receive them beside the simulated camera, whose person performs one action: its labels must come again,
    and no other label. Then a recognizer does whose network takes every stream, and is not trained: it has no camera.
    """
    wanted = chosen(only, (*MAKERS, *REQUESTS))
    arguments = ["-p", "idle_after_s:=0.0", "-p", "imu:=true"]
    camera = camera_arguments(fps=FPS, actions=f"[{PERFORMED}]")
    with running(NODES, command=run_command([*NODES, VIEWER], *camera, *arguments), images=True) as graph:
        named = [name for name in wanted if name != topics.SCENE_FLOW]
        outcomes = _attack(graph, [*NODES, VIEWER], named, times)
    with tempfile.TemporaryDirectory() as folder:
        model = str(write_any(Path(folder) / "all", ALL, WINDOW).path)
        statistics = ["--ros-args", "-p", "statistics_period_s:=1.0"]
        command = run_command(["recognizer_node"], "--model", model, *statistics, *arguments)
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
    graph.settle(2.0 if where else WARM_S)
    received = [name for name in named if name in REQUESTS or monitor.count_subscribers(name) > _own(graph, name)]
    if where == "" and (unknown := _unknown(graph)):
        raise DeviceError(f"no malformed messages are made for {', '.join(unknown)}")
    said = {}
    for name in received:
        log = len(graph.text())
        _send(graph, nodes, name, WARM_UP, seed=1)
        said[name] = graph.text()[log:]  # later repetitions are not logged
    outcomes = [_on_topic(graph, nodes, name, times, where) for name in received]
    for name, outcome in zip(received, outcomes, strict=True):
        outcome.figures["lines of the first messages"] = said[name].count("\n")
        outcome.require(bool(said[name]) or name in (*SILENT, *REQUESTS), "the nodes said nothing")
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
    outcome = Outcome("messages", f"{where}{topic}")
    pids = {name: graph.pid(name) for name in nodes}
    before = {name: graph.memory_mb([name]) for name in nodes}
    count, log = len(graph.monitor.labels), len(graph.text())
    slowest, taken = _send(graph, nodes, topic, times)
    if not where:  # a person is in view, and the network is trained
        outcome.add(_back(graph))
    graph.settle(CALM_S)
    outcome.times = _requests(times) if topic in REQUESTS else times
    labels = graph.monitor.labels_since(count)
    if topic == topics.ACTION_LABEL:
        labels = [label for label in labels if label.body_id.startswith(SEEN)]  # the others are the malformed ones
    grown = {name: graph.memory_mb([name]) - before[name] for name in nodes}
    outcome.growth_mb = sum(grown.values())
    outcome.figures["greatest growth of a node, MB"] = round(max(grown.values()), 1)
    outcome.figures["slowest answer of a node, s"] = round(slowest, 2)
    outcome.figures["labels"] = len(labels)
    if not where:
        outcome.add_labels([label for label in labels if label.class_id >= 0])  # malformed people have any stamp
    # The network of all streams has no threshold: it labels everyone who is taken for a person.
    wrong = {f"{label.label} of {label.body_id}"[:100] for label in labels if not _is_right(label)}
    outcome.require(not wrong, f"labels {', '.join(sorted(wrong))}")
    outcome.check(BACK_S, growth_mb=GROWTH_MB)
    ended = [name for name, pid in pids.items() if graph.pid(name) != pid]
    outcome.require(not ended, f"{', '.join(ended)} ended")
    outcome.require(slowest < HANG_S, f"a node answered after {slowest:.1f} s")
    outcome.require(not taken, f"{taken} requests were not refused in one line, or messages not received")
    text = graph.text()[log:]
    outcome.require("Traceback" not in text, f"{text.count('Traceback')} tracebacks")
    foreign = sorted(set(FOREIGN.findall(text)))
    outcome.require(not foreign, f"foreign exceptions: {'; '.join(foreign[:5])}")
    return outcome


def _is_right(label: Label) -> bool:
    return label.class_id < 0 or (label.body_id.startswith(SEEN) and label.label == PERFORMED)


def _back(graph: LiveGraph) -> float | None:
    """Wait for an answer about the person of a frame from now on; return the seconds, None if it does not come."""
    count, since_ns = len(graph.monitor.labels), time.time_ns()

    def is_back() -> bool:  # stamps of malformed messages may be later than now
        new = [label for label in graph.monitor.labels[count:] if label.is_answer and label.body_id.startswith(SEEN)]
        return any(since_ns < label.stamp_ns <= label.received_ns for label in new)

    came = graph.monitor.wait_for(is_back, START_S)
    return (time.time_ns() - since_ns) / NANOSECONDS if came else None


def _send(graph: LiveGraph, nodes: Sequence[str], name: str, times: int, seed: int = 0) -> tuple[float, int]:
    """Send malformed messages or requests.

    Returns:
        The seconds of a node's slowest answer, and the number of accepted requests, or 1 if messages did not arrive.
    """
    if name in REQUESTS:
        return _request(graph, name, _requests(times), seed)
    return _publish(graph, nodes, name, times, seed)


def _requests(times: int) -> int:
    """Return the number of requests instead of so many messages."""
    return -(-times // MESSAGES_A_REQUEST)


def _request(graph: LiveGraph, name: str, times: int, seed: int) -> tuple[float, int]:
    """Send requests to a service or an action, one after the other; each must be refused with a line."""
    monitor, slowest, taken = graph.monitor, 0.0, 0
    is_action = name.endswith("wait_for_action")
    client: Any = ActionClient(monitor, WaitForAction, name) if is_action else monitor.create_client(LoadModel, name)
    if not (client.wait_for_server(START_S) if is_action else client.wait_for_service(START_S)):
        raise DeviceError(f"there is no {name}")
    for index in range(times):
        began, request = time.monotonic(), REQUESTS[name](np.random.default_rng([seed, index]))
        if is_action:
            # By the thread that spins: rclpy ignores an answer that is there before a sender has noted its request.
            assert monitor.executor is not None, "the monitor is spun"
            sent: Any = _result(monitor.executor.create_task(client.send_goal_async, request))
            said = None if sent is None else _result(sent)
        else:
            said = _result(client.call_async(request))
        if is_action and said is not None:
            said = getattr(_result(said.get_result_async()), "result", None)
        if said is None:
            taken += 1
        elif is_action:
            taken += said.error_code not in REFUSED_GOALS or not _is_line(said.error_msg)
        else:
            taken += said.success or not _is_line(said.message)
        slowest = max(slowest, time.monotonic() - began)
        if slowest > HANG_S:
            break
    client.destroy() if is_action else monitor.destroy_client(client)
    return slowest, taken


def _is_line(text: str) -> bool:
    return bool(text) and "\n" not in text


def _result(future: Any) -> Any:
    """Return the result of a future that another thread completes, None if it is not there within `HANG_S`."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    return future.result() if done.wait(HANG_S + 1.0) else None


def _publish(graph: LiveGraph, nodes: Sequence[str], topic: str, times: int, seed: int = 0) -> tuple[float, int]:
    """Publish malformed messages.

    Returns:
        The seconds of the slowest answer of a node meanwhile, and 1 if a reliable subscriber has not received all.
    """
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
    missing = not publisher.wait_for_all_acked(Duration(seconds=HANG_S))
    for client in clients:
        monitor.destroy_client(client)
    monitor.destroy_publisher(publisher)
    return slowest, int(missing)


def _answer(client: Any) -> float:
    """Return the seconds until a node answers; at most twice `HANG_S`."""
    began = time.monotonic()
    future = client.call_async(GetState.Request())
    while not future.done() and time.monotonic() - began < 2 * HANG_S:
        time.sleep(0.005)
    return time.monotonic() - began
