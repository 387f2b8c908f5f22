"""`actrec view`: show a running graph, a camera or a recording in 3-D."""

import argparse
import contextlib
import importlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from actrec.cli import add_driver, driver_options, duration, interruptible
from actrec.utils.errors import ConfigError, EndOfStream

if TYPE_CHECKING:
    from actrec.visualization.rerun_view import Viewer

READ_TIMEOUT_S = 5.0

EPILOG = """\
Examples:
  actrec view                                              the running graph: images, people, hands, face, labels
  actrec view --driver realsense                           a camera and the detected people, without a graph
  actrec view --driver replay --driver-option path=kitchen
  actrec view --out kitchen.rrd --duration 60              write a file; open it with: rerun kitchen.rrd
  actrec view --connect rerun+http://192.168.0.7:9876/proxy   on a robot; start `rerun` on the other machine

Needs Rerun: make venv EXTRAS='live view'. Stops at Ctrl-C, the end of a recording or --duration.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add_driver(parser, "show this camera driver directly, without a ROS graph")
    add = parser.add_argument
    add("--out", metavar="FILE.rrd", default="", help="write a file instead of opening a viewer")
    add("--connect", metavar="URL", default="", help="show in a running viewer")
    add("--duration", type=duration, default=0.0, metavar="S", help="seconds to show (default: until Ctrl-C)")
    add("--ros-args", nargs=argparse.REMAINDER, default=[], help="arguments for ROS, such as remappings")


def run(args: argparse.Namespace) -> int:
    """Show the source until it ends or the user interrupts."""
    from actrec.visualization.rerun_view import Viewer

    options = driver_options(args)
    if args.driver and args.ros_args:
        raise ConfigError("--ros-args: not used with --driver; drop one of them")
    with interruptible() as stopped:
        if args.driver:
            viewer = Viewer(args.out, args.connect)
            _show_driver(args, options, viewer, stopped)
        else:
            node = importlib.import_module("actrec_nodes.bringup.viewing")
            viewer = Viewer(args.out, args.connect)
            node.run(viewer, stopped, args.duration, args.ros_args)
    print(f"{viewer.frames} frames {f'in {args.out}' if args.out else 'sent to the viewer'}", file=sys.stderr)
    return 0


def _show_driver(args: argparse.Namespace, options: dict[str, Any], viewer: "Viewer", stopped: threading.Event) -> None:
    from actrec import cameras
    from actrec.perception.recorded_joints import body_annotator

    with contextlib.ExitStack() as stack:
        camera = stack.enter_context(cameras.create(args.driver, **options))
        perceive = body_annotator(stack)
        began = 0.0
        while not stopped.is_set() and not (began and args.duration and time.monotonic() - began >= args.duration):
            try:
                frame = perceive(camera.read(READ_TIMEOUT_S))
            except EndOfStream:
                return
            viewer.frame(frame)
            viewer.bodies("skeletons", frame.stamp_ns, frame.skeletons)
            began = began or time.monotonic()  # after loading the estimator
