"""`actrec bench pipeline`, `visualization`, `transport`, `late-depth`: the graph on simulated frames, and images.

`late-depth` sends color at once and depth of the same stamps later, from one process to another, and counts the frames
with depth that a node makes of them.
"""

import argparse
import array
import os
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image

from actrec.cli import Parser, amount, count, duration
from actrec.types import NANOSECONDS
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.errors import ConfigError, DeviceError
from actrec_nodes.bringup import graph
from actrec_nodes.bringup import transport as image_transport
from actrec_nodes.bringup.monitor import GraphMonitor
from actrec_nodes.bringup.processes import ros
from actrec_nodes.bringup.run import Plan, Running, run_graph
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.frame_node import FrameSubscription
from actrec_nodes.common.synchronizer import RgbdMessages, SynchronizerConfig
from benchmarks import in_process

SAMPLE_S = 5.0

MODES = ("one", "each")
"""All nodes in one process, or each in its own."""

WARM_S, START_S = 5.0, 120.0
"""The first seconds, with discovery and the first inference, are not measured."""


def pipeline(arguments: list[str]) -> dict[str, Any]:
    """Run the graph in one process, then with a process for each node."""
    parser = Parser(prog="actrec bench pipeline", description="The whole graph at 640×480.")
    parser.add_argument("--minutes", type=amount, default=1.0, help="of each run (default: %(default)s)")
    parser.add_argument("--fps", type=amount, default=15.0, help="of the simulated camera (default: %(default)s)")
    parser.add_argument("--people", type=count, default=1, help="people in front of the camera (default: %(default)s)")
    parser.add_argument("--model", help="model package (default: the recognizer's)")
    parser.add_argument("--modes", default="one,each", help="one process, a process each (default: %(default)s)")
    parser.add_argument("--without", default="", help="nodes to leave out, comma-separated")
    args = parser.parse_args(arguments)
    modes = args.modes.split(",")
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ConfigError(f"--modes has '{unknown[0]}'; known: {', '.join(MODES)}")
    runs = [_run(args, mode == "each") for mode in modes]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "camera": f"simulated, 640×480 at {args.fps:g} Hz, with sensor noise, {args.people} people",
        "minutes": args.minutes,
        "runs": [run.summary() for run in runs],
        "nodes": [row for run in runs for row in run.rows()],
        "over time": [row for run in runs for row in run.history],
    }


def _run(args: argparse.Namespace, processes: bool) -> "_Run":
    overrides: dict[str, dict[str, Any]] = {
        "camera_node": {"driver": "simulated", "simulated.fps": args.fps, "simulated.actors": args.people}
    }
    if args.model:
        overrides["recognizer_node"] = {"model": args.model}
    without = [name for name in args.without.split(",") if name]
    plan = Plan(
        [spec for spec in graph.select(without=without) if not spec.on_demand],
        ["-p", "statistics_period_s:=1.0", "-p", "idle_after_s:=0.0", "--log-level", "error"],  # all nodes work
        overrides,
        WARM_S + 60 * args.minutes,
        processes,
    )
    run = _Run("a process each" if processes else "one process", 60 * args.minutes)
    result = run_graph(plan, run.watch)
    if result is None:
        raise DeviceError("the graph did not start: see the line above")
    run.result = result
    return run


