"""Runs the graph, all nodes in this process or each in its own: behind `actrec run` and the executable `graph`."""

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rclpy.context import Context
from rclpy.parameter import Parameter

from actrec.utils.errors import ActrecError, ConfigError, DeviceError
from actrec_nodes.bringup import graph
from actrec_nodes.bringup.graph import NodeSpec
from actrec_nodes.bringup.monitor import Monitor, usage
from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.common import topics
from actrec_nodes.common.lifecycle import ActrecNode

EXIT_S = 15.0
"""How long a node's process may take to end."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        specs: Nodes in the order of activation.
        ros_args: What follows `--ros-args` on every node's command line.
        overrides: Node name to its parameters, which outrank those in `ros_args`.
        duration_s: None: until interrupted or the recording has ended.
        processes: Whether each node gets a process of its own.
        quiet: Whether labels are not printed as they change.
    """

    specs: list[NodeSpec]
    ros_args: list[str] = field(default_factory=list)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    duration_s: float | None = None
    processes: bool = False
    quiet: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `actrec run`."""
    parser.add_argument("--driver", help="camera driver, as the parameter driver of camera_node")
    parser.add_argument(
        "--driver-option", metavar="KEY=VALUE", action="append", default=[], help="a setting of that driver; repeatable"
    )
    parser.add_argument("--model", help="model package: the name of an installed one, or its folder")
    parser.add_argument("--params", metavar="FILE", action="append", default=[], help="ROS parameter file; repeatable")
    parser.add_argument(
        "--vendor", choices=sorted(topics.VENDORS), help="take images from this driver's node instead of camera_node"
    )
    parser.add_argument(
        "--duration", metavar="SECONDS", type=float, help="stop after this long (--processes: since they began)"
    )
    switches = ", ".join(graph.switches())
    parser.add_argument("--nodes", metavar="NAMES", default="", help=f"comma-separated; all by default: {switches}")
    parser.add_argument("--without", metavar="NAMES", default="", help="nodes to leave out, comma-separated")
    parser.add_argument("--processes", action="store_true", help="a process for each node, as a launch file makes them")
    parser.add_argument("--log-level", choices=("debug", "info", "warn", "error"), help="of all nodes")
    parser.add_argument("--json", action="store_true", help="print the final figures as JSON, and nothing else")
    parser.add_argument(
        "--ros-args", nargs=argparse.REMAINDER, default=[], help="all that follows goes to ROS: remaps, parameters"
    )


def plan(args: argparse.Namespace) -> Plan:
    """Reads the command line.

    Raises:
        ConfigError: A node or option is unknown, a file does not exist, or two sources of images are named.
    """
    if args.duration is not None and not args.duration > 0:
        raise ConfigError(f"--duration is {args.duration:g} s, expected more than 0")
    if args.vendor and args.driver:
        raise ConfigError(
            f"--vendor {args.vendor} takes images from that node, --driver {args.driver} from camera_node: give one"
        )
    without = _names(args.without) + (["camera"] if args.vendor else [])
    specs = graph.select(_names(args.nodes), without)
    return Plan(specs, _ros_args(args), overrides(args), args.duration, args.processes, args.json)


def overrides(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The parameters that the command line sets, by node.

    Raises:
        ConfigError: A driver option is not KEY=VALUE, or has no driver.
    """
    camera = {"driver": args.driver} if args.driver else {}
    camera.update(graph.driver_options(args.driver, args.driver_option))
    return {"camera_node": camera, "recognizer_node": {"model": args.model} if args.model else {}}


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _ros_args(args: argparse.Namespace) -> list[str]:
    out: list[str] = []
    for path in args.params:
        graph.check(path)
        out += ["--params-file", path]
    if args.log_level:
        out += ["--log-level", args.log_level]
    for ours, theirs in topics.vendor_remaps(args.vendor) if args.vendor else ():
        out += ["-r", f"{ours}:={theirs}"]
    return out + [argument for argument in args.ros_args if argument != "--ros-args"]


