"""`actrec bench nucla-live`: N-UCLA's test sequences through the live recognizer, against offline evaluation.

Every sequence is published on `skeletons` over DDS to a recognizer_node in a process of its own, with a body id and a
stretch of time of its own, as fast as it is taken: the next one starts when the label of the last frame is back.
Offline means the same package on the window that ends with the same frame, through `Session.predict`, without ROS.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from actrec import inference, windows
from actrec.cli import Parser
from actrec.cli.arguments import amount, count
from actrec.errors import DeviceError, InputError
from actrec.frames import NANOSECONDS
from actrec.inference import Session
from actrec.package import UNKNOWN
from actrec.recordings.nucla import read_nucla_npz
from actrec.recordings.sequence import SkeletonSequence
from actrec_nodes.benchmark_peer import Peer, node_process
from actrec_nodes.host import Host, ros

T = TypeVar("T")

FILE = "nucla/nucla_skeletons.npz"
"""Under the folder of recorded data."""

PAUSE_NS = 2 * NANOSECONDS
"""Between two sequences: long enough for the first one's body to be forgotten."""


@dataclass(frozen=True)
class Outcome:
    """One sequence, live and offline.

    Attributes:
        name, truth: The sequence and its class.
        live_top, live_label, live_confidence: The best class before rejection, the published label, its confidence;
            empty and NaN where no label came.
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
    """The benchmark `nucla-live`; see the module."""
    args = _parser().parse_args(list(arguments))
    sequences = test_sequences(args.data)[: args.limit]
    session = inference.load(args.model)
    check_classes(session, sequences)
    namespace = f"actrec_bench_{os.getpid()}"
    parameters = {"model": session.package.path, "interval_s": 0.0, "min_seconds": 0.0, "watchdog_s": 0.0}
    began = time.monotonic()
    with (
        ros(["--ros-args", "-r", f"__ns:=/{namespace}"]) as context,
        Host(context) as host,
        node_process("recognizer_node", namespace, {**parameters, "statistics_period_s": 0.5}) as child,
    ):
        peer = Peer(context=context)
        host.add(peer)
        peer.meet(lambda: _check_alive(child))
        outcomes, sent = _play_all(peer, sequences, session, args.timeout)
        received = peer.received_since_meeting(sent)
    figures = _figures(outcomes, sent, received, peer.label_count)
    if args.out is not None:
        _write(args.out, outcomes)
    return {"package": session.package.name, **figures, "seconds": round(time.monotonic() - began, 1)}


def _parser() -> argparse.ArgumentParser:
    parser = Parser("actrec bench nucla-live", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="deepacts_graph_nucla", help="model package, of N-UCLA's ten classes")
    add_data(parser)
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N sequences")
    parser.add_argument("--timeout", type=amount, default=30.0, help="seconds after which a label counts as lost")
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the outcome of every sequence")
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data`, the folder of recorded data."""
    default = os.environ.get("ACTREC_DATA", "../shared/data")
    parser.add_argument(
        "--data", type=Path, default=Path(default), help="folder that holds nucla/ (default: %(default)s)"
    )


def test_sequences(data: Path) -> list[SkeletonSequence]:
    """N-UCLA's test part: view 3, 464 sequences.

    Raises:
        DeviceError: The data are not there.
    """
    sequences = read_nucla_npz(data / FILE)
    return [sequence for sequence in sequences if not sequence.meta["is_train"]]


def check_classes(session: Session, sequences: Sequence[SkeletonSequence]) -> None:
    """Raises InputError where the model does not know the sequences' classes."""
    foreign = {sequence.meta["label_name"] for sequence in sequences} - set(session.package.labels)
    if foreign:
        raise InputError(
            f"model {session.package.name} does not know {', '.join(sorted(foreign))}: "
            "give one with N-UCLA's classes (--model)"
        )


def _check_alive(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is not None:
        raise DeviceError(f"recognizer_node ended with status {child.returncode}; it says why above")


def _play_all(
    peer: Peer, sequences: Sequence[SkeletonSequence], session: Session, timeout_s: float
) -> tuple[list[Outcome], int]:
    """Every sequence's outcome, and how many messages were sent."""
    outcomes, sent, start_ns = [], 0, peer.last_stamp_ns + PAUSE_NS
    for index, sequence in enumerate(tqdm(sequences, desc="sequences", file=sys.stderr)):
        stamps = start_ns + (sequence.stamps_ns - sequence.stamps_ns[0])
        label = peer.play(sequence, stamps, f"nucla_{index:04d}", timeout_s)
        sent += len(sequence)
        start_ns = int(stamps[-1]) + PAUSE_NS
        offline = session.predict(offline_clip(sequence, session))
        live_values = ("", "", float("nan"))
        if label is not None:
            live_values = ((label.top_labels or [UNKNOWN])[0], label.label, float(label.confidence))
        outcomes.append(
            Outcome(
                sequence.name,
                sequence.meta["label_name"],
                *live_values,
                offline.top(1)[0][0],
                offline.label,
                offline.confidence,
            )
        )
    return outcomes, sent


def offline_clip(sequence: SkeletonSequence, session: Session) -> dict[str, np.ndarray]:
    """The window that ends with the sequence, as offline evaluation takes it."""
    window = session.package.window
    wanted = windows.sample_stamps(int(sequence.stamps_ns[-1]), window.seconds, window.frames)
    return {"bodies": np.stack([windows.resample(sequence.stamps_ns, body, wanted) for body in sequence.bodies])}


def _figures(outcomes: Sequence[Outcome], sent: int, received: int, labels: int) -> dict[str, Any]:
    arrived = [outcome for outcome in outcomes if outcome.live_label]
    differing = [o for o in arrived if (o.live_top, o.live_label) != (o.offline_top, o.offline_label)]
    apart = [abs(o.live_confidence - o.offline_confidence) for o in arrived]
    figures: dict[str, Any] = {
        "sequences": len(outcomes),
        "messages sent": sent,
        "messages received": received,
        "messages lost": sent - received,
        "labels published": labels,
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
    return figures


def share(outcomes: Sequence[T], holds: Callable[[T], bool]) -> float:
    """Share of the outcomes for which something holds; NaN of none."""
    return sum(map(holds, outcomes)) / len(outcomes) if outcomes else float("nan")


def _write(path: Path, outcomes: Sequence[Outcome]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Outcome.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(asdict(outcome) for outcome in outcomes)
