"""`actrec bench pipeline`, `transport` and `simulated-nucla`: the whole graph on simulated frames.

`pipeline` measures rate, latency, memory and the growth of queues. `simulated-nucla` renders N-UCLA's test sequences in
real time, with the simulated actor, and compares all messages with the truth. The label of the last frame counts. Every
node restarts for each sequence.
"""

import argparse
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from actrec_msgs.msg import ActionLabel, FaceArray, HandArray, SkeletonArray
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from tqdm import tqdm

from actrec import inference
from actrec.cli import Parser, amount, count
from actrec.datasets.nucla import CLASSES
from actrec.inference.session import Session
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.skeleton.sequence import SkeletonSequence
from actrec.types import NANOSECONDS, UNKNOWN, Body
from actrec.utils.errors import ConfigError, DeviceError
from actrec_nodes.bringup import graph
from actrec_nodes.bringup import transport as image_transport
from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.bringup.run import GraphMonitor, Plan, Running, run_graph
from actrec_nodes.common import conversions, topics
from benchmarks.live_accuracy import (
    FILE,
    check_classes,
    nucla_parser,
    predict_offline,
    share,
    test_sequences,
    write_outcomes,
)

SAMPLE_S = 5.0

MODES = ("one", "each")
"""All nodes in one process, or each in its own."""

WARM_S = 5.0
"""The first seconds, with discovery and the first inference, are not measured."""


def pipeline(arguments: list[str]) -> dict[str, Any]:
    """Run the graph in one process, then with a process for each node."""
    parser = Parser(prog="actrec bench pipeline", description="The whole graph at 640×480.")
    parser.add_argument("--minutes", type=amount, default=1.0, help="of each run (default: %(default)s)")
    parser.add_argument("--fps", type=amount, default=15.0, help="of the simulated camera (default: %(default)s)")
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
        "camera": f"simulated, 640×480 at {args.fps:g} Hz, with sensor noise",
        "minutes": args.minutes,
        "runs": [run.summary() for run in runs],
        "nodes": [row for run in runs for row in run.rows()],
        "over time": [row for run in runs for row in run.history],
    }


def transport(arguments: list[str]) -> dict[str, Any]:
    """Measure image transport between two processes, with our profile and with Fast DDS's defaults."""
    parser = Parser(prog="actrec bench transport", description="Images between two processes.")
    parser.add_argument("--seconds", type=amount, default=10.0, help="how long to publish (default: %(default)s)")
    seconds = parser.parse_args(arguments).seconds
    profiles = {"actrec's": True, "Fast DDS's default": False}
    rows = [{"profile": name, **image_transport.measure(seconds, own)} for name, own in profiles.items()]
    return {"640×480 at 30 Hz": rows}


