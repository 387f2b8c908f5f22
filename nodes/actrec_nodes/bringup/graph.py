"""The nodes of the graph: their names, purposes, order of activation, and parameter files. Imports no ROS."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actrec import cameras
from actrec.cameras import mounting
from actrec.utils import config
from actrec.utils.errors import ActrecError, ConfigError
from actrec.utils.registry import Registry
from actrec_nodes.common import parameter_files


@dataclass(frozen=True)
class NodeSpec:
    """One node of the graph.

    Attributes:
        name: ROS name, also of its executable.
        target: Its class, as `module:class` in `actrec_nodes`.
        purpose: One line, for help texts.
        stream: The recognizer's stream that only this node publishes; see `actrec.types.STREAMS`.
        topics: The topics of the stream, or of a node `on_demand`.
        on_demand: Whether the node is started only for subscribers of its topics, or if it is asked for.
    """

    name: str
    target: str
    purpose: str
    stream: str = ""
    topics: tuple[str, ...] = ()
    on_demand: bool = False

    @property
    def is_optional(self) -> bool:
        """Whether the graph may work without it: it has a stream, which not every model takes, or is `on_demand`."""
        return bool(self.stream) or self.on_demand

    @property
    def switch(self) -> str:
        """Its launch argument, and its name for `actrec run --nodes` and `--without`."""
        return self.name.removesuffix("_node")

    def load(self) -> Any:
        """Import and return the class."""
        return Registry("node", {self.name: f"actrec_nodes.{self.target}"}, _INSTALL).get(self.name)


logger = logging.getLogger(__name__)

_INSTALL = {
    "rclpy": "source a ROS 2 distribution, or: make venv build && . scripts/env.sh",
}

GRAPH = (
    NodeSpec("recognizer_node", "recognizer_node:RecognizerNode", "skeletons to action labels, by a model package"),
    NodeSpec("skeleton_node", "perception_nodes:SkeletonNode", "RGB-D frames to people's skeletons"),
    NodeSpec("hand_node", "perception_nodes:HandNode", "RGB-D frames to the hands of each person", "hands", ("hands",)),
    NodeSpec("face_node", "perception_nodes:FaceNode", "RGB-D frames to the face of each person", "face", ("face",)),
    NodeSpec(
        "scene_flow_node",
        "scene_flow_node:SceneFlowNode",
        "pairs of RGB-D frames to scene flow",
        "flow",
        ("scene_flow", "scene_flow/camera_info", "scene_flow/preview"),
    ),
    NodeSpec(
        "visualization_node",
        "visualization_node:VisualizationNode",
        "the image with people and labels, and markers for RViz, for subscribers",
        topics=("annotated_image", "annotated_image/compressed", "markers"),
        on_demand=True,
    ),
    NodeSpec(
        "hri_node",
        "hri_node:HriNode",
        "people in the topics of REP-155 (hri_msgs), for subscribers",
        topics=("humans/bodies/tracked", "intents"),
        on_demand=True,
    ),
    NodeSpec("camera_node", "camera_node:CameraNode", "a camera, a recording or the simulated actor to RGB-D frames"),
)
"""In the order of activation: subscribers before publishers, so that no node misses the first frame."""

OPTIONAL_DEPTH = ("skeleton_node", "hand_node", "face_node")
"""Nodes that also work on color alone, by their parameter `use_depth`."""


def switches() -> list[str]:
    """Return the short names, in the order of activation."""
    return [spec.switch for spec in GRAPH]


def find(name: str) -> NodeSpec:
    """Return the node of this name or switch; raise ConfigError, which lists the known ones, if there is none."""
    for spec in GRAPH:
        if name in (spec.name, spec.switch):
            return spec
    raise ConfigError(f"unknown node '{name}'; known: {', '.join(switches())}")


def select(nodes: Sequence[str] = (), without: Sequence[str] = ()) -> list[NodeSpec]:
    """Return the nodes of these names or switches, all if empty, in order; raise ConfigError if none is left."""
    wanted = [find(name) for name in nodes] or list(GRAPH)
    excluded = [find(name) for name in without]
    chosen = [spec for spec in GRAPH if spec in wanted and spec not in excluded]
    if not chosen:
        raise ConfigError("no node is left to run")
    return chosen


def start_after(spec: NodeSpec, specs: Sequence[NodeSpec], first: Sequence[str] = ()) -> dict[str, str]:
    """Return the parameter `start_after` of a node: all nodes start after `first`, the camera after all of `specs`."""
    others = [other.name for other in specs if other != spec] if spec.name == "camera_node" else []
    names = [*first, *others]
    return {"start_after": ",".join(names)} if names else {}


def later(specs: Sequence[NodeSpec], model: str, driver: Any) -> list[NodeSpec]:
    """Return the nodes that labels do not need, so that a camera and labels need not wait for them.

    None if the frames of the camera end: then all nodes take the first ones.
    """
    return [] if not model or (driver is not None and driver.ends) else unneeded(specs, model)


def model_of(specs: Sequence[NodeSpec], given: str = "", arguments: Sequence[str] = ()) -> str:
    """Return the recognizer's model: the given one, by ROS arguments, or the default; empty without recognizer."""
    recognizer = find("recognizer")
    if recognizer not in specs:
        return ""
    found = given or parameter_files.value(arguments, recognizer.name, "model")
    return str(found or recognizer.load().config_class().model)


