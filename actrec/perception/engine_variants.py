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

Field = tuple[int, int | bytes]
"""Number of a field, and its value: an integer, or bytes with a length."""


def to_float16(content: bytes) -> bytes:
    """Return the ONNX file `content` in float16 between its float32 input and outputs."""
    return _join((number, _graph(value) if number == 7 else value) for number, value in _fields(content))


def to_symmetric_int8(content: bytes) -> bytes:
    """Return the ONNX file `content`, with uint8 activations, with int8 activations about zero and float32 biases.

    Values below a uint8 range that begins at zero are cut off by a Relu, as the range did; its step doubles.
    """
    return _join((number, _symmetric_graph(value) if number == 7 else value) for number, value in _fields(content))


def _symmetric_graph(content: bytes | int) -> bytes:
    fields = list(_fields(content))
    tensors = {_text(value, 8): value for number, value in fields if number == 5}
    made: dict[bytes, bytes] = {}
    nodes = []
    for node in (list(_fields(value)) for number, value in fields if number == 1):
        inputs, (output, *_), kind = _all(node, 1), _all(node, 2), _first(node, 4)
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
                nodes.append(_join([(1, value), (2, cut), (3, cut), (4, b"Relu")]))
                value = cut
            others = [(number, each) for number, each in node if number != 1]
            nodes.append(_join([*((1, name) for name in (value, *names)), *others]))
    used = {name for node in nodes for name in _all(list(_fields(node)), 1)}
    kept = [tensor for name, tensor in {**tensors, **made}.items() if name in used]
    rest = [(number, value) for number, value in fields if number not in (1, 5, 13)]  # 13: types between
    return _join([*((1, node) for node in nodes), *((5, tensor) for tensor in kept), *rest])


def _values(tensor: bytes | int) -> np.ndarray:
    """Return the numbers of a tensor in one of the types of a quantized file, of a scalar without an axis."""
    fields = list(_fields(tensor))
    found: dict[int, int | bytes] = dict(fields)
    kind = np.dtype({FLOAT: "<f4", UINT8: "u1", INT8: "i1", INT32: "<i4"}[int(found[2])])
    packed = next((found[number] for number in (9, 4) if number in found), None)
    if isinstance(packed, bytes):  # raw_data, float_data
        values = np.frombuffer(packed, kind)
    else:  # int32_data
        content, at, numbers = found[5], 0, []
        assert isinstance(content, bytes)
        while at < len(content):
            number, at = _integer(content, at)
            numbers.append(number)
        values = np.array(numbers, np.uint64).astype(kind)
    return values if any(number == 1 for number, _ in fields) else values[0]


def _constant(name: bytes, kind: int, values: np.ndarray | np.generic) -> bytes:
    return _join([*((1, size) for size in values.shape), (2, kind), (8, name), (9, values.tobytes())])


def _graph(content: bytes | int) -> bytes:
    fields = list(_fields(content))
    nodes = [(list(_fields(value))) for number, value in fields if number == 1]
    inputs, outputs = ([_text(value, 1) for number, value in fields if number == kind] for kind in (11, 12))
    casts = {_first(node, 1): _first(node, 2) for node in nodes if _first(node, 4) == b"Cast"}
    kept = {name for node in nodes if _first(node, 4) == b"Resize" for name in _all(node, 1)[1:]}  # roi, scales
    inner = {name: name + b"_float16" for name in (*inputs, *outputs)}
    written = [_cast(name, inner[name], FLOAT16) for name in inputs]
    for node in nodes:
        if _first(node, 4) != b"Cast":
            renamed = ((n, inner.get(v, v) if n in (1, 2) and isinstance(v, bytes) else v) for n, v in node)
            written.append(_join(renamed))
    written += [_cast(inner[name], name, FLOAT) for name in outputs]
    tensors = [_tensor(value, casts, kept) for number, value in fields if number == 5]
    others = [(number, value) for number, value in fields if number not in (1, 5, 13)]  # 13: types between
    return _join([*((1, node) for node in written), *((5, tensor) for tensor in tensors), *others])


def _tensor(content: bytes | int, casts: dict[bytes, bytes], kept: set[bytes]) -> bytes:
    """Return a constant in float16, under the name that its cast had."""
    fields = dict(_fields(content)) | {1: 0}
    name = bytes(fields[8])
    half = fields[2] == FLOAT and name not in kept
    changed = {8: casts.get(name, name)} | ({2: FLOAT16} if half else {})
    if half:
        with np.errstate(over="ignore"):
            changed[9] = np.frombuffer(fields[9], "<f4").astype("<f2").tobytes()  # type: ignore[arg-type]
    return _join((number, changed.get(number, value)) for number, value in _fields(content))


def _cast(source: bytes, target: bytes, kind: int) -> bytes:
    attribute = _join([(1, b"to"), (3, kind), (20, 2)])
    return _join([(1, source), (2, target), (3, target + b"_cast"), (4, b"Cast"), (5, attribute)])


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
