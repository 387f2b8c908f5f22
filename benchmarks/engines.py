"""`actrec bench engines`: perception's networks as TensorRT engines, built on the CPU, and their float16 variants."""

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from scipy.special import expit

from actrec.cli import Parser, count
from actrec.inference.tensorrt import builder
from actrec.perception import create, networks
from actrec.perception.networks import NetworkConfig, PerceptionNetwork
from actrec.perception.pipeline import Pipeline
from actrec.perception.tensorrt_networks import NetworkSource, engine_settings
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.errors import MissingLibraryError

VIDEOS = ("videos/people_1080p.mp4", "videos/street_720p.avi", "ntu/rgb/S001C001P001R001A001_rgb.avi")
EVERY = 5  # frames


def measure(arguments: list[str]) -> dict[str, Any]:
    """Return a row for each network: its engines for compute capability 8.6, and float16's differences in ONNX Runtime.

    All values between are rounded to float16, as in a float16 engine that accumulates in float32.
    """
    parser = Parser(
        prog="actrec bench engines", description="Perception's engines by TensorRT for RTX, without a GPU.",
        epilog="Needs: pip install tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116 onnx",
    )  # fmt: skip
    data = Path(os.environ.get("ACTREC_DATA", "data"))
    parser.add_argument("--data", type=Path, default=data, help=f"folder with the videos, default {data}")
    parser.add_argument("--frames", type=count, default=20, help="of each video, default 20")
    args = parser.parse_args(arguments)
    try:
        trt = importlib.import_module("tensorrt_rtx_bindings")
    except ImportError as error:
        raise MissingLibraryError(f"{parser.epilog} ({error})") from error
    rows, regions = [], _regions([args.data / name for name in VIDEOS], args.frames)
    for name, file in networks.files().items():
        print(name, file=sys.stderr, flush=True)
        source, row = NetworkSource(file), {"network": name}
        for precision in ("fp32", "fp16"):
            row[precision] = _build(_CpuTensorRt(trt), source, engine_settings(NetworkConfig(precision=precision)))
        rows.append({**row, **_compare(source, np.stack(regions[name]))})
    return {"tensorrt_rtx": trt.__version__, "engines": rows}


class _CpuTensorRt:
    """TensorRT for RTX that builds for compute capability 8.6, and counts the layers of the last parsed network."""

    def __init__(self, trt: Any):
        self._trt, self.layers, outer = trt, 0, self

        class Builder(trt.Builder):  # type: ignore[misc]
            def create_builder_config(self) -> Any:
                made = super().create_builder_config()
                made.num_compute_capabilities = 1
                made.set_compute_capability(trt.ComputeCapability.SM86, 0)
                return made

            def build_serialized_network(self, network: Any, config: Any) -> Any:
                outer.layers = network.num_layers
                return super().build_serialized_network(network, config)

        self.Builder = Builder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trt, name)


def _build(trt: _CpuTensorRt, source: NetworkSource, settings: Any) -> dict[str, float]:
    began = time.perf_counter()
    content, _ = builder.build(trt, source, settings, b"")
    return {"layers": trt.layers, "s": round(time.perf_counter() - began, 1), "mb": round(len(content) / 1e6, 1)}


def _regions(videos: list[Path], frames: int) -> dict[str, list[np.ndarray]]:
    """Return the inputs [3, edge, edge] that each network gets on the videos, at most 80."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in networks.files()}
    run = PerceptionNetwork.run

    def record(self: PerceptionNetwork, image: Any, regions: Any, border: int = cv2.BORDER_REPLICATE) -> Any:
        file = self.file
        for region in regions:
            pixels = image.cut(region, file.edge, border).transpose(2, 0, 1).astype(np.float32)
            found[file.name].append(pixels * np.float32((file.high - file.low) / 255.0) + np.float32(file.low))
        return run(self, image, regions, border)

    PerceptionNetwork.run = record  # type: ignore[method-assign]
    try:
        for video in videos:
            color = _read(video, frames)
            for size in ("lite", "full"):
                people, hand = Pipeline(body_model=size, hand_model=size), create("hand", hand_model=size)
                face = create("face")
                for index, image in enumerate(color):
                    height, width = image.shape[:2]
                    lens = Intrinsics(width, height, width, width, width / 2, height / 2)
                    frame = RgbdFrame(stamp_ns=index * 10**8, color=image, depth=None, intrinsics=lens, frame_id="")
                    people.process(frame)
                    hand.estimate(frame, [])
                    face.estimate(frame, [])
    finally:
        PerceptionNetwork.run = run  # type: ignore[method-assign]
    return {name: inputs[:: max(1, len(inputs) // 80)][:80] for name, inputs in found.items()}


def _read(video: Path, frames: int) -> list[np.ndarray]:
    capture, images = cv2.VideoCapture(str(video)), []
    while len(images) < frames * EVERY and (read := capture.read())[0]:
        images.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return images[::EVERY]


def _compare(source: NetworkSource, images: np.ndarray) -> dict[str, Any]:
    """Return the differences in pixels of the input: of the landmarks that are found, or of the best box's center."""
    expected, found = (_outputs(content, images) for content in (source.read_onnx(), _rounded(source)))
    kind, score = ("landmarks", "presence") if "presence" in expected else ("boxes", "scores")
    logits = kind == "boxes" or source.name.startswith("face")
    limit = 0.6 if source.name == "face_detection_far" else 0.5
    chosen, other = ((expit(made[score]) if logits else made[score]) >= limit for made in (expected, found))
    apart = np.linalg.norm((found[kind] - expected[kind])[..., :2], axis=-1)
    if kind == "boxes":
        apart = apart[np.arange(len(images)), expected[score].argmax(axis=1)]
    else:
        apart = np.append(apart[chosen], np.nan)  # nothing may be found
    shown, changed = (mask.reshape(len(images), -1).any(axis=1) for mask in (chosen, chosen != other))
    return {
        "regions": len(images), "found": int(shown.sum()), "changed": int(changed.sum()),
        "p50_px": round(float(np.nanmedian(apart)), 3), "p95_px": round(float(np.nanpercentile(apart, 95)), 3),
    }  # fmt: skip


def _outputs(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # or casts are removed
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs() if value.name != "heatmaps"]
    rows = [session.run(names, {"image": image[None]}) for image in images]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def _rounded(source: NetworkSource) -> bytes:
    """Return the float32 network with constants and values between rounded to float16."""
    onnx = importlib.import_module("onnx")
    model = onnx.load_model_from_string(source.read_onnx())
    graph, kinds, nodes = model.graph, onnx.TensorProto, []

    def rounded(value: str, result: str) -> list[Any]:
        steps = ((value, f"{value}_half", kinds.FLOAT16), (f"{value}_half", result, kinds.FLOAT))
        return [onnx.helper.make_node("Cast", [start], [end], to=kind) for start, end, kind in steps]

    for node in graph.node:
        if node.op_type != "Cast":
            node.input[:] = ["rounded_image" if name == "image" else name for name in node.input]
            (name,) = node.output
            node.output[0] = f"{name}_exact"
            nodes += [node, *rounded(f"{name}_exact", name)]
        else:
            nodes.append(node)
    for tensor in graph.initializer:
        if tensor.data_type == kinds.FLOAT:
            tensor.raw_data = np.frombuffer(tensor.raw_data, np.float32).astype("<f2").astype("<f4").tobytes()
    del graph.node[:]
    graph.node.extend([*rounded("image", "rounded_image"), *nodes])
    return bytes(model.SerializeToString())
