"""`actrec bench inference`: latency and memory of model packages, without PyTorch, as on a robot."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from actrec.cli import Parser, count
from actrec.inference import zoo
from actrec.inference.package import ModelPackage
from actrec.utils.errors import DeviceError
from benchmarks import WARM_UP, in_process, memory_mb

NODE = ["-m", "actrec_nodes.bringup.processes", "recognizer_node"]

_SETTLED_S, _STARTING_S = 4.0, 60.0


def measure(arguments: list[str]) -> dict[str, Any]:
    """Return a row for each package, precision and number of threads, each in a process of its own."""
    parser = Parser(
        prog="actrec bench inference", description="Latency and memory of model packages in ONNX Runtime.",
        epilog="Example: actrec bench inference --packages deepacts_graph_nucla,~/my_model_int8 --calls 200",
    )  # fmt: skip
    parser.add_argument("--packages", default="", help="names or folders, with commas between (default: the zoo)")
    parser.add_argument("--calls", type=count, default=1000, help="that are timed (default: %(default)s)")
    against = "ONNX files, with commas between: they and the packages are run in turns, by which they are compared"
    parser.add_argument("--against", default="", metavar="FILES", help=against)
    parser.add_argument("--no-node", dest="node", action="store_false", help="leave the recognizer's memory out")
    args = parser.parse_args(arguments)
    names = args.packages.split(",") if args.packages else [entry.name for entry in zoo.list_packages()]
    rows = []
    for name in names:
        package = zoo.find(name)
        for precision in package.precisions:
            for threads in (1, 2):
                print(f"{package.name} {precision}, {threads} threads", file=sys.stderr, flush=True)
                rows.append(in_process("benchmarks:time_package", str(package.path), precision, threads, args.calls))
    figures: dict[str, Any] = {"calls": args.calls, "cores": os.cpu_count() or 1, "latency": rows}
    if args.against:
        files = [str(Path(each).expanduser()) for each in args.against.split(",")]
        paths = [*files, *(str(zoo.find(name).onnx_path("float32")) for name in names)]
        figures["in_turns"] = [
            row for threads in (1, 2) for row in in_process("benchmarks.inference:in_turns", paths, threads, args.calls)
        ]
    if args.node:
        figures["recognizer"] = [_node(zoo.find(name)) for name in names]
    return figures


def in_turns(paths: list[str], threads: int, calls: int) -> list[dict[str, Any]]:
    """Return the milliseconds of one window of ONNX files, and how many times faster than the first one each is.

    They are called in turns, so that a machine that becomes slower does so for all. Inputs are random numbers; an axis
    of free size has one window. Call it by `in_process`.

    Raises:
        DeviceError: A file cannot be read.
        PackageError: A file is no network.
    """
    import numpy as np

    from actrec.inference.onnxruntime_backend import open_session

    random, runs = np.random.default_rng(0), []
    for path in paths:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise DeviceError(f"cannot read '{path}': {error.strerror}; check --against") from error
        session = open_session(content, path, threads, "cpu", "give an ONNX file")
        shapes = {
            each.name: [size if isinstance(size, int) else 1 for size in each.shape] for each in session.get_inputs()
        }
        runs.append((session, {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}))
    times: list[list[float]] = [[] for _ in paths]
    for call in range(WARM_UP + calls):
        for each, (session, inputs) in zip(times, runs, strict=True):
            began = time.perf_counter()
            session.run(None, inputs)
            if call >= WARM_UP:
                each.append(1000 * (time.perf_counter() - began))
    medians = [float(np.median(each)) for each in times]
    names = [Path(path).parent.name if Path(path).name == "model.onnx" else Path(path).stem for path in paths]
    return [
        {
            "network": name,
            "threads": threads,
            "p50_ms": round(median, 2),
            "times_as_fast": round(medians[0] / median, 2),
        }
        for name, median in zip(names, medians, strict=True)
    ]


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
            raise DeviceError(f"the recognizer ended: {told.strip().splitlines()[-1:] or 'no message'}")
        found = memory_mb("VmRSS", process.pid)
        if found > last + 1:
            last, since = found, time.monotonic()
        if found > 50 and time.monotonic() - since > _SETTLED_S:
            break
        time.sleep(0.25)
    return last
