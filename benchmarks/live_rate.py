"""`actrec bench live-rate`: labels a second and latency of each network family in the live recognizer."""

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from actrec import inference
from actrec.cli import Parser, amount, count
from actrec.features.clips import CAMERA, example_clip
from actrec.inference.session import Session
from actrec.recognition import ActionRecognizer
from actrec.types import NANOSECONDS, Body
from actrec.utils import config
from benchmarks import in_process, memory_mb

CLASSES = 60

REDUCED = (
    "c3d_flow:width=16;fc=512",
    "c3d_flow_at1:width=16;fc=512",
    "c3d_flow_at2:width=16;fc=512;skeleton_width=16;map_frames=144",
    "deepacts:width=32;cnn_width=0.5;cnn_depth=0.5;size=128",
    "deepacts_cnn:cnn_width=0.5;cnn_depth=0.5;size=128",
    "deepacts_graph:width=32",
    "deepacts_multi:width=32;cnn_width=0.5;cnn_depth=0.5;size=128",
    "flow_skeleton:width=16;fc=512;skeleton_width=16;map_frames=144",
    "p_i3d:frames=32;size=112;width=0.5",
    "res_tcn_bjcn:width=16;frames=144",
    "sem_net:frames=64",
    "sem_spa:frames=64;spa_frames=32",
    "spa_net_3p1d:frames=32",
    "spa_net_4d:frames=32",
    "vpn_i3d:frames=32;size=112;width=0.5",
    "vpn_resnext101:frames=32;width=0.5",
)
"""A size of each network for a robot: fewer frames, smaller crops, fewer channels; `joint_tcn` is small already."""


def measure(arguments: list[str]) -> dict[str, Any]:
    """Return a row for each network: milliseconds of a label of the newest clip, and of one of all clips."""
    parser = Parser(
        prog="actrec bench live-rate",
        description="Labels of one person in the live recognizer by each network family, untrained, in ONNX Runtime. "
        "`all_clips_ms` is a label for which every clip of the window is run. `cpu` is the time of the processor.",
        epilog="Example:\n  actrec bench live-rate --models 'p_i3d,p_i3d:size=112;frames=32'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models", help="names with commas between, options as name:key=value;key=value (default: all, in two sizes)"
    )
    parser.add_argument(
        "--labels", type=count, default=10, help="of each that are timed, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=amount, default=30.0, metavar="S",
        help="begin no further label of a network after this time, but one at least (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument("--threads", type=count, default=1, help="of ONNX Runtime (default: %(default)s)")
    args = parser.parse_args(arguments)
    known = importlib.import_module("actrec_models.networks").list_models()
    wanted = args.models.split(",") if args.models else [*known, *REDUCED]
    rows = []
    for number, entry in enumerate(wanted, start=1):
        print(f"[{number}/{len(wanted)}] {entry}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            in_process("benchmarks.live_rate:export", entry, f"{scratch}/model")
            timed = in_process(
                "benchmarks.live_rate:time_labels", f"{scratch}/model", args.labels, args.seconds, args.threads
            )
        rows.append({"network": entry, **timed})
    return {"threads": args.threads, "networks": rows}


def export(entry: str, folder: str) -> None:
    """Write the package of an untrained network."""
    name, _, options = entry.partition(":")
    chosen = config.parse_pairs(filter(None, options.split(";")), "network option")
    classes = [f"class {index}" for index in range(CLASSES)]
    importlib.import_module("actrec_models.export.exporter").export_network(name, chosen, classes, folder)


def time_labels(folder: str, labels: int, seconds: float, threads: int) -> dict[str, Any]:
    """Return the times of labels in a stream that goes on while the network runs."""
    session = inference.load(folder, "onnxruntime", device="cpu", threads=threads)
    recognizer = ActionRecognizer(session)
    stream = Stream(session, recognizer)
    window = session.package.window
    stream.add(window.seconds)
    times: list[tuple[float, float]] = []
    ends_s = time.monotonic() + seconds
    while len(times) < labels and (not times or time.monotonic() < ends_s):
        times.append(_timed(recognizer.predict))
        stream.add(max(times[-1][0], recognizer.config.interval_s))
    label_s, label_cpu_s = np.median(times[1:] or times, axis=0)  # the first also runs clips of the start
    clip = example_clip(session.package.inputs, window.frames, session.package.bodies)
    all_clips_s, all_clips_cpu_s = _timed(lambda: session.predict(clip))
    return {
        "labels": len(times),
        "clips": len(window.starts),
        "window_s": window.seconds,
        "label_ms": round(1000 * label_s, 1),
        "label_cpu_ms": round(1000 * label_cpu_s, 1),
        "labels_hz": round(1 / max(label_s, recognizer.config.interval_s), 2),
        "all_clips_ms": round(1000 * all_clips_s, 1),
        "all_clips_cpu_ms": round(1000 * all_clips_cpu_s, 1),
        "memory_mb": round(memory_mb("VmHWM")),
    }


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds of a call, and the processor time of this process in it."""
    began, cpu_began = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - cpu_began


class Stream:
    """A simulated person, frame after frame, at the rate of the network's images or 15 Hz."""

    def __init__(self, session: Session, recognizer: ActionRecognizer):
        self._recognizer = recognizer
        self._rate = max(recognizer.model_rate, 15.0)
        clip = example_clip(session.package.inputs, 2 * round(self._rate), 1)
        self._clip = clip
        self._stamp_ns, self._frame = 0, 0

    def add(self, seconds: float) -> None:
        """Add the frames of this time."""
        end_ns = self._stamp_ns + round(seconds * NANOSECONDS)
        while self._stamp_ns < end_ns:
            self._stamp_ns += round(NANOSECONDS / self._rate)
            self._frame += 1
            self._add_frame()

    def _add_frame(self) -> None:
        ahead, length = self._frame, self._clip["bodies"].shape[1]
        t = length - 1 - abs(ahead % (2 * length - 2) - (length - 1))  # forward and back
        recognizer, clip, stamp_ns = self._recognizer, self._clip, self._stamp_ns
        recognizer.set_image_size(CAMERA.width, CAMERA.height)
        if "color" in clip:
            recognizer.add_color(stamp_ns, clip["color"][t])
        joints, ones = clip["bodies"][0, t], np.ones(25, np.float32)
        recognizer.add_skeletons(stamp_ns, [Body("body_1", "kinect_v2_25", joints, clip["pixels"][0, t], ones)])
        if "flow" in clip:
            recognizer.add_scene_flow(stamp_ns, clip["flow"][t], CAMERA.resized(160, 120))
