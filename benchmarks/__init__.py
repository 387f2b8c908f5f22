"""Benchmarks: measurements that `actrec bench` runs in a checkout; they are not installed.

This module has what several of them need. It imports libraries inside of functions, since the memory of a process that
runs one of these is measured.
"""

import contextlib
import importlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from actrec.utils.errors import ActrecError

BENCHMARKS: dict[str, tuple[str, str]] = {
    "acted-events": ("benchmarks.acted_events:acted", "events of actions acted once by the simulated camera"),
    "actor": ("benchmarks.perception:recognize", "the simulated actor as the perception sees it, by action"),
    "agreement": ("benchmarks.agreement:agreement", "landmarks in float32 and INT8, and against the truth"),
    "body-ntu": ("benchmarks.perception:body_ntu", "the body estimator against the Kinect on an NTU video"),
    "calibration": ("benchmarks.calibration:measure", "intrinsics of rendered boards and of photographs, with errors"),
    "calibration-robot": ("benchmarks.calibration:measure_robot", "errors of depth, hand-eye and floor calibrations"),
    "camera": ("benchmarks.cameras:measure", "a camera driver over minutes: pace, delay, frames lost, memory"),
    "data": ("benchmarks.data:data", "clips a second from datasets' files and from a prepared store"),
    "engines": ("benchmarks.engines:measure", "every network as an engine of TensorRT for RTX, without a GPU"),
    "estimator-networks": ("benchmarks.estimator_networks:measure", "each network of perception: time on one thread"),
    "estimators": ("benchmarks.perception:measure", "time and yield of the body, hand and face estimators"),
    "events": ("benchmarks.events:measure", "events of continuous recordings: found, false, delay, changes of label"),
    "faults": ("benchmarks.faults:measure", "kills, unplugged cameras, wrong input, load: time until labels are back"),
    "gpu": ("benchmarks.gpu:measure", "scene flow and training on an NVIDIA GPU: speed, and the CPU's results"),
    "gravity": ("benchmarks.cameras:measure_gravity", "error of the direction of gravity by its source"),
    "idle-events": ("benchmarks.acted_events:idle", "events of simulated people who stand and wait"),
    "inference": ("benchmarks.inference:measure", "model packages in ONNX Runtime: latency by precision, memory"),
    "late-depth": ("benchmarks.pipeline:late_depth", "frames of color with depth that comes late, between processes"),
    "live-rate": ("benchmarks.live_rate:measure", "labels a second of every network family in the live recognizer"),
    "mounting": ("benchmarks.perception:mounting", "packages on recordings of a rolled or pitched camera"),
    "networks": ("benchmarks.networks:networks", "size, time and memory of every network in ONNX Runtime"),
    "ntu": ("benchmarks.streams:ntu", "NTU RGB+D's files: clips a second, estimated cameras against pixels"),
    "nucla-live": ("benchmarks.live_accuracy:live", "N-UCLA's test part through the live recognizer and offline"),
    "pipeline": ("benchmarks.pipeline:pipeline", "the whole graph: pace, latency, memory, growth of queues"),
    "recordings": ("benchmarks.streams:recordings", "CPU time to write and to replay a frame, by format"),
    "rendered": (
        "benchmarks.short_trainings:rendered",
        "every RGB and flow network trained small on simulated clips",
    ),
    "rendered-skeletons": ("benchmarks.perception:rendered_skeletons", "packages on rendered test recordings"),
    "renderer": ("benchmarks.cameras:measure_renderer", "frames a second of the simulated camera on one core"),
    "scene-flow": ("benchmarks.scene_flow:measure", "scene flow: exact motion, its authors, warping, frames a second"),
    "simulated-nucla": ("benchmarks.live_accuracy:simulated", "from pixels to label, with the truth known"),
    "teach": ("benchmarks.short_trainings:teach", "actrec teach on 12 clips of five UTD-MHAD actions"),
    "training": ("benchmarks.training:measure", "clips a second that each network learns from"),
    "visualization": ("benchmarks.pipeline:visualization", "processor time of visualization_node, by its subscribers"),
    "transport": ("benchmarks.pipeline:transport", "images from one process to another: share and latency"),
}
"""`module:function` and a one-line description by name."""


