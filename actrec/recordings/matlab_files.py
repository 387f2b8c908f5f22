"""Reading of MATLAB files of the versions 5 to 7: arrays of numbers, texts, and cells of them.

`scipy.io.loadmat` ends the process at some damaged files, with a segmentation fault.
Format: MathWorks, MAT-File Format (R2024b), chapter "Level 5 MAT-Files".
"""

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
_CELL, _CHAR = 1, 4
_COMPLEX = 0x800
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of numbers in a file, by the number of their type."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Types of the numbers of an array, by its class."""
_TEXTS = {4: "utf-16-", 16: "utf-8", 17: "utf-16-"}
"""Encodings of texts, but Latin-1; UTF-16 has the file's order of bytes."""
_MOST_CELLS_DEEP = 8


def parse(content: bytes, limit: int) -> dict[str, Any]:
    """Return the arrays of numbers, the texts and the cells of a MATLAB file, by name.

    Args:
        content: The file.
        limit: Most bytes of all compressed arrays.

    Raises:
        ValueError: It is damaged, of another version, or has more than `limit` bytes.
    """
    orders = {b"IM": "<", b"MI": ">"}
    if len(content) < _HEADER or (order := orders.get(content[126:128])) is None:
        raise ValueError("it does not start as a file of the versions 5 to 7; save it with -v7")
    found, left = {}, limit
    for kind, body in _elements(memoryview(content)[_HEADER:], order):
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(body, left + 1)
            left -= len(unpacked)
            if left < 0:
                raise ValueError(f"its arrays have more than {limit} bytes")
            kind, body = next(_elements(memoryview(unpacked), order), (0, memoryview(b"")))
        if kind == _MATRIX:
            name, value = _array(body, order, 0)
            if value is not None and name:
                found[name] = value
    return found


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and content of successive elements."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if is_small := kind >> 16 > 0:
            kind, size = kind & 0xFFFF, kind >> 16
        start = at + (4 if is_small else 8)
        body = data[start : start + size]
        if len(body) < size or (is_small and size > 4):
            raise ValueError("an element is longer than its place: the file is truncated or damaged")
        yield kind, body
        at = at + 8 if is_small else start + size + (0 if kind == _COMPRESSED else -size % 8)


def _array(body: memoryview, order: str, depth: int) -> tuple[str, Any]:
    """Return name and value of an array; None for an array of another kind."""
    if not body:  # an empty cell
        return "", np.zeros((0, 0))
    parts = _elements(body, order)
    try:
        flags, sizes, name = (bytes(content) for _, content in islice(parts, 3))
        dimensions = np.frombuffer(sizes, f"{order}i4").tolist()
        (word,) = struct.unpack_from(f"{order}I", flags)
        kind = word & 0xFF
        if min(dimensions, default=-1) < 0:
            raise ValueError(f"an array has the size {dimensions}")
        if kind == _CELL:
            return name.decode("latin-1"), _cells(list(parts), order, dimensions, depth)
        if kind not in (_CHAR, *_CLASSES):
            return name.decode("latin-1"), None
        stored, data = next(parts)
        imaginary = next(parts) if word & _COMPLEX else None
    except StopIteration as error:
        raise ValueError("an array is incomplete") from error
    except struct.error as error:
        raise ValueError(f"an array has no class: {error}") from error
    if kind == _CHAR:
        encoding = _TEXTS.get(stored, "latin-1")
        encoding += ("le" if order == "<" else "be") if encoding == "utf-16-" else ""
        return name.decode("latin-1"), np.array(bytes(data).decode(encoding))
    with np.errstate(invalid="ignore"):  # numbers of a damaged file that the class does not hold
        values = _numbers(stored, data, order, dimensions).astype(_CLASSES[kind])
    if imaginary is not None:
        values = values + 1j * _numbers(*imaginary, order, dimensions)
    return name.decode("latin-1"), values


def _numbers(stored: int, data: memoryview, order: str, dimensions: list[int]) -> np.ndarray:
    values = np.frombuffer(data, order + _STORED[stored]) if stored in _STORED else np.zeros(0)
    if len(values) != math.prod(dimensions):
        raise ValueError(f"an array of the size {dimensions} has {len(values)} numbers")
    return values.reshape(dimensions, order="F")


def _cells(parts: list[tuple[int, memoryview]], order: str, dimensions: list[int], depth: int) -> np.ndarray:
    if depth >= _MOST_CELLS_DEEP or len(parts) != math.prod(dimensions):
        raise ValueError(f"cells of the size {dimensions} hold {len(parts)} arrays, or are nested too deeply")
    values = np.empty(len(parts), object)
    for k, (kind, body) in enumerate(parts):
        values[k] = _array(body, order, depth + 1)[1] if kind == _MATRIX else None
    return values.reshape(dimensions, order="F")
