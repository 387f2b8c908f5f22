"""Benchmarks: measurements that `actrec bench` runs in a checkout; they are not installed.

This module has what several of them need. It imports libraries inside of functions, since the memory of a process that
runs one of these is measured.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from actrec.utils.errors import ActrecError


def in_process(function: str, *arguments: object) -> Any:
    """Call `module:function` with JSON values in a process of its own, so that memory and threads are its own.

    Raises:
        ActrecError: The call failed; the process has printed its error.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", "import benchmarks; benchmarks._call()", function, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise ActrecError(f"{function} {arguments[0]} failed (exit status {done.returncode}); see above")
    return json.loads(done.stdout.splitlines()[-1])


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
    """Return the memory of a process by Linux, 10^6 bytes; `kind` is VmRSS (resident) or VmHWM (its peak)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) * 1024 / 1e6


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
