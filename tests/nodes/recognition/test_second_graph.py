"""Two recognizers in one ROS domain: each warns of the other, and a namespace, the remedy that they name, ends it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from rclpy.parameter import Parameter

from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.common.subscriptions import Publishers
from actrec_nodes.recognizer_node import RecognizerNode
from tests.nodes.conftest import Peer
from tests.tiny_model import write_tiny

pytestmark = pytest.mark.ros

WARNING = (
    "/action_label has 2 publishers, /recognizer_node and /recognizer_node: if a second graph runs in this ROS domain, "
    "stop it, or start it with another ROS_DOMAIN_ID or namespace (--ros-args -r __ns:=/second)"
)


@contextlib.contextmanager
def graph(model: Path, *ros_args: str) -> Iterator[tuple[RecognizerNode, list[str]]]:
    """Yield an active recognizer in a DDS participant of its own, and the warnings that it logs."""
    overrides = [Parameter("model", value=str(model)), Parameter("watchdog_s", value=0.2)]
    with ros() as context, Host(context) as host:
        node = RecognizerNode(context=context, parameter_overrides=overrides, cli_args=["--ros-args", *ros_args])
        logged: list[str] = []

        def warn(line: str) -> None:
            logged.append(line)

        node.warn = warn  # type: ignore[method-assign]
        host.add(node)
        assert host.start() is None
        yield node, logged


def test_recognizers_of_two_graphs_warn_of_each_other_until_one_has_a_namespace(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Publishers, "LEASE_S", 1.0)  # two of one name may also be a killed node and its successor
    model = write_tiny(tmp_path / "tiny").path
    with graph(model) as (first, first_logged):
        with graph(model) as (second, second_logged):
            for node, logged in ((first, first_logged), (second, second_logged)):
                peer.wait_until(lambda: WARNING in logged)  # noqa: B023
                assert WARNING in str(node.figures()["warning"])
        first_logged.clear()
        with graph(model, "-r", "__ns:=/second") as (second, second_logged):
            peer.wait_until(lambda: WARNING not in str(first.figures()["warning"]))
            peer.wait_until(lambda: peer.count_publishers("/second/action_label") == 1)
            peer.wait(lambda: False, 2.0)
            for node, logged in ((first, first_logged), (second, second_logged)):
                assert WARNING not in logged and "second graph" not in str(node.figures()["warning"])
