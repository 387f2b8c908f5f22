"""GPU kernels on the CPU: `kernels.cu` compiled as plain C++, with a grid of one thread."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from actrec.scene_flow.primal_dual.gpu import KERNELS

PLAIN = """
#include <algorithm>
#include <cmath>
#define __global__
#define __device__
using std::min; using std::max;
struct Index { int x, y; };
static const Index blockIdx = {0, 0}, threadIdx = {0, 0}, blockDim = {1, 1}, gridDim = {1, 1};
"""


class PlainDevice:
    """A device for `GpuSolver` with numpy arrays that records its calls.

    Attributes:
        launched: Names of kernels, in order.
        recordings: Number of recordings.
    """

    def __init__(self, folder: Path):
        source, library = folder / "kernels.cpp", folder / "kernels.so"
        if not library.exists():
            source.write_text(PLAIN + KERNELS.read_text())
            options = ["-O2", "-ffp-contract=off", "-Wall", "-Wno-unused-function", "-Werror", "-shared", "-fPIC"]
            subprocess.run(["g++", "-std=c++14", *options, "-o", str(library), str(source)], check=True)
        self._library = ctypes.CDLL(str(library))
        self.launched: list[str] = []
        self.recordings = 0

    def empty(self, shape):
        return np.full(shape, np.nan, np.float32)  # NaN reveals a read before a write

    def upload(self, values, out):
        assert values.shape == out.shape
        out[:] = values

    def download(self, values):
        return values.copy()

    def launch(self, name, arguments, shape):
        self.launched.append(name)
        getattr(self._library, name)(*(_argument(value) for value in (*arguments, *shape)))

    def recorded(self, work):
        self.recordings += 1
        work()
        return work


def _argument(value):
    if isinstance(value, np.ndarray):
        assert value.dtype == np.float32 and value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.c_int(value) if isinstance(value, int) else ctypes.c_float(value)