def in_process(function: str, *arguments: object) -> Any:
    """Call `module:function` with JSON values in a process of its own, so that memory and threads are its own.

    Raises:
        ActrecError: The call failed; the process has printed its error.
    """
    what = "" if not arguments else f" {arguments[0]}"
    called = output(f"{function}{what}", "-c", "import benchmarks; benchmarks._call()", function, json.dumps(arguments))
    return json.loads(called.splitlines()[-1])


def output(what: str, *arguments: str) -> str:
    """Run Python with these arguments, in this process's path, and return its output; raise ActrecError if it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise ActrecError(f"{what} failed (exit status {done.returncode}); see above")
    return done.stdout


def _call() -> None:
    module, function = sys.argv[1].split(":")
    try:
        print(json.dumps(getattr(importlib.import_module(module), function)(*json.loads(sys.argv[2]))))
    except ActrecError as error:
        sys.exit(str(error))


WARM_UP = 3


def time_graph(graph: str, examples: str, runs: int, threads: int) -> dict[str, float]:
    """Return the median milliseconds of a run of an ONNX graph, and the process's peak memory.

    Call it by `in_process`: without PyTorch and OpenCV, the memory is what ONNX Runtime and the network take.

    Args:
        graph: ONNX file.
        examples: .npz of its inputs by name.
        runs: Measured runs, after `WARM_UP` others.
        threads: Of ONNX Runtime.
    """
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the live recognizer runs
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    with np.load(examples) as file:
        inputs = {name: file[name] for name in file.files}
    seconds = []
    for _ in range(WARM_UP + runs):
        begun = time.perf_counter()
        session.run(None, inputs)
        seconds.append(time.perf_counter() - begun)
    return {"ms": 1000 * float(np.median(seconds[WARM_UP:])), "peak_mb": memory_mb("VmHWM")}


def memory_mb(kind: str, pid: int | str = "self") -> float:
    """Return the memory of a process by Linux, 10^6 bytes; NaN if it has ended, or elsewhere.

    `kind` is VmRSS (resident), RssAnon (resident, without files and shared memory) or VmHWM (peak of VmRSS).
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(kind):
                return int(line.split()[1]) * 1024 / 1e6
    return math.nan


def time_package(folder: str, precision: str, threads: int, calls: int) -> dict[str, Any]:
    """Return the milliseconds of one window, of the first after loading, and of four windows in one run.

    The network alone: features are made before. Call it by `in_process`.
    """
    import numpy as np

    from actrec.inference import zoo
    from actrec.inference.onnxruntime_backend import OnnxRuntimeBackend
    from actrec.inference.tensorrt.backend import simulated_windows

    def timed(inputs: dict[str, Any], calls: int) -> list[float]:
        times = []
        for _ in range(calls):
            began = time.perf_counter()
            backend.run(inputs)
            times.append(1000 * (time.perf_counter() - began))
        return times

    package = zoo.find(folder)
    alone, four = simulated_windows(package, 1), simulated_windows(package, 4)
    began = time.perf_counter()
    backend = OnnxRuntimeBackend(package, device="cpu", precision=precision, threads=threads)
    loaded = time.perf_counter() - began
    first = timed(alone, 1)[0]
    times, together = timed(alone, calls), timed(four, max(calls // 10, 1))
    return {
        "package": package.name, "precision": precision, "threads": threads,
        "p50_ms": round(float(np.median(times)), 2), "p99_ms": round(float(np.quantile(times, 0.99)), 2),
        "four_p50_ms": round(float(np.median(together)), 2), "first_ms": round(first, 1),
        "load_ms": round(1000 * loaded), "megabytes": round(package.onnx_path(precision).stat().st_size / 1e6, 1),
        "resident_mb": round(memory_mb("VmRSS")),
    }  # fmt: skip


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
