"""Run the graph for `actrec run` and the executable `graph`, in one process or several, and measure it."""

import contextlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
from rclpy.context import Context
from rclpy.parameter import Parameter

from actrec import cli
from actrec.inference import zoo
from actrec.utils.errors import ConfigError
from actrec.visualization.snapshots import Snapshot
from actrec_nodes.bringup import graph, transport
from actrec_nodes.bringup.endings import PARENT, end_with_parent, ending_if_stuck, ending_within
from actrec_nodes.bringup.graph import NodeSpec
from actrec_nodes.bringup.health import GraphHealth
from actrec_nodes.bringup.monitor import Change, GraphMonitor
from actrec_nodes.bringup.performances import PerformanceImages
from actrec_nodes.bringup.processes import OWN, Host, ending_if_lost, ros, uninterrupted
from actrec_nodes.bringup.standby import IS_AVAILABLE, Standby, StandbyPlan
from actrec_nodes.bringup.supervisor import RESPAWNS, START_RETRY_S, Child, Supervisor, wait_before_start
from actrec_nodes.common import parameter_files, topics
from actrec_nodes.common.lifecycle import ActrecNode, one_line

logger = logging.getLogger(__name__)

INTERRUPTED = 130  # exit status of `actrec run` after Ctrl-C before the first label
LAST_STATISTICS_S = 2.0  # time for the last statistics of ended processes to arrive
END_S = 30.0  # time for the graph to end
LATER_S = 30.0  # time after which nodes that labels do not need are started though others are not active
DEMAND_S = 0.5  # interval at which the subscribers of topics of nodes that are not started are counted


@dataclass(frozen=True)
class Plan:
    """The nodes to run, and how.

    Attributes:
        specs: Nodes in the order of activation.
        ros_args: Arguments for ROS of every node.
        overrides: Node name to its parameters, which outrank `ros_args`.
        duration_s: None: until interrupted or the recording has ended.
        processes: Run each node in a process of its own.
        on_label: Called when a body's label changes, or what actors perform at its stamp; None for nothing.
        spare: Nodes that are started when one of their topics has a subscriber.
        model: The recognizer's model; empty if the recognizer is not among `specs`.
        standby: With `processes`: keep a process that becomes a node which has died (`Standby`).
        on_images: Called at the end with an image of each action that actors performed, by name; None for nothing.
        end_hung: With `processes`: kill a node that answers no more, so that it is started again.
        later: Nodes among `specs` that labels do not need. With `processes`, they are started after the others.
        ends: Whether the frames of the camera end, and the run with them.
    """

    specs: list[NodeSpec]
    ros_args: list[str] = field(default_factory=list)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    duration_s: float | None = None
    processes: bool = False
    on_label: "Callable[[Change], None] | None" = None
    spare: list[NodeSpec] = field(default_factory=list)
    model: str = ""
    standby: bool = True
    on_images: "Callable[[dict[str, Snapshot]], None] | None" = None
    end_hung: bool = True
    later: list[NodeSpec] = field(default_factory=list)
    ends: bool = True


def plan(
    driver: str | None = None,
    driver_options: Sequence[str] = (),
    model: str | None = None,
    params: Sequence[str] = (),
    vendor: str | None = None,
    nodes: Sequence[str] = (),
    without: Sequence[str] = (),
    also: Sequence[str] = (),
    log_level: str | None = None,
    ros_args: Sequence[str] = (),
    duration_s: float | None = None,
    **options: Any,
) -> Plan:
    """Check the options of `actrec run` and choose the nodes.

    Args:
        vendor: Driver node in `topics.VENDORS` that publishes the images instead of camera_node.
        nodes: The nodes to run, exactly; empty for the ones whose topics the model takes, and `also`, not `without`.
        **options: Further fields of `Plan`.

    Raises:
        ConfigError: A node or option is unknown, a file is missing, or two sources of images are given.
    """
    if duration_s is not None and not 0 < duration_s < math.inf:
        raise ConfigError(f"--duration is {duration_s:g} s, expected a number above 0")
    if vendor and driver:
        raise ConfigError(
            f"--vendor {vendor} takes images from that node, --driver {driver} from camera_node: give one"
        )
    specs = graph.select(nodes, [*without, "camera"] if vendor else without)
    arguments: list[str] = []
    for path in [*params, *parameter_files.given(ros_args)]:
        try:
            graph.check(path, ros_args)
        except ConfigError as error:
            if RESPAWNS not in os.environ or path in params:
                raise
            logger.warning("%s", error)  # launch gives some files to all nodes, and has checked params_file itself
    for path in params:
        arguments += ["--params-file", path]
    if log_level:
        arguments += ["--log-level", log_level]
    for ours, theirs in topics.vendor_remaps(vendor) if vendor else ():
        arguments += ["-r", f"{ours}:={theirs}"]
    arguments += [argument for argument in ros_args if argument != "--ros-args"]
    camera = {"driver": driver} if driver else {}
    camera.update(graph.driver_options(driver or "", driver_options))
    overrides: dict[str, dict[str, Any]] = {"camera_node": camera, "recognizer_node": {"model": model} if model else {}}
    chosen = graph.model_of(specs, model or "", arguments)
    source = graph.camera(arguments, camera)
    graph.check_color(specs, chosen, source)
    if graph.find("camera") in specs and not graph.has_depth(source):
        specs = graph.without_depth(specs, chosen, [*also, *nodes])
        overrides.update({spec.name: {"use_depth": False} for spec in specs if spec.name in graph.OPTIONAL_DEPTH})
    for spec in specs if RESPAWNS in os.environ else ():  # launch's are for "/**", which entries for a node outrank
        for name in ("use_sim_time", "start_retry_s"):
            if (found := parameter_files.value(arguments, spec.name, name)) is not None:
                overrides.setdefault(spec.name, {})[name] = found
    spare = graph.unneeded(specs, chosen, [*also, *(spec.name for spec in specs if nodes)])
    specs = [spec for spec in specs if spec not in spare]
    later = graph.later(specs, chosen, source)
    ends = source is None or source.ends
    return Plan(specs, arguments, overrides, duration_s, **options, spare=spare, model=chosen, later=later, ends=ends)


