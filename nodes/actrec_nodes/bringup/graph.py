"""The graph, stated once: which nodes there are, what each is for, and in which order they start.

`actrec run`, the launch files and the tests read this. It imports no ROS, so that a launch file can.

ROS parameter files that would do nothing: ROS passes over nodes that it does not know, without a word.

Imports no ROS, so that a launch file can call it.
"""

import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec.utils.registry import Registry


@dataclass(frozen=True)
class NodeSpec:
    """One node of the graph.

    Attributes:
        name: ROS name, also of its executable and of its module in `actrec_nodes`.
        switch: What turns it on or off: a launch argument, and a word for `actrec run --nodes` and `--without`.
        class_name: Its class.
        purpose: One line, for help texts.
        stream: The recognizer's stream that only this node publishes; see `actrec.types.STREAMS`.
    """

    name: str
    switch: str
    class_name: str
    purpose: str
    stream: str = ""

    @property
    def target(self) -> str:
        """The class as `module:class`."""
        return f"actrec_nodes.{self.name}:{self.class_name}"

    def load(self) -> Any:
        """Return the class, imported now."""
        return Registry("node", {self.name: self.target}, _INSTALL).get(self.name)


_INSTALL = {
    "rclpy": "source a ROS 2 distribution, or: make venv build && . scripts/env.sh",
    "mediapipe": "pip install 'mediapipe>=0.10.14,<0.10.22'",
}

GRAPH = (
    NodeSpec("recognizer_node", "recognizer", "RecognizerNode", "skeletons to action labels, by a model package"),
    NodeSpec("skeleton_node", "skeleton", "SkeletonNode", "RGB-D frames to people's skeletons"),
    NodeSpec("hand_node", "hand", "HandNode", "RGB-D frames to the hands of each person", "hands"),
    NodeSpec("face_node", "face", "FaceNode", "RGB-D frames to the face of each person", "face"),
    NodeSpec(
        "scene_flow_node", "scene_flow", "SceneFlowNode", "pairs of RGB-D frames to the motion of each pixel", "flow"
    ),
    NodeSpec("camera_node", "camera", "CameraNode", "a camera, a recording or the simulated actor to RGB-D frames"),
)
"""In the order of activation: who listens starts before who speaks, so that the first frame finds everyone ready."""


def switches() -> list[str]:
    """Return the short names, in the order of activation."""
    return [spec.switch for spec in GRAPH]


def find(name: str) -> NodeSpec:
    """Return the node of this name or switch.

    Raises:
        ConfigError: There is none; the known ones are listed.
    """
    for spec in GRAPH:
        if name in (spec.name, spec.switch):
            return spec
    raise ConfigError(f"unknown node '{name}'; known: {', '.join(switches())}")


def select(nodes: Sequence[str] = (), without: Sequence[str] = ()) -> list[NodeSpec]:
    """Return the nodes to run, in the order of activation.

    Args:
        nodes: Names or switches of the wanted nodes; all if empty.
        without: Names or switches of nodes to leave out.

    Raises:
        ConfigError: A name is unknown, or nothing is left.
    """
    wanted = [find(name) for name in nodes] or list(GRAPH)
    left_out = [find(name) for name in without]
    chosen = [spec for spec in GRAPH if spec in wanted and spec not in left_out]
    if not chosen:
        raise ConfigError("no node is left to run")
    return chosen


def start_after(spec: NodeSpec, specs: Sequence[NodeSpec], first: Sequence[str] = ()) -> dict[str, str]:
    """Return the parameter of a node in a process of its own by which the camera's first frame finds the others ready.

    Args:
        spec: The node.
        specs: All that run.
        first: Names of others that every node is to start after.
    """
    others = [other.name for other in specs if other != spec] if spec.name == "camera_node" else []
    names = [*first, *others]
    return {"start_after": ",".join(names)} if names else {}


def left_out(specs: Sequence[NodeSpec], model: str) -> list[str]:
    """Return a line for each stream that the model takes and none of these nodes publishes.

    Args:
        specs: The nodes that are to run.
        model: The recognizer's package.

    Raises:
        PackageError: There is no such package.
    """
    from actrec import features
    from actrec.inference import zoo  # a launch file has no need of them
    from actrec.inference.session import body_layout
    from actrec.skeleton.layouts import HANDS

    if "recognizer_node" not in [spec.name for spec in specs]:
        return []
    package = zoo.find(model)
    streams = dict(features.streams(package.inputs))
    if body_layout(package) in HANDS:  # a model of hands
        streams["hands"] = True
    return [
        f"model {model} {'needs' if streams[spec.stream] else 'can use'} {spec.stream}, and {spec.name} does not run: "
        + ("labels stay unknown" if streams[spec.stream] else "it works without")
        + f" unless {spec.name} runs elsewhere"
        for spec in GRAPH
        if spec.stream in streams and spec not in specs
    ]


def driver_options(driver: str, options: Sequence[str]) -> dict[str, Any]:
    """Return settings of a camera driver, written KEY=VALUE with values as in YAML, as parameters of `camera_node`.

    Raises:
        ConfigError: One is not KEY=VALUE, there is no driver that it could be a setting of, or no parameter holds it.
    """
    settings = config.parse_pairs(options, "driver option")
    if settings and not driver:
        raise ConfigError(f"driver option '{options[0]}' needs a driver that it is a setting of")
    for key, value in settings.items():
        kinds = {type(item) for item in (value if isinstance(value, list) else [value])}
        if len(kinds) > 1 or not kinds <= {str, bool, int, float}:
            raise ConfigError(
                f"driver option {key} is {value!r}, expected a text, number or switch, or a list of one kind"
            )
    return {f"{driver}.{key}": value for key, value in settings.items()}


logger = logging.getLogger(__name__)

PARAMETERS = "ros__parameters"

_ALIKE = 0.8
"""How much of a name of ours another has, from which on it is taken for a mistyped one."""


def check(path: str) -> None:
    """Refuses a parameter file that sets nothing of any node of the graph. An empty one is let through.

    The file may have parameters of other packages' nodes too; a name close to one of our nodes gives a warning.

    Raises:
        ConfigError: There is no such file, it is no YAML of nodes and their parameters, or it names other nodes alone.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"there is no parameter file {path}")
    content = _read(path)
    if content is None:
        return
    named = list(_nodes(content))
    if not named:
        raise ConfigError(
            f"parameter file {path} sets no parameters, expected 'NODE: {{{PARAMETERS}: {{NAME: VALUE}}}}'"
        )
    ours = [spec.name for spec in GRAPH]
    if not any(name in ours or "*" in name for name in named):
        raise ConfigError(f"parameter file {path} is for {', '.join(named)}; the nodes here are {', '.join(ours)}")
    for name in named:
        if name not in ours and (meant := difflib.get_close_matches(name, ours, 1, _ALIKE)):
            logger.warning("parameter file %s is for %s too, which is no node here: %s is", path, name, meant[0])


def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(f"cannot read parameter file {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"parameter file {path} is not YAML: {str(error).splitlines()[0]}") from error


def _nodes(content: Any) -> Iterator[str]:
    """Names of the nodes that have parameters, without their namespaces, which are part of a key or keys above it."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict) and PARAMETERS in value:
            yield str(key).rsplit("/", 1)[-1]
        else:
            yield from _nodes(value)