def run(args: argparse.Namespace) -> int:
    """Runs the graph as the command line says; 0 only if it ran."""
    chosen = plan(args)
    if args.model:
        for line in graph.left_out(chosen.specs, args.model):
            print(f"actrec: {line}", file=sys.stderr)
    result = run_graph(chosen)
    if result is None:
        return 1
    print(json.dumps(result) if args.json else table(result))
    problem = verdict(result)
    if problem:
        raise DeviceError(problem)
    return 0


def run_graph(chosen: Plan, watch: Callable[["Running", Monitor], None] | None = None) -> dict[str, Any] | None:
    """Runs the graph to its end.

    Args:
        chosen: What to run.
        watch: Waits instead, for `duration_s`, and may look at what runs meanwhile.

    Returns:
        Its figures: `nodes` by name, `labels`, `changes`, `latency_ms`, `duration_s`, `usage` by process. None
        where a node failed to start or to go on, which it has said.
    """
    with ros(["--ros-args", *chosen.ros_args]) as context, Host(context) as host:
        monitor = Monitor(
            [spec.name for spec in chosen.specs], _ignore if chosen.quiet else print_label, context=context
        )
        host.add(monitor)
        runner = _in_processes if chosen.processes else _in_this_process
        began = time.monotonic()
        with runner(chosen, context, host) as running:
            if running is None:
                return None
            began = time.monotonic()
            with contextlib.suppress(KeyboardInterrupt):
                if watch is not None:
                    watch(running, monitor)
                elif not running.wait(chosen.duration_s):
                    return None
            seconds = time.monotonic() - began
            used = running.usage()
            nodes = running.finish(monitor)
        return {
            "nodes": nodes,
            "labels": monitor.labels,
            "changes": monitor.changes,
            "latency_ms": monitor.latency_ms(),
            "duration_s": round(seconds, 2),
            "usage": used,
        }


def verdict(result: dict[str, Any]) -> str | None:
    """Why a run was none: None where every node with something to work on did, and labels came."""
    idle = _without_images(result)
    for name, figures in reversed(result["nodes"].items()):  # from the source on: who comes after it waits in vain
        if not figures:
            return f"{name} gave no sign of life"
        if not figures["processed"] and name not in idle:
            return f"{name} processed nothing: {figures['last_error'] or 'no input reached it'}"
    if "recognizer_node" in result["nodes"] and not result["labels"]:
        return "no label came on action_label"
    return None


def _without_images(result: dict[str, Any]) -> set[str]:
    """The nodes that work on images, where the camera's recording holds joints alone, as takes of an action do.

    That labels came although no image reached any of them tells so: `camera_node` publishes skeletons itself then.
    """
    nodes = result["nodes"]
    of_images = {name for name in nodes if name not in ("camera_node", "recognizer_node")}
    came = any(nodes[name].get("received", 0) for name in of_images)
    return of_images if result["labels"] and "camera_node" in nodes and not came else set()


def print_label(seconds: float, body_id: str, label: str, confidence: float) -> None:
    """One line for a label that has changed."""
    print(f"{seconds:8.2f} s  {body_id or 'nobody':<10} {label:<24} {confidence:5.2f}", flush=True)


def _ignore(*_: object) -> None:
    pass


