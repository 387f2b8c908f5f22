"""`actrec bench simulated-nucla`: from pixels to label, with the truth known.

The simulated actor follows N-UCLA test sequences, four of each class, sampled with a fixed seed; each lasts at least a
second. Each is rendered in real time and goes through camera_node, skeleton_node, hand_node, face_node and
recognizer_node, all in this process; a sequence's label is the one published for its last frame. Every node restarts
for each sequence.

For `simulated-nucla`: listens to everything that the graph publishes and compares it with the truth.
"""

import argparse
import csv
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from actrec_msgs.msg import ActionLabel, FaceArray, HandArray, SkeletonArray
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from tqdm import tqdm

from actrec import inference
from actrec.cli import Parser
from actrec.cli.arguments import amount, count
from actrec.datasets.nucla import CLASSES
from actrec.inference.session import Session
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.skeleton.sequence import SkeletonSequence
from actrec.types import UNKNOWN, Body
from actrec.utils.errors import DeviceError
from actrec_nodes.bringup import graph
from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.common import conversions, topics
from benchmarks.live_accuracy import FILE, add_data, check_classes, offline_clip, share, test_sequences


@dataclass(frozen=True)
class Seen:
    """What the graph published of one sequence.

    Attributes:
        frames: Frames that the camera published, with their truth.
        skeleton_frames, hand_frames, face_frames: Those that each node worked on.
        with_skeleton: Frames in which a skeleton was found.
        swapped: Frames of these in which it fits better with left and right exchanged.
        parts: Frames with a "left hand", "right hand", "any hand", "face".
        errors: [F, 25] metres between found and true joint in the frames with a skeleton, NaN if missing.
        top, label, confidence: Of the person, at the last frame that has labels.
    """

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


class Witness(Node):
    """Keeps every message since `clear`, by stamp."""

    def __init__(self, **node_options: Any):
        super().__init__("benchmark_witness", **node_options)
        self._changed = threading.Condition()
        self._kept: dict[str, dict[int, Any]] = {}
        self._labels: dict[int, list[ActionLabel]] = {}
        self.clear()
        for kind, topic in (
            (SkeletonArray, topics.TRUE_SKELETONS),
            (SkeletonArray, topics.SKELETONS),
            (HandArray, topics.HANDS),
            (FaceArray, topics.FACE),
        ):
            self.create_subscription(kind, topic, self._keeper(topic), topics.WINDOW_SUBSCRIBER)
        self.create_subscription(ActionLabel, topics.ACTION_LABEL, self._on_label, topics.WINDOW_SUBSCRIBER)

    def clear(self) -> None:
        """Forgets everything."""
        with self._changed:
            self._kept = {t: {} for t in (topics.TRUE_SKELETONS, topics.SKELETONS, topics.HANDS, topics.FACE)}
            self._labels = {}

    def wait_labeled(self, timeout_s: float) -> bool:
        """Blocks until the newest frame has skeletons and these have labels; False on a timeout."""

        def labeled() -> bool:
            shown, found = self._kept[topics.TRUE_SKELETONS], self._kept[topics.SKELETONS]
            return bool(shown and found) and max(found) >= max(shown) and max(found) in self._labels

        with self._changed:
            return self._changed.wait_for(labeled, timeout_s)

    def seen(self) -> Seen:
        """Return the messages since `clear`."""
        with self._changed:
            kept = {topic: dict(messages) for topic, messages in self._kept.items()}
            labels = dict(self._labels)
        truth = {stamp: conversions.message_to_bodies(m)[0] for stamp, m in kept[topics.TRUE_SKELETONS].items()}
        found = {stamp: conversions.message_to_bodies(m) for stamp, m in kept[topics.SKELETONS].items()}
        person = {stamp: _nearest(bodies, truth[stamp]) for stamp, bodies in found.items() if bodies and stamp in truth}
        errors = [np.linalg.norm(body.positions - truth[stamp].positions, axis=1) for stamp, body in person.items()]
        top, label, confidence = _last_label(labels, person)
        return Seen(
            frames=len(truth),
            skeleton_frames=len(found),
            hand_frames=len(kept[topics.HANDS]),
            face_frames=len(kept[topics.FACE]),
            with_skeleton=len(person),
            swapped=sum(_is_swapped(body, truth[stamp]) for stamp, body in person.items()),
            parts=_parts(kept[topics.HANDS], kept[topics.FACE]),
            errors=np.array(errors, dtype=np.float64).reshape(-1, 25),
            top=top,
            label=label,
            confidence=confidence,
        )

    def _keeper(self, topic: str) -> Any:
        def keep(message: Any) -> None:
            with self._changed:
                self._kept[topic][conversions.stamp_to_ns(message.header.stamp)] = message
                self._changed.notify_all()

        return keep

    def _on_label(self, message: ActionLabel) -> None:
        with self._changed:
            self._labels.setdefault(conversions.stamp_to_ns(message.header.stamp), []).append(message)
            self._changed.notify_all()


