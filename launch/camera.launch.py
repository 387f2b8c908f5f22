"""Start the camera alone: recognize.launch.py with all other nodes off (skeleton:=true turns one on).

Example:
  ros2 launch actrec camera.launch.py driver:=replay driver_options:="path=/data/run.mcap"
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from actrec_nodes.bringup import graph


def generate_launch_description() -> LaunchDescription:
    source = PythonLaunchDescriptionSource(str(Path(__file__).with_name("recognize.launch.py")))
    off = [
        DeclareLaunchArgument(spec.switch, default_value="false", description=f"{spec.name}: {spec.purpose}")
        for spec in graph.GRAPH
        if spec.switch != "camera"
    ]
    return LaunchDescription([*off, IncludeLaunchDescription(source)])