def usage(pid: int) -> dict[str, float | None]:
    """Return rss and pss in MB (pss on Linux only) and cpu_s, seconds on all cores; None after the process ended."""
    try:
        process = psutil.Process(pid)
        memory: Any = process.memory_full_info()
        times = process.cpu_times()
    except psutil.Error:
        return {"rss": None, "pss": None, "cpu_s": None}
    pss = getattr(memory, "pss", None)
    return {
        "rss": round(memory.rss / 1e6, 1),
        "pss": round(pss / 1e6, 1) if pss else None,
        "cpu_s": round(times.user + times.system, 2),
    }


def run_graph(chosen: Plan, watch: Any = None, stopped: threading.Event | None = None) -> dict[str, Any] | None:
    """Run the graph to its end, or call `watch(running, monitor)` instead of waiting for `duration_s`; see `ros`.

    Returns:
        `nodes` by name, `labels`, `changes`, `performed` (see `GroundTruth.figures`), `latency_ms`, `duration_s`,
        `interrupted` (by a signal), `usage` by process. None if a node failed, which it has logged.
    """
    end_with_parent()
    transport.remove_orphans()
    images = not chosen.processes or chosen.on_images is not None
    with (
        ending_within(END_S) as begin_end,
        ros(["--ros-args", *chosen.ros_args], stopped=stopped, images=images) as context,
        Host(context) as host,
    ):
        try:
            return _run(chosen, watch, context, host)
        finally:
            begin_end()


def _run(chosen: Plan, watch: Any, context: Context, host: Host) -> dict[str, Any] | None:
    on_label = chosen.on_label or (lambda *_: None)
    with uninterrupted():
        monitor = GraphMonitor([spec.name for spec in chosen.specs], on_label, context=context)
        host.add(monitor)
        images = PerformanceImages(context=context) if chosen.on_images is not None else None
        if images is not None:
            host.add(images)
    runner = _in_processes if chosen.processes else _in_this_process
    with runner(chosen, context, host, monitor) as running:
        if running is None:
            return None
        began = time.monotonic()
        interrupted = True
        with (
            contextlib.suppress(KeyboardInterrupt),
            GraphHealth(
                monitor,
                [spec.name for spec in chosen.specs if spec not in chosen.later or not chosen.processes],
                running.restarted,
                running.support,
                running.end_hung,
                monitor.busy,
                running.guests,
                owns_graph=RESPAWNS not in os.environ,  # launch goes on without this process, and starts another
            ),
            _starting_on_demand(chosen.spare, running, monitor),
        ):
            if watch is not None:
                watch(running, monitor)
            elif not running.wait(chosen.duration_s):
                return None
            interrupted = False
        seconds = time.monotonic() - began
        used = running.usage()
        nodes = running.finish(monitor)
    if images is not None and chosen.on_images is not None:
        chosen.on_images(images.snapshots())
    return {
        "nodes": nodes,
        "labels": monitor.labels,
        "changes": monitor.changes,
        "performed": monitor.truth.figures(_labels_of_model(nodes)),
        "latency_ms": monitor.latency_ms(),
        "duration_s": round(seconds, 2),
        "interrupted": interrupted,
        "usage": used,
    }


