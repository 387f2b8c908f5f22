"""`actrec view`: show a running graph, a camera or a recording in a viewer or a web page."""

import argparse
import contextlib
import importlib
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actrec.cli import add_backend, add_driver, add_wait, driver_options, duration, interruptible, waiting
from actrec.inference import zoo
from actrec.types import NANOSECONDS
from actrec.utils import usable_cores
from actrec.utils.errors import ConfigError, EndOfStream

if TYPE_CHECKING:
    from actrec.recognition.offline import LabeledFrame
    from actrec.visualization.snapshots import LiveView

READ_TIMEOUT_S = 5.0
PLAUSIBLE_LATENCY_S = 10.0  # stamps of recordings may be of another day
PORT = 8080

EPILOG = """\
Examples:
  actrec view --web                                        the running graph in a page: http://127.0.0.1:8080/
  actrec view --web --host 0.0.0.0 --port 8000             on a robot, for browsers on other machines
  actrec view --web --explain why                          and the images of: actrec explain MODEL CLIP --out why
  actrec view --web --driver webcam                        a camera, its people and their labels, without ROS
  actrec view                                              the running graph in Rerun
  actrec view --driver realsense                           the same in Rerun
  actrec view --driver replay --driver-option path=kitchen
  actrec view --out kitchen.rrd --duration 60              write a file; open it with: rerun kitchen.rrd
  actrec view --connect rerun+http://192.168.0.7:9876/proxy   on a robot; start `rerun` on the other machine

--web needs no display and nothing else; all others need Rerun: make venv EXTRAS='live view'. Every machine that reaches
--host can see the camera. Stops at Ctrl-C, the end of a recording or --duration.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add_driver(parser, "show and label this camera driver directly, without a ROS graph")
    add = parser.add_argument
    add("--model", help=f"model package of the labels of --driver, by name or folder (default: {zoo.DEFAULT})")
    add_backend(parser)
    add("--web", action="store_true", help="serve a page instead of opening a viewer")
    add("--host", help="address to serve the page on (default: 127.0.0.1, this machine only; 0.0.0.0: all)")
    add("--port", type=int, help=f"port of the page (default: {PORT}; 0: a free one)")
    add(
        "--explain",
        type=Path,
        metavar="FOLDER",
        help="show the images that actrec explain writes there, below the page",
    )
    add("--out", metavar="FILE.rrd", default="", help="write a file instead of opening a viewer")
    add("--connect", metavar="URL", default="", help="show in a running viewer")
    add("--hands-and-face", action="store_true", help="let hand_node and face_node work for the view")
    add("--duration", type=duration, default=0.0, metavar="S", help="seconds to show (default: until Ctrl-C)")
    add_wait(parser)
    add("--ros-args", nargs=argparse.REMAINDER, default=[], help="arguments for ROS, such as remappings")


def run(args: argparse.Namespace) -> int:
    """Show the source until it ends or the user interrupts."""
    options = driver_options(args)
    if args.driver and args.ros_args:
        raise ConfigError("--ros-args: not used with --driver; drop one of them")
    if args.driver and (args.hands_and_face or args.wait is not None):
        option = "--hands-and-face" if args.hands_and_face else "--wait"
        raise ConfigError(f"{option}: of a running graph, not used with --driver; drop one of them")
    if args.model and not args.driver:
        raise ConfigError("--model needs --driver: a running graph has its own model")
    if args.backend != "auto" and not args.driver:
        raise ConfigError("--backend needs --driver: the nodes of a running graph have their own")
    if args.web and (args.out or args.connect):
        raise ConfigError("--web excludes --out and --connect; drop one of them")
    if not args.web and (args.host is not None or args.port is not None):
        raise ConfigError("--host and --port need --web")
    if args.explain is not None and not args.web:
        raise ConfigError("--explain needs --web")
    with interruptible() as stopped:
        viewing = None if args.driver else importlib.import_module("actrec_nodes.bringup.viewing")
        with contextlib.closing(_open(args)) as view:
            if viewing is None:
                _show_driver(args, options, view, stopped)
            else:
                parts = viewing.SnapshotConfig(hands_and_face="always" if args.hands_and_face else "auto")
                wait = waiting(args, stopped) if args.wait is not None or not args.web else None  # a page shows why
                viewing.run(view, stopped, args.duration, args.ros_args, parts, wait)
    where = "shown" if args.web else f"in {args.out}" if args.out else "sent to the viewer"
    print(f"{view.frames} frames {where}", file=sys.stderr)
    return 0


def _open(args: argparse.Namespace) -> "LiveView":
    if not args.web:
        from actrec.visualization.rerun_view import Viewer

        return Viewer(args.out, args.connect)
    from actrec.visualization.web import WebView
    from actrec.visualization.web.explanation_images import ExplanationImages

    source = args.driver or "running graph"
    explanation = None if args.explain is None else ExplanationImages(args.explain.expanduser().absolute())
    view = WebView(args.host or "127.0.0.1", PORT if args.port is None else args.port, source, explanation)
    print(f"view: {view.url} (stop with Ctrl-C)", flush=True)
    return view


def _show_driver(args: argparse.Namespace, options: dict[str, Any], view: "LiveView", stopped: threading.Event) -> None:
    from actrec.cameras.mounting import DRIVER_OPTION, open_mounted
    from actrec.recognition.offline import OfflineRecognizer

    with contextlib.ExitStack() as stack:
        read = stack.enter_context(open_mounted(args.driver, options))
        recognizer: OfflineRecognizer | None = None
        began = 0.0
        while not stopped.is_set() and not (began and args.duration and time.monotonic() - began >= args.duration):
            try:
                frame = read(READ_TIMEOUT_S)
            except EndOfStream:
                break
            if view.wants_images:
                if recognizer is None:
                    has_color = frame.color is not None
                    recognizer = OfflineRecognizer(
                        args.model or zoo.DEFAULT, args.backend, has_depth=frame.depth is not None or not has_color,
                        has_color=has_color, threads=min(usable_cores(), 4), mount_option=DRIVER_OPTION,
                    )  # fmt: skip
                    stack.enter_context(recognizer)
                _show_labeled(view, recognizer.process(frame))
            began = began or time.monotonic()  # after loading the networks
        for event in recognizer.finish() if recognizer is not None else ():
            view.event(event)


def _show_labeled(view: "LiveView", labeled: "LabeledFrame") -> None:
    """Show a frame with its people, and the labels and events of that frame."""
    from actrec.visualization.labeled_video import captions
    from actrec.visualization.overlay import Caption
    from actrec.visualization.snapshots import Snapshot

    snapshot, people = Snapshot.of_frame(labeled.frame), labeled.people
    snapshot.bodies, snapshot.hands, snapshot.faces = people.bodies, people.hands, people.faces
    snapshot.captions = captions(labeled.labels)
    view.show(snapshot)
    latency_s = (time.time_ns() - labeled.frame.stamp_ns) / NANOSECONDS
    plausible = latency_s if 0 <= latency_s < PLAUSIBLE_LATENCY_S else None
    for made in labeled.predictions:
        view.label(made.stamp_ns, made.body_id, Caption(made.label, made.confidence), plausible, made.model_name)
    for event in labeled.events:
        view.event(event)
