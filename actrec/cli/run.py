"""`actrec run`: the whole graph, from camera to /action_label."""

import argparse
import importlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actrec.cli import add_driver, interruptible, names
from actrec.recognition.ground_truth import WAITING
from actrec.types import UNKNOWN
from actrec.utils.errors import ActrecError, ConfigError, DeviceError

RIGHT = "right"

EXPLANATION = """\
performed: by the simulated people; recognized: the label, about 2 s after an action begins (–: none, or unknown)
"""

STARTUP_S = 30.0  # a graph that is interrupted earlier without a label has no fault

EPILOG = """\
Examples:
  actrec run --driver simulated --duration 20
  actrec run --driver replay --driver-option path=recording.mcap --with face,hand
  actrec run --params config/simulated.yaml --processes
  actrec run --nodes skeleton,recognizer --vendor realsense2_camera

Runs until Ctrl-C, the end of a recording or --duration. Exits with 0 only if every node worked and labels came.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    vendors = importlib.import_module("actrec_nodes.common.topics").VENDORS
    switches = ", ".join(importlib.import_module("actrec_nodes.bringup.graph").switches())
    parser.epilog = EPILOG
    add_driver(parser, "camera driver, as the parameter driver of camera_node")
    add = parser.add_argument
    add("--model", help="model package: the name of an installed one, or its folder")
    add("--params", metavar="FILE", action="append", default=[], help="ROS parameter file; repeatable")
    add("--vendor", choices=sorted(vendors), help="take images from this driver's node instead of camera_node")
    add("--duration", metavar="SECONDS", type=float, help="stop after this time (--processes: since they started)")
    add("--nodes", metavar="NAMES", default="", help=f"exactly these of: {switches}; default: as the model needs")
    add("--with", metavar="NAMES", default="", dest="also", help="nodes to start although the model does not need them")
    add("--without", metavar="NAMES", default="", help="nodes to leave out, comma-separated")
    add("--processes", action="store_true", help="a process for each node, as a launch file makes them")
    standby = "with --processes, keep no process (150 to 190 MB) to replace a node that dies"
    add("--no-standby", action="store_false", dest="standby", help=standby)
    add("--log-level", choices=("debug", "info", "warn", "error"), help="of all nodes")
    add("--quiet", action="store_true", help="no figures of nodes, and of their log only warnings and errors")
    image = "write an image (.jpg, .png) of each action that the simulated camera showed, with its label"
    add("--image", metavar="FILE", help=image)
    add("--json", action="store_true", help="print the final figures as JSON, and nothing else")
    add("--ros-args", nargs=argparse.REMAINDER, default=[], help="all that follows goes to ROS: remaps, parameters")


def plan(args: argparse.Namespace, on_images: Callable[[dict[str, Any]], None] | None = None) -> Any:
    """Return the `actrec_nodes.bringup.run.Plan` of the command line."""
    if not args.standby and not args.processes:
        raise ConfigError("--no-standby needs --processes: otherwise no process is kept")
    return importlib.import_module("actrec_nodes.bringup.run").plan(
        driver=args.driver,
        driver_options=args.driver_option,
        model=args.model,
        params=args.params,
        vendor=args.vendor,
        duration_s=args.duration,
        nodes=names(args.nodes),
        without=names(args.without),
        also=names(args.also),
        processes=args.processes,
        standby=args.standby,
        log_level=args.log_level or ("warn" if args.quiet else None),
        ros_args=args.ros_args,
        on_label=None if args.json else Lines().show,
        on_images=on_images,
    )


def run(args: argparse.Namespace) -> int:
    """Run the graph; return 0 only if every node worked and labels came."""
    image = Path(args.image).expanduser() if args.image else None
    if image and (image.suffix.lower() not in (".jpg", ".jpeg", ".png") or not image.parent.is_dir()):
        raise ConfigError(f"--image: '{image}' is no .jpg or .png file in an existing folder")
    with interruptible() as stopped:
        runner = importlib.import_module("actrec_nodes.bringup.run")
        images: dict[str, Any] = {}
        chosen = plan(args, images.update if image else None)
        _announce(args, chosen)
        if stopped.is_set():
            return 130
        result = runner.run_graph(chosen, stopped=stopped)
    if result is None:
        return 1
    if result["interrupted"] and not result["labels"] and result["duration_s"] < STARTUP_S:
        print("actrec: interrupted before the first label", file=sys.stderr)
        return 130
    parts = [performed_table(result["performed"]), "" if args.quiet else table(result), closing(result)]
    print(json.dumps(result) if args.json else "\n\n".join(filter(None, parts)))
    problem = runner.verdict(result)
    if problem:
        raise DeviceError(problem)
    if image:
        line = _write_image(image, images, result["performed"])
        print(line, file=sys.stderr if args.json else sys.stdout)
    return 0


def _announce(args: argparse.Namespace, chosen: Any) -> None:
    """Print which nodes start, and which do not."""
    graph = importlib.import_module("actrec_nodes.bringup.graph")
    is_launched = importlib.import_module("actrec_nodes.bringup.supervisor").RESPAWNS in os.environ
    try:
        for line in graph.left_out(chosen.specs, chosen.model) if args.model else ():
            print(f"actrec: {line}", file=sys.stderr)
    except ActrecError:
        if not is_launched:  # else the recognizer reports a model that cannot be read, and tries again
            raise
    if not args.json:
        print(f"starting {', '.join(spec.switch for spec in reversed(chosen.specs))} …", flush=True)
    if not args.json and not args.quiet and chosen.spare:
        spare = [spec.switch for spec in chosen.spare]
        asked = " ".join(f"{name}:=true" for name in spare) if is_launched else f"--with {','.join(spare)}"
        remedy = f"each starts when its topic has a subscriber, or now with {asked}"
        print(graph.not_started(chosen.spare, chosen.model, remedy), flush=True)


def _write_image(path: Path, images: dict[str, Any], figures: dict[str, Any]) -> str:
    """Write the image of each performed action with its label; return a line about the file."""
    from actrec.visualization import contact_sheet
    from actrec.visualization.overlay import Caption

    tiles = []
    for name, f in figures.get("actions", {}).items():
        snapshot = next((each for action, each in images.items() if action.replace("_", " ").lower() == name), None)
        if snapshot is None:
            continue
        label, confidence, delay, outcome = _outcome(name, f)
        label = label.replace("×", "x")  # OpenCV 4 draws ASCII alone
        if label != "–" and len(snapshot.bodies) == 1:  # of several people, each keeps the label of its own
            snapshot.captions = {snapshot.bodies[0].body_id: Caption(label, math.nan)}
        recognized = f"recognized: {label}".replace("–", "nothing")
        details = "" if confidence == "–" else f" {confidence}, after {delay} s"
        tiles.append(contact_sheet.Tile(snapshot, [f"performed: {name}", f"{recognized}{details}"], outcome == RIGHT))
    if not tiles:
        return "no image: none of a performed action came (only the driver simulated performs)"
    contact_sheet.write(path, tiles)
    return f"image: {path.resolve()}"


class Lines:
    """Prints a line for each change of a label.

    If the camera simulates, also when an action begins, but no line when a label or an action ends.
    """

    def __init__(self) -> None:
        self._performed = ""
        self._is_open = True

    def show(self, change: Any) -> None:
        """Print a `Change` of `actrec_nodes.bringup.run`; without a reader (`head` has ended), end the graph."""
        try:
            if self._is_open:
                self._show(change)
        except BrokenPipeError:
            self._is_open = False
            os.kill(os.getpid(), signal.SIGINT)

    def _show(self, change: Any) -> None:
        seconds, body_id, label, confidence, performed, right, changed = change
        line = f"{seconds:8.1f} s  {body_id or 'no person':<10} "
        if not performed:
            print(f"{line}{label:<24} {confidence:5.2f}", flush=True)
            return
        if not self._performed:
            print(EXPLANATION)
            print(f"{'time':>10}  {'body':<10} {'performed':<18} {'recognized':<18} confidence")
        begins = performed not in (self._performed, WAITING)
        self._performed = performed
        if begins or (changed and label != UNKNOWN):
            mark = {True: "right", False: "WRONG"}[bool(right)] if changed else "still"
            shown = f"{label:<18} {confidence:5.2f}  {mark}" if label != UNKNOWN else "–"
            print(f"{line}{performed:<18} {shown}".rstrip(), flush=True)


def performed_table(figures: dict[str, Any]) -> str:
    """Return what actors performed, and how it was labeled, as a Markdown table; empty if they performed nothing."""
    if not figures.get("actions"):
        return ""
    lines = ["", "| performed | recognized | confidence | delay, s | |", "|---|---|---|---|---|"]
    for name, f in figures["actions"].items():
        times = f" {f['performed']}×" if f["performed"] > 1 else ""
        lines.append(f"| {' | '.join([name + times, *_outcome(name, f)])} |")
    false = figures["labels_while_waiting"]
    wrong = f"{sum(false.values())} wrong ({_counts(false)})" if false else "no label"
    known = [f for f in figures["actions"].values() if f["known"]]
    found, times = (sum(f[key] for f in known) for key in ("found", "performed"))
    waiting = f"{wrong} in {figures['waited_s']:.0f} s of waiting"
    return "\n".join([*lines, "", f"{found} of {times} actions found (delay from their start); {waiting}"])


def _outcome(name: str, figures: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return the label of an action, its confidence, its delay in seconds, and whether it is right."""
    found, times, others = figures["found"], figures["performed"], _counts(figures["other_labels"])
    label = ", ".join(filter(None, [name if found else "", others])) or "–"
    confidence, delay = (figures[f"median_{key}"] for key in ("confidence", "delay_s"))
    if not figures["known"]:
        outcome = "not in the model"
    elif times > 1:
        outcome = f"{found} of {times} {RIGHT}"
    elif found:
        outcome = f"{RIGHT}, not alone" if others else RIGHT
    else:
        outcome = "wrong" if others else "not found"
    return (
        label,
        "–" if confidence is None else f"{confidence:.2f}",
        "–" if delay is None else f"{delay:.1f}",
        outcome,
    )