@contextlib.contextmanager
def _starting_on_demand(spare: Sequence[NodeSpec], running: "Running", monitor: GraphMonitor) -> Iterator[None]:
    """Start each spare node when one of its topics has a subscriber, such as the recognizer with another model."""
    stopping, left = threading.Event(), list(spare)

    def start_wanted() -> None:
        while left and not stopping.wait(DEMAND_S):
            for spec in tuple(left):
                names = [monitor.resolve_topic_name(name) for name in spec.topics]
                if wanted := [name for name in names if monitor.count_subscribers(name)]:
                    left.remove(spec)
                    monitor.get_logger().info(f"{wanted[0]} has a subscriber: starting {spec.name}")
                    monitor.follow(spec.name)
                    try:
                        running.start(spec)
                    except Exception as error:  # the other nodes run on
                        monitor.get_logger().error(f"cannot start {spec.name}: {one_line(error)}")

    thread = threading.Thread(target=start_wanted, name="demand", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(END_S)


def _labels_of_model(nodes: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the labels of the recognizer's model; None if no recognizer ran."""
    path = nodes.get("recognizer_node", {}).get("package")
    return zoo.find(path).labels if path else None


def verdict(result: dict[str, Any]) -> str | None:
    """Return the first fault of a run; None if every node with input and subscribers worked, and labels came."""
    idle = _without_images(result)
    if any(figures.get("processed") for figures in result["nodes"].values()):
        idle |= {name for name, figures in result["nodes"].items() if figures.get("idle")}
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


class _Threads:
    """The graph in this process."""

    def __init__(self, chosen: Plan, context: Context, host: Host):
        self._chosen, self._context, self._host = chosen, context, host

    def add(self, spec: NodeSpec) -> ActrecNode[Any]:
        """Make and spin a node."""
        given = self._chosen.overrides.get(spec.name, {})
        parameters = [Parameter(name, value=value) for name, value in given.items()]
        node: ActrecNode[Any] = spec.load()(context=self._context, parameter_overrides=parameters)
        self._host.add(node)
        return node

    def start(self, spec: NodeSpec) -> None:
        """Add a node to the running graph; a failure has been logged, and the other nodes run on."""
        self._host.start([self.add(spec)])

    def wait(self, duration_s: float | None) -> bool:
        """Wait until all work is done or the time is over; return False if a node failed, which it has logged."""
        self._host.wait(duration_s)
        return not any(node.exit_status for node in self._host.nodes)

    def restarted(self) -> dict[str, float]:
        """Return an empty dictionary, as nodes of one process end together."""
        return {}

    def support(self, is_active: bool) -> list[str]:
        """Return no nodes: all have been started."""
        return []

    def guests(self) -> list[str]:
        """Return no nodes: a process that is stuck ends itself."""
        return []

    def end_hung(self, name: str) -> None:
        """Do nothing, as nodes of one process end together."""

    def usage(self) -> dict[str, Any]:
        return {"all": usage(os.getpid())}

    def finish(self, monitor: GraphMonitor) -> dict[str, Any]:
        return {
            node.get_name(): json.loads(node.statistics.snapshot().json(node.figures())) for node in self._host.nodes
        }


@contextlib.contextmanager
def _in_this_process(chosen: Plan, context: Context, host: Host, monitor: GraphMonitor) -> Iterator[_Threads | None]:
    running = _Threads(chosen, context, host)
    for spec in chosen.specs:
        with uninterrupted():
            running.add(spec)
    for line in _unknown(host.nodes, chosen.spare, context):
        host.nodes[0].get_logger().warning(line)
    is_manual = RESPAWNS in os.environ and not host.nodes[0].autostart  # launch's autostart:=false
    if not is_manual and host.start() is not None:
        yield None
        return
    with ending_if_lost(host.nodes[0], RESPAWNS in os.environ), ending_if_stuck():
        yield running


def _unknown(nodes: Sequence[ActrecNode[Any]], spare: Sequence[NodeSpec], context: Context) -> list[str]:
    """Return a line for each given parameter that no node declares, which ROS ignores; spare nodes start later."""
    given = {name for node in nodes for name in getattr(node, "_parameter_overrides", {})}
    known = {name for node in nodes for name in node._parameters}
    for spec in spare if given - known else ():
        node = spec.load()(context=context)
        known.update(node._parameters)
        node.destroy_node()
    return [
        f"no node here has a parameter {name}, it is ignored{hint}"
        for name in sorted(given)
        if (hint := parameter_files.unknown_name(name, sorted(known))) is not None
    ]


class _Processes:
    """The graph in a process for each node, which is started again if it dies."""

    def __init__(self, chosen: Plan, monitor: GraphMonitor):
        self._chosen, self._monitor = chosen, monitor
        environment = {PARENT: str(os.getpid()), RESPAWNS: ""}  # this process restarts them, not launch
        nodes = [spec.name for spec in (*chosen.specs, *chosen.spare)]
        self._standby = Standby(StandbyPlan(nodes, chosen.ros_args, chosen.overrides), environment)
        self._supervisor = Supervisor(self._command, environment, self._log, self._from_standby)
        self._later, self._began, self._model = list(chosen.later), time.monotonic(), ""
        self._guests: list[str] = []
        self._first = [spec for spec in chosen.specs if spec not in self._later]
        for spec in self._first:
            self._supervisor.start(spec.name, is_source=chosen.ends and spec == graph.find("camera"))

    @property
    def children(self) -> dict[str, Any]:
        """The process of each node by name."""
        return dict(self._supervisor.children)

    def restarted(self) -> dict[str, float]:
        """Return the time of the newest start of each node that was started again, monotonic seconds."""
        return dict(self._supervisor.restarted)

    def start(self, spec: NodeSpec) -> None:
        """Start the process of a node that joins the running graph."""
        self._supervisor.start(spec.name, required=False, is_source=False)
        self._guests.append(spec.name)

    def guests(self) -> list[str]:
        """Return the nodes that have joined for their subscribers."""
        return list(self._guests)

    def support(self, is_active: bool) -> list[str]:
        """Start the standby server once the nodes are active, and then, from it, the nodes that labels do not need.

        So a node that dies early is back soon, and these nodes share the memory of the modules. An engine may be built
        for minutes: after `LATER_S`, they are started in any case. Returns the ones started now.
        """
        started: list[str] = []
        forks, late = self._chosen.standby and IS_AVAILABLE, time.monotonic() >= self._began + LATER_S
        with contextlib.suppress(OSError):  # no memory, or too many processes: it may pass; or the graph ends
            if forks and is_active:
                self._standby.prepare()
            while self._later and (late or (is_active and (not forks or self._standby.is_ready))):
                self._supervisor.start(self._later[0].name, is_source=False)
                started.append(self._later.pop(0).name)
        return started

    def end_hung(self, name: str) -> None:
        """Kill a node that does not answer, so that it is started again, unless the plan leaves it."""
        if self._chosen.end_hung:
            self._supervisor.kill(name, "does not answer")

    def wait(self, duration_s: float | None) -> bool:
        """Wait as `_Threads` does."""
        return self._supervisor.wait(duration_s)

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
        self._supervisor.stop()
        self._standby.stop()

    def _command(self, name: str, again: bool) -> list[str]:
        if again:
            if name == graph.find("recognizer").name:
                self._model = self._monitor.statistics().get(name, {}).get("package") or self._model
            self._monitor.forget(name)
        command = [sys.executable, "-m", "actrec_nodes.bringup.processes", name]
        return [*command, "--ros-args", *self._chosen.ros_args, OWN, *self._parameters(name, again)]

    def _from_standby(self, name: str, again: bool) -> Child | None:
        return self._standby.become(name, self._parameters(name, again))

    def _parameters(self, name: str, again: bool) -> list[str]:
        """Return the arguments for ROS of one node."""
        own: dict[str, Any] = {"autostart": True}
        if again:  # the others run already, and no longer wait for it
            own["start_retry_s"] = START_RETRY_S
        else:
            own |= graph.start_after(graph.find(name), self._first, first=[GraphMonitor.NAME])
        own.update(self._chosen.overrides.get(name, {}))
        if again and self._model and name == graph.find("recognizer").name:  # a client may have loaded another model
            own["model"] = self._model
        # JSON is YAML with quoted strings.
        return [
            word for key, value in own.items() for word in ("-p", f"{key}:={json.dumps(value, ensure_ascii=False)}")
        ]

    def _log(self, line: str, is_error: bool) -> None:
        logger = self._monitor.get_logger()
        logger.error(line) if is_error else logger.info(line)


Running = _Threads | _Processes
"""A running graph: `wait`, `usage` by process, and `finish`, which stops it and returns each node's last statistics."""


@contextlib.contextmanager
def _in_processes(chosen: Plan, context: Context, host: Host, monitor: GraphMonitor) -> Iterator[_Processes | None]:
    running = _Processes(chosen, monitor)
    try:
        yield running
    finally:
        running.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the executable `graph`: `actrec run` for launch files."""
    try:
        wait_before_start("graph")
    except KeyboardInterrupt:
        return 0
    status = cli.main(["run", *(sys.argv[1:] if argv is None else argv)])
    return 0 if status == INTERRUPTED else status  # as the nodes' executables: launch calls other ones deaths
