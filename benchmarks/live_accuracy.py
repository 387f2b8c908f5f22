"""`actrec bench nucla-live` and `simulated-nucla`: N-UCLA's test sequences through the live graph, and offline.

`nucla-live` publishes each sequence on `skeletons` over DDS to a recognizer_node in a process of its own, with its own
body id and time, as fast as it is processed: the next one starts after the label of the last frame. Offline means the
same package on the window that ends with the same frame, by `Session.predict`, without ROS.

`simulated-nucla` renders sequences in real time, with the simulated actor, and compares all messages with the truth.
The label of the last frame counts. Every node restarts for each sequence.
"""

import argparse
import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from actrec_msgs.msg import ActionLabel, FaceArray, HandArray, SkeletonArray
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String
from tqdm import tqdm

from actrec import datasets, inference
from actrec.cli import Parser, amount, count
from actrec.datasets.nucla import CLASSES, read_nucla_npz
from actrec.inference.session import Session
from actrec.skeleton import windows
from actrec.skeleton.layouts import CANONICAL, KINECT_V2_25
from actrec.skeleton.sequence import SkeletonSequence, from_joints
from actrec.types import NANOSECONDS, UNKNOWN, Body
from actrec.utils.errors import DeviceError, InputError
from actrec_nodes.bringup import graph
from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.common import conversions, topics

T = TypeVar("T")

FILE = "nucla/nucla_skeletons.npz"
"""Under the folder of recorded data."""

FIRST_STAMP_NS = 1_000_000 * NANOSECONDS

PAUSE_NS = 2 * NANOSECONDS
"""Between two sequences: longer than the timeout of a track."""

DISCOVERY_S = 60.0
EXIT_S = 15.0


def nucla_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of the benchmarks on N-UCLA's sequences."""
    parser = Parser(f"actrec bench {name}", description=description)
    parser.add_argument("--model", default="deepacts_graph_nucla", help="model package, of N-UCLA's ten classes")
    default = os.environ.get("ACTREC_DATA", "data")
    parser.add_argument(
        "--data", type=Path, default=Path(default), help="folder that holds nucla/ (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the outcome of every sequence")
    return parser


def test_sequences(data: Path) -> list[SkeletonSequence]:
    """Return N-UCLA's test part: view 3, 464 sequences."""
    return [sequence for sequence in read_nucla_npz(data / FILE) if not sequence.meta["is_train"]]


def check_classes(session: Session, sequences: Sequence[SkeletonSequence]) -> None:
    """Raise InputError if the model does not know the sequences' classes."""
    foreign = {sequence.meta["label_name"] for sequence in sequences} - set(session.package.labels)
    if foreign:
        raise InputError(
            f"model {session.package.name} does not know {', '.join(sorted(foreign))}: "
            "give one with N-UCLA's classes (--model)"
        )


def predict_offline(sequence: SkeletonSequence, session: Session) -> inference.Prediction:
    """Return the prediction of the window that ends with the sequence, as offline evaluation does."""
    window = session.package.window
    wanted = windows.sample_stamps(int(sequence.stamps_ns[-1]), window.seconds, window.frames)
    bodies = [windows.resample(sequence.stamps_ns, body, wanted) for body in sequence.bodies]
    up = {} if sequence.up is None else {"up": sequence.up}
    return session.predict({"bodies": np.stack(bodies), **up})


def share(outcomes: Sequence[T], holds: Callable[[T], bool]) -> float:
    """Return the share of the outcomes for which a condition holds; NaN without outcomes."""
    return sum(map(holds, outcomes)) / len(outcomes) if outcomes else float("nan")


