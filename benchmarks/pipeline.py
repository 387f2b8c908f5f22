"""`actrec bench pipeline`, `visualization` and `transport`: the graph on simulated frames, images between processes."""

import argparse
import os
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actrec.cli import Parser, amount, count
from actrec.types import NANOSECONDS
from actrec.utils.errors import ConfigError, DeviceError
from actrec_nodes.bringup import graph
from actrec_nodes.bringup import transport as image_transport
from actrec_nodes.bringup.monitor import GraphMonitor
from actrec_nodes.bringup.run import Plan, Running, run_graph
from actrec_nodes.common import topics

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
