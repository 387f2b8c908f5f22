"""The action server `~/wait_for_action` over real DDS, with clients of the tiny model's actions `left` and `right`."""

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from actrec_msgs.action import WaitForAction
from actrec_msgs.msg import ActionEvent as ActionEventMsg
from builtin_interfaces.msg import Duration, Time
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from actrec.inference import package
from actrec.recognition import ActionEvent
from actrec_nodes.bringup.processes import Host
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.subscriptions import Publishers
from actrec_nodes.recognition.wait_for_action import WaitForActionServer, _Goal
from actrec_nodes.recognizer_node import RecognizerNode
from tests.nodes.conftest import Peer
from tests.nodes.recognizer_graph import TIMEOUT_S, Graph, Make, body, stamp
from tests.tiny_model import tiny_description, tiny_onnx, write_tiny

pytestmark = pytest.mark.ros

R = WaitForAction.Result
SUCCEEDED, ABORTED, CANCELED = GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_ABORTED, GoalStatus.STATUS_CANCELED


def test_event_of_an_action_that_ends_as_it_reaches_the_confidence_is_its_beginning() -> None:
    results: list[WaitForAction.Result] = []
    server = WaitForActionServer(SimpleNamespace(executor=None))
    request = WaitForAction.Goal(min_confidence=0.7)
    handle = SimpleNamespace(goal_id=SimpleNamespace(uuid=b"1"), request=request, succeed=lambda: None)
    server._goals[b"1"] = _Goal(handle, "", 0, SimpleNamespace(set_result=results.append))
    ended = ActionEvent(1, "ended", "body_1", "wave", 0, 0.72, 0, 10, 20, (math.nan,) * 3, "m")
    server.add_events([ended], [], lambda event: conversions.event_to_message(event, "camera"))
    assert results[0].event.kind == ActionEventMsg.BEGAN
    assert results[0].event.confidence == pytest.approx(0.72)


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(write_tiny(tmp_path / "tiny").path)


