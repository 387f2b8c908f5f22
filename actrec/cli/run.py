"""`actrec run`: the whole graph, from camera to /action_label."""

import argparse
import importlib

EPILOG = """\
Examples:
  actrec run --driver simulated --duration 20
  actrec run --driver replay --driver-option path=recording.mcap --without face,hand
  actrec run --params config/simulated.yaml --processes
  actrec run --nodes skeleton,recognizer --ros-args -r camera/color/image_raw:=/camera/camera/color/image_raw

Runs until Ctrl-C, the end of a recording or --duration. Exits with 0 only if every node worked and labels came.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments; they are those of the runner on the ROS side."""
    parser.epilog = EPILOG
    importlib.import_module("actrec_nodes.bringup.run").add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the graph."""
    status: int = importlib.import_module("actrec_nodes.bringup.run").run(args)
    return status
