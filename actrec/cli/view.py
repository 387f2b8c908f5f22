"""`actrec view`: a running graph, a camera or a recording, shown in 3-D."""

import argparse
import contextlib
import importlib
import sys
import threading
import time
from typing import TYPE_CHECKING

from actrec.cli.record import READ_TIMEOUT_S, signals, span
from actrec.utils import config
from actrec.utils.errors import ConfigError, EndOfStream

if TYPE_CHECKING:
    from actrec.visualization.rerun_view import Viewer

EPILOG = """\
Examples:
  actrec view                                              the running graph: images, people, hands, face, labels
  actrec view --driver realsense                           a camera, with no graph, and who is seen
  actrec view --driver replay --driver-option path=kitchen
  actrec view --out kitchen.rrd --duration 60              a file instead; look at it with: rerun kitchen.rrd
  actrec view --connect rerun+http://192.168.0.7:9876/proxy   on a robot; on the other machine runs: rerun

Needs Rerun: make venv EXTRAS='live view'. Ends with Ctrl-C, the end of a recording or --duration.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("--driver", help="show this camera driver directly, with no ROS graph running")
    parser.add_argument(
        "--driver-option", metavar="KEY=VALUE", action="append", default=[], help="a setting of that driver; repeatable"
    )
    parser.add_argument("--out", metavar="FILE.rrd", default="", help="write a file instead of opening a viewer")
    parser.add_argument("--connect", metavar="URL", default="", help="show in a viewer that runs elsewhere")
    parser.add_argument(
        "--duration", type=span, default=0.0, metavar="S", help="seconds to show (default: until Ctrl-C)"
    )
    parser.add_argument("--ros-args", nargs=argparse.REMAINDER, default=[], help="all that follows goes to ROS: remaps")


def run(args: argparse.Namespace) -> int:
    """Show until interrupted."""
    from actrec.visualization.rerun_view import Viewer

    if args.driver_option and not args.driver:
        raise ConfigError("--driver-option is a setting of the camera that --driver names")
    if args.driver and args.ros_args:
        raise ConfigError("--driver shows a camera with no ROS: leave --ros-args out")
    stopped = threading.Event()
    with signals(stopped):
        if args.driver:
            viewer = Viewer(args.out, args.connect)
            _show_driver(args, viewer, stopped)
        else:
            node = importlib.import_module("actrec_nodes.view_node")
            viewer = Viewer(args.out, args.connect)
            node.run(viewer, stopped, args.duration, args.ros_args)
    print(f"{viewer.frames} frames {f'in {args.out}' if args.out else 'sent to the viewer'}", file=sys.stderr)
    return 0


def _show_driver(args: argparse.Namespace, viewer: "Viewer", stopped: threading.Event) -> None:
    from actrec import cameras
    from actrec.perception import pipeline

    options = config.parse_pairs(args.driver_option, "driver option")
    with contextlib.ExitStack() as held:
        camera = held.enter_context(cameras.create(args.driver, **options))
        perceive = pipeline.perceiver(held)
        began = 0.0
        while not stopped.is_set() and not (began and args.duration and time.monotonic() - began >= args.duration):
            try:
                frame = perceive(camera.read(READ_TIMEOUT_S))
            except EndOfStream:
                return
            viewer.frame(frame)
            viewer.bodies("skeletons", frame.stamp_ns, frame.skeletons)
            began = began or time.monotonic()  # the estimator is loaded by now
