"""`actrec calibrate`: calibrate a camera's lens, its depth, and its pose on the robot."""

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

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
    with _search_in(getattr(args, "cameras", None)):
        status: int = args.run(args)
    return status


@contextlib.contextmanager
def _search_in(folder: Path | None) -> Iterator[None]:
    """Let this command and the driver that it opens find the cameras' files in the folder of `--cameras`."""
    variable = "ACTREC_CAMERAS"
    before = os.environ.get(variable)
    if folder is not None:
        os.environ[variable] = str(folder)
    try:
        yield
    finally:
        if before is not None:
            os.environ[variable] = before
        elif folder is not None:
            del os.environ[variable]