def table(result: dict[str, Any]) -> str:
    """The figures of a run as a markdown table."""
    lines = [
        "",
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
    latency = result["latency_ms"]
    shown = f"{latency['p50']:.0f} / {latency['p95']:.0f} ms" if latency["p50"] is not None else "unknown"
    used = ", ".join(f"{name} {u['pss'] or u['rss']:.0f} MB" for name, u in result["usage"].items() if u["rss"])
    lines += ["", f"{result['labels']} labels in {result['duration_s']:.1f} s; frame to label p50 / p95: {shown}"]
    return "\n".join([*lines, f"memory: {used}"])


def _pair(figures: dict[str, Any], kind: str) -> str:
    p50, p95 = figures[f"{kind}_p50_ms"], figures[f"{kind}_p95_ms"]
    return "–" if p50 is None else f"{p50:.0f} / {p95:.0f}"


class Running(Protocol):
    """A graph that runs."""

    def wait(self, duration_s: float | None) -> bool:
        """Until it has nothing more to do or the time is over; False where a node failed, which it has said."""

    def usage(self) -> dict[str, dict[str, float | None]]:
        """Memory and processor time by process."""

    def finish(self, monitor: Monitor) -> dict[str, Any]:
        """Stops it, and gives each node's last figures."""


# -- all nodes in this process -----------------------------------------------------------------------------------------


class _Threads:
    """The nodes of this process."""

    def __init__(self, host: Host):
        self._host = host

    def wait(self, duration_s: float | None) -> bool:
        self._host.wait(duration_s)
        return not any(node.exit_status for node in self._host.nodes)

    def usage(self) -> dict[str, Any]:
        return {"all": usage(os.getpid())}

    def finish(self, monitor: Monitor) -> dict[str, Any]:
        return {
            node.get_name(): json.loads(node.statistics.snapshot().json(node.figures())) for node in self._host.nodes
        }


@contextlib.contextmanager
def _in_this_process(chosen: Plan, context: Context, host: Host) -> Iterator[_Threads | None]:
    for spec in chosen.specs:
        given = chosen.overrides.get(spec.name, {})
        parameters = [Parameter(name, value=value) for name, value in given.items()]
        host.add(spec.load()(context=context, parameter_overrides=parameters))
    if unknown := _unknown(host.nodes):
        host.nodes[0].complain(f"no node here has a parameter {', '.join(unknown)}: left out", "warning")
    yield None if host.start() is not None else _Threads(host)


def _unknown(nodes: Sequence[ActrecNode[Any]]) -> list[str]:
    """Parameters that were given and that no node declares, which ROS passes over; those of drivers come later."""
    given = {name for node in nodes for name in getattr(node, "_parameter_overrides", {}) if "." not in name}
    return sorted(name for name in given if not any(node.has_parameter(name) for node in nodes))


# -- a process for each node -------------------------------------------------------------------------------------------


class _Processes:
    """The processes of the nodes, by name."""

    def __init__(self, children: "dict[str, subprocess.Popen[bytes]]"):
        self.children = children

    def wait(self, duration_s: float | None) -> bool:
        """Until a process ends or the time is over; False where one failed, which it has said.

        Raises:
            DeviceError: One has crashed.
        """
        pidfds = {os.pidfd_open(child.pid): name for name, child in self.children.items()}
        try:
            ended, _, _ = select.select(list(pidfds), [], [], duration_s)
            for descriptor in ended:
                name = pidfds[descriptor]
                status = self.children[name].wait()
                if status not in (0, 1):
                    raise DeviceError(f"{name} has crashed (exit status {status})")
                if status == 1:
                    return False
            return True
        finally:
            for descriptor in pidfds:
                os.close(descriptor)

    def usage(self) -> dict[str, Any]:
        return {name: usage(child.pid) for name, child in self.children.items()}

    def finish(self, monitor: Monitor) -> dict[str, Any]:
        """Interrupts the nodes, sources first; each publishes its last figures as it stops."""
        self.stop()
        return {name: monitor.statistics().get(name, {}) for name in self.children}

    def stop(self) -> None:
        """Interrupts, and kills what does not end. Safe to call twice."""
        for child in reversed(list(self.children.values())):
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
        for child in self.children.values():
            try:
                child.wait(EXIT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextlib.contextmanager
def _in_processes(chosen: Plan, context: Context, host: Host) -> Iterator[_Processes | None]:
    children = {}
    for spec in chosen.specs:
        command = [sys.executable, "-m", "actrec_nodes.bringup.process", spec.name, "--ros-args"]
        command += chosen.ros_args
        own = {"autostart": True, **graph.start_after(spec, chosen.specs, first=[Monitor.NAME])}
        own.update(chosen.overrides.get(spec.name, {}))
        for name, value in own.items():
            # JSON is YAML: a string stays one whatever it looks like.
            command += ["-p", f"{name}:={json.dumps(value)}"]
        # A terminal's Ctrl-C goes to the whole group; the nodes get theirs from us, in order.
        children[spec.name] = subprocess.Popen(command, start_new_session=True)
    running = _Processes(children)
    try:
        yield running
    finally:
        running.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the executable `graph`: `actrec run` for launch files."""
    parser = argparse.ArgumentParser("graph", description="Runs all nodes of the graph in one process.")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except ActrecError as error:
        print(f"actrec: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
