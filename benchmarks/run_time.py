"""Time and memory of one ONNX graph in a process that does nothing else: `python -m benchmarks.run_time`.

Neither PyTorch nor OpenCV is loaded here, so that the memory is what ONNX Runtime and the network take.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime

WARM_UP = 3


def measure(graph: Path, examples: Path, runs: int, threads: int) -> dict[str, float]:
    """Return the median milliseconds of a run, and the process's peak memory.

    Args:
        graph: ONNX file.
        examples: .npz of its inputs by name.
        runs: Measured runs, after `WARM_UP` others.
        threads: Of ONNX Runtime.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the live recognizer runs
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    with np.load(examples) as file:
        inputs = {name: file[name] for name in file.files}
    seconds = []
    for _ in range(WARM_UP + runs):
        begun = time.perf_counter()
        session.run(None, inputs)
        seconds.append(time.perf_counter() - begun)
    return {"ms": 1000 * float(np.median(seconds[WARM_UP:])), "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    """Largest resident memory of this process so far (Linux's VmHWM), 10^6 bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    print(json.dumps(measure(args.graph, args.examples, args.runs, args.threads)))


if __name__ == "__main__":
    main()