def _nearest(bodies: list[Body], truth: Body) -> Body:
    """Return the found body that lies nearest to the true one; a false one beside it is left aside."""

    def distance(body: Body) -> float:
        apart = np.linalg.norm(body.positions - truth.positions, axis=1)
        return float(np.nanmedian(apart)) if np.isfinite(apart).any() else float("inf")

    return min(bodies, key=distance)


def _is_swapped(found: Body, truth: Body) -> bool:
    mirrored = found.positions[list(KINECT_V2_25.mirror)]
    straight, exchanged = (np.linalg.norm(p - truth.positions, axis=1) for p in (found.positions, mirrored))
    return bool(np.nansum(exchanged) < np.nansum(straight))


def _last_label(labels: dict[int, list[ActionLabel]], person: dict[int, Body]) -> tuple[str, str, float]:
    """Best class, label and confidence of the person at the newest stamp with labels; `unknown` where unlabeled."""
    if not labels:
        return "", UNKNOWN, 0.0
    newest = max(labels)
    body = person.get(newest)
    for label in labels[newest]:
        if body is not None and label.body_id == body.body_id:
            return (label.top_labels or [""])[0], label.label, float(label.confidence)
    return "", UNKNOWN, 0.0


def _parts(hands: dict[int, HandArray], faces: dict[int, FaceArray]) -> dict[str, int]:
    sides = [{hand.side for hand in message.hands} for message in hands.values()]
    return {
        "left hand": sum("left" in found for found in sides),
        "right hand": sum("right" in found for found in sides),
        "any hand": sum(bool(found) for found in sides),
        "face": sum(bool(message.faces) for message in faces.values()),
    }


NODES = ("recognizer", "skeleton", "hand", "face")

SHORTEST_S = 1.0

PER_CLASS = 4

SEED = 20240

SETTLE_S = 5.0
"""How long the last frame's label may take once the sequence has ended."""

LONGEST_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """One sequence, from pixels and from the recorded joints.

    Attributes:
        name, truth: The sequence and its class.
        top, label, confidence: For its last frame: best class before rejection, published label, its confidence.
        offline_top, offline_label: Of the recorded joints, without camera and ROS.
        seen: What the nodes published.
    """

    name: str
    truth: str
    top: str
    label: str
    confidence: float
    offline_top: str
    offline_label: str
    seen: Seen


