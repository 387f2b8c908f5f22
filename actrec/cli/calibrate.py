"""`actrec calibrate`: a camera's lens, its depth, and its place on the robot."""

import argparse
import importlib
from contextlib import AbstractContextManager
from typing import Any

from actrec.utils.errors import ConfigError

MODULES = (
    "actrec_calibration.commands.camera",
    "actrec_calibration.commands.robot",
    "actrec_calibration.commands.hand_eye",
)
"""Each has `add(subparsers)`, which adds its commands' parsers with `set_defaults(run=function)`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares each command's arguments."""
    commands = parser.add_subparsers(title="what to calibrate", metavar="WHAT")
    for module in MODULES:
        importlib.import_module(module).add(commands)
    parser.set_defaults(run=None, open_topic=open_topic, open_poses=open_poses)
    parser.epilog = (
        "Example:\n"
        "  actrec calibrate board --out board.pdf\n"
        "  actrec calibrate intrinsics --driver realsense --driver-option serial=923322071108\n"
        "  actrec calibrate check --driver realsense --driver-option serial=923322071108"
    )


def open_topic(topic: str) -> AbstractContextManager[Any]:
    """Subscribes to images; ROS is loaded only then."""
    opened: AbstractContextManager[Any] = importlib.import_module("actrec_nodes.common.image_topic").images(topic)
    return opened


def open_poses(base: str, gripper: str) -> AbstractContextManager[Any]:
    """Listens to TF for a robot's poses; ROS is loaded only then."""
    opened: AbstractContextManager[Any] = importlib.import_module("actrec_nodes.common.tf").robot_poses(base, gripper)
    return opened


def run(args: argparse.Namespace) -> int:
    """Runs the command that was named."""
    if args.run is None:
        raise ConfigError("name what to calibrate: board, intrinsics, check, … (see: actrec calibrate --help)")
    status: int = args.run(args)
    return status
