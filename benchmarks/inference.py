"""`actrec bench inference`: latency of model packages in ONNX Runtime, in each precision they have, and memory."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from actrec.cli import Parser, count
from actrec.inference import zoo
from actrec.inference.onnxruntime_backend import OnnxRuntimeBackend
from actrec.inference.package import ModelPackage
from actrec.inference.tensorrt.backend import simulated_windows
from actrec.utils.errors import ActrecError, ConfigError, DeviceError

EPILOG = """\
Example:
  actrec bench inference
  actrec bench inference --packages deepacts_graph_nucla,~/my_model_int8 --calls 200
"""

NODE = ["-m", "actrec_nodes.bringup.processes", "recognizer_node"]

_SETTLED_S, _STARTING_S = 4.0, 60.0


def measure(arguments: list[str]) -> dict[str, Any]:
    """Return a row for each package, precision and number of threads, each in a process of its own."""
    args = _parser().parse_args(arguments)
    if args.calls < 1:
        raise ConfigError(f"--calls is {args.calls}, expected 1 or more")
    names = args.packages.split(",") if args.packages else [entry.name for entry in zoo.list_packages()]
    rows = []
    for name in names:
        package = zoo.find(name)
        for precision in package.precisions:
            for threads in (1, 2):
                print(f"{package.name} {precision}, {threads} threads", file=sys.stderr, flush=True)
                rows.append(_child(package, precision, threads, args.calls))
    figures: dict[str, Any] = {"calls": args.calls, "cores": os.cpu_count() or 1, "latency": rows}
    if args.node:
        figures["recognizer"] = [_node(zoo.find(name)) for name in names]
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="actrec bench inference",
        description="Latency and memory of model packages in ONNX Runtime.",
        epilog=EPILOG,
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--packages", default="", help="names or folders, with commas between (default: the zoo)")
    parser.add_argument("--calls", type=count, default=1000, help="that are timed (default: %(default)s)")
    parser.add_argument("--no-node", dest="node", action="store_false", help="leave the recognizer's memory out")
    return parser


def _child(package: ModelPackage, precision: str, threads: int, calls: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.inference",
        str(package.path),
        precision,
        f"{threads}",
        f"{calls}",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise DeviceError(f"measuring {package.name} in {precision} failed (exit status {done.returncode}); see above")
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def latency(folder: str, precision: str, threads: int, calls: int) -> dict[str, Any]:
    """Return the milliseconds of one window, of the first after loading, and of four windows in one run.

    The network alone: features are made before. Nothing was computed in this process before.
    """
    package = zoo.find(folder)
    alone, four = simulated_windows(package, 1), simulated_windows(package, 4)
    began = time.perf_counter()
    backend = OnnxRuntimeBackend(package, device="cpu", precision=precision, threads=threads)
    loaded = time.perf_counter() - began
    first = _timed(backend, alone, 1)[0]
    times, together = _timed(backend, alone, calls), _timed(backend, four, max(calls // 10, 1))
    return {
        "package": package.name, "precision": precision, "threads": threads,
        "p50_ms": round(float(np.median(times)), 2), "p99_ms": round(float(np.quantile(times, 0.99)), 2),
        "four_p50_ms": round(float(np.median(together)), 2), "first_ms": round(first, 1),
        "load_ms": round(1000 * loaded), "megabytes": round(package.onnx_path(precision).stat().st_size / 1e6, 1),
        "resident_mb": round(_resident(os.getpid())),
    }  # fmt: skip


def _timed(backend: OnnxRuntimeBackend, inputs: dict[str, np.ndarray], calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        backend.run(inputs)
        times.append(1000 * (time.perf_counter() - began))
    return times


def _node(package: ModelPackage) -> dict[str, Any]:
    """Return the resident memory of an active recognizer node in a process of its own."""
    command = [sys.executable, *NODE, "--ros-args", "-p", f"model:={package.path}", "-p", "autostart:=true"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        resident = _once_settled(process)
        modules = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        return {"package": package.name, "resident_mb": round(resident), "torch": "libtorch" in modules}
    finally:
        process.terminate()
        process.wait(10)


def _once_settled(process: "subprocess.Popen[str]") -> float:
    """Return the memory when it has not grown for some seconds."""
    end, last, since = time.monotonic() + _STARTING_S, 0.0, time.monotonic()
    while time.monotonic() < end:
        if process.poll() is not None:
            told = process.stderr.read() if process.stderr else ""
            raise DeviceError(f"the recognizer ended: {told.strip().splitlines()[-1:] or 'it does not say why'}")
        found = _resident(process.pid)
        if found > last + 1:
            last, since = found, time.monotonic()
        if found > 50 and time.monotonic() - since > _SETTLED_S:
            break
        time.sleep(0.25)
    return last


def _resident(pid: int) -> float:
    """Return the resident memory by Linux, in 10^6 bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e6


def main(arguments: list[str]) -> int:
    """Print one row as JSON."""
    folder, precision, threads, calls = arguments
    try:
        print(json.dumps(latency(folder, precision, int(threads), int(calls))))
    except ActrecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