def _run(args: argparse.Namespace, processes: bool) -> "_Run":
    overrides: dict[str, dict[str, Any]] = {"camera_node": {"driver": "simulated", "simulated.fps": args.fps}}
    if args.model:
        overrides["recognizer_node"] = {"model": args.model}
    without = [name for name in args.without.split(",") if name]
    plan = Plan(
        graph.select(without=without),
        ["-p", "statistics_period_s:=1.0", "--log-level", "error"],
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
        if not running.wait(WARM_S) and not monitor.labels:
            raise DeviceError("the graph did not start: see the line above")
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


def _total(usage: dict[str, dict[str, float | None]], key: str) -> float | None:
    values = [value for process in usage.values() if (value := process.get(key)) is not None]
    return round(sum(values), 1) if values else None


# -- simulated-nucla ---------------------------------------------------------------------------------------------------

NODES = ("recognizer", "skeleton", "hand", "face")

SHORTEST_S = 1.0
"""Shorter sequences are not sampled."""

SEED = 20240

SETTLE_S = 5.0
"""Time for the last frame's label after the end of a sequence."""

LONGEST_S = 60.0


@dataclass(frozen=True)
class SimulatedOutcome:
    """The messages of the graph for one sequence, and the offline prediction.

    Attributes:
        name, truth: The sequence and its class.
        frames: Frames that the camera published, with their truth.
        skeleton_frames, hand_frames, face_frames: Frames that each node processed.
        with_skeleton: Frames in which a skeleton was found.
        swapped: Of these, frames in which the skeleton fits better with left and right exchanged.
        parts: Frames with a "left hand", "right hand", "any hand", "face".
        errors: [F, 25] metres between found and true joint in the frames with a skeleton, NaN if missing.
        top, label, confidence: Of the person, at the last labeled frame: best class before rejection, published label.
        offline_top, offline_label: Of the recorded joints, without camera and ROS.
    """

    name: str
    truth: str
    frames: int
    skeleton_frames: int
    hand_frames: int
    face_frames: int
    with_skeleton: int
    swapped: int
    parts: dict[str, int]
    errors: np.ndarray = field(repr=False)
    top: str
    label: str
    confidence: float
    offline_top: str
    offline_label: str


def simulated(arguments: Sequence[str]) -> dict[str, Any]:
    """Run the benchmark `simulated-nucla`."""
    parser = nucla_parser("simulated-nucla", "From pixels to label, with the truth known.")
    parser.add_argument("--per-class", type=count, default=4, metavar="N", help="sequences a class (default: 4)")
    parser.add_argument("--fps", type=amount, default=15.0, help="frame rate of the camera (default: 15)")
    args = parser.parse_args(list(arguments))
    session = inference.load(args.model)
    chosen = choose(test_sequences(args.data), args.per_class)
    check_classes(session, chosen)
    began = time.monotonic()
    with ros(["--ros-args", "-r", "__ns:=/actrec_bench_simulated", "--log-level", "warn"]) as context:
        outcomes = _run_all(context, chosen, session, args)
    rows = []
    for outcome in outcomes:
        row = {**asdict(outcome), **outcome.parts, "median_error_mm": _percentile(outcome.errors, 50)}
        del row["errors"], row["parts"]
        rows.append(row)
    write_outcomes(args.out, rows)
    return {"package": session.package.name, **figures(outcomes), "seconds": round(time.monotonic() - began, 1)}


def choose(sequences: Iterable[SkeletonSequence], per_class: int) -> list[SkeletonSequence]:
    """Sample `per_class` sequences of each class, of at least a second, with a fixed seed."""
    rng = np.random.default_rng(SEED)
    by_class: dict[str, list[SkeletonSequence]] = defaultdict(list)
    for sequence in sequences:
        if (sequence.stamps_ns[-1] - sequence.stamps_ns[0]) / 1e9 >= SHORTEST_S:
            by_class[sequence.meta["label_name"]].append(sequence)
    chosen = []
    for name in CLASSES:
        candidates = by_class[name]
        picks = rng.choice(len(candidates), min(per_class, len(candidates)), replace=False)
        chosen += [candidates[int(i)] for i in sorted(picks)]
    return chosen


def _run_all(
    context: Context, chosen: Sequence[SkeletonSequence], session: Session, args: argparse.Namespace
) -> list[SimulatedOutcome]:
    recognizer = {"model": str(session.package.path), "interval_s": 0.0, "watchdog_s": 0.0}
    outcomes = []
    with Host(context) as host:
        collector = Collector(context=context)
        host.add(collector)
        for switch in NODES:
            parameters = _parameters(recognizer if switch == "recognizer" else {})
            host.add(graph.find(switch).load()(context=context, parameter_overrides=parameters))
        if failed := host.start():
            raise DeviceError(f"{failed} did not start; see its error above")
        for sequence in tqdm(chosen, desc="sequences", file=sys.stderr):
            for node in reversed(host.nodes):
                node.trigger_deactivate()
            for node in host.nodes:
                node.trigger_activate()
            collector.clear()
            _render(context, sequence, args)
            for node in host.nodes:
                node.wait_idle(SETTLE_S)
            collector.wait_labeled(SETTLE_S)
            outcomes.append(collector.outcome(sequence, predict_offline(sequence, session)))
    return outcomes


def _parameters(values: dict[str, Any]) -> list[Parameter]:
    return [Parameter(name, value=value) for name, value in values.items()]


def _render(context: Context, sequence: SkeletonSequence, args: argparse.Namespace) -> None:
    """Run a camera_node that renders the sequence, to its end."""
    settings = {
        "driver": "simulated",
        "simulated.script": str(args.data / FILE),
        "simulated.sequence": sequence.name,
        "simulated.fps": args.fps,
    }
    # Another name each time: rosout keeps the last node's for a while.
    name = ["--ros-args", "-r", f"__node:=camera_of_{sequence.name}"]
    with Host(context) as host:
        camera = graph.find("camera").load()
        host.add(camera(context=context, parameter_overrides=_parameters(settings), cli_args=name))
        if host.start():
            raise DeviceError("camera_node did not start; see its error above")
        if not host.wait(LONGEST_S):
            raise DeviceError(f"sequence {sequence.name} did not end in {LONGEST_S:g} s")


class Collector(Node):
    """Keeps every message since `clear`, by stamp."""

    def __init__(self, **node_options: Any):
        super().__init__("benchmark_collector", **node_options)
        self._changed = threading.Condition()
        self._kept: dict[str, dict[int, Any]] = {}
        self.clear()
        for kind, topic in (
            (SkeletonArray, topics.TRUE_SKELETONS),
            (SkeletonArray, topics.SKELETONS),
            (HandArray, topics.HANDS),
            (FaceArray, topics.FACE),
            (ActionLabel, topics.ACTION_LABEL),
        ):
            self.create_subscription(kind, topic, self._keeper(topic), topics.WINDOW_SUBSCRIBER)

    def clear(self) -> None:
        """Drop all messages."""
        with self._changed:
            self._kept = defaultdict(dict)

    def wait_labeled(self, timeout_s: float) -> bool:
        """Block until the newest frame has skeletons and a label; return False after the timeout."""

        def labeled() -> bool:
            shown, found = self._kept[topics.TRUE_SKELETONS], self._kept[topics.SKELETONS]
            return bool(shown and found) and max(found) >= max(shown) and max(found) in self._kept[topics.ACTION_LABEL]

        with self._changed:
            return self._changed.wait_for(labeled, timeout_s)

    def outcome(self, sequence: SkeletonSequence, offline: inference.Prediction) -> SimulatedOutcome:
        """Compare the messages since `clear` with the truth."""
        with self._changed:
            kept = defaultdict(dict, {topic: dict(messages) for topic, messages in self._kept.items()})
        hands, faces = kept[topics.HANDS], kept[topics.FACE]
        truth = {stamp: conversions.message_to_bodies(m)[0] for stamp, m in kept[topics.TRUE_SKELETONS].items()}
        found = {stamp: conversions.message_to_bodies(m) for stamp, m in kept[topics.SKELETONS].items()}
        person = {stamp: _nearest(bodies, truth[stamp]) for stamp, bodies in found.items() if bodies and stamp in truth}
        errors = [np.linalg.norm(body.positions - truth[stamp].positions, axis=1) for stamp, body in person.items()]
        sides = [{hand.side for hand in message.hands} for message in hands.values()]
        newest = max(kept[topics.ACTION_LABEL], default=0)
        labels = kept[topics.ACTION_LABEL].get(newest, {})
        label = labels.get(person[newest].body_id) if newest in person else None
        return SimulatedOutcome(
            name=sequence.name,
            truth=sequence.meta["label_name"],
            frames=len(truth),
            skeleton_frames=len(found),
            hand_frames=len(hands),
            face_frames=len(faces),
            with_skeleton=len(person),
            swapped=sum(_is_swapped(body, truth[stamp]) for stamp, body in person.items()),
            parts={
                "left hand": sum("left" in found for found in sides),
                "right hand": sum("right" in found for found in sides),
                "any hand": sum(bool(found) for found in sides),
                "face": sum(bool(message.faces) for message in faces.values()),
            },
            errors=np.array(errors, dtype=np.float64).reshape(-1, 25),
            top=(label.top_labels or [""])[0] if label else "",
            label=label.label if label else UNKNOWN,
            confidence=float(label.confidence) if label else 0.0,
            offline_top=offline.top(1)[0][0],
            offline_label=offline.label,
        )

    def _keeper(self, topic: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            stamp = conversions.stamp_to_ns(message.header.stamp)
            with self._changed:
                if topic == topics.ACTION_LABEL:
                    self._kept[topic].setdefault(stamp, {})[message.body_id] = message
                else:
                    self._kept[topic][stamp] = message
                self._changed.notify_all()

        return keep


def _nearest(bodies: list[Body], truth: Body) -> Body:
    """Return the found body that is nearest to the true one."""

    def distance(body: Body) -> float:
        apart = np.linalg.norm(body.positions - truth.positions, axis=1)
        return float(np.nanmedian(apart)) if np.isfinite(apart).any() else float("inf")

    return min(bodies, key=distance)


def _is_swapped(found: Body, truth: Body) -> bool:
    mirrored = found.positions[list(KINECT_V2_25.mirror)]
    straight, exchanged = (np.linalg.norm(p - truth.positions, axis=1) for p in (found.positions, mirrored))
    return bool(np.nansum(exchanged) < np.nansum(straight))


def figures(outcomes: Sequence[SimulatedOutcome]) -> dict[str, Any]:
    """Return the benchmark's figures; joint errors are over all frames in which the joint was found."""
    shown, processed = sum(o.frames for o in outcomes), sum(o.skeleton_frames for o in outcomes)
    with_skeleton = sum(o.with_skeleton for o in outcomes)
    errors = np.concatenate([o.errors for o in outcomes])
    result: dict[str, Any] = {
        "sequences": len(outcomes),
        "top-1 from pixels": share(outcomes, lambda o: o.top == o.truth),
        "right after rejection from pixels": share(outcomes, lambda o: o.label == o.truth),
        "unknown from pixels": share(outcomes, lambda o: o.label == UNKNOWN),
        "top-1 of the recorded joints": share(outcomes, lambda o: o.offline_top == o.truth),
        "right after rejection of the recorded joints": share(outcomes, lambda o: o.offline_label == o.truth),
        "frames rendered": shown,
        "share of them that skeleton_node took": processed / max(shown, 1),
        "frames with a skeleton, of processed frames": with_skeleton / max(processed, 1),
        "of these with left and right exchanged": sum(o.swapped for o in outcomes) / max(with_skeleton, 1),
        "joint error, median mm": _percentile(errors, 50),
        "joint error, p90 mm": _percentile(errors, 90),
    }
    for part in ("left hand", "right hand", "any hand", "face"):
        taken = sum(o.face_frames if part == "face" else o.hand_frames for o in outcomes)
        result[f"frames with {part}, of processed frames"] = sum(o.parts[part] for o in outcomes) / max(taken, 1)
    result["by class"] = [_of_class(name, [o for o in outcomes if o.truth == name]) for name in CLASSES]
    result["by joint"] = [
        {
            "joint": joint,
            "median mm": _percentile(errors[:, v], 50),
            "p90 mm": _percentile(errors[:, v], 90),
            "found": float(np.isfinite(errors[:, v]).mean()) if len(errors) else float("nan"),
        }
        for v, joint in enumerate(KINECT_V2_25.joints)
    ]
    return result


def _of_class(name: str, outcomes: Sequence[SimulatedOutcome]) -> dict[str, Any]:
    top = share(outcomes, lambda o: o.top == o.truth)
    published = ", ".join(outcome.label for outcome in outcomes)
    return {"class": name, "sequences": len(outcomes), "top-1": top, "published": published}


def _percentile(errors: np.ndarray, percent: float) -> float:
    found = errors[np.isfinite(errors)]
    return round(float(np.percentile(found, percent)) * 1000, 1) if found.size else float("nan")