def _counts(labels: dict[str, int]) -> str:
    return ", ".join(name if count == 1 else f"{name} {count}×" for name, count in labels.items())


def table(result: dict[str, Any]) -> str:
    """Return the figures of a run as a Markdown table."""
    lines = [
        "| node | in | done | dropped | Hz | work p50/p95 ms | latency p50/p95 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, f in result["nodes"].items():
        if not f:
            lines.append(f"| {name} | – | – | – | – | – | – |")
            continue
        work, latency = (_pair(f, kind) for kind in ("work", "latency"))
        rate = f"{f['rate_hz']:.1f}"
        lines.append(f"| {name} | {f['received']} | {f['processed']} | {f['dropped']} | {rate} | {work} | {latency} |")
    used = ", ".join(f"{name} {u['pss'] or u['rss']:.0f} MB" for name, u in result["usage"].items() if u["rss"])
    notes = [f"{name}: {f['warning']}" for name, f in result["nodes"].items() if f.get("warning")]
    notes += [f"{name}: idle, {f['idle']}" for name, f in result["nodes"].items() if f.get("idle")]
    return "\n".join([*lines, "", f"memory: {used}", *notes])


def closing(result: dict[str, Any]) -> str:
    """Return the last line of a run."""
    latency = result["latency_ms"]
    shown = (
        "" if latency["p50"] is None else f"; frame to label p50 / p95: {latency['p50']:.0f} / {latency['p95']:.0f} ms"
    )
    return f"{result['labels']} labels in {result['duration_s']:.1f} s{shown}"


def _pair(figures: dict[str, Any], kind: str) -> str:
    p50, p95 = figures[f"{kind}_p50_ms"], figures[f"{kind}_p95_ms"]
    return "–" if p50 is None else f"{p50:.0f} / {p95:.0f}"
