"""Start the graph, from camera to /action_label: one process per node, or one for all nodes (composed:=true).

Nodes whose topics the model does not take are not started, unless an argument such as hand:=true asks for them.

Each node configures and activates itself (parameter `autostart`); if that fails, it logs the reason and exits.
Launch's lifecycle events are not used: each is sent once, requires that the node's services are discovered in time, and
leaves a failed node running. A process that exits is visible and can be respawned.

Examples:
  ros2 launch actrec recognize.launch.py driver:=replay driver_options:="path=/data/run.mcap loop=true" hand:=true
  ros2 launch actrec recognize.launch.py vendor:=realsense2_camera composed:=true
"""

import os
import shlex
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from actrec_nodes.bringup import graph, transport
from actrec_nodes.bringup.processes import PARENT
from actrec_nodes.common import topics

RESPAWN_DELAY_S = 2.0
ARGUMENTS = {
    "driver": "camera driver; empty: from params_file, or the node's default",
    "driver_options": 'settings of the driver: "key=value key=value"',
    "model": "model package, by name or folder; empty: from params_file, or the node's default",
    "params_file": "ROS parameter file",
    "vendor": f"use images of this ROS driver instead of camera_node: {', '.join(sorted(topics.VENDORS))}",
    "namespace": "namespace of every node and topic",
    "use_sim_time": "use the time of /clock: true or false",
    "log_level": "debug, info, warn or error",
    "composed": "all nodes in one process: true or false",
    "respawn": f"restart a process {RESPAWN_DELAY_S:g} s after it ends: true or false",
}
AUTO = "auto"
IF_AUTO = {True: ", or auto: with composed, for subscribers", False: ", or auto: if the model takes it"}
SWITCHES = {
    spec.switch: f"{spec.name}: {spec.purpose}; true or false{IF_AUTO[spec.on_demand] * spec.is_optional}"
    for spec in graph.GRAPH
}


def generate_launch_description() -> LaunchDescription:
    arguments = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in ARGUMENTS.items()]
    switches = [
        DeclareLaunchArgument(
            spec.switch, default_value=AUTO if spec.is_optional else "true", description=SWITCHES[spec.switch]
        )
        for spec in graph.GRAPH
    ]
    variables = {**transport.profile_environment(), PARENT: str(os.getpid())}  # no node outlives a killed launch
    environment = [SetEnvironmentVariable(*item) for item in variables.items()]
    return LaunchDescription([*arguments, *switches, *environment, OpaqueFunction(function=nodes)])


def nodes(context: LaunchContext) -> list[Any]:
    """Return the nodes that the launch arguments select, and a line about nodes that the model does not need."""
    given = {name: LaunchConfiguration(name).perform(context) for name in (*ARGUMENTS, *SWITCHES)}
    auto = [spec.switch for spec in graph.GRAPH if spec.is_optional and given[spec.switch] == AUTO]
    left_out = [name for name in SWITCHES if name not in auto and not is_true(given[name], name)]
    if given["vendor"]:
        if given["driver"]:
            raise RuntimeError("launch arguments vendor and driver each name an image source; set only one")
        left_out.append("camera")
    common = {
        "package": "actrec",
        "namespace": given["namespace"],
        "output": "screen",
        "remappings": topics.vendor_remaps(given["vendor"]) if given["vendor"] else [],
        "ros_arguments": ["--log-level", given["log_level"]] if given["log_level"] else [],
        "respawn": is_true(given["respawn"], "respawn"),
        "respawn_delay": RESPAWN_DELAY_S,
    }
    outer = context.launch_configurations.get("ros_namespace", "")
    namespace = "".join(f"/{part.strip('/')}" for part in (outer, given["namespace"]) if part.strip("/"))
    files = parameter_files(given, namespace)
    shared: dict[str, object] = {"autostart": True}
    if given["use_sim_time"]:
        shared["use_sim_time"] = is_true(given["use_sim_time"], "use_sim_time")
    if is_true(given["composed"], "composed"):
        asked = [spec.switch for spec in graph.GRAPH if spec.is_optional and spec.switch not in (*auto, *left_out)]
        arguments = graph_arguments(given, left_out, asked)
        return [Node(executable="graph", arguments=arguments, parameters=[*files, shared], **common)]
    specs = graph.select(without=left_out)
    arguments = ["-r", f"__ns:={namespace}", *(word for file in files for word in ("--params-file", file))]
    model = graph.model_of(specs, given["model"], arguments)
    spare = graph.unneeded(specs, model, [spec.switch for spec in specs if spec.switch not in auto])
    specs = [spec for spec in specs if spec not in spare]
    line = graph.not_started(spare, model, f"to start: {' '.join(f'{spec.switch}:=true' for spec in spare)}")
    return [LogInfo(msg=line)] * bool(line) + [
        Node(
            executable=spec.name,
            name=spec.name,
            parameters=[*files, {**shared, **own_parameters(given, spec.name), **graph.start_after(spec, specs)}],
            **common,
        )
        for spec in specs
    ]


def graph_arguments(given: dict[str, str], left_out: list[str], asked: list[str]) -> list[str]:
    """Return the arguments of the single process; they override parameter files, also per-node values."""
    arguments = ["--without", ",".join(left_out)] if left_out else []
    arguments += ["--with", ",".join(asked)] if asked else []
    for name in ("driver", "model"):
        arguments += [f"--{name}", given[name]] if given[name] else []
    return arguments + [f"--driver-option={word}" for word in driver_options(given)]


def own_parameters(given: dict[str, str], node: str) -> dict[str, object]:
    """Return the parameters of one node that launch arguments set."""
    own: dict[str, object] = {}
    if node == "camera_node":
        own = {"driver": given["driver"]} if given["driver"] else {}
        own.update(graph.driver_options(given["driver"], driver_options(given)))
    elif node == "recognizer_node" and given["model"]:
        own = {"model": given["model"]}
    # launch parses plain strings as YAML, which would change "/data/run #3" and the serial number 017.
    return {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else value for name, value in own.items()
    }


def parameter_files(given: dict[str, str], namespace: str) -> list[str]:
    """Return the parameter file, if one is given, checked for nodes in a namespace."""
    if not given["params_file"]:
        return []
    file = os.path.expanduser(given["params_file"])
    graph.check(file, namespace=namespace)  # launch itself would only warn
    return [file]


def driver_options(given: dict[str, str]) -> list[str]:
    """Split the launch argument driver_options into KEY=VALUE words."""
    try:
        return shlex.split(given["driver_options"])
    except ValueError as error:
        raise RuntimeError(f"launch argument driver_options is {given['driver_options']!r}: {error}") from error


def is_true(value: str, name: str) -> bool:
    """Parse a true/false launch argument; empty is false."""
    if value.lower() in ("true", "1", "yes", "on"):
        return True
    if value.lower() in ("", "false", "0", "no", "off"):
        return False
    raise RuntimeError(f"launch argument {name} is '{value}', expected true or false")
