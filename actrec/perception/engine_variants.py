"""Variants of the networks of `models/perception` for TensorRT, written without the package `onnx`.

TensorRT 10 and newer can take the types of a network as they are. The stored files have float16 weights that are cast
to float32. The float16 variant has no such casts; its other constants are float16, and so are all values between the
float32 input and outputs. The int8 variant is made of the file for CPUs, whose activations are uint8 about a zero
point: TensorRT takes int8 about zero alone. Only the fields of ONNX's protocol buffers (onnx.proto) that these files
use are read.
"""

from collections.abc import Iterable, Iterator

import numpy as np

VERSION = "1"
"""Part of the hash of a variant: another version makes another one."""

FLOAT, UINT8, INT8, INT32, FLOAT16 = 1, 2, 3, 6, 10  # TensorProto.DataType

# Numbers of the fields in onnx.proto.
GRAPH = 7  # ModelProto
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 5, 11, 12, 13  # GraphProto; value_info: types of values between
NODE_INPUT, NODE_OUTPUT, NODE_NAME, OP_TYPE, ATTRIBUTE = 1, 2, 3, 4, 5  # NodeProto
DIMS, DATA_TYPE, FLOAT_DATA, INT32_DATA, TENSOR_NAME, RAW_DATA = 1, 2, 4, 5, 8, 9  # TensorProto
VALUE_NAME = 1  # ValueInfoProto
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TYPE = 1, 3, 20  # AttributeProto
INT = 2  # AttributeProto.AttributeType

Field = tuple[int, int | bytes]
"""Number of a field, and its value: an integer, or bytes with a length."""


def to_float16(content: bytes) -> bytes:
    """Return the ONNX file `content` in float16 between its float32 input and outputs."""
    return _join((number, _graph(value) if number == GRAPH else value) for number, value in _fields(content))


def to_symmetric_int8(content: bytes) -> bytes:
    """Return the ONNX file `content`, with uint8 activations, with int8 activations about zero and float32 biases.

    Values below a uint8 range that begins at zero are cut off by a Relu, as the range did; its step doubles.
    """
    return _join((number, _symmetric_graph(value) if number == GRAPH else value) for number, value in _fields(content))


def _symmetric_graph(content: bytes | int) -> bytes:
    fields = list(_fields(content))
    tensors = {_text(value, TENSOR_NAME): value for number, value in fields if number == INITIALIZER}
    made: dict[bytes, bytes] = {}
    nodes = []
    for node in (list(_fields(value)) for number, value in fields if number == NODE):
        inputs, (output, *_), kind = _all(node, NODE_INPUT), _all(node, NODE_OUTPUT), _first(node, OP_TYPE)
        if kind not in (b"QuantizeLinear", b"DequantizeLinear"):
            nodes.append(_join(node))
            continue
        value, scale, zero = inputs
        zeros, scales = _values(tensors[zero]), _values(tensors[scale])
        if zeros.dtype == np.int32:  # a bias
            made[output] = _constant(output, FLOAT, (_values(tensors[value]) * scales).astype("<f4"))
        elif zeros.dtype == np.int8:  # weights
            nodes.append(_join(node))
        else:
            names = scale + b"_symmetric", zero + b"_symmetric"
            step = scales * max(int(zeros), 255 - int(zeros)) / 127
            made |= {names[0]: _constant(names[0], FLOAT, step.astype("<f4")),
                     names[1]: _constant(names[1], INT8, np.int8(0))}  # fmt: skip
            if kind == b"QuantizeLinear" and zeros == 0:
                cut = output + b"_cut"
                nodes.append(_join([(NODE_INPUT, value), (NODE_OUTPUT, cut), (NODE_NAME, cut), (OP_TYPE, b"Relu")]))
                value = cut
            others = [(number, each) for number, each in node if number != NODE_INPUT]
            nodes.append(_join([*((NODE_INPUT, name) for name in (value, *names)), *others]))
    used = {name for node in nodes for name in _all(list(_fields(node)), NODE_INPUT)}
    kept = [tensor for name, tensor in {**tensors, **made}.items() if name in used]
    return _with_parts(fields, nodes, kept)


def _values(tensor: bytes | int) -> np.ndarray:
    """Return the numbers of a tensor in one of the types of a quantized file, of a scalar without an axis."""
    fields = list(_fields(tensor))
    found: dict[int, int | bytes] = dict(fields)
    kind = np.dtype({FLOAT: "<f4", UINT8: "u1", INT8: "i1", INT32: "<i4"}[int(found[DATA_TYPE])])
    packed = next((found[number] for number in (RAW_DATA, FLOAT_DATA) if number in found), None)
    if isinstance(packed, bytes):
        values = np.frombuffer(packed, kind)
    else:
        content, at, numbers = found[INT32_DATA], 0, []
        assert isinstance(content, bytes)
        while at < len(content):
            number, at = _integer(content, at)
            numbers.append(number)
        values = np.array(numbers, np.uint64).astype(kind)
    return values if any(number == DIMS for number, _ in fields) else values[0]