class Wait:
    """One goal of a client, sent and accepted."""

    def __init__(self, client: ActionClient, **goal: Any):
        self.feedback: list[Any] = []
        if "timeout_s" in goal:
            seconds = goal.pop("timeout_s")
            goal["timeout"] = Duration(sec=int(seconds // 1), nanosec=int(seconds % 1 * 1e9))
        sent = client.send_goal_async(
            WaitForAction.Goal(**goal), lambda message: self.feedback.append(message.feedback)
        )
        self.handle = value(sent)
        assert self.handle.accepted, "goals are never rejected"
        self._result = self.handle.get_result_async()

    def cancel(self) -> None:
        value(self.handle.cancel_goal_async())

    def result(self) -> tuple[int, int, str, str]:
        """Return status, error code, error text and the label of the event."""
        found = value(self._result)
        return found.status, found.result.error_code, found.result.error_msg, found.result.event.label

    @property
    def event(self) -> Any:
        return value(self._result).result.event

    @property
    def is_done(self) -> bool:
        return bool(self._result.done())


def value(future: Any) -> Any:
    """Wait for a future that another thread completes."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    assert done.wait(TIMEOUT_S), "no answer"
    return future.result()


Clients = Callable[[Graph], ActionClient]


@pytest.fixture
def connect(make: Make) -> Iterator[Clients]:
    """Return a function that connects another client to a graph; `make` stops the graphs after the clients."""
    clients: list[ActionClient] = []

    def connect(graph: Graph) -> ActionClient:
        clients.append(ActionClient(graph.peer, WaitForAction, "recognizer_node/wait_for_action"))
        assert clients[-1].wait_for_server(TIMEOUT_S)
        return clients[-1]

    yield connect
    for client in clients:
        client.destroy()


@pytest.fixture
def graph(make: Make, tiny: str) -> Graph:
    graph = make(model=tiny)
    assert graph.start()
    return graph


def act(graph: Graph, first: int, last: int, x: float, body_id: str = "body_1") -> None:
    for frame in range(first, last):
        graph.step(stamp(frame), body(x, body_id))


def test_wait_for_action_succeeds_with_the_event_that_is_published(graph: Graph, connect: Clients) -> None:
    wait = Wait(connect(graph), labels=["right"])
    act(graph, 0, 30, 1.0)
    assert wait.result() == (SUCCEEDED, R.NONE, "", "right")
    graph.wait(lambda: len(graph.events) == 1)
    assert str(wait.event) == str(graph.events[0])  # NaN differs from itself
    assert wait.feedback[0].waiting_for == "right by anyone" and wait.feedback[0].labels == []
    labels = [[(label.body_id, label.label) for label in message.labels] for message in wait.feedback[1:]]
    assert labels == [[("body_1", "unknown")], [("body_1", "right")]]


def test_wait_for_action_serves_several_clients_at_once(graph: Graph, connect: Clients) -> None:
    first, second = connect(graph), connect(graph)
    waits = {
        "any": Wait(first),
        "left": Wait(first, labels=["left"]),
        "other": Wait(second, labels=["left", "right"], body_id="body_2"),
        "both": Wait(second, labels=["left", "right"]),
    }
    act(graph, 0, 30, 1.0)
    assert [waits[name].result()[3] for name in ("any", "both")] == ["right", "right"]
    assert not waits["left"].is_done and not waits["other"].is_done
    for frame in range(30, 70):
        graph.step(stamp(frame), body(1.0), body(-1.0, "body_2"))
    assert waits["left"].result()[0] == waits["other"].result()[0] == SUCCEEDED
    assert waits["other"].event.body_id == "body_2"


def test_wait_for_action_of_a_hand_counts_for_its_person(graph: Graph, connect: Clients) -> None:
    """A model of hands labels body_1_left and body_1_right."""
    wait = Wait(connect(graph), labels=["right"], body_id="body_1")
    act(graph, 0, 30, 1.0, "body_1_left")
    assert wait.result() == (SUCCEEDED, R.NONE, "", "right")
    assert wait.event.body_id == "body_1_left"


def test_wait_for_action_ignores_an_action_that_goes_on_unless_asked(graph: Graph, connect: Clients) -> None:
    act(graph, 0, 30, 1.0)
    graph.wait(lambda: len(graph.events) == 1)
    client = connect(graph)
    new, present = Wait(client, labels=["right"]), Wait(client, labels=["right"], accept_present=True)
    act(graph, 30, 35, 1.0)
    assert present.result() == (SUCCEEDED, R.NONE, "", "right") and present.event.event_id == 1
    assert not new.is_done
    act(graph, 35, 70, -1.0)
    act(graph, 70, 110, 1.0)
    assert new.result()[0] == SUCCEEDED and new.event.event_id == 3


def test_wait_for_action_waits_until_the_confidence_is_reached(make: Make, connect: Clients, tiny: str) -> None:
    graph = make(model=tiny, events__smoothing_s=1.0, events__begin_s=0.0)
    assert graph.start()
    sure, impossible = (Wait(connect(graph), min_confidence=least) for least in (0.95, 1.0))
    act(graph, 0, 60, 1.0)
    graph.wait(lambda: len(graph.events) == 1)
    assert sure.result()[0] == SUCCEEDED
    assert graph.events[0].confidence < 0.95 <= sure.event.confidence and sure.event.event_id == 1
    assert not impossible.is_done


def test_wait_for_action_ends_after_its_timeout(graph: Graph, connect: Clients) -> None:
    wait = Wait(connect(graph), labels=["left"], min_confidence=0.7, timeout_s=0.3)
    text = "no left by anyone, confidence 0.7 or more, within 0.3 s"
    assert wait.result() == (ABORTED, R.TIMEOUT, text, "")


def test_wait_for_action_timeout_follows_the_simulated_clock(make: Make, connect: Clients, tiny: str) -> None:
    graph = make(model=tiny, use_sim_time=True)
    assert graph.start()

    def set_clock(seconds: int) -> None:
        graph.send("/clock", Clock(clock=Time(sec=seconds)))
        graph.wait_until(lambda: graph.node.get_clock().now().nanoseconds == seconds * 10**9)

    graph.wait_for_subscribers("/clock", 1)
    set_clock(100)
    wait = Wait(connect(graph), timeout_s=1000.0)
    set_clock(1000)
    act(graph, 0, 3, 1.0)
    assert not wait.is_done
    set_clock(1101)
    assert wait.result()[:2] == (ABORTED, R.TIMEOUT)


def test_wait_for_action_is_canceled_by_its_client_alone(graph: Graph, connect: Clients) -> None:
    client = connect(graph)
    first, second = Wait(client), Wait(client)
    first.cancel()
    assert first.result() == (CANCELED, R.CANCELED, "canceled", "")
    act(graph, 0, 30, 1.0)
    assert second.result()[0] == SUCCEEDED


@pytest.mark.parametrize(
    ("goal", "code", "text"),
    [
        ({"labels": ["left", "up"]}, R.UNKNOWN_LABEL, "model tiny has no label 'up'; known: far, left, right"),
        (
            {"labels": ["up\r\n\x1b[2J"]},
            R.UNKNOWN_LABEL,
            "model tiny has no label 'up \ufffd[2J'; known: far, left, right",
        ),
        ({"min_confidence": 1.5}, R.INVALID_GOAL, "min_confidence is 1.5, expected 0 to 1"),
        ({"min_confidence": float("nan")}, R.INVALID_GOAL, "min_confidence is nan, expected 0 to 1"),
        ({"timeout_s": -1.0}, R.INVALID_GOAL, "timeout is negative, expected 0 (no limit) or more"),
    ],
)
def test_wait_for_action_that_cannot_be_met_is_aborted_with_the_reason(
    graph: Graph, connect: Clients, goal: dict[str, Any], code: int, text: str
) -> None:
    assert Wait(connect(graph), **goal).result() == (ABORTED, code, text, "")


def test_wait_for_action_is_aborted_when_the_node_is_deactivated(graph: Graph, connect: Clients) -> None:
    client = connect(graph)
    wait = Wait(client)
    graph.node.trigger_deactivate()
    assert wait.result() == (ABORTED, R.INACTIVE, "recognizer_node was deactivated during the wait", "")
    text = "recognizer_node is not active; ros2 lifecycle set /recognizer_node activate"
    assert Wait(client).result() == (ABORTED, R.INACTIVE, text, "")
    graph.node.trigger_activate()
    wait = Wait(client)
    act(graph, 0, 30, 1.0)
    assert wait.result()[0] == SUCCEEDED


def test_wait_for_action_is_aborted_when_the_graph_ends(context: Any, peer: Peer, tiny: str) -> None:
    client = ActionClient(peer, WaitForAction, "recognizer_node/wait_for_action")
    with Host(context) as graph:
        graph.add(RecognizerNode(context=context, parameter_overrides=[Parameter("model", value=tiny)]))
        assert graph.start() is None and client.wait_for_server(TIMEOUT_S)
        waits = [Wait(client), Wait(client, labels=["left"])]
    for wait in waits:
        assert wait.result() == (ABORTED, R.INACTIVE, "recognizer_node ends", "")
    client.destroy()


def test_wait_for_action_goes_on_if_the_new_model_knows_the_label(
    graph: Graph, connect: Clients, tmp_path: Path
) -> None:
    other = package.write(tmp_path / "other", tiny_description(labels=("left", "up", "down")), tiny_onnx()).path
    waits = [Wait(connect(graph), labels=[label]) for label in ("left", "right")]
    assert graph.load_model(other).success
    text = "the model was replaced, and model other has no label 'right'; known: down, left, up"
    assert waits[1].result() == (ABORTED, R.MODEL_REPLACED, text, "")
    act(graph, 0, 30, -1.0)
    assert waits[0].result()[0] == SUCCEEDED and waits[0].event.model_name == "other"


def test_label_has_the_place_and_the_duration(graph: Graph) -> None:
    for frame in range(10):
        (label,) = graph.step(stamp(frame), body(1.0))
    place = np.array([label.position.x, label.position.y, label.position.z])
    np.testing.assert_allclose(place, np.median(body(1.0).positions, axis=0), atol=1e-6)
    began = next(each for each in graph.labels if each.label == "right").header.stamp
    assert label.duration.sec + label.duration.nanosec / 1e9 == pytest.approx(
        label.header.stamp.sec - began.sec + (label.header.stamp.nanosec - began.nanosec) / 1e9
    )


def test_recognizer_second_graph_in_the_domain_is_a_warning(graph: Graph) -> None:
    second = Node("recognizer_node", context=graph.context, namespace="/other")
    label = next(iter(graph.labels), None)
    assert label is None and Publishers(graph.node).rivals(topics.ACTION_LABEL) == ""
    publisher = second.create_publisher(type(graph.step(stamp(0), body(1.0))[0]), "/action_label", topics.SMALL)
    graph.wait_until(lambda: graph.node.count_publishers("/action_label") == 2)
    warning = graph.node.figures()["warning"]
    assert "/action_label has 2 publishers, /other/recognizer_node and /recognizer_node" in str(warning)
    second.destroy_publisher(publisher)
    second.destroy_node()
