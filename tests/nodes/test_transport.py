"""Images arrive between two real processes with the shipped transport profile."""

import os

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