def streams(model: str) -> dict[str, bool]:
    """Return the recognizer's streams that a model package takes, and whether each is required."""
    from actrec import features
    from actrec.inference import zoo
    from actrec.inference.session import body_layout
    from actrec.skeleton.layouts import HANDS

    package = zoo.find(model)
    taken = dict(features.streams(package.inputs))
    if body_layout(package) in HANDS:  # a model of hands
        taken["hands"] = True
    return taken


def unneeded(specs: Sequence[NodeSpec], model: str, also: Sequence[str] = ()) -> list[NodeSpec]:
    """Return the nodes `on_demand`, and nodes whose stream the model does not take, without the ones named in `also`.

    Without a model (the recognizer may run elsewhere), or if its package cannot be read, which it reports, all streams
    are needed.

    Raises:
        ConfigError: `also` has a node that is unknown or not among `specs`.
    """
    asked = [find(name) for name in also]
    if excluded := [spec.switch for spec in asked if spec not in specs]:
        raise ConfigError(f"--with names {', '.join(excluded)}, which --nodes or --without leaves out")
    try:
        taken = streams(model) if model else {spec.stream: False for spec in specs}
    except ActrecError:
        taken = {spec.stream: False for spec in specs}
    unwanted = [spec for spec in specs if spec.on_demand or (spec.stream and spec.stream not in taken)]
    return [spec for spec in unwanted if spec not in asked]


def not_started(spare: Sequence[NodeSpec], model: str, remedy: str) -> str:
    """Return a line about nodes that are not started, and why; empty if there are none."""
    unused = [spec for spec in spare if not spec.on_demand]
    names, taken = ", ".join(spec.name for spec in unused), " or ".join(spec.stream for spec in unused)
    parts = [f"{names} (model {model} takes no {taken})"] if unused else []
    parts += [f"{spec.name} (no subscriber)" for spec in spare if spec.on_demand]
    return f"not started: {', '.join(parts)}; {remedy}" if parts else ""


def left_out(specs: Sequence[NodeSpec], model: str) -> list[str]:
    """Return a line for each stream that the recognizer's model package takes and none of these nodes publishes."""
    if not model or find("recognizer") not in specs:
        return []
    taken = streams(model)
    return [
        f"model {model} {'needs' if taken[spec.stream] else 'can use'} {spec.stream}, and {spec.name} does not run: "
        + ("labels stay unknown" if taken[spec.stream] else "it works without")
        + f" unless {spec.name} runs elsewhere"
        for spec in GRAPH
        if spec.stream in taken and spec not in specs
    ]


