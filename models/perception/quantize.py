"""Write the int8 files of the networks that INT8 makes faster on a CPU with VNNI instructions.

    convert/bin/python -m pip install actrec  # in the environment of convert.py
    convert/bin/python models/perception/quantize.py VIDEO_OR_FOLDER_OF_IMAGES …

Post-training static quantization of ONNX Runtime: weights int8 per channel, activations uint8 with the ranges of
`SAMPLES` regions, which `actrec.perception` cuts from the images and from the simulated camera. The first layers and
the last ones stay in float32: they take little time and cause most of the error. TensorRT takes the variant of
`actrec.perception.engine_variants`. `hand_landmarks_full` stays in float32: in int8, hand gestures are confused more
often (SHREC'17 from pixels, `sem_spa_pair_shrec17`: 42 of 53 clips are right instead of 47).
"""

import argparse
import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import yaml
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from actrec.cameras.simulated import SimulatedCamera
from actrec.perception.networks import NetworkFile, PerceptionNetwork, files
from actrec.perception.pipeline import Pipeline, create
from actrec.types import Intrinsics, RgbdFrame

HERE = Path(__file__).parent

# Name: numbers of the nodes in the converted file that stay in float32.
FLOAT = {
    "person_detection": (range(12), range(123, 157)),
    "body_landmarks_full": (range(12), range(97, 187)),
    "hand_landmarks_lite": (range(10), range(90, 102)),
}

QUANTIZED = ["Conv", "Clip", "Relu", "Add", "MaxPool"]

SAMPLES, FRAMES = 48, 50


def main() -> None:
    """Quantize the networks, and add their hashes to `networks.yaml`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+", help="videos, or folders of images, with people")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of networks.yaml, default: this one")
    args = parser.parse_args()
    regions = record([_rendered(), *map(_read, args.images)])
    manifest = yaml.safe_load((args.out / "networks.yaml").read_text())
    for name, kept in FLOAT.items():
        content = quantize(files()[name], regions[name], {number for numbers in kept for number in numbers})
        (args.out / f"{name}.int8.onnx").write_bytes(content)
        manifest["networks"][name]["int8"] = {"sha256": hashlib.sha256(content).hexdigest(), "regions": SAMPLES}
        print(f"{name}: {len(content) / 1e6:.2f} MB", flush=True)
    text = yaml.safe_dump(manifest, sort_keys=False, default_flow_style=None, width=120)
    (args.out / "networks.yaml").write_text(f"# Written by convert.py and quantize.py.\n{text}")


def _rendered() -> Iterator[np.ndarray]:
    with SimulatedCamera(actions=["wave"], realtime=False, fps=10.0) as camera:
        for _ in range(FRAMES):
            color = camera.read().color
            assert color is not None
            yield color


def _read(path: Path) -> Iterator[np.ndarray]:
    """Yield up to `FRAMES` images of a video or folder, RGB, at equal distances."""
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.suffix in (".jpg", ".png")]
        colors = [file for file in found if "depth" not in file.name and "mask" not in str(file)]
        for file in colors[:: max(len(colors) // FRAMES, 1)]:
            yield cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        return
    video = cv2.VideoCapture(str(path))
    step = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // FRAMES, 1)
    index = 0
    while (image := video.read()[1]) is not None:
        if index % step == 0:
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        index += 1


def record(sources: list[Iterator[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """Return the inputs [3, edge, edge] that each network gets on the images."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    run = PerceptionNetwork.run

    def record_and_run(self: PerceptionNetwork, image: Any, regions: Any, border: int = cv2.BORDER_REPLICATE) -> Any:
        file = self.file
        for region in regions:
            pixels = image.cut(region, file.edge, border).transpose(2, 0, 1).astype(np.float32)
            found[file.name].append(pixels * np.float32((file.high - file.low) / 255.0) + np.float32(file.low))
        return run(self, image, regions, border)

    PerceptionNetwork.run = record_and_run  # type: ignore[method-assign]
    try:
        for source in sources:
            people, hand = Pipeline(cpu_precision="fp32"), create("hand", cpu_precision="fp32")
            for index, color in enumerate(source):
                height, width = color.shape[:2]
                lens = Intrinsics(width, height, width, width, width / 2, height / 2)
                frame = RgbdFrame(stamp_ns=index * 10**8, color=color, depth=None, intrinsics=lens, frame_id="")
                people.process(frame)
                hand.estimate(frame, [])
    finally:
        PerceptionNetwork.run = run  # type: ignore[method-assign]
    return found


class _Regions(CalibrationDataReader):
    def __init__(self, images: list[np.ndarray]):
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image[None]}


def quantize(file: NetworkFile, images: list[np.ndarray], kept: set[int]) -> bytes:
    """Return the int8 file of a network, with ranges of `SAMPLES` of the images [3, edge, edge].

    Args:
        file: The network.
        images: Its inputs.
        kept: Numbers at the end of the names of nodes that stay in float32.
    """
    chosen = np.random.default_rng(0).permutation(len(images))[:SAMPLES]
    with tempfile.TemporaryDirectory() as folder:
        folded, written = Path(folder) / "folded.onnx", Path(folder) / "int8.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        onnxruntime.InferenceSession(file.read(), options, providers=["CPUExecutionProvider"])
        nodes = [node.name for node in onnx.load(folded).graph.node]
        quantize_static(
            folded, written, _Regions([images[index] for index in chosen]), quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED, per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[name for name in nodes if name.rsplit("_", 1)[-1] in map(str, kept)],
        )  # fmt: skip
        model = onnx.load(written)
    _store_half(model.graph)
    del model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _store_half(graph: onnx.GraphProto) -> None:
    """Store float32 weights as float16 where this loses nothing, as in the float files."""
    casts = []
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = value.astype(np.float16) if value.dtype == np.float32 else None
        if half is not None and value.size >= 64 and np.array_equal(half.astype(np.float32), value):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


if __name__ == "__main__":
    main()
