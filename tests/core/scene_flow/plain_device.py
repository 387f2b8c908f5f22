"""GPU kernels on the CPU: `kernels.cu` compiled as plain C++, with one coroutine for each thread of a block."""

import contextlib
import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np

from actrec.scene_flow.primal_dual import gpu

KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(([^)]*)\)')

PLAIN = """
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <functional>
#include <vector>
#include <ucontext.h>
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)
using std::min; using std::max;
struct Index { int x, y; };
static Index blockIdx, threadIdx, blockDim, gridDim;
static float rsqrtf(float x) { return 1 / sqrtf(x); }

struct Thread { ucontext_t context; jmp_buf state; std::vector<char> stack; bool started, done; };
static std::vector<Thread> threads(1024);
static std::function<void()> work;
static jmp_buf scheduler;
static int current;

static void __syncthreads() { if (!_setjmp(threads[current].state)) _longjmp(scheduler, 1); }

static void serve() {
  for (;;) {
    work();
    threads[current].done = true;
    __syncthreads();
  }
}

static void resume(int n) {
  Thread &thread = threads[n];
  current = n;
  threadIdx = {n % blockDim.x, n / blockDim.x};
  if (_setjmp(scheduler)) return;
  if (thread.started) _longjmp(thread.state, 1);
  thread.started = true;
  thread.stack.resize(1 << 16);
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack.data();
  thread.context.uc_stack.ss_size = thread.stack.size();
  makecontext(&thread.context, serve, 0);
  setcontext(&thread.context);
}

// Runs a block; between two barriers its threads run in ascending order, or descending in each second round.
// Returns whether all threads pass the same number of barriers.
static bool run_block(bool descending) {
  const int count = blockDim.x * blockDim.y;
  for (int n = 0; n < count; n++) threads[n].done = false;
  for (int round = 0;; round++) {
    int done = 0;
    for (int k = 0; k < count; k++) {
      const int n = (round % 2 == 1) != descending ? count - 1 - k : k;
      resume(n);
      done += threads[n].done;
    }
    if (done) return done == count;
  }
}

static bool run(Index grid, Index block, bool has_barriers, bool descending, std::function<void()> kernel) {
  gridDim = grid, blockDim = block, work = kernel;
  for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++) {
    for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
      if (has_barriers) {
        if (!run_block(descending)) return false;
        continue;
      }
      for (threadIdx.y = 0; threadIdx.y < block.y; threadIdx.y++) {
        for (threadIdx.x = 0; threadIdx.x < block.x; threadIdx.x++) work();
      }
    }
  }
  return true;
}
"""


def _callers(source: str) -> str:
    """Return a C function for each kernel that runs it over a grid of blocks."""
    out = []
    matches = list(KERNEL.finditer(source))
    ends = [match.start() for match in matches[1:]] + [len(source)]
    for match, end in zip(matches, ends, strict=True):
        name, parameters = match.groups()
        arguments = ", ".join(re.findall(r"(\w+)\s*(?:,|$)", parameters))
        barriers = str("__syncthreads" in source[match.end() : end]).lower()
        out.append(
            f'extern "C" bool run_{name}(int gx, int gy, int bx, int by, bool descending, {parameters}) {{\n'
            f"  return run({{gx, gy}}, {{bx, by}}, {barriers}, descending, [&] {{ {name}({arguments}); }});\n}}"
        )
    return "\n".join(out)


class PlainDevice:
    """A device for `GpuFlow` with numpy arrays that records its calls.

    Attributes:
        launched: Names of kernels, in order.
        recordings: Number of recordings.
        uploaded, downloaded: Bytes of each copy.
        descending: Order of a block's threads: with a missing barrier the result depends on it.
    """

    def __init__(self, folder: Path):
        source, library = folder / "kernels.cpp", folder / "kernels.so"
        if not library.exists():
            kernels = gpu.KERNELS.read_text()
            source.write_text(PLAIN + kernels + _callers(kernels))
            options = ["-O2", "-ffp-contract=off", "-Wall", "-Wno-unused-function", "-Werror", "-shared", "-fPIC"]
            options.append("-U_FORTIFY_SOURCE")  # refuses jumps between stacks
            subprocess.run(["g++", "-std=c++14", *options, "-o", str(library), str(source)], check=True)
        self._library = ctypes.CDLL(str(library))
        self.launched: list[str] = []
        self.recordings = 0
        self.uploaded: list[int] = []
        self.downloaded: list[int] = []
        self.descending = False

    def errors(self):
        return contextlib.nullcontext()

    def empty(self, shape):
        return np.full(shape, np.nan, np.float32)  # NaN reveals a read before a write

    def buffer(self, size):
        return gpu.StagingBuffer(np.full(size, 255, np.uint8), np.full(size, 255, np.uint8))  # NaN as float32

    def upload(self, buffer):
        self.uploaded.append(buffer.host.nbytes)
        buffer.device[:] = buffer.host

    def download(self, buffer):
        self.downloaded.append(buffer.host.nbytes)
        buffer.host[:] = buffer.device

    def launch(self, name, arguments, shape, block=gpu.BLOCK, covered=gpu.BLOCK):
        self.run(name, (*arguments, *shape), gpu.grid_of(shape, covered), block)

    def run(self, name, arguments, grid, block):
        self.launched.append(name)
        run = getattr(self._library, f"run_{name}")
        run.restype = ctypes.c_bool
        done = run(*grid, *block, ctypes.c_bool(self.descending), *map(_argument, arguments))
        assert done, f"threads of {name} pass different numbers of barriers"

    def recorded(self, work):
        self.recordings += 1
        work()
        return work

    def wait(self):
        pass


def _argument(value):
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous and value.dtype in (np.float32, np.uint8)
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.c_int(value) if isinstance(value, int) else ctypes.c_float(value)
