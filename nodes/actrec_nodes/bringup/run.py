"""Run the graph for `actrec run` and the executable `graph`: all nodes in this process, or each in its own."""

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

from actrec import cli
from actrec.utils.errors import ConfigError, DeviceError
from actrec_nodes.bringup import graph
from actrec_nodes.bringup.graph import NodeSpec
from actrec_nodes.bringup.monitor import GraphMonitor, usage
from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.common import topics
from actrec_nodes.common.lifecycle import ActrecNode

EXIT_S = 15.0
"""Time for a node's process to end."""

LAST_STATISTICS_S = 2.0
"""Time for the last statistics of ended processes to arrive."""


@dataclass(frozen=True)
class Plan:
    """The nodes to run, and how.

    Attributes:
        specs: Nodes in the order of activation.
        ros_args: Arguments for ROS of every node.
        overrides: Node name to its parameters, which outrank `ros_args`.
        duration_s: None: until interrupted or the recording has ended.
        processes: Run each node in a process of its own.
        on_label: Called with (seconds, body id, label, confidence) when a body's label changes; None for nothing.
    """

    specs: list[NodeSpec]
    ros_args: list[str] = field(default_factory=list)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    duration_s: float | None = None
    processes: bool = False
    on_label: Callable[[float, str, str, float], None] | None = None


def plan(
    driver: str | None = None,
    driver_options: Sequence[str] = (),
    model: str | None = None,
    params: Sequence[str] = (),
    vendor: str | None = None,
    nodes: Sequence[str] = (),
    without: Sequence[str] = (),
    log_level: str | None = None,
    ros_args: Sequence[str] = (),
    duration_s: float | None = None,
    **options: Any,
) -> Plan:
    """Check the options of `actrec run` and choose the nodes.

    Args:
        vendor: Driver node in `topics.VENDORS` that publishes the images instead of camera_node.
        **options: Further fields of `Plan`.

    Raises:
        ConfigError: A node or option is unknown, a file is missing, or two sources of images are given.
    """
    if duration_s is not None and not duration_s > 0:
        raise ConfigError(f"--duration is {duration_s:g} s, expected more than 0")
    if vendor and driver:
        raise ConfigError(
            f"--vendor {vendor} takes images from that node, --driver {driver} from camera_node: give one"
        )
    specs = graph.select(nodes, [*without, "camera"] if vendor else without)
    arguments: list[str] = []
    for path in params:
        graph.check(path)
        arguments += ["--params-file", path]
    if log_level:
        arguments += ["--log-level", log_level]
    for ours, theirs in topics.vendor_remaps(vendor) if vendor else ():
        arguments += ["-r", f"{ours}:={theirs}"]
    arguments += [argument for argument in ros_args if argument != "--ros-args"]
    camera = {"driver": driver} if driver else {}
    camera.update(graph.driver_options(driver or "", driver_options))
    overrides = {"camera_node": camera, "recognizer_node": {"model": model} if model else {}}
    return Plan(specs, arguments, overrides, duration_s, **options)


def run_graph(chosen: Plan, watch: Callable[["Running", GraphMonitor], None] | None = None) -> dict[str, Any] | None:
    """Run the graph to its end, or call `watch` instead of waiting for `duration_s`.

    Returns:
        `nodes` by name, `labels`, `changes`, `latency_ms`, `duration_s`, `usage` by process. None if a node failed,
        which it has logged.
    """
    with ros(["--ros-args", *chosen.ros_args]) as context, Host(context) as host:
        on_label = chosen.on_label or (lambda *_: None)
        monitor = GraphMonitor([spec.name for spec in chosen.specs], on_label, context=context)
        host.add(monitor)
        runner = _in_processes if chosen.processes else _in_this_process
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
    """Return the first fault of a run; None if every node with input processed it, and labels were published."""
    idle = _without_images(result)
    for name, figures in reversed(result["nodes"].items()):  # the source first: the nodes after it depend on it
        if not figures:
            return f"{name} gave no sign of life"
        if not figures["processed"] and name not in idle:
            return f"{name} processed nothing: {figures['last_error'] or 'no input reached it'}"
    if "recognizer_node" in result["nodes"] and not result["labels"]:
        return "no label came on action_label"
    return None