def _constant(name: bytes, kind: int, values: np.ndarray | np.generic) -> bytes:
    return _join(
        [*((DIMS, size) for size in values.shape), (DATA_TYPE, kind), (TENSOR_NAME, name), (RAW_DATA, values.tobytes())]
    )


def _graph(content: bytes | int) -> bytes:
    fields = list(_fields(content))
    nodes = [list(_fields(value)) for number, value in fields if number == NODE]
    inputs, outputs = (
        [_text(value, VALUE_NAME) for number, value in fields if number == kind] for kind in (INPUT, OUTPUT)
    )
    casts = {_first(node, NODE_INPUT): _first(node, NODE_OUTPUT) for node in nodes if _first(node, OP_TYPE) == b"Cast"}
    resizes = (node for node in nodes if _first(node, OP_TYPE) == b"Resize")
    kept = {name for node in resizes for name in _all(node, NODE_INPUT)[1:]}  # roi, scales
    inner = {name: name + b"_float16" for name in (*inputs, *outputs)}
    written = [_cast(name, inner[name], FLOAT16) for name in inputs]
    for node in nodes:
        if _first(node, OP_TYPE) != b"Cast":
            ends = (NODE_INPUT, NODE_OUTPUT)
            renamed = ((n, inner.get(v, v) if n in ends and isinstance(v, bytes) else v) for n, v in node)
            written.append(_join(renamed))
    written += [_cast(inner[name], name, FLOAT) for name in outputs]
    tensors = [_tensor(value, casts, kept) for number, value in fields if number == INITIALIZER]
    return _with_parts(fields, written, tensors)


def _with_parts(graph: list[Field], nodes: Iterable[bytes], tensors: Iterable[bytes | int]) -> bytes:
    """Return a graph with other nodes and constants, without the types of values between."""
    others = [field for field in graph if field[0] not in (NODE, INITIALIZER, VALUE_INFO)]
    return _join([*((NODE, node) for node in nodes), *((INITIALIZER, tensor) for tensor in tensors), *others])


def _tensor(content: bytes | int, casts: dict[bytes, bytes], kept: set[bytes]) -> bytes:
    """Return a constant in float16, under the name that its cast had."""
    fields = dict(_fields(content)) | {DIMS: 0}
    name = bytes(fields[TENSOR_NAME])
    half = fields[DATA_TYPE] == FLOAT and name not in kept
    changed = {TENSOR_NAME: casts.get(name, name)} | ({DATA_TYPE: FLOAT16} if half else {})
    if half:
        with np.errstate(over="ignore"):
            changed[RAW_DATA] = np.frombuffer(fields[RAW_DATA], "<f4").astype("<f2").tobytes()  # type: ignore[arg-type]
    return _join((number, changed.get(number, value)) for number, value in _fields(content))


def _cast(source: bytes, target: bytes, kind: int) -> bytes:
    attribute = _join([(ATTRIBUTE_NAME, b"to"), (ATTRIBUTE_INT, kind), (ATTRIBUTE_TYPE, INT)])
    name = target + b"_cast"
    return _join(
        [(NODE_INPUT, source), (NODE_OUTPUT, target), (NODE_NAME, name), (OP_TYPE, b"Cast"), (ATTRIBUTE, attribute)]
    )


def _fields(message: bytes | int) -> Iterator[Field]:
    """Yield the fields of a message, which has integers and bytes alone."""
    assert isinstance(message, bytes)
    at = 0
    while at < len(message):
        key, at = _integer(message, at)
        value, at = _integer(message, at)
        if key & 7 == 2:
            yield key >> 3, message[at : at + value]
            at += value
        else:
            assert key & 7 == 0, "a field of fixed size"
            yield key >> 3, value


def _integer(message: bytes, at: int) -> tuple[int, int]:
    """Return the integer at a place, and the place after it."""
    value = shift = 0
    while True:
        byte = message[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def _join(fields: Iterable[Field]) -> bytes:
    """Return the message of these fields."""
    parts = []
    for number, value in fields:
        if isinstance(value, bytes):
            parts += [_bytes(number << 3 | 2), _bytes(len(value)), value]
        else:
            parts += [_bytes(number << 3), _bytes(value)]
    return b"".join(parts)


def _bytes(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _all(fields: list[Field], number: int) -> list[bytes]:
    return [value for key, value in fields if key == number and isinstance(value, bytes)]


def _first(fields: list[Field], number: int) -> bytes:
    return _all(fields, number)[0]


def _text(message: bytes | int, number: int) -> bytes:
    return _first(list(_fields(message)), number)
