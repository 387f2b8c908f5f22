"""Start the graph, from camera to /action_label: one process per node, or one for all nodes (composed:=true).

A further process starts the nodes' processes, and replaces one that dies or hangs; it is restarted by launch. With
respawn:=false, autostart:=false or SROS2, launch starts each node itself.

Nodes whose topics the model does not take are not started, unless an argument such as hand:=true asks for them.

Each node configures and activates itself (parameter `autostart`); if that fails, it logs the reason and tries again, or
exits with respawn:=false. Launch's lifecycle events are not used: each is sent once, requires that the node's services
are discovered in time, and leaves a failed node inactive.

Examples:
  ros2 launch actrec recognize.launch.py driver:=replay driver_options:="path=/data/run.mcap loop=true" hand:=true
  ros2 launch actrec recognize.launch.py vendor:=realsense2_camera composed:=true
  ros2 launch actrec recognize.launch.py driver:=realsense serial_no:=017322071234 camera_name:=front namespace:=robot
"""

import os
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from actrec_nodes.bringup import launching, transport
from actrec_nodes.bringup.endings import PARENT
from actrec_nodes.bringup.supervisor import ONE_ARENA, respawn_environment


def generate_launch_description() -> LaunchDescription:
    others = {name: (launching.DEFAULTS.get(name, ""), text) for name, text in launching.ARGUMENTS.items()}
    arguments = others | launching.SWITCHES
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in arguments.items()
    ]
    arenas = {name: os.environ.get(name, value) for name, value in ONE_ARENA.items()}
    # No node outlives a killed launch.
    variables = {**arenas, **transport.profile_environment(), **respawn_environment(), PARENT: str(os.getpid())}
    environment = [SetEnvironmentVariable(*item) for item in variables.items()]
    return LaunchDescription([*declared, *environment, OpaqueFunction(function=nodes)])


def nodes(context: LaunchContext) -> list[Any]:
    """Return the nodes that the launch arguments select, and a line about nodes that the model does not need."""
    names = (*launching.ARGUMENTS, *launching.SWITCHES)
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    planned = launching.plan(given, context.launch_configurations.get("ros_namespace", ""))
    return [LogInfo(msg=planned.note)] * bool(planned.note) + [
        Node(
            package="actrec",
            executable=process.executable,
            name=process.name or None,
            namespace=planned.namespace,
            output="screen",
            arguments=process.arguments,
            parameters=[*process.files, launching.typed(process.parameters)],
            remappings=planned.remappings,
            additional_env=process.environment,
            # Used only where security is on: deploy/sros2.
            ros_arguments=[*planned.ros_arguments, "--enclave", f"/actrec/{process.name or 'graph'}"],
            respawn=planned.respawn,
            respawn_delay=launching.RESPAWN_DELAY_S,
        )
        for process in planned.processes
    ]
