"""`actrec bench NAME`: measures one part of the graph, or all of it.

A benchmark is a function that takes its own arguments as a list and returns its figures. It prints nothing but progress
(to stderr). The figures are a dictionary of plain values; a list of dictionaries in it is printed as a table.
"""

import argparse
import importlib
import json
from typing import Any

from actrec.errors import ConfigError

BENCHMARKS: dict[str, tuple[str, str]] = {
    "calibration": (
        "actrec_calibration.benchmark:measure",
        "intrinsics against the truth of rendered boards, and from photographs of OpenCV's chessboard",
    ),
    "camera": ("actrec.capture.benchmark:measure", "a camera driver over minutes: pace, delay, frames lost, memory"),
    "calibration-robot": (
        "actrec_calibration.benchmark_robot:measure",
        "depth extrinsics and bias, hand-eye, floor: errors against known truth",
    ),
    "data": ("actrec_models.benchmark_data:measure", "clips a second from datasets' files and from a prepared store"),
    "networks": ("actrec_models.benchmark:networks", "size, time and memory of every network in ONNX Runtime"),
    "estimators": ("actrec.estimators.benchmark:measure", "time and yield of the body, hand and face estimators"),
    "mediapipe-ntu": ("actrec.estimators.benchmark:mediapipe_ntu", "MediaPipe against the Kinect on an NTU video"),
    "ntu": (
        "actrec.recordings.benchmark_ntu:measure",
        "NTU RGB+D's files: clips a second, cameras found against pixels",
    ),
    "nucla-live": ("actrec_nodes.benchmark_nucla:live", "N-UCLA's test part through the live recognizer and offline"),
    "simulated-nucla": ("actrec_nodes.benchmark_simulated:simulated", "from pixels to label, with the truth known"),
    "pipeline": (
        "actrec_nodes.benchmark_pipeline:pipeline",
        "the whole graph: pace, latency, memory, growth of queues",
    ),
    "inference": (
        "actrec.inference.benchmark:measure",
        "model packages in ONNX Runtime: latency by precision, first call, memory of the recognizer",
    ),
    "recordings": ("actrec.recordings.benchmark:measure", "CPU time to write and to replay a frame, by format"),
    "scene-flow": (
        "actrec.sceneflow.benchmark:measure",
        "scene flow: exact motion, its authors, warping, frames a second",
    ),
    "streaming": ("actrec_models.benchmark_streaming:measure", "networks frame by frame against their window forms"),
    "streaming-accuracy": ("actrec_models.benchmark_streaming_accuracy:measure", "what running frame by frame costs"),
    "teach": ("actrec_models.benchmark_teach:teach", "actrec teach on 12 clips of five UTD-MHAD actions"),
    "training": ("actrec_models.benchmark_training:measure", "clips a second that each network learns from"),
    "transport": ("actrec_nodes.transport_check:bench", "images from one process to another: share and latency"),
    "actor": ("actrec.simulation.benchmark:recognise", "the simulated actor as the perception sees it, by action"),
    "rendered": (
        "actrec_models.benchmark_rendered:rendered",
        "every RGB and flow network trained, small, on simulated clips: a test of the machinery",
    ),
    "rendered-skeletons": (
        "actrec_models.benchmark_rendered_skeletons:measure",
        "packages on test recordings as the perception finds them in rendered images",
    ),
    "renderer": ("actrec.simulation.benchmark:measure", "frames a second of the simulated camera on one core"),
}
"""Name to (`module:function`, one line of what it measures)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", nargs="?", help="what to measure; without it the benchmarks are listed")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the benchmark's own arguments (try --help)")
    parser.epilog = "Example:\n  actrec bench\n  actrec bench transport --json"


def run(args: argparse.Namespace) -> int:
    """Runs one benchmark and prints its figures."""
    if args.name is None:
        print(_listing())
        return 0
    if args.name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark '{args.name}'; known: {', '.join(sorted(BENCHMARKS))}")
    module, function = BENCHMARKS[args.name][0].split(":")
    own = [argument for argument in args.arguments if argument != "--json"]
    figures = getattr(importlib.import_module(module), function)(own)
    as_json = args.json or "--json" in args.arguments
    print(json.dumps(figures, indent=2) if as_json else markdown(args.name, figures))
    return 0


def markdown(name: str, figures: dict[str, Any]) -> str:
    """The figures as small markdown tables: single values in one, each list of dictionaries in its own."""
    tables = {key: value for key, value in figures.items() if _is_table(value)}
    single = [{"figure": key, "value": value} for key, value in figures.items() if key not in tables]
    parts = [f"### {name}"]
    parts += [_table(single)] if single else []
    parts += [f"{key}:\n\n{_table(rows)}" for key, rows in tables.items()]
    return "\n\n".join(parts)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listing() -> str:
    width = max((len(name) for name in BENCHMARKS), default=0)
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in sorted(BENCHMARKS.items())]
    return "\n".join(["Benchmarks (actrec bench NAME --help explains one):", *lines])