@dataclass
class _Run:
    """Measurements of one run."""

    name: str
    seconds: float
    result: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    latencies: list[tuple[int, float]] = field(default_factory=list)
    first: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)

    def watch(self, running: Running, monitor: GraphMonitor) -> None:
        """Wait for labels, then sample queues, memory and processor time until the end."""
        deadline = time.monotonic() + START_S
        while not monitor.labels:
            if not running.wait(0.2) or time.monotonic() > deadline:
                raise DeviceError("the graph did not start, or gave no label: see the lines above")
        running.wait(WARM_S)  # in processes of their own, nodes start one by one
        began_ns, began = time.time_ns(), time.monotonic()
        self.first = {"at": began, "usage": running.usage(), "nodes": monitor.statistics()}
        while (left := began + self.seconds - time.monotonic()) > 0:
            running.wait(min(SAMPLE_S, left))
            self._sample(time.monotonic() - began, running, monitor)
        self.last = {"at": time.monotonic(), "usage": running.usage(), "nodes": monitor.statistics()}
        self.latencies = [(stamp, latency) for stamp, latency in list(monitor.latencies) if stamp >= began_ns]

    def _sample(self, seconds: float, running: Running, monitor: GraphMonitor) -> None:
        recent = time.time_ns() - int(SAMPLE_S * NANOSECONDS)
        latency = [latency for stamp, latency in list(monitor.latencies) if stamp >= recent]
        nodes = monitor.statistics()
        self.history.append(
            {
                "run": self.name,
                "second": round(seconds),
                "queued": sum(figures["queue"] for figures in nodes.values()),
                "latency_p50_ms": round(1e3 * float(np.median(latency))) if latency else None,
                "pss_mb": _total(running.usage(), "pss"),
            }
        )

    def summary(self) -> dict[str, Any]:
        """Return one line of figures."""
        values = 1e3 * np.array([latency for _, latency in self.latencies])
        p50, p95 = np.percentile(values, (50, 95)) if len(values) else (float("nan"), float("nan"))
        span = self.last["at"] - self.first["at"]
        cpu = (_total(self.last["usage"], "cpu_s") or 0) - (_total(self.first["usage"], "cpu_s") or 0)
        return {
            "run": self.name,
            "skeletons_hz": self._rate("skeleton_node", span),
            "labels": len(self.latencies),
            "frame_to_label_p50_ms": round(float(p50)),
            "frame_to_label_p95_ms": round(float(p95)),
            "cores_used": round(cpu / span, 2),
            "pss_mb": _total(self.last["usage"], "pss"),
            "pss_mb_growth": round(
                (_total(self.last["usage"], "pss") or 0) - (_total(self.first["usage"], "pss") or 0), 1
            ),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one line of figures for each node."""
        span = self.last["at"] - self.first["at"]
        return [
            {
                "run": self.name,
                "node": name,
                "hz": self._rate(name, span),
                "dropped": figures["dropped"] - self._first(name, "dropped"),
                "work_p50_ms": figures["work_p50_ms"] and round(figures["work_p50_ms"], 1),
                "latency_p95_ms": figures["latency_p95_ms"] and round(figures["latency_p95_ms"]),
                "cores": self._cores(name, span),
                "pss_mb": self.last["usage"].get(name, {}).get("pss"),
                "rss_mb": self.last["usage"].get(name, {}).get("rss"),
            }
            for name, figures in self.last["nodes"].items()
        ]

    def _first(self, name: str, key: str) -> int:
        return int(self.first["nodes"].get(name, {}).get(key, 0))

    def _rate(self, name: str, span: float) -> float:
        done = self.last["nodes"].get(name, {}).get("processed", 0) - self._first(name, "processed")
        return round(done / span, 1)

    def _cores(self, name: str, span: float) -> float | None:
        first, last = (moment["usage"].get(name, {}).get("cpu_s") for moment in (self.first, self.last))
        return None if first is None or last is None else round((last - first) / span, 2)


def visualization(arguments: list[str]) -> dict[str, Any]:
    """Measure the processor time of visualization_node, in its own process, by its subscribers."""
    from sensor_msgs.msg import CompressedImage, Image
    from visualization_msgs.msg import MarkerArray

    parser = Parser(prog="actrec bench visualization", description="Processor time of visualization_node.")
    parser.add_argument("--seconds", type=amount, default=20.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--fps", type=amount, default=15.0, help="of the simulated camera (default: %(default)s)")
    parser.add_argument("--people", type=count, default=1, help="people in front of the camera (default: %(default)s)")
    args = parser.parse_args(arguments)
    image = (Image, topics.ANNOTATED_IMAGE, topics.IMAGE_SUBSCRIBER)
    compressed = (CompressedImage, topics.ANNOTATED_COMPRESSED, topics.IMAGE_SUBSCRIBER)
    markers = (MarkerArray, topics.MARKERS, topics.SMALL)
    cases = {
        "nothing": (),
        "markers": (markers,),
        "annotated_image": (image,),
        "annotated_image/compressed": (compressed,),
        "all": (image, compressed, markers),
    }
    rows: list[dict[str, Any]] = []

    def watch(running: Running, monitor: GraphMonitor) -> None:
        running.wait(2 * WARM_S)
        for name, wanted in cases.items():
            came: list[Any] = []
            held = [monitor.create_subscription(*each[:2], came.append, each[2]) for each in wanted]
            running.wait(WARM_S)  # for discovery, and until the node is idle
            came.clear()
            began, before = time.monotonic(), running.usage()["visualization_node"]["cpu_s"]
            running.wait(args.seconds)
            seconds, after = time.monotonic() - began, running.usage()["visualization_node"]["cpu_s"]
            for subscription in held:
                monitor.destroy_subscription(subscription)
            if before is None or after is None:
                raise DeviceError("visualization_node has ended: see the lines above")
            hz = len(came) / len(wanted) / seconds if wanted else 0.0
            rows.append({"subscribed": name, "hz": round(hz, 1), "cores": round((after - before) / seconds, 3)})

    overrides = {"camera_node": {"driver": "simulated", "simulated.fps": args.fps, "simulated.actors": args.people}}
    specs = graph.select(["camera", "skeleton", "recognizer", "visualization"])
    if run_graph(Plan(specs, ["--log-level", "error"], overrides, processes=True), watch) is None:
        raise DeviceError("the graph did not start: see the line above")
    return {
        "camera": f"simulated, 640×480 at {args.fps:g} Hz, {args.people} people",
        "processor seconds of visualization_node in a second": rows,
    }


def _total(usage: dict[str, dict[str, float | None]], key: str) -> float | None:
    values = [value for process in usage.values() if (value := process.get(key)) is not None]
    return round(sum(values), 1) if values else None


def transport(arguments: list[str]) -> dict[str, Any]:
    """Measure image transport between two processes, with our profile and with Fast DDS's defaults."""
    parser = Parser(prog="actrec bench transport", description="Images between two processes.")
    parser.add_argument("--seconds", type=amount, default=10.0, help="how long to publish (default: %(default)s)")
    seconds = parser.parse_args(arguments).seconds
    profiles = {"actrec's": True, "Fast DDS's default": False}
    rows = [{"profile": name, **image_transport.measure(seconds, own)} for name, own in profiles.items()]
    return {"640×480 at 30 Hz": rows}


DISCOVERED_S, LEFT_S = 10.0, 2.0
"""Longest wait for a subscriber, and time after the last image."""


def late_depth(arguments: list[str]) -> dict[str, Any]:
    """Count the frames with depth, if depth comes later than the color image of the same stamp."""
    parser = Parser(prog="actrec bench late-depth", description="Pairs of color and depth that comes late.")
    parser.add_argument("--images", type=count, default=300, help="color images (default: %(default)s)")
    parser.add_argument("--size", default="1920x1080", help="of color and depth (default: %(default)s)")
    parser.add_argument("--fps", type=amount, default=30.0, help="(default: %(default)s)")
    parser.add_argument("--late", type=duration, nargs="+", default=[0.0, 0.45], help="seconds (default: %(default)s)")
    args = parser.parse_args(arguments)
    width, height = map(int, args.size.split("x"))
    rows = [_late_depth(args.images, width, height, args.fps, late_s) for late_s in args.late]
    return {f"{args.size} at {args.fps:g} Hz": rows}


def _late_depth(images: int, width: int, height: int, fps: float, late_s: float) -> dict[str, Any]:
    os.environ["ROS_DOMAIN_ID"] = str(image_transport.DOMAINS[os.getpid() % len(image_transport.DOMAINS)])
    found: Counter[str] = Counter()
    lines: Counter[str] = Counter()

    def take(messages: RgbdMessages) -> None:
        found["with depth" if messages.depth is not None else "color alone"] += 1

    with ros() as context:
        node = rclpy.create_node("late_depth", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        subscription = FrameSubscription(
            node, SynchronizerConfig(), take, lambda line: lines.update([line]),
            lambda number: found.update({"dropped": number}),
        )  # fmt: skip
        over = threading.Event()

        def spin() -> None:
            while not over.is_set():
                executor.spin_once(timeout_sec=0.1)
                subscription.settle()

        thread = threading.Thread(target=spin)
        thread.start()
        try:
            sent = in_process("benchmarks.pipeline:send_late", images, width, height, fps, late_s)
        finally:
            over.set()
            thread.join()
            subscription.close()
            node.destroy_node()
    arrived = subscription.images
    counts = {key: found[key] for key in ("with depth", "color alone", "dropped")}
    row = {"late_s": late_s, "sent": sent, "color images that arrived": arrived, **counts}
    return {**row, "with depth, share of arrived": round(found["with depth"] / max(arrived, 1), 4), "said": list(lines)}


def send_late(images: int, width: int, height: int, fps: float, late_s: float) -> int:
    """Publish color images and, `late_s` later, depth of the same stamps; return how many color images."""
    with ros() as context:
        node = rclpy.create_node("sender", context=context)
        kinds = ((topics.COLOR, Image), (topics.DEPTH, Image), (topics.COLOR_INFO, CameraInfo))
        color, depth, info = (node.create_publisher(kind, name, topics.IMAGE_PUBLISHER) for name, kind in kinds)
        deadline = time.monotonic() + DISCOVERED_S
        while not (color.get_subscription_count() and depth.get_subscription_count() and info.get_subscription_count()):
            if time.monotonic() > deadline:
                raise DeviceError("no node subscribes to the images")
            time.sleep(0.05)
        intrinsics = KINECT_V1.resized(width, height)
        pixels, units = array.array("B", bytes(width * height * 3)), array.array("B", bytes(width * height * 2))
        shown = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=pixels)
        measured = Image(height=height, width=width, encoding="16UC1", step=2 * width, data=units)
        waiting: deque[tuple[float, Any]] = deque()
        start, start_ns = time.monotonic(), time.time_ns()
        for number in range(images + round((late_s + LEFT_S) * fps)):
            due = start + number / fps
            while waiting and waiting[0][0] <= due:
                time.sleep(max(0.0, waiting[0][0] - time.monotonic()))
                measured.header = waiting.popleft()[1]
                depth.publish(measured)
            time.sleep(max(0.0, due - time.monotonic()))
            if number < images:
                header = conversions.header(start_ns + round(number / fps * NANOSECONDS), "camera")
                info.publish(conversions.intrinsics_to_info(intrinsics, header))
                shown.header = header
                color.publish(shown)
                waiting.append((due + late_s, header))
        node.destroy_node()
        return images