def _without_images(result: dict[str, Any]) -> set[str]:
    """Return the nodes that work on images if none reached any of them, but labels were published.

    Then the recording has joints alone, and `camera_node` publishes its skeletons.
    """
    nodes = result["nodes"]
    of_images = {name for name in nodes if name not in ("camera_node", "recognizer_node")}
    came = any(nodes[name].get("received", 0) for name in of_images)
    return of_images if result["labels"] and "camera_node" in nodes and not came else set()


class Running(Protocol):
    """A running graph."""

    def wait(self, duration_s: float | None) -> bool:
        """Wait until all work is done or the time is over; return False if a node failed, which it has logged.

        Raises:
            DeviceError: A process has crashed.
        """

    def usage(self) -> dict[str, dict[str, float | None]]:
        """Return memory and processor time by process."""

    def finish(self, monitor: GraphMonitor) -> dict[str, Any]:
        """Stop the graph and return each node's last statistics."""


class _Threads:
    def __init__(self, host: Host):
        self._host = host

    def wait(self, duration_s: float | None) -> bool:
        self._host.wait(duration_s)
        return not any(node.exit_status for node in self._host.nodes)

    def usage(self) -> dict[str, Any]:
        return {"all": usage(os.getpid())}

    def finish(self, monitor: GraphMonitor) -> dict[str, Any]:
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
        host.nodes[0].warn(f"no node here has a parameter {', '.join(unknown)}: ignored")
    yield None if host.start() is not None else _Threads(host)


def _unknown(nodes: Sequence[ActrecNode[Any]]) -> list[str]:
    """Return the given parameters that no node declares, which ROS ignores; drivers declare theirs later."""
    given = {name for node in nodes for name in getattr(node, "_parameter_overrides", {}) if "." not in name}
    return sorted(name for name in given if not any(node.has_parameter(name) for node in nodes))


class _Processes:
    """The processes of the nodes, by name."""

    def __init__(self, children: "dict[str, subprocess.Popen[bytes]]"):
        self.children = children

    def wait(self, duration_s: float | None) -> bool:
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

    def finish(self, monitor: GraphMonitor) -> dict[str, Any]:
        """Interrupt the nodes, sources first, and wait for the last statistics that each publishes as it stops."""
        running = {name for name, child in self.children.items() if child.poll() is None}
        before = {name: monitor.statistics().get(name) if name in running else None for name in self.children}
        self.stop()
        deadline = time.monotonic() + LAST_STATISTICS_S
        while time.monotonic() < deadline:
            if all(monitor.statistics().get(name) is not old for name, old in before.items()):
                break
            time.sleep(0.01)
        return {name: monitor.statistics().get(name, {}) for name in self.children}

    def stop(self) -> None:
        """Interrupt the processes, and kill the ones that do not end. Safe to call twice."""
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
        command = [sys.executable, "-m", "actrec_nodes.bringup.processes", spec.name, "--ros-args", *chosen.ros_args]
        own = {"autostart": True, **graph.start_after(spec, chosen.specs, first=[GraphMonitor.NAME])}
        own.update(chosen.overrides.get(spec.name, {}))
        for name, value in own.items():
            # JSON is YAML with quoted strings.
            command += ["-p", f"{name}:={json.dumps(value)}"]
        # Not in this process group, to which a terminal sends Ctrl-C: `stop` interrupts the nodes in order.
        children[spec.name] = subprocess.Popen(command, start_new_session=True)
    running = _Processes(children)
    try:
        yield running
    finally:
        running.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the executable `graph`: `actrec run` for launch files."""
    return cli.main(["run", *(sys.argv[1:] if argv is None else argv)])