def simulated(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the benchmark `simulated-nucla`; see the module."""
    args = _parser().parse_args(list(arguments))
    session = inference.load(args.model)
    chosen = choose(test_sequences(args.data), args.per_class)
    check_classes(session, chosen)
    began = time.monotonic()
    with ros(["--ros-args", "-r", "__ns:=/actrec_bench_simulated", "--log-level", "warn"]) as context:
        outcomes = _run_all(context, chosen, session, args)
    if args.out is not None:
        _write(args.out, outcomes)
    return {"package": session.package.name, **figures(outcomes), "seconds": round(time.monotonic() - began, 1)}


def _parser() -> argparse.ArgumentParser:
    parser = Parser("actrec bench simulated-nucla", description="From pixels to label, truth known.")
    parser.add_argument("--model", default="deepacts_graph_nucla", help="model package, of N-UCLA's ten classes")
    add_data(parser)
    parser.add_argument(
        "--per-class", type=count, default=PER_CLASS, metavar="N", help="sequences a class (default: 4)"
    )
    parser.add_argument("--fps", type=amount, default=15.0, help="frames a second that the camera gives (default: 15)")
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the outcome of every sequence")
    return parser


def choose(sequences: Iterable[SkeletonSequence], per_class: int) -> list[SkeletonSequence]:
    """`per_class` sequences of each class, sampled with a fixed seed from sequences of at least a second."""
    rng = np.random.default_rng(SEED)
    by_class: dict[str, list[SkeletonSequence]] = defaultdict(list)
    for sequence in sequences:
        if (sequence.stamps_ns[-1] - sequence.stamps_ns[0]) / 1e9 >= SHORTEST_S:
            by_class[sequence.meta["label_name"]].append(sequence)
    drawn = []
    for name in CLASSES:
        candidates = by_class[name]
        picks = rng.choice(len(candidates), min(per_class, len(candidates)), replace=False)
        drawn += [candidates[int(i)] for i in sorted(picks)]
    return drawn


def _run_all(
    context: Context, chosen: Sequence[SkeletonSequence], session: Session, args: argparse.Namespace
) -> list[Outcome]:
    recognizer = {"model": str(session.package.path), "interval_s": 0.0, "watchdog_s": 0.0}
    outcomes = []
    with Host(context) as host:
        witness = Witness(context=context)
        host.add(witness)
        for switch in NODES:
            parameters = recognizer if switch == "recognizer" else {}
            host.add(graph.find(switch).load()(context=context, parameter_overrides=_parameters(parameters)))
        failed = host.start()
        if failed:
            raise DeviceError(f"{failed} did not start; it says why above")
        for sequence in tqdm(chosen, desc="sequences", file=sys.stderr):
            _restart(host)
            witness.clear()
            _film(context, sequence, args)
            outcomes.append(_outcome(sequence, session, _await_end(host, witness)))
    return outcomes


def _parameters(values: dict[str, Any]) -> list[Parameter]:
    return [Parameter(name, value=value) for name, value in values.items()]


def _restart(host: Host) -> None:
    """Everybody forgets: no body or window of the sequence before is left."""
    for node in reversed(host.nodes):
        node.trigger_deactivate()
    for node in host.nodes:
        node.trigger_activate()


def _film(context: Context, sequence: SkeletonSequence, args: argparse.Namespace) -> None:
    """Run a camera_node from the sequence's begin to its end."""
    settings = {
        "driver": "simulated",
        "simulated.script": str(args.data / FILE),
        "simulated.sequence": sequence.name,
        "simulated.fps": args.fps,
    }
    # A name of its own each time: rosout keeps the last node's for a while.
    name = ["--ros-args", "-r", f"__node:=camera_of_{sequence.name}"]
    with Host(context) as host:
        camera = graph.find("camera").load()
        host.add(camera(context=context, parameter_overrides=_parameters(settings), cli_args=name))
        if host.start():
            raise DeviceError("camera_node did not start; it says why above")
        if not host.wait(LONGEST_S):
            raise DeviceError(f"sequence {sequence.name} did not end in {LONGEST_S:g} s")


def _await_end(host: Host, witness: Witness) -> Seen:
    """Return the results once the newest skeletons have labels and all nodes are idle."""
    for node in host.nodes:
        node.wait_idle(SETTLE_S)
    witness.wait_labeled(SETTLE_S)
    return witness.seen()


def _outcome(sequence: SkeletonSequence, session: Session, seen: Seen) -> Outcome:
    offline = session.predict(offline_clip(sequence, session))
    return Outcome(
        sequence.name,
        sequence.meta["label_name"],
        seen.top,
        seen.label,
        seen.confidence,
        offline.top(1)[0][0],
        offline.label,
        seen,
    )


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the benchmark's figures; joint errors over all frames of all sequences in which the joint was found."""
    seen = [outcome.seen for outcome in outcomes]
    shown, worked = sum(s.frames for s in seen), sum(s.skeleton_frames for s in seen)
    with_skeleton = sum(s.with_skeleton for s in seen)
    errors = np.concatenate([s.errors for s in seen])
    result: dict[str, Any] = {
        "sequences": len(outcomes),
        "top-1 from pixels": share(outcomes, lambda o: o.top == o.truth),
        "right after rejection from pixels": share(outcomes, lambda o: o.label == o.truth),
        "unknown from pixels": share(outcomes, lambda o: o.label == UNKNOWN),
        "top-1 of the recorded joints": share(outcomes, lambda o: o.offline_top == o.truth),
        "right after rejection of the recorded joints": share(outcomes, lambda o: o.offline_label == o.truth),
        "frames rendered": shown,
        "share of them that skeleton_node took": worked / max(shown, 1),
        "frames with a skeleton, of processed frames": with_skeleton / max(worked, 1),
        "of these with left and right exchanged": sum(s.swapped for s in seen) / max(with_skeleton, 1),
        "joint error, median mm": _percentile(errors, 50),
        "joint error, p90 mm": _percentile(errors, 90),
    }
    for part in ("left hand", "right hand", "any hand", "face"):
        taken = sum(s.face_frames if part == "face" else s.hand_frames for s in seen)
        result[f"frames with {part}, of processed frames"] = sum(s.parts[part] for s in seen) / max(taken, 1)
    result["by class"] = [_of_class(outcomes, name) for name in CLASSES]
    result["by joint"] = [_of_joint(errors[:, v], joint) for v, joint in enumerate(KINECT_V2_25.joints)]
    return result


def _of_class(outcomes: Sequence[Outcome], name: str) -> dict[str, Any]:
    of_class = [outcome for outcome in outcomes if outcome.truth == name]
    return {
        "class": name,
        "sequences": len(of_class),
        "top-1": share(of_class, lambda o: o.top == o.truth),
        "published": ", ".join(outcome.label for outcome in of_class),
    }


def _of_joint(errors: np.ndarray, joint: str) -> dict[str, Any]:
    return {
        "joint": joint,
        "median mm": _percentile(errors, 50),
        "p90 mm": _percentile(errors, 90),
        "found": float(np.isfinite(errors).mean()) if errors.size else float("nan"),
    }


def _percentile(errors: np.ndarray, percent: float) -> float:
    found = errors[np.isfinite(errors)]
    return round(float(np.percentile(found, percent)) * 1000, 1) if found.size else float("nan")


def _write(path: Path, outcomes: Sequence[Outcome]) -> None:
    rows = []
    for outcome in outcomes:
        row = asdict(outcome)
        row.update(row.pop("seen").pop("parts"), frames=outcome.seen.frames, with_skeleton=outcome.seen.with_skeleton)
        row["swapped"] = outcome.seen.swapped
        row["median_error_mm"] = _percentile(outcome.seen.errors, 50)
        rows.append(row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
