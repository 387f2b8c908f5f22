"""`actrec calibrate`: calibrate a camera's lens, its depth, and its pose on the robot."""

import argparse

from actrec.cli.calibrate import lens, rig
from actrec.utils.errors import ConfigError

EPILOG = """\
Example:
  actrec calibrate board --out board.pdf
  actrec calibrate intrinsics --driver realsense --driver-option serial=923322071108
  actrec calibrate check --driver realsense --driver-option serial=923322071108
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the parsers of all calibrations."""
    parser.epilog = EPILOG
    commands = parser.add_subparsers(title="calibrations", metavar="NAME")
    lens.add_commands(commands)
    rig.add_commands(commands)
    parser.set_defaults(run=None)


def run(args: argparse.Namespace) -> int:
    """Run the selected calibration."""
    if args.run is None:
        raise ConfigError("name a calibration: board, intrinsics, check, … (see: actrec calibrate --help)")
    status: int = args.run(args)
    return status
