"""A graph of separate processes, started as a user does, whose labels are received as a robot receives them."""

import contextlib
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from actrec_msgs.msg import ActionLabel, FaceArray, HandArray, SkeletonArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import String

from actrec.recognition import RecognitionConfig
from actrec.types import NANOSECONDS
from actrec.utils.errors import DeviceError, InputError
from actrec_nodes.bringup import transport
from actrec_nodes.bringup.endings import PARENT
from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.common import conversions, topics
from actrec_nodes.recognizer_node import RecognizerConfig
from benchmarks import memory_mb

START_S = 120.0  # time for the first label
STOP_S = 40.0  # time for a graph to end after SIGINT
STALE_S = RecognizerConfig.stale_s
"""Largest age of the frame of a label when it is published: the contract of the recognizer."""

MIN_S = RecognitionConfig.min_seconds
"""Time for which a person is tracked before the network is asked."""

FRAMES = 1000  # of the newest frames, the monitor keeps the times of receipt

OUTPUTS: dict[str, tuple[type, str, Any]] = {
    "camera_node": (CameraInfo, topics.COLOR_INFO, topics.IMAGE_SUBSCRIBER),
    "skeleton_node": (SkeletonArray, topics.SKELETONS, topics.SMALL),
    "hand_node": (HandArray, topics.HANDS, topics.SMALL),
    "face_node": (FaceArray, topics.FACE, topics.SMALL),
    "scene_flow_node": (CameraInfo, topics.SCENE_FLOW_INFO, topics.IMAGE_SUBSCRIBER),
    "recognizer_node": (ActionLabel, topics.ACTION_LABEL, topics.SMALL),
}
"""Small message with the stamp of a frame that each node publishes for it."""


class Label(NamedTuple):
    """A received label.

    Attributes:
        stamp_ns, published_ns: Stamp of its frame and time of its publication, by the clock of the nodes.
        received_ns, frame_ns: Times at which the monitor received it and its frame's camera_info; 0 without the latter.
        window_s: Time from the oldest frame that was used to the newest.
    """

    stamp_ns: int
    published_ns: int
    received_ns: int
    body_id: str
    label: str
    class_id: int
    reason: str = ""
    window_s: float = MIN_S
    frame_ns: int = 0

    @property
    def age_s(self) -> float:
        """Seconds from the frame to the publication."""
        return (self.published_ns - self.stamp_ns) / NANOSECONDS

    @property
    def is_stale(self) -> bool:
        """Whether an action, or the network's answer `unknown`, is of a frame that was older than `STALE_S`."""
        return self.is_of_network and self.age_s > STALE_S

    @property
    def is_of_network(self) -> bool:
        """Whether it is an action or the network's answer."""
        return self.class_id >= 0 or self.is_answer

    @property
    def is_answer(self) -> bool:
        """Whether the network was asked about a person, who is in view for long enough; it may answer `unknown`."""
        return bool(self.body_id) and not self.reason and self.window_s > MIN_S - 1e-3

    def timed_here(self) -> "Label":
        """Return the label with times of the monitor's clock alone, for nodes whose clock is set."""
        return self._replace(stamp_ns=self.frame_ns, published_ns=self.received_ns)


