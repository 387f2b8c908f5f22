"""Depth in RVL, as `compressed_depth_image_transport` sends it where its format is set to rvl.

Wilson, "Fast Lossless Depth Image Compression", ISS 2017: by turns how many pixels are 0, how many are not, and of the
latter the steps from each to the next. A number is a string of nibbles, three bits each, the lowest first; the highest
bit says that more follow. Eight nibbles make a little-endian word, the first in its highest bits.
"""

import struct

import numpy as np

from actrec.utils.jit import kernel

_SIZE = struct.Struct("<II")

_MAX_PIXELS = 1 << 26
"""A size that is damaged may be any; no depth camera has as many."""


def decode(data: np.ndarray) -> np.ndarray | None:
    """[H, W] uint16 of the bytes [N] that follow the transport's own header; None where they are damaged."""
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
    """The number whose first nibble is number `at`, and where the next one starts; negative where the data ends."""
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
    """Writes the pixels to out [N]; False where the words do not give as many."""
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
