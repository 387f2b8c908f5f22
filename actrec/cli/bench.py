"""`actrec bench NAME`: run a benchmark.

A benchmark is a function that takes its arguments as a list and returns a dictionary of figures; a list of dictionaries
in it is printed as a table. It prints progress to stderr only.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import actrec
from actrec.utils.errors import ActrecError, ConfigError

BENCHMARKS: dict[str, tuple[str, str]] = {
    "actor": ("benchmarks.perception:recognize", "the simulated actor as the perception sees it, by action"),
    "calibration": ("benchmarks.calibration:measure", "intrinsics of rendered boards and of photographs, with errors"),
    "calibration-robot": ("benchmarks.calibration:measure_robot", "errors of depth, hand-eye and floor calibrations"),
    "camera": ("benchmarks.cameras:measure", "a camera driver over minutes: pace, delay, frames lost, memory"),
    "data": ("benchmarks.streams:data", "clips a second from datasets' files and from a prepared store"),
    "estimators": ("benchmarks.perception:measure", "time and yield of the body, hand and face estimators"),
    "gravity": ("benchmarks.cameras:measure_gravity", "error of the direction of gravity by its source"),
    "inference": ("benchmarks.inference:measure", "model packages in ONNX Runtime: latency by precision, memory"),
    "mediapipe-ntu": ("benchmarks.perception:mediapipe_ntu", "MediaPipe against the Kinect on an NTU video"),
    "mounting": ("benchmarks.perception:mounting", "packages on recordings of a rolled or pitched camera"),
    "networks": ("benchmarks.inference:networks", "size, time and memory of every network in ONNX Runtime"),
    "ntu": ("benchmarks.streams:ntu", "NTU RGB+D's files: clips a second, estimated cameras against pixels"),
    "nucla-live": ("benchmarks.live_accuracy:live", "N-UCLA's test part through the live recognizer and offline"),
    "pipeline": ("benchmarks.pipeline:pipeline", "the whole graph: pace, latency, memory, growth of queues"),
    "recordings": ("benchmarks.streams:recordings", "CPU time to write and to replay a frame, by format"),
    "rendered": ("benchmarks.training:rendered", "every RGB and flow network trained, small, on simulated clips"),
    "rendered-skeletons": ("benchmarks.perception:rendered_skeletons", "packages on rendered test recordings"),
    "renderer": ("benchmarks.cameras:measure_renderer", "frames a second of the simulated camera on one core"),
    "scene-flow": ("benchmarks.scene_flow:measure", "scene flow: exact motion, its authors, warping, frames a second"),
    "simulated-nucla": ("benchmarks.live_accuracy:simulated", "from pixels to label, with the truth known"),
    "teach": ("benchmarks.training:teach", "actrec teach on 12 clips of five UTD-MHAD actions"),
    "training": ("benchmarks.training:measure", "clips a second that each network learns from"),
    "transport": ("benchmarks.streams:transport", "images from one process to another: share and latency"),
}
"""`module:function` and a one-line description by name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("name", nargs="?", help="name of the benchmark; without it all are listed")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the benchmark's own arguments (try --help)")
    parser.epilog = "Example:\n  actrec bench\n  actrec bench transport --json"


def run(args: argparse.Namespace) -> int:
    """Run one benchmark and print its figures."""
    if args.name is None:
        print("Benchmarks (actrec bench NAME --help explains one):")
        for name, (_, what) in BENCHMARKS.items():
            print(f"  {name:<{max(map(len, BENCHMARKS))}}  {what}")
        return 0
    if args.name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark '{args.name}'; known: {', '.join(sorted(BENCHMARKS))}")
    module, function = BENCHMARKS[args.name][0].split(":")
    own = [argument for argument in args.arguments if argument != "--json"]
    _find_benchmarks()
    figures = getattr(importlib.import_module(module), function)(own)
    as_json = args.json or "--json" in args.arguments
    print(json.dumps(figures, indent=2) if as_json else markdown(args.name, figures))
    return 0


def _find_benchmarks() -> None:
    """Put the checkout's root on the path, for this process and its child processes.

    Raises:
        ActrecError: This installation has no benchmarks: they are not installed with the packages.
    """
    root = Path(actrec.__file__).resolve().parents[1]
    if not (root / "benchmarks").is_dir():
        raise ActrecError("benchmarks are not installed with actrec: run them in a checkout of its repository")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))


def markdown(name: str, figures: dict[str, Any]) -> str:
    """Format the figures as markdown tables: single values in one, each list of dictionaries in its own."""
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
