"""Positions of events in a target frame, with a fake TF buffer, as tf2_ros has no wheel."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from actrec_msgs.msg import ActionEvent
from geometry_msgs.msg import Quaternion, Vector3

from actrec.utils.geometry import rotation
from actrec_nodes.common import tf
from tests.nodes.recognizer_graph import Graph, Make, body, stamp
from tests.tiny_model import write_tiny

pytestmark = pytest.mark.ros


class UnknownError(Exception):
    pass


class Buffer:
    """A fake TF buffer: the camera is 1 m above the map's origin, turned by 0.4 rad; known for 3 s."""

    def lookup_transform(self, target, source, time, timeout):
        assert (target, source) == ("map", "camera")
        if time.nanoseconds > stamp(30):
            raise UnknownError("Lookup would require extrapolation into the future.")
        turned = Quaternion(z=math.sin(0.2), w=math.cos(0.2))
        return SimpleNamespace(transform=SimpleNamespace(translation=Vector3(z=1.0), rotation=turned))


def events(graph: Graph) -> list[ActionEvent]:
    """Return the two events of a person who is on the right for 25 frames, then on the left."""
    for frame in range(60):
        graph.step(stamp(frame), body(1.0 if frame < 25 else -1.0))
    graph.wait(lambda: len(graph.events) == 3)
    return graph.events


def test_event_has_its_position_in_the_target_frame_where_tf_knows_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = SimpleNamespace(unregister=lambda: None)
    fake = SimpleNamespace(
        Buffer=Buffer, TransformListener=lambda buffer, node: listener, TransformException=UnknownError
    )
    monkeypatch.setitem(sys.modules, "tf2_ros", fake)
    graph = make(model=str(write_tiny(tmp_path / "tiny").path), target_frame="map")
    assert graph.start()
    known, unknown, _ = events(graph)
    place = np.array([known.position.x, known.position.y, known.position.z])
    found = [known.target_position.x, known.target_position.y, known.target_position.z]
    np.testing.assert_allclose(found, rotation(2, 0.4) @ place + [0, 0, 1], atol=1e-6)
    assert (known.target_frame, unknown.target_frame) == ("map", "")
    assert math.isnan(unknown.target_position.x) and math.isfinite(unknown.position.x)


def test_poses_of_the_past_do_not_empty_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that goes on has the stamp of its begin; only frames tell that a recording starts again."""
    cleared: list[int] = []

    class Cleared(Buffer):
        def clear(self) -> None:
            cleared.append(1)

    listener = SimpleNamespace(unregister=lambda: None)
    fake = SimpleNamespace(
        Buffer=Cleared, TransformListener=lambda buffer, node: listener, TransformException=UnknownError
    )
    monkeypatch.setitem(sys.modules, "tf2_ros", fake)
    node: Any = None
    poses = tf.TfPoses(node, "", "")
    poses.follow(stamp(28))
    poses.pose("map", "camera", stamp(2), 0.0, follows=False)
    assert not cleared
    poses.follow(stamp(2))
    assert cleared == [1]


def test_target_frame_without_tf2_ros_names_the_remedy(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    graph = make(model=str(write_tiny(tmp_path / "tiny").path), target_frame="map")
    assert not graph.start()
    assert "parameter target_frame needs tf2_ros" in graph.node.last_error
    assert "leave target_frame empty" in graph.node.last_error