class Monitor(Node):
    """Receives labels, the newest output of each node, and the nodes' statistics."""

    def __init__(self, nodes: Sequence[str], **node_options: Any):
        super().__init__("actrec_faults", **node_options)
        self.labels: list[Label] = []
        self._newest_ns: dict[str, int] = {}
        self._frames_ns: dict[int, int] = {}
        self.frames = 0  # of the camera, so far
        self._statistics: dict[str, dict[str, Any]] = {}
        self._condition = threading.Condition()
        for name in nodes:
            self.create_subscription(String, f"{name}/statistics", self._keep(name), topics.LATCHED)
            kind, topic, profile = OUTPUTS[name]
            if kind is not ActionLabel:
                self.create_subscription(kind, topic, self._output(name), profile)
        callback: Any = self._label  # rclpy's types do not know the second argument
        self.create_subscription(ActionLabel, topics.ACTION_LABEL, callback, topics.SMALL)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds, which is called with each message; return whether it does."""
        with self._condition:
            return self._condition.wait_for(condition, timeout_s)

    def newest_ns(self, name: str) -> int:
        """Return the stamp of a node's last output; 0 before the first. Of labels, only `is_answer` counts."""
        return self._newest_ns.get(name, 0)

    def silent(self, names: Sequence[str]) -> list[str]:
        """Return the nodes without an output so far."""
        return [name for name in names if not self.newest_ns(name)]

    def statistics(self, name: str) -> dict[str, Any]:
        """Return the last statistics of a node; empty before the first."""
        return self._statistics.get(name, {})

    def labels_since(self, count: int) -> list[Label]:
        """Return the labels received after the first `count`."""
        with self._condition:
            return self.labels[count:]

    def _label(self, message: ActionLabel, info: dict[str, Any]) -> None:
        stamp_ns = conversions.stamp_to_ns(message.header.stamp)
        window_s = (stamp_ns - conversions.stamp_to_ns(message.window_start)) / NANOSECONDS
        with self._condition:
            label = Label(
                stamp_ns,
                info["source_timestamp"],
                time.time_ns(),
                message.body_id,
                message.label,
                message.class_id,
                message.reason,
                window_s,
                self._frames_ns.get(stamp_ns, 0),
            )
            self.labels.append(label)
            if label.is_answer:
                self._newest_ns["recognizer_node"] = stamp_ns
            self._condition.notify_all()

    def _output(self, name: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            stamp_ns = conversions.stamp_to_ns(message.header.stamp)
            with self._condition:
                self._newest_ns[name] = stamp_ns
                if name == "camera_node":
                    self.frames += 1
                    self._frames_ns[stamp_ns] = time.time_ns()
                    if len(self._frames_ns) > FRAMES:
                        del self._frames_ns[next(iter(self._frames_ns))]
                self._condition.notify_all()

        return keep

    def _keep(self, name: str) -> Callable[[String], None]:
        def keep(message: String) -> None:
            with self._condition, contextlib.suppress(InputError):
                self._statistics[name] = conversions.message_to_statistics(message)
                self._condition.notify_all()

        return keep


def camera_arguments(people: int = 1, **settings: Any) -> list[str]:
    """Return arguments of `actrec run` for the simulated camera at 640×480 and 30 Hz, with statistics each second."""
    settings = {"fps": 30.0, "actors": people, **settings}
    options = [word for name, value in settings.items() for word in ("--driver-option", f"{name}={value}")]
    return ["--driver", "simulated", *options, "--ros-args", "-p", "statistics_period_s:=1.0"]


def run_command(nodes: Sequence[str], *arguments: str, watched: bool = True) -> list[str]:
    """Return `actrec run --processes` with these nodes, or the same that never kills a node (`unwatched`)."""
    names = ",".join(name.removesuffix("_node") for name in nodes)
    module = ["actrec", "run"] if watched else ["benchmarks.faults.unwatched"]
    return [sys.executable, "-m", *module, "--processes", "--nodes", names, *arguments]


def launch_command(nodes: Sequence[str]) -> list[str]:
    """Return `ros2 launch` with these nodes and the camera of `camera_arguments`."""
    switches = [f"{name.removesuffix('_node')}:=true" for name in nodes]
    camera = ["driver:=simulated", "driver_options:=fps=30.0 actors=1"]
    ending = ["setpriv", "--pdeathsig", "TERM"]  # with the benchmark
    return [*ending, "ros2", "launch", "actrec", "recognize.launch.py", *camera, *switches]


@dataclass
class LiveGraph:
    """A running command that starts nodes, with a monitor; made by `running`.

    Attributes:
        command: The command line.
        nodes: Names of its nodes, all keys of `OUTPUTS`.
        monitor: Subscribes to their labels and outputs.
        log: File of its output.
    """

    command: list[str]
    nodes: tuple[str, ...]
    monitor: Monitor
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start the command in a session of its own."""
        environment = {**os.environ, **self.environment, PARENT: str(os.getpid())}  # it ends with the benchmark
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True, env=environment
            )

    def processes(self) -> list[psutil.Process]:
        """Return the command's process and all below it."""
        if self.process is None:
            return []
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pid(self, name: str) -> int | None:
        """Return the process id of a node; None while it does not run."""
        for process in self.processes()[1:]:
            with contextlib.suppress(psutil.Error):
                names = [process.name(), *(os.path.basename(word) for word in process.cmdline())]
                if process.status() != psutil.STATUS_ZOMBIE and (name in names or name[:15] == names[0]):
                    return process.pid
        return None

    def signal(self, name: str, number: int) -> int:
        """Send a signal to a node, which must run; return its process id."""
        deadline = time.monotonic() + START_S
        while (pid := self.pid(name)) is None:
            if time.monotonic() > deadline:
                raise DeviceError(f"{name} does not run: see {self.log}")
            time.sleep(0.02)
        os.kill(pid, number)
        return pid

    def wait_for_output(self, name: str, since_ns: int, timeout_s: float) -> float | None:
        """Wait for an output of a node, and for an answer, of frames after `since_ns`; return the seconds since then.

        None if they do not come within the timeout.
        """

        def is_back() -> bool:
            return min(self.monitor.newest_ns(name), self.monitor.newest_ns("recognizer_node")) > since_ns

        back = self.monitor.wait_for(is_back, timeout_s)
        return (time.time_ns() - since_ns) / NANOSECONDS if back else None

    def settle(self, seconds: float) -> None:
        """Let the graph work."""
        self.monitor.wait_for(lambda: False, seconds)

    def memory_mb(self, names: Sequence[str] = ()) -> float:
        """Return the resident memory of these or all nodes that cannot be shared with others, 10^6 bytes."""
        return sum(private_mb(pid) for name in names or self.nodes if (pid := self.pid(name)) is not None)

    def text(self) -> str:
        """Return the output of the command."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tracebacks(self) -> int:
        """Return the number of tracebacks that the command has printed."""
        return self.text().count("Traceback (most recent call last)")

    def stop(self) -> None:
        """Interrupt the command; kill what remains after `STOP_S`."""
        processes = self.processes()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        for process in psutil.wait_procs(processes, STOP_S)[1]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.process is not None:
            self.process.wait()

    def kill(self) -> None:
        """Kill all processes at once, as systemd does with what remains of a service, or the kernel without memory."""
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.process is not None:
            self.process.wait()
        psutil.wait_procs(processes, STOP_S)


@contextlib.contextmanager
def running(
    nodes: Sequence[str],
    *arguments: str,
    command: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    wait: bool = True,
    kind: type[LiveGraph] = LiveGraph,
    images: bool = False,
) -> Iterator[LiveGraph]:
    """Run `actrec run --processes` with these nodes and arguments, or another command; wait until all nodes work.

    The monitor publishes and takes small messages alone, or `images`.

    Raises:
        DeviceError: A node had no output within `START_S`; the message has its name and the end of the log.
    """
    with tempfile.TemporaryDirectory() as folder, monitoring(nodes, images) as monitor:
        own = list(command) or run_command(nodes, *arguments)
        graph = kind(own, tuple(nodes), monitor, Path(folder) / "log.txt", environment or {})
        try:
            graph.start()
            if wait and not monitor.wait_for(lambda: not monitor.silent(nodes), START_S):
                silent = ", ".join(monitor.silent(nodes))
                raise DeviceError(f"no output of {silent} came within {START_S:g} s: … {graph.text()[-500:]}")
            yield graph
        finally:
            graph.stop()
            transport.remove_orphans()


@contextlib.contextmanager
def monitoring(nodes: Sequence[str], images: bool = False) -> Iterator[Monitor]:
    """Spin a monitor of these nodes, without `images` by UDP as docs/troubleshooting.md advises."""
    with ros([], handle_signals=False, images=images) as context, Host(context) as host:
        monitor = Monitor(nodes, context=context)
        host.add(monitor)
        yield monitor


def choose_domain(given: int | None) -> None:
    """Set the ROS domain of this process and its children: the given one, or a random one, not the robot's."""
    own = os.environ.get("ROS_DOMAIN_ID", "0")
    others = [number for number in transport.DOMAINS if str(number) != own]
    os.environ["ROS_DOMAIN_ID"] = str(random.choice(others) if given is None else given)


def private_mb(pid: int) -> float:
    """Return the resident memory of a process without files and shared memory, 10^6 bytes; 0 if it has ended."""
    found = memory_mb("RssAnon", pid)
    return 0.0 if math.isnan(found) else found


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile of values; NaN if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
