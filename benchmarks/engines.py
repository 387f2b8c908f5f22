"""`actrec bench engines`: networks parsed and built by TensorRT for RTX, without a GPU; precisions of perception."""

import argparse
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
from actrec.inference import zoo
from actrec.inference.tensorrt import builder
from actrec.inference.tensorrt.builder import BuildConfig, EngineSource
from actrec.inference.tensorrt.libraries import RTX
from actrec.perception import create, networks
from actrec.perception.networks import NetworkConfig, PerceptionNetwork
from actrec.perception.pipeline import Pipeline
from actrec.perception.tensorrt_networks import NetworkSource, engine_settings
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.errors import ActrecError, ConfigError, DeviceError
from benchmarks import in_process

VIDEOS = ("videos/people_1080p.mp4", "videos/street_720p.avi", "ntu/rgb/S001C001P001R001A001_rgb.avi")
EVERY = 5  # frames
CLASSES = 60
CAPABILITY = "sm_86"
PRECISIONS = {"float32": "fp32", "float16": "fp16", "int8": "int8"}


def measure(arguments: list[str]) -> dict[str, Any]:
    """Return a row for each network and precision: layers, seconds to parse and to build, size of the engine.

    CPU seconds of the build are of all threads, and hardly depend on what else the machine does.
    """
    parser = Parser(
        prog="actrec bench engines",
        description=f"Engines for {CAPABILITY} by TensorRT for RTX, without a GPU: of the shipped packages, of "
        "perception, and of all networks at full size in float32.", epilog="Needs: pip install 'actrec[rtx,train]'",
    )  # fmt: skip
    data = Path(os.environ.get("ACTREC_DATA", "data"))
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", help="networks, packages or their folders")
    add("--limit", type=float, default=180.0, metavar="SECONDS", help="stop a build after this long, default 180")
    add("--differences", action="store_true", help="instead: float16 and int8 of perception against float32, on the "
        "videos")  # fmt: skip
    add("--data", type=Path, default=data, help=f"folder with the videos, default {data}")
    add("--frames", type=count, default=20, help="of each video, default 20")
    args = parser.parse_args(arguments)
    version = RTX.open().__version__
    if args.differences:
        return {"differences": _differences(args)}
    rows = []
    for name in args.only or [*_packages(), *networks.files(), *_models()]:
        print(name, file=sys.stderr, flush=True)
        rows += in_process("benchmarks.engines:build_rows", name, args.limit)
    return {"tensorrt_rtx": version, "capability": CAPABILITY, "engines": rows}


def build_rows(name: str, limit_s: float) -> list[dict[str, Any]]:
    """Return the rows of one network; `error` instead of figures if it is refused, or not built within the limit."""
    rows = []
    for precision, source, settings in _sources(name):
        row: dict[str, Any] = {"network": name, "precision": precision}
        try:
            row |= _build(source, settings, limit_s)
        except ActrecError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


def _build(source: EngineSource, settings: BuildConfig, limit_s: float) -> dict[str, float]:
    trt = RTX.open()
    log = trt.Logger(trt.Logger.ERROR)
    made, began = trt.Builder(log), time.perf_counter()
    network, _parser = builder.parse(trt, made, log, source, builder.source_of(trt, source, settings))
    parsed_s, layers = time.perf_counter() - began, network.num_layers
    began, busy = time.perf_counter(), time.process_time()

    def stop_late(*_: object) -> None:
        if time.perf_counter() - began > limit_s:
            raise DeviceError(f"not built in {limit_s:g} s")

    content, _ = builder.build(trt, source, settings, b"", stop_late, capability=CAPABILITY)
    built_s, cpu_s = time.perf_counter() - began, time.process_time() - busy
    return {
        "layers": layers, "parse_s": round(parsed_s, 2), "build_s": round(built_s, 1), "build_cpu_s": round(cpu_s, 1),
        "mb": round(len(content) / 1e6, 1),
    }  # fmt: skip


def _packages() -> list[str]:
    return [entry.name for entry in zoo.list_packages() if entry.package is not None]


