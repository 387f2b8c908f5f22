"""`actrec bench estimator-networks`: time of each network of perception on one thread, and agreement with LiteRT."""

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.cameras.simulated import SimulatedCamera
from actrec.cli import Parser, count
from actrec.perception.networks import NetworkConfig, NetworkFile, PerceptionNetwork, Region, SourceImage, files


def measure(arguments: list[str]) -> dict[str, Any]:
    """Measure CPU time of a run, and of cutting a region of 300 px; beside them LiteRT's if it and its files exist."""
    parser = Parser(
        prog="actrec bench estimator-networks", description="Time of each network of perception on one thread.",
        epilog="Example: actrec bench estimator-networks --tflite dense  # written by models/perception/convert.py",
    )  # fmt: skip
    parser.add_argument("--runs", type=count, default=50, help="runs of each network (default: 50)")
    parser.add_argument(
        "--tflite", type=Path, help="folder of .tflite files, run by LiteRT (pip install ai-edge-litert)"
    )
    args = parser.parse_args(arguments)
    with SimulatedCamera(actions=["wave"], realtime=False) as camera:
        frame = camera.read()
    assert frame.color is not None
    image, region = SourceImage(frame.color), Region(320.0, 240.0, 300.0, 0.2)
    cv2.setNumThreads(1)
    return {"networks": [_measured(file, image, region, args.runs, args.tflite) for file in files().values()]}


def _measured(file: NetworkFile, image: SourceImage, region: Region, runs: int, tflite: Path | None) -> dict[str, Any]:
    network = PerceptionNetwork(file.name, NetworkConfig(threads=1, cpu_precision="fp32"))
    people = [region, region, region, region, region]
    row: dict[str, Any] = {
        "network": file.name,
        "mb": round(file.path.stat().st_size / 1e6, 2),
        "cut_ms": _median_ms(lambda: image.cut(region, file.edge), runs),
        "region_ms": _median_ms(lambda: network.run(image, [region]), runs),
        "of_five_ms": _median_ms(lambda: network.run(image, people), max(runs // 5, 1)) / len(people),
    }
    if file.int8 is not None:
        quantized = PerceptionNetwork(file.name, NetworkConfig(threads=1, cpu_precision="int8"))
        row["int8_ms"] = _median_ms(lambda: quantized.run(image, [region]), runs)
    if tflite is not None:
        interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter
        lite = interpreter(str(tflite / f"{file.name}.tflite"), num_threads=1)
        lite.allocate_tensors()
        row["litert_ms"] = _median_ms(lite.invoke, runs)
    return row


def _median_ms(run: Callable[[], Any], runs: int) -> float:
    spent = []
    for _ in range(runs + 3):
        began = time.thread_time()
        run()
        spent.append(1e3 * (time.thread_time() - began))
    return float(np.median(spent[3:]))
