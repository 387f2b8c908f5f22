"""A GPU's memory and stream through cuda-python's runtime API."""

import contextlib
import ctypes
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from actrec.inference.tensorrt.cuda import Buffer, Gpu, memory_full, version_text
from actrec.utils.errors import DeviceError


class CudaPython:
    """Through cuda-python's runtime API.

    Raises:
        ImportError: It is not installed.
        DeviceError: There is no GPU.
    """

    library = "cuda-python"

    def __init__(self) -> None:
        self._runtime: Any = _runtime()
        r = self._runtime
        self._checked(r.cudaSetDevice(0), "CUDA does not start", "check nvidia-smi, or take backend onnxruntime")
        found = self._checked(r.cudaGetDeviceProperties(0), "the GPU does not answer")
        version = self._checked(r.cudaDriverGetVersion(), "the GPU does not answer")
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        capability = f"{found.major}.{found.minor}"
        self.gpu = Gpu(name, capability, int(found.totalGlobalMem), bool(found.integrated), version_text(int(version)))
        self._stream = self._checked(r.cudaStreamCreate(), "the GPU gives no stream")
        self.stream = int(self._stream)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """As `Cuda` says."""
        self._checked(self._runtime.cudaSetDevice(0), "the GPU does not answer")
        yield

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """As `Cuda` says."""
        r, size = self._runtime, int(np.prod(shape)) * 4
        flags = r.cudaHostAllocMapped if self.gpu.integrated else r.cudaHostAllocDefault
        try:
            pointer = int(self._checked(r.cudaHostAlloc(size, flags), "no page-locked memory"))
            if self.gpu.integrated:
                address = int(self._checked(r.cudaHostGetDevicePointer(pointer, 0), "memory cannot be mapped"))
            else:
                address = int(self._checked(r.cudaMalloc(size), "no memory on the GPU"))
        except DeviceError as error:
            raise memory_full(shape, error) from error
        host = _floats_at(pointer, shape)
        host[:] = 0
        return Buffer(host, address, self.gpu.integrated, _Allocation(r, pointer, address, self.gpu.integrated))

    def upload(self, buffer: Buffer, count: int) -> None:
        """As `Cuda` says."""
        if not buffer.mapped:
            kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._copy(buffer.address, buffer.host.ctypes.data, buffer.host[:count].nbytes, kind)

    def download(self, buffer: Buffer, count: int) -> None:
        """As `Cuda` says."""
        if not buffer.mapped:
            kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
            self._copy(buffer.host.ctypes.data, buffer.address, buffer.host[:count].nbytes, kind)

    def synchronize(self) -> None:
        """As `Cuda` says."""
        self._checked(self._runtime.cudaStreamSynchronize(self._stream), "the GPU failed")

    def _copy(self, goal: int, start: int, size: int, kind: Any) -> None:
        self._checked(self._runtime.cudaMemcpyAsync(goal, start, size, kind, self._stream), "a copy failed")

    def _checked(self, answer: tuple[Any, ...], problem: str, remedy: str = "") -> Any:
        """Return the value of an answer (status, value)."""
        status, *values = answer
        if int(status) != 0:
            _, text = self._runtime.cudaGetErrorString(status)
            reason = text.decode() if isinstance(text, bytes) else str(text)
            raise DeviceError(f"{problem}: {reason}" + (f"; {remedy}" if remedy else ""))
        return values[0] if values else None


class _Allocation:
    """Frees what `CudaPython.buffer` took."""

    def __init__(self, runtime: Any, pointer: int, address: int, mapped: bool):
        self._runtime, self._pointer, self._address, self._mapped = runtime, pointer, address, mapped

    def __del__(self) -> None:
        if not self._mapped:
            self._runtime.cudaFree(self._address)
        self._runtime.cudaFreeHost(self._pointer)


def _runtime() -> Any:
    """cuda-python's runtime API, by its new name or its old one."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return importlib.import_module("cuda.cudart")


def _floats_at(pointer: int, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(pointer)).reshape(shape)