def camera(arguments: Sequence[str], parameters: Mapping[str, Any]) -> Any:
    """Return the driver of `camera_node`, not open; None if it is not named or cannot be made.

    Args:
        arguments: Arguments for ROS, which may have parameters of `camera_node`.
        parameters: Parameters of `camera_node` that outrank them.
    """

    def value(name: str) -> Any:
        return parameters.get(name, parameter_files.value(arguments, find("camera").name, name))

    if not (driver := value("driver")):
        return None
    try:
        names = [field.name for field in dataclasses.fields(cameras.DRIVERS.get(driver).config_class)]
        given = {name: found for name in names if (found := value(f"{driver}.{name}")) is not None}
        return cameras.create(driver, **given)
    except ActrecError:  # the node reports it
        return None


def has_depth(driver: Any) -> bool:
    """Return whether the images of a driver of `camera` may have depth; true if that is not known before it is open."""
    return driver is None or bool(driver.has_depth)


def is_recording(driver: Any) -> bool:
    """Return whether a driver of `camera` plays a recording, which ends."""
    return driver is not None and not driver.live and not isinstance(driver, cameras.DRIVERS.get("simulated"))


def without_depth(specs: Sequence[NodeSpec], model: str, asked: Sequence[str] = ()) -> list[NodeSpec]:
    """Return the nodes that work on color alone.

    Raises:
        ConfigError: `asked` has a node that needs depth, or the model requires its stream.
    """
    from actrec.inference import zoo

    flow = find("scene_flow")
    if flow in specs:
        is_required = False
        with contextlib.suppress(ActrecError):  # the recognizer reports a model that cannot be read
            is_required = bool(model) and streams(model).get(flow.stream, False)
        reason = f"model {model} requires {flow.stream}, and " if is_required else ""
        if is_required or flow in map(find, asked):
            raise ConfigError(
                f"{reason}{flow.name} needs depth, but the camera has color alone: use a camera or a recording with "
                f"depth, or {f'--model {zoo.DEFAULT}' if is_required else 'leave it out'}"
            )
    return [spec for spec in specs if spec != flow]


def check_color(specs: Sequence[NodeSpec], model: str, driver: Any) -> None:
    """Refuse a model that requires images, or a stream that is made from them, if the driver of `camera` has no color.

    Raises:
        ConfigError: It does; the message names the streams.
    """
    if driver is None or not model or find("camera") not in specs or driver.has_color:
        return
    from actrec.recognition.tracks import check_without_color

    try:
        taken = streams(model)
    except ActrecError:  # the recognizer reports a model that cannot be read
        return
    check_without_color(model, taken)


def driver_options(driver: str, options: Sequence[str]) -> dict[str, Any]:
    """Convert settings of a camera driver, KEY=VALUE with values as in YAML, to parameters of `camera_node`.

    `mount` is a parameter of the node itself, unless the driver has it, as in `cameras.mounting`.

    Raises ConfigError if one is not KEY=VALUE, no driver is given, or ROS has no parameters of the value's type.
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
    of_node = {"mount"} if "mount" in settings and not mounting.is_setting(driver) else set()
    return {key if key in of_node else f"{driver}.{key}": value for key, value in settings.items()}


def check(path: str, arguments: Sequence[str] = (), namespace: str = "") -> None:
    """Refuse a parameter file without effect on the graph, because ROS ignores entries of unknown nodes.

    An empty file is accepted. Log a warning about an entry that is meant for a node but does not fit its name.

    Args:
        path: The file.
        arguments: Arguments for ROS, which may change the namespace.
        namespace: Namespace of the nodes, without the last slash.

    Raises:
        ConfigError: There is no such file, it is no YAML of nodes and their parameters, or it sets none of these nodes.
    """
    if any("__node:=" in argument for argument in arguments):  # unknown names
        parameter_files.read(path)
        return
    namespace = parameter_files.namespace(arguments) or namespace
    for line in parameter_files.check(path, [f"{namespace}/{spec.name}" for spec in GRAPH]):
        logger.warning("%s", line)
