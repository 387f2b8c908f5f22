"""Decoder of RVL depth images, the format rvl of `compressed_depth_image_transport`.

Wilson, "Fast Lossless Depth Image Compression", ISS 2017: alternating counts of zero and nonzero pixels; the latter are
followed by their differences. A number is a sequence of nibbles of three bits, lowest first; the highest bit marks a
continuation. Eight nibbles form a little-endian word, the first one in its highest bits.
"""

import struct

import numpy as np

from actrec.utils.jit import kernel

_SIZE = struct.Struct("<II")

_MAX_PIXELS = 1 << 26
"""Limit for damaged headers; no depth camera has as many."""


def decode(data: np.ndarray) -> np.ndarray | None:
    """Decode the bytes [N] after the transport's header to [H, W] uint16; return None if they are damaged."""
    if len(data) < _SIZE.size:
        return None
    width, height = _SIZE.unpack(data[: _SIZE.size].tobytes())
    if not 0 < width * height <= _MAX_PIXELS:
        return None
    words = data[_SIZE.size :]
    out = np.zeros(width * height, np.uint16)
    whole = _unpack(words[: len(words) // 4 * 4].view("<u4").astype(np.uint32), out)
    return out.reshape(height, width) if whole else None


@kernel
def _number(words: np.ndarray, at: int) -> tuple[int, int]:
    """Return the number that starts at nibble `at`, and the next nibble; the number is negative at the end of data."""
    value, shift = 0, 0
    while at < 8 * len(words) and shift <= 30:
        nibble = int(np.int64(words[at >> 3]) >> (28 - 4 * (at & 7))) & 15
        value |= (nibble & 7) << shift
        at, shift = at + 1, shift + 3
        if nibble < 8:
            return value, at
    return -1, at


@kernel
def _unpack(words: np.ndarray, out: np.ndarray) -> bool:
    """Write the pixels to out [N]; return False if the data is too short or invalid."""
    done, at, last = 0, 0, 0
    while done < len(out):
        zeros, at = _number(words, at)
        count, at = _number(words, at)
        if zeros < 0 or count < 0 or zeros + count == 0 or zeros + count > len(out) - done:
            return False
        done += zeros
        for _ in range(count):
            step, at = _number(words, at)
            if step < 0:
                return False
            last += (step >> 1) ^ -(step & 1)
            out[done] = last & 0xFFFF
            done += 1
    return True
