"""Fake of the used part of CuPy, whose kernels run on the CPU."""

import ctypes
import time
import types

import numpy as np


class CudaError(RuntimeError):
    pass


class CompileError(Exception):
    pass


class Cupy(types.ModuleType):
    """Fake of the used part of CuPy, with numpy arrays and the plain device's kernels; records calls.

    Attributes:
        calls: Names of calls, in order.
        captured: Work of the graph that is being recorded, None outside of a recording.
        full: Whether allocations fail.
    """

    def __init__(self, plain, gpus=1, compiling=None, integrated=0, driver=13000, counting=None):
        super().__init__("cupy")
        self.calls, self.captured, self.full = [], None, False
        self.float32, self.uint8, self.plain, self._compiling = np.float32, np.uint8, plain, compiling
        self.ndarray = lambda size, dtype, memory: np.ndarray.__new__(Array, size, dtype, memory)

        def count():
            if counting:
                raise CudaError(counting)
            return gpus

        self.cuda = types.SimpleNamespace(
            runtime=types.SimpleNamespace(
                CUDARuntimeError=CudaError, getDeviceCount=count, driverGetVersion=lambda: driver, getDevice=lambda: 0,
                deviceGetAttribute=lambda attribute, index: integrated, cudaDevAttrIntegrated=18,
                getDeviceProperties=lambda index: {"name": b"fake", "totalGlobalMem": 10**9, "major": 9, "minor": 0},
                runtimeGetVersion=lambda: 13000, memGetInfo=lambda: (1 << 20, 1 << 30),
                memcpyAsync=self._copy, memcpyHostToDevice="up", memcpyDeviceToHost="down",
            ),
            driver=types.SimpleNamespace(CUDADriverError=CudaError),
            memory=types.SimpleNamespace(OutOfMemoryError=MemoryError),
            Event=Event, get_elapsed_time=lambda began, ended: 1000 * (ended.time - began.time) + 1e-3,
            get_current_stream=lambda: Stream(self),
            compiler=types.SimpleNamespace(CompileException=CompileError),
            Stream=lambda non_blocking: Stream(self),
            alloc_pinned_memory=lambda size: bytearray(size + 500),  # the pool rounds up
            UnownedMemory=lambda address, size, owner, index: owner,
            MemoryPointer=lambda memory, offset: memory,
        )  # fmt: skip

        self.__version__, self.copyto = "fake", np.copyto

    def ones(self, shape, dtype):
        return np.ones(min(shape[0], 1 << 20), dtype)

    def RawModule(self, code, options):  # noqa: N802  (CuPy's name)
        return types.SimpleNamespace(compile=self._compile, get_function=lambda name: self._kernel(name))

    def _compile(self):
        if self._compiling:
            raise self._compiling

    def _run(self, name, work):
        if self.captured is not None:
            self.captured.append(work)
        else:
            self.calls.append(name)
            work()

    def _kernel(self, name):
        def launch(grid, block, arguments):
            assert all(isinstance(a, (np.ndarray, np.int32, np.float32)) for a in arguments)
            assert Stream.current, "launched on another stream"
            assert block[0] * block[1] <= 1024
            plain = [a if isinstance(a, np.ndarray) else a.item() for a in arguments]
            self._run(name, lambda: self.plain.run(name, plain, grid, block))

        return launch

    def _copy(self, to, source, size, kind, stream):
        assert stream == 7
        self._run(kind, lambda: ctypes.memmove(to, source, size))

    def empty(self, shape, dtype):
        if self.full:
            raise MemoryError("Out of memory allocating 512 bytes (allocated so far: 0 bytes).")
        return np.full(shape, 255 if dtype == np.uint8 else np.nan, dtype).view(Array)


class Array(np.ndarray):
    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)


class Event:
    time = 0.0

    def record(self, stream):
        assert isinstance(stream, Stream)
        self.time = time.perf_counter()

    def synchronize(self):
        pass


class Stream:
    current, ptr = False, 7

    def __init__(self, cupy):
        self.cupy = cupy

    def __enter__(self):
        Stream.current = True

    def __exit__(self, *_):
        Stream.current = False

    def synchronize(self):
        assert self.cupy.captured is None, "not allowed during a capture"

    def begin_capture(self):
        self.cupy.captured = []

    def end_capture(self):
        work, self.cupy.captured = self.cupy.captured, None

        def launch(stream):
            self.cupy.calls.append("graph")
            for item in work:
                item()

        return types.SimpleNamespace(launch=launch)
