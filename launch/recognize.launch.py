"""Starts the graph, from camera to /action_label: each node in its own process, or all in one (composed:=true).

Each node configures and activates itself (its parameter `autostart`), and says in one line why where it cannot.
Launch's own lifecycle events are not used: each is sent once, needs the node's services and transition topic to be
discovered in time, and leaves a node that failed standing; a process that ends can be seen and respawned.

Example:
  ros2 launch actrec recognize.launch.py driver:=replay driver_options:="path=/data/run.mcap loop=true" hand:=false
  ros2 launch actrec recognize.launch.py vendor:=realsense2_camera composed:=true
"""

import os
import shlex

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from actrec_nodes import graph, parameter_files, topics, transport

RESPAWN_DELAY_S = 2.0
ARGUMENTS = {
    "driver": "camera driver; empty: as params_file or the node's default says",
    "driver_options": 'settings of that driver: "key=value key=value"',
    "model": "model package, by name or folder; empty: as params_file or the node's default says",
    "params_file": "ROS parameter file",
    "vendor": f"take images from this driver's node instead of camera_node: {', '.join(sorted(topics.VENDORS))}",
    "namespace": "namespace of every node and topic",
    "use_sim_time": "take time from /clock: true or false",
    "log_level": "debug, info, warn or error",
    "composed": "all nodes in one process: true or false",
    "respawn": f"start a node's process again {RESPAWN_DELAY_S:g} s after it ended: true or false",
}
SWITCHES = {spec.switch: f"{spec.name}: {spec.purpose}; true or false" for spec in graph.GRAPH}


def generate_launch_description() -> LaunchDescription:
    arguments = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in ARGUMENTS.items()]
    switches = [DeclareLaunchArgument(name, default_value="true", description=text) for name, text in SWITCHES.items()]
    environment = [SetEnvironmentVariable(*item) for item in transport.profile_environment().items()]
    return LaunchDescription([*arguments, *switches, *environment, OpaqueFunction(function=nodes)])


def nodes(context: LaunchContext) -> list[Node]:
    """The nodes that the arguments ask for."""
    given = {name: LaunchConfiguration(name).perform(context) for name in (*ARGUMENTS, *SWITCHES)}
    left_out = [name for name in SWITCHES if not is_true(given[name], name)]
    if given["vendor"]:
        if given["driver"]:
            raise RuntimeError("launch arguments vendor and driver each name what images come from: give one")
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
    shared = parameters(given)
    if is_true(given["composed"], "composed"):
        return [Node(executable="graph", arguments=graph_arguments(given, left_out), parameters=shared, **common)]
    specs = graph.select(without=left_out)
    return [
        Node(
            executable=spec.name,
            name=spec.name,
            parameters=[*shared, *filter(None, [graph.start_after(spec, specs)])],
            **common,
        )
        for spec in specs
    ]


def graph_arguments(given: dict[str, str], left_out: list[str]) -> list[str]:
    """What the nodes of one process are started with: these outrank what a parameter file says of a node by name."""
    arguments = ["--without", ",".join(left_out)] if left_out else []
    for name in ("driver", "model"):
        arguments += [f"--{name}", given[name]] if given[name] else []
    return arguments + [f"--driver-option={word}" for word in driver_options(given)]


def parameters(given: dict[str, str]) -> list:
    """The parameter file, and after it what the command line sets."""
    own: dict[str, object] = {"autostart": True}
    if given["use_sim_time"]:
        own["use_sim_time"] = is_true(given["use_sim_time"], "use_sim_time")
    if given["driver"]:
        own["driver"] = given["driver"]
    if given["model"]:
        own["model"] = given["model"]
    own.update(graph.driver_options(given["driver"], driver_options(given)))
    # A text as it is: launch reads plain ones as YAML, which takes "/data/run #3" and the serial number 017 for others.
    own = {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else value for name, value in own.items()
    }
    if not given["params_file"]:
        return [own]
    file = os.path.expanduser(given["params_file"])
    parameter_files.check(file)  # launch would warn and go on
    return [file, own]


def driver_options(given: dict[str, str]) -> list[str]:
    """The words KEY=VALUE of the argument of that name."""
    try:
        return shlex.split(given["driver_options"])
    except ValueError as error:
        raise RuntimeError(f"launch argument driver_options is {given['driver_options']!r}: {error}") from error


def is_true(value: str, name: str) -> bool:
    """What a launch argument that is a switch says; empty is false."""
    if value.lower() in ("true", "1", "yes", "on"):
        return True
    if value.lower() in ("", "false", "0", "no", "off"):
        return False
    raise RuntimeError(f"launch argument {name} is '{value}', expected true or false")