def _models() -> list[str]:
    return [str(name) for name in importlib.import_module("actrec_models").list_models()]


def _sources(name: str) -> list[tuple[str, EngineSource, BuildConfig]]:
    """Return the network's sources of engines by precision."""
    if name in networks.files():
        file = NetworkSource(networks.files()[name])
        config = {name: NetworkConfig(precision=PRECISIONS[name]) for name in file.precisions}
        return [(PRECISIONS[name], file, engine_settings(file.file, config[name])) for name in file.precisions]
    if name in _models():
        return [("fp32", _Traced(name), BuildConfig(precision="fp32"))]
    package = zoo.find(name)
    return [(PRECISIONS[name], package, BuildConfig(precision=PRECISIONS[name])) for name in package.precisions]


class _Traced:
    """A network of a paper with the options of its paper, untrained, as a source of engines."""

    precisions = ("float32",)

    def __init__(self, name: str):
        torch, models = (importlib.import_module(module) for module in ("torch", "actrec_models"))
        graphs = importlib.import_module("actrec_models.export.onnx_graph")
        torch.manual_seed(1)
        network = models.create(name, num_classes=CLASSES)
        self.name, self._content = name, bytes(graphs.trace(network))
        self.input_shapes = {spec.name: tuple(spec.shape) for spec in network.input_specs}

    def onnx_path(self, precision: str = "float32") -> Path:
        """Return a name for messages."""
        return Path(f"{self.name}.onnx")

    def onnx_sha256(self, precision: str = "float32") -> str:
        """Return no hash: nothing is stored."""
        return ""

    def read_onnx(self, precision: str = "float32") -> bytes:
        """Return the graph."""
        return self._content


# -- precisions of perception ------------------------------------------------------------------------------------------


def _differences(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the differences of float16 and int8 from float32 in ONNX Runtime, for each network of perception.

    In float16 all values between are rounded, as in a float16 engine that accumulates in float32.
    """
    if missing := [name for name in VIDEOS if not (args.data / name).is_file()]:
        raise ConfigError(f"{args.data / missing[0]} is missing: name the folder of the videos with --data")
    regions = recorded_regions([args.data / name for name in VIDEOS], args.frames)
    rows = []
    for name, file in networks.files().items():
        source, images = NetworkSource(file), np.stack(regions[name])
        expected = outputs(source.read_onnx(), images)
        for precision in source.precisions[1:]:
            content = _rounded(source) if precision == "float16" else source.read_onnx(precision)
            found = outputs(content, images)
            rows.append({"network": name, "precision": PRECISIONS[precision], **difference(name, expected, found)})
    return rows


def recorded_regions(videos: list[Path], frames: int) -> dict[str, list[np.ndarray]]:
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
    capture = cv2.VideoCapture(str(video))
    images: list[np.ndarray] = []
    while len(images) < frames * EVERY and (read := capture.read())[0]:
        images.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return images[::EVERY]


def difference(name: str, expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the differences in pixels of the input: of the landmarks that are found, or of the best box's center."""
    kind, score = ("landmarks", "presence") if "presence" in expected else ("boxes", "scores")
    logits = kind == "boxes" or name.startswith("face")
    limit = 0.6 if name == "face_detection_far" else 0.5
    chosen, other = ((expit(made[score]) if logits else made[score]) >= limit for made in (expected, found))
    apart = np.linalg.norm((found[kind] - expected[kind])[..., :2], axis=-1)
    if kind == "boxes":
        apart = apart[np.arange(len(apart)), expected[score].argmax(axis=1)]
    else:
        apart = np.append(apart[chosen], np.nan)  # nothing may be found
    shown, changed = (mask.reshape(len(mask), -1).any(axis=1) for mask in (chosen, chosen != other))
    return {
        "regions": len(chosen), "found": int(shown.sum()), "changed": int(changed.sum()),
        "p50_px": round(float(np.nanmedian(apart)), 3), "p95_px": round(float(np.nanpercentile(apart, 95)), 3),
    }  # fmt: skip


def outputs(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs without heatmaps for images [N, 3, edge, edge], by ONNX Runtime as the graph is."""
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
