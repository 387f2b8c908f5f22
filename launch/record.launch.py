"""Record the topics of a running graph to a bag, beside recognize.launch.py or included by a robot's launch file.

Example:
  ros2 launch actrec record.launch.py out:=/data/kitchen namespace:=robot duration_s:=60.0
"""

import os

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from actrec_nodes.bringup import launching
from actrec_nodes.bringup.endings import PARENT


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in launching.RECORDING.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=recorder)])


def recorder(context: LaunchContext) -> list[Node]:
    """Return the recorder with the arguments that are given."""
    given = {name: LaunchConfiguration(name).perform(context) for name in launching.RECORDING}
    return [
        Node(
            package="actrec",
            executable="record_node",
            namespace=given["namespace"],
            output="screen",
            parameters=[launching.typed(launching.recording(given))],
            remappings=launching.recording_remaps(given),
            additional_env={PARENT: str(os.getpid())},  # it does not outlive a killed launch
        )
    ]
