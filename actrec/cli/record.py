"""`actrec record`: record topics, a camera, or labeled clips of your own actions to rosbag2 mcap files."""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actrec.cli import (
    add_driver,
    add_wait,
    driver_options,
    duration,
    interruptible,
    refuse,
    refuse_unused,
    to_width,
    waiting,
)  # fmt: skip
from actrec.recordings.clip_recorder import COUNTDOWN_SUFFIX, ClipRecorderConfig, record
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream
from actrec.utils.folders import expanded

if TYPE_CHECKING:
    from actrec.recordings.rosbag.bag_writer import BagWriter

READ_TIMEOUT_S = 5.0

EPILOG = """\
Examples:
  actrec record --out kitchen                              the running graph, until Ctrl-C
  actrec record --out labels --topics /action_label --duration 60
  actrec record --out actor --driver simulated --duration 10
  actrec record --recover kitchen --out kitchen_saved      after a crash
  actrec record --label wave --repeat 12 --driver simulated --driver-option "actions=[wave]"

Play it with `ros2 bag play BAG`, with RViz or Foxglove, or with
  actrec run --driver replay --driver-option path=BAG
"""

CLIP_OPTIONS = {"person": (str, "NAME"), "countdown": (float, "S"), "seconds": (float, "S"), "repeat": (int, "N")}
"""Type and unit of the settings of `ClipRecorderConfig` that need --label."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    out = "folder of the new bag; with --label, of the clips (default: my_actions)"
    parser.add_argument("--out", metavar="BAG", help=out)
    parser.add_argument(
        "--topics",
        nargs="+",
        default=[],
        metavar="TOPIC",
        help="topics to record (default: the graph's, without scene flow)",
    )
    seconds = "seconds to record, from the first message (default: until Ctrl-C)"
    parser.add_argument("--duration", type=duration, default=0.0, metavar="S", help=seconds)
    add_wait(parser)
    add_driver(parser, "record this camera driver directly, without a ROS graph")
    encoding = "depth of --driver: 16UC1 (mm, default) or 32FC1 (m, exact)"
    parser.add_argument("--depth-encoding", metavar="ENCODING", help=encoding)
    parser.add_argument(
        "--recover", metavar="BAG", help="copy the complete messages of this interrupted recording to --out"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    ros_args = "arguments for ROS, such as remappings to the topics of another driver"
    parser.add_argument("--ros-args", nargs=argparse.REMAINDER, default=[], help=ros_args)
    clips = parser.add_argument_group("labeled clips (next: actrec teach DIR)")
    fields = {field.name: field for field in dataclasses.fields(ClipRecorderConfig)}
    label = fields["label"].metadata["description"]
    clips.add_argument("--label", metavar="NAME", help=f"record clips of this action after a countdown: {label}")
    for name, (kind, metavar) in CLIP_OPTIONS.items():
        default = f" (default: {fields[name].default})" if fields[name].default != "" else ""
        about = fields[name].metadata["description"] + default
        clips.add_argument(f"--{name}", type=kind, metavar=metavar, help=about)
    clips.add_argument("--images", action="store_true", help="also record color and depth, 40 MB/s")
    clips.add_argument("--beep", action="store_true", help="ring the terminal's bell at start and end")


def run(args: argparse.Namespace) -> int:
    """Record or recover, and print the contents of the bag."""
    if args.driver:
        refuse_unused(args, "topics ros_args", "with --driver")
        refuse({"wait": args.wait is not None}, "with --driver")
    if args.label is not None or not args.driver:
        refuse_unused(args, "depth_encoding", "with --label" if args.label is not None else "without --driver")
    if args.label is not None:
        if args.recover:
            raise ConfigError("--label: not used with --recover; write the label into a labels.csv beside the bag")
        return _record_clips(args)
    given = [f"--{name}" for name in CLIP_OPTIONS if getattr(args, name) is not None]
    given += [f"--{name}" for name in ("images", "beep") if getattr(args, name)]
    if given:
        raise ConfigError(f"{', '.join(given)}: only for labeled clips; add --label NAME")
    if args.out is None:
        raise ConfigError("--out or --label is missing: name the new bag with --out, or an action with --label")
    if args.recover:
        from actrec.recordings.rosbag.bag_files import recover

        refuse_unused(args, "driver driver_option topics duration ros_args", "with --recover")
        refuse({"wait": args.wait is not None}, "with --recover")
        return _report(args, recover(args.recover, args.out), {})
    options = driver_options(args)
    with interruptible() as stopped:
        counts, more = _record_driver(args, options, stopped) if args.driver else _record_graph(args, stopped)
    if not any(counts.values()):
        cause = "interrupted before the first frame" if stopped.is_set() else "no frame came"
        print(f"actrec: {cause}: nothing is written", file=sys.stderr)
        return 130 if stopped.is_set() else 1
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return _report(args, counts, more)


# -- labeled clips -----------------------------------------------------------------------------------------------------


def _record_clips(args: argparse.Namespace) -> int:
    """Record labeled clips from a camera or from the running graph."""
    if args.topics or args.duration:
        raise ConfigError("--topics, --duration: not used with --label; use --images and --seconds")
    given = {name: getattr(args, name) for name in ("label", "out", *CLIP_OPTIONS) if getattr(args, name) is not None}
    settings = config.build(ClipRecorderConfig, given)
    settings.check()
    options = driver_options(args)
    with interruptible() as stopped, contextlib.ExitStack() as stack:
        if args.driver:
            from actrec.perception.recorded_joints import camera_observations

            source = camera_observations(args.driver, options, args.images)
        else:
            source = importlib.import_module("actrec_nodes.record_node").graph_observations(
                args.images, waiting(args, stopped), ["--ros-args", *args.ros_args]
            )
        read = stack.enter_context(source)
        if stopped.is_set():
            print("actrec: interrupted before the first clip: nothing is written", file=sys.stderr)
            return 130
        if sys.stderr.isatty():
            stack.callback(print, file=sys.stderr)
        done = record(read, settings, stopped, lambda text, stays: _show_status(text, stays, args.beep))
    out = Path(settings.out).expanduser()
    if args.json:
        kept = [clip.recording for clip in done.kept]
        figures = {"folder": str(out.resolve()), "label": settings.label, "kept": kept, "refused": done.rejected}
        print(json.dumps(figures))
    else:
        rejected = f"; {len(done.rejected)} rejected" if done.rejected else ""
        print(f"{len(done.kept)} of {settings.repeat} clips of '{settings.label}' in {out}{rejected}")
    return 0 if done.kept else 130 if stopped.is_set() else 1


def _show_status(text: str, stays: bool, beep: bool) -> None:
    """Show a line, which the next one overwrites unless it stays; the time left is shown only on a terminal."""
    if sys.stderr.isatty():
        bell = "\a" if beep and ("GO!" in text or stays) else ""
        print(f"\r{to_width(text)}{bell}", end="\n" if stays else "", file=sys.stderr, flush=True)
    elif stays or COUNTDOWN_SUFFIX not in text:
        print(text, file=sys.stderr, flush=True)


# -- bags --------------------------------------------------------------------------------------------------------------


def _record_graph(args: argparse.Namespace, stopped: threading.Event) -> tuple[dict[str, int], dict[str, Any]]:
    def show(node: Any, seconds: float) -> None:
        missing = f", not published: {len(node.missing)} topics" if node.missing else ""
        _show(seconds, node.counts, node.bytes_written, f", dropped {node.dropped + node.lost}{missing}")

    recorder = importlib.import_module("actrec_nodes.record_node")
    node = recorder.run(
        stopped, show, waiting(args, stopped), ["--ros-args", *args.ros_args], out=args.out, topics=args.topics,
        duration_s=args.duration,
    )  # fmt: skip
    if not any(node.counts.values()) and not stopped.is_set():
        raise DeviceError(f"nothing was published on {', '.join(node.wanted)}: {recorder.START_GRAPH}")
    return node.counts, {"dropped": node.dropped, "lost": node.lost, "not_published": node.missing}


def _record_driver(
    args: argparse.Namespace, options: dict[str, Any], stopped: threading.Event
) -> tuple[dict[str, int], dict[str, Any]]:
    from actrec.cameras.mounting import open_mounted
    from actrec.recordings.rosbag.bag_writer import BagWriter

    with contextlib.ExitStack() as stack:
        read = stack.enter_context(open_mounted(args.driver, options))
        bag = BagWriter(args.out, args.depth_encoding or "16UC1")
        stack.push(functools.partial(_remove_empty, bag))
        stack.enter_context(bag)
        first, shown = None, time.monotonic()
        while not stopped.is_set():
            try:
                frame = read(READ_TIMEOUT_S)
            except EndOfStream:
                break
            first = frame.stamp_ns if first is None else first
            seconds = (frame.stamp_ns - first) / 1e9
            if args.duration and seconds >= args.duration:
                break
            bag.write_frame(frame)
            if time.monotonic() - shown >= 1.0:
                shown = time.monotonic()
                _show(seconds, bag.counts, bag.bytes_written, "")
    return bag.counts, {}


def _remove_empty(bag: "BagWriter", *_: object) -> None:
    """Remove a bag without messages: it would block the next try."""
    if not any(bag.counts.values()):
        shutil.rmtree(bag.path, ignore_errors=True)


def _show(seconds: float, counts: dict[str, int], size: int, more: str) -> None:
    line = f"{seconds:6.1f} s  {sum(counts.values())} messages on {len(counts)} topics, {size / 1e6:.1f} MB{more}"
    on_terminal = sys.stderr.isatty()
    shown = f"\r{to_width(line)}" if on_terminal else line
    print(shown, end="" if on_terminal else "\n", file=sys.stderr, flush=True)


def _report(args: argparse.Namespace, counts: dict[str, int], more: dict[str, Any]) -> int:
    if args.json:
        print(json.dumps({"bag": str(expanded(args.out).resolve()), "counts": counts, **more}))
        return 0
    for topic, count in sorted(counts.items()):
        print(f"{count:8d}  {topic}")
    notes = [f"{key.replace('_', ' ')}: {', '.join(v) if isinstance(v, list) else v}" for key, v in more.items() if v]
    print(f"{args.out}: {sum(counts.values())} messages" + "".join(f"; {note}" for note in notes))
    return 0