def write_outcomes(path: Path | None, rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV row for each sequence."""
    if path is not None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@dataclass(frozen=True)
class Outcome:
    """One sequence, live and offline.

    Attributes:
        name, truth: The sequence and its class.
        live_top, live_label, live_confidence: The best class before rejection, the published label, its confidence;
            empty and NaN without a label.
        offline_top, offline_label, offline_confidence: The same without ROS.
    """

    name: str
    truth: str
    live_top: str
    live_label: str
    live_confidence: float
    offline_top: str
    offline_label: str
    offline_confidence: float


def live(arguments: Sequence[str]) -> dict[str, Any]:
    """Run the benchmark `nucla-live`."""
    parser = nucla_parser("nucla-live", "N-UCLA's test sequences through the live recognizer, and offline.")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N sequences")
    parser.add_argument("--timeout", type=amount, default=30.0, help="seconds after which a label counts as lost")
    args = parser.parse_args(list(arguments))
    sequences = test_sequences(args.data)[: args.limit]
    session = inference.load(args.model)
    check_classes(session, sequences)
    namespace = f"actrec_bench_{os.getpid()}"
    each_window = {"labels": "windows", "interval_s": 0.0}  # a sequence is shorter than an event's evidence
    parameters = {"model": session.package.path, "min_seconds": 0.0, "watchdog_s": 0.0, **each_window}
    began = time.monotonic()
    with (
        ros(["--ros-args", "-r", f"__ns:=/{namespace}"]) as context,
        Host(context) as host,
        node_process("recognizer_node", namespace, {**parameters, "statistics_period_s": 0.5}) as child,
    ):
        peer = Peer(context=context)
        host.add(peer)
        peer.connect(child)
        outcomes = _play_all(peer, sequences, session, args.timeout)
        sent = sum(map(len, sequences))
        received = peer.wait_received(sent)
    write_outcomes(args.out, [asdict(outcome) for outcome in outcomes])
    arrived = [outcome for outcome in outcomes if outcome.live_label]
    differing = [o for o in arrived if (o.live_top, o.live_label) != (o.offline_top, o.offline_label)]
    apart = [abs(o.live_confidence - o.offline_confidence) for o in arrived]
    figures: dict[str, Any] = {
        "package": session.package.name,
        "sequences": len(outcomes),
        "messages sent": sent,
        "messages received": received,
        "messages lost": sent - received,
        "labels published": peer.label_count,
        "sequences without a label": len(outcomes) - len(arrived),
        "top-1 live": share(outcomes, lambda o: o.live_top == o.truth),
        "top-1 offline": share(outcomes, lambda o: o.offline_top == o.truth),
        "right after rejection live": share(outcomes, lambda o: o.live_label == o.truth),
        "right after rejection offline": share(outcomes, lambda o: o.offline_label == o.truth),
        "unknown live": share(outcomes, lambda o: o.live_label == UNKNOWN),
        "unknown offline": share(outcomes, lambda o: o.offline_label == UNKNOWN),
        "sequences that agree": len(arrived) - len(differing),
        "largest difference of confidence": max(apart, default=float("nan")),
    }
    if differing:
        figures["sequences that differ"] = [asdict(outcome) for outcome in differing]
    return {**figures, "seconds": round(time.monotonic() - began, 1)}


@contextlib.contextmanager
def node_process(name: str, namespace: str, parameters: Mapping[str, Any]) -> "Iterator[subprocess.Popen[bytes]]":
    """Run one node in its own process; interrupt it at the end, and kill it if it does not stop."""
    command = [sys.executable, "-m", "actrec_nodes.bringup.processes", name, "--ros-args", "-r", f"__ns:=/{namespace}"]
    for key, value in {"autostart": "true", **parameters}.items():
        command += ["-p", f"{key}:={value}"]
    environment = {**os.environ, "ACTREC_PARENT": str(os.getpid())}
    child = subprocess.Popen([*command, "--log-level", "warn"], start_new_session=True, env=environment)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Peer(Node):
    """Publishes skeletons and collects the labels and statistics of a recognizer_node in the same namespace.

    Attributes:
        last_stamp_ns: Of the last published frame; stamps only increase.
        label_count: Labels received since `connect`.
    """

    def __init__(self, **node_options: Any):
        super().__init__("benchmark_peer", **node_options)
        self.last_stamp_ns = FIRST_STAMP_NS
        self.label_count = 0
        self._changed = threading.Condition()
        self._labels: dict[int, list[ActionLabel]] = {}
        self._statistics: dict[str, Any] = {}
        self._statistics_count = 0
        self._received_before = 0
        # As deep as the recognizer's queue: messages published at once must not overwrite each other.
        self._publisher = self.create_publisher(SkeletonArray, topics.SKELETONS, topics.WINDOW_SUBSCRIBER)
        self.create_subscription(ActionLabel, topics.ACTION_LABEL, self._on_label, topics.SMALL)
        self.create_subscription(String, "recognizer_node/statistics", self._on_statistics, topics.LATCHED)

    def connect(self, child: "subprocess.Popen[bytes]") -> None:
        """Publish empty frames until labels and statistics arrive; messages until then are not counted.

        Raises:
            DeviceError: The process has ended, or nothing arrives in a minute.
        """
        for _ in range(int(DISCOVERY_S / 0.1)):
            if child.poll() is not None:
                raise DeviceError(f"recognizer_node ended with status {child.returncode}; see its error above")
            self.last_stamp_ns += NANOSECONDS
            self._publish(self.last_stamp_ns, [])
            if self._wait(lambda: self.last_stamp_ns in self._labels and self._statistics_count > 0, 0.1):
                break
        else:
            raise DeviceError(f"no label from recognizer_node in {DISCOVERY_S:g} s: is it active?")
        # The second statistics from here on were taken after the last empty frame.
        count = self._statistics_count
        self._wait(lambda: self._statistics_count >= count + 2, DISCOVERY_S)
        self._received_before = int(self._statistics["received"])
        self.label_count = 0

    def wait_received(self, expected: int, timeout_s: float = 5.0) -> int:
        """Wait until the node has received as many messages as expected; return their number since `connect`."""
        self._wait(lambda: self._statistics["received"] - self._received_before >= expected, timeout_s)
        return int(self._statistics["received"]) - self._received_before

    def play(
        self, sequence: SkeletonSequence, stamps_ns: np.ndarray, body_id: str, timeout_s: float
    ) -> ActionLabel | None:
        """Publish a sequence of one person at once; return the label of the last frame, or None after the timeout."""
        for index, stamp_ns in enumerate(stamps_ns):
            bodies = sequence.bodies_at(index)[:1]
            for body in bodies:
                body.body_id = body_id
            self._publish(int(stamp_ns), bodies, sequence.up)
        self.last_stamp_ns = int(stamps_ns[-1])
        owner = body_id if bodies else ""

        def found() -> list[ActionLabel]:
            return [label for label in self._labels.get(self.last_stamp_ns, []) if label.body_id == owner]

        self._wait(lambda: bool(found()), timeout_s)
        label = next(iter(found()), None)
        self._labels.clear()
        return label

    def _publish(self, stamp_ns: int, bodies: list[Body], up: np.ndarray | None = None) -> None:
        head = conversions.header(stamp_ns, "camera_color_optical_frame")
        self._publisher.publish(conversions.bodies_to_message(bodies, head, up))

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def _on_label(self, message: ActionLabel) -> None:
        with self._changed:
            self.label_count += 1
            self._labels.setdefault(conversions.stamp_to_ns(message.header.stamp), []).append(message)
            self._changed.notify_all()

    def _on_statistics(self, message: String) -> None:
        with self._changed:
            self._statistics = json.loads(message.data)
            self._statistics_count += 1
            self._changed.notify_all()


def _play_all(peer: Peer, sequences: Sequence[SkeletonSequence], session: Session, timeout_s: float) -> list[Outcome]:
    outcomes, start_ns = [], peer.last_stamp_ns + PAUSE_NS
    for index, sequence in enumerate(tqdm(sequences, desc="sequences", file=sys.stderr)):
        stamps = start_ns + (sequence.stamps_ns - sequence.stamps_ns[0])
        label = peer.play(sequence, stamps, f"nucla_{index:04d}", timeout_s)
        start_ns = int(stamps[-1]) + PAUSE_NS
        found = ("", "", float("nan"))
        if label is not None:
            found = ((label.top_labels or [UNKNOWN])[0], label.label, float(label.confidence))
        offline = predict_offline(sequence, session)
        expected = offline.top(1)[0][0], offline.label, offline.confidence
        outcomes.append(Outcome(sequence.name, sequence.meta["label_name"], *found, *expected))
    return outcomes


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
    parser.add_argument("--everyday", type=count, metavar="N", help="instead: N clips of the test part of each set of "
                        "the everyday actions, in --data")  # fmt: skip
    parser.add_argument("--fps", type=amount, default=15.0, help="frame rate of the camera (default: 15)")
    parser.add_argument("--cpu-precision", choices=("fp32", "int8"), default="fp32",
                        help="of the perception's networks (default: %(default)s)")  # fmt: skip
    parser.add_argument("--every-frame", action="store_true", help="send the next frame after the last one's skeletons,"
                        " for a busy machine (default: in real time)")  # fmt: skip
    args = parser.parse_args(list(arguments))
    session = inference.load(args.model)
    if args.everyday:
        chosen = everyday_sequences(args.data, args.everyday, session.package.labels)
    else:
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


EVERYDAY_SETS = ("nucla", "utd_mhad", "kard", "kinder_gator", "hdm05")
"""Sets with several people in the test part of split own (cad60 has one)."""


def everyday_sequences(data: Path, per_set: int, known: Sequence[str]) -> list[SkeletonSequence]:
    """Return `per_set` clips of known classes of each of `EVERYDAY_SETS`, evenly spaced, of at least a second."""
    chosen = []
    for name in EVERYDAY_SETS:
        clips = datasets.create("everyday", data, split="own", part="test", sets=[name])
        usable = [index for index, label in enumerate(clips.labels) if clips.classes[label] in known]
        for index in (usable[round(place)] for place in np.linspace(0, len(usable) - 1, per_set)):
            clip = clips[index].leveled()
            joints, stamps = clip.bodies[:1], clip.stamps_ns - clip.stamps_ns[0]
            if stamps[-1] >= SHORTEST_S * NANOSECONDS:
                meta = {"label_name": clips.classes[clip.label], "set": name}
                chosen.append(from_joints(clip.name, stamps, joints, meta=meta))
    return chosen


def _run_all(
    context: Context, chosen: Sequence[SkeletonSequence], session: Session, args: argparse.Namespace
) -> list[SimulatedOutcome]:
    recognizer = {"model": str(session.package.path), "labels": "windows", "interval_s": 0.0, "watchdog_s": 0.0}
    if args.every_frame:
        recognizer["stale_s"] = 0.0  # slower than real time, frames are late
    outcomes = []
    with Host(context) as host:
        collector = Collector(context=context)
        host.add(collector)
        for switch in NODES:
            parameters = _parameters(recognizer if switch == "recognizer" else {"cpu_precision": args.cpu_precision})
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
    settings = {"driver": "simulated", "simulated.script": str(args.data / FILE), "simulated.fps": args.fps}
    settings["simulated.realtime"] = not args.every_frame
    # Another name each time: rosout keeps the last node's for a while.
    name = ["--ros-args", "-r", "__node:=camera_of_" + re.sub(r"\W", "_", sequence.name)]
    with Host(context) as host, tempfile.TemporaryDirectory() as folder:
        if args.everyday:
            settings["simulated.script"] = f"{folder}/script.npz"
            np.savez(settings["simulated.script"], positions=sequence.bodies, layout=CANONICAL,
                     stamps_ns=sequence.stamps_ns)  # fmt: skip
        else:
            settings["simulated.sequence"] = sequence.name
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
    names = sorted({outcome.truth for outcome in outcomes})
    result["by class"] = [_of_class(name, [o for o in outcomes if o.truth == name]) for name in names]
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
