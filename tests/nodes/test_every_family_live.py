"""Every network labels the simulated camera in one running graph; networks are small and untrained."""

import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the networks need PyTorch: make venv")

import torch
from actrec_msgs.msg import ActionLabel
from actrec_msgs.srv import LoadModel
from rclpy.parameter import Parameter

from actrec.explanation.attention import Reader
from actrec.features.clips import each_clip, example_clip
from actrec.inference import package
from actrec.types import NANOSECONDS
from actrec_models.export.onnx_graph import trace
from actrec_models.networks import create, list_models
from actrec_nodes.bringup import graph
from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.common import conversions, topics
from tests.models.small import SMALL
from tests.nodes.conftest import Peer
from tests.tiny_model import tiny_description, write_tiny

pytestmark = pytest.mark.ros

WINDOW_S = 1.0
"""Shorter than the papers' windows, so that each window is full soon."""
PATIENCE_S = 100.0
SHOWN = {
    "c3d_flow": [], "c3d_flow_at1": [], "joint_tcn": [],
    "c3d_flow_at2": ["joints"], "deepacts": ["branches"], "deepacts_cnn": ["branches"], "deepacts_graph": ["branches"],
    "deepacts_multi": ["branches"], "flow_skeleton": ["joints"], "p_i3d": ["parts"], "res_tcn_bjcn": ["joints"],
    "sem_net": ["pairs", "over_time"], "sem_spa": ["pairs", "over_time"], "spa_net_3p1d": ["over_time"],
    "spa_net_4d": ["over_time"], "vpn_i3d": ["over_time"], "vpn_resnext101": ["over_time"],
}  # fmt: skip
"""Evidence that `actrec explain` draws of each network, by field; none of `joint_tcn`, which has no paper, and of C3D-F
and C3D-F + AT-1, of which the paper has no figure."""
CAMERA = {"driver": "simulated", "simulated.width": 320, "simulated.height": 240, "simulated.fps": 15.0,
          "simulated.realtime": False}  # fmt: skip


class LiveGraph:
    """All nodes in this process, with the simulated camera, and a peer that receives the labels."""

    def __init__(self, host: Host, context: Any, model: str):
        self.peer = Peer(context)
        self.peer.subscribe(ActionLabel, topics.ACTION_LABEL)
        host.add(self.peer)
        parameters: dict[str, dict[str, Any]] = {"camera_node": CAMERA, "recognizer_node": {"model": model}}
        self.nodes = {}
        for spec in (spec for spec in graph.select() if not spec.on_demand):
            overrides = [Parameter(name, value=value) for name, value in parameters.get(spec.name, {}).items()]
            self.nodes[spec.name] = spec.load()(context=context, parameter_overrides=overrides)
            host.add(self.nodes[spec.name])
        assert host.start() is None
        self._client = self.peer.create_client(LoadModel, "recognizer_node/load_model")
        assert self._client.wait_for_service(PATIENCE_S)

    def load(self, folder: Path) -> None:
        answered = threading.Event()
        future = self._client.call_async(LoadModel.Request(package=str(folder)))
        future.add_done_callback(lambda _: answered.set())
        assert answered.wait(PATIENCE_S), "load_model did not answer"
        assert future.result().success, future.result().message

    def predicted(self, model: str) -> list[ActionLabel]:
        """Return the labels of a model that come from its network on full windows."""
        return [
            label
            for label in list(self.peer.received[topics.ACTION_LABEL])
            if label.model_name == model
            and label.top_labels
            and conversions.stamp_to_ns(label.header.stamp) - conversions.stamp_to_ns(label.window_start)
            >= 0.8 * WINDOW_S * NANOSECONDS
        ]


def write_small(name: str, folder: Path) -> package.ModelPackage:
    """Write a package of the small, untrained network with a short window and without rejection."""
    torch.manual_seed(0)
    network: Any = create(name, num_classes=3, **SMALL.get(name, {})).eval()
    description = replace(
        tiny_description(getattr(network.config, "bodies", 1), threshold=0.0),
        family=name,
        window=replace(network.window, seconds=WINDOW_S),
        inputs=tuple(network.input_specs),
    )
    return package.write(folder / name, description, trace(network))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], package.ModelPackage]:
    """Return a function that exports a network at its first call."""
    folder = tmp_path_factory.mktemp("networks")
    return functools.cache(lambda name: write_small(name, folder))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGraph]:
    first = write_tiny(tmp_path_factory.mktemp("models") / "tiny")
    with ros() as context, Host(context) as host:
        yield LiveGraph(host, context, str(first.path))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_model_family_is_exported(packages: Callable[[str], package.ModelPackage], name: str) -> None:
    """All exports come before the graph, which would slow them down, and each has a time limit of its own."""
    made = packages(name)
    clip = example_clip(made.inputs, made.window.frames, made.bodies)
    (inputs,) = each_clip(clip, made.inputs, made.window, made.window.starts[-1:])
    shown = Reader(made, made.read_onnx("float32"), name).read(inputs, clip)
    kinds = {kind for kind in ("parts", "joints", "over_time", "pairs", "branches") if getattr(shown, kind)}
    assert made.family == name and kinds >= set(SHOWN[name]), "actrec explain has it"
    assert SHOWN[name] or not kinds


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", list_models())
def test_model_family_labels_the_simulated_actor_live(
    live: LiveGraph, packages: Callable[[str], package.ModelPackage], name: str
) -> None:
    model = packages(name)
    live.load(model.path)
    recognizer = live.nodes["recognizer_node"]
    assert live.peer.wait(lambda: len(live.predicted(name)) >= 2, PATIENCE_S), recognizer.last_error or "no error"
    assert recognizer.statistics.snapshot().failed == 0, recognizer.last_error
    (label, *_) = live.predicted(name)
    assert label.body_id.startswith("body_") and label.label in model.labels
    assert sum(label.top_probabilities) == pytest.approx(1.0, abs=1e-3)
