"""Memory and a stream on an NVIDIA GPU, through pycuda (as JetPack's users have it) or cuda-python.

A buffer is host memory that the GPU can fetch by itself, page-locked; on an integrated GPU, whose memory is the host's
own, it is mapped and nothing is copied.
"""

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from actrec.errors import DeviceError, MissingLibraryError

LIBRARIES = ("pycuda", "cuda-python")


@dataclass(frozen=True)
class Gpu:
    """What a GPU is.

    Attributes:
        name: As its driver calls it.
        capability: Compute capability, "8.7".
        memory_bytes: Of all its memory.
        integrated: Its memory is the host's.
        cuda: Version of the driver's CUDA, "12.6".
    """

    name: str
    capability: str
    memory_bytes: int
    integrated: bool
    cuda: str

    @property
    def identity(self) -> str:
        """What an engine depends on."""
        return f"{self.name}, {self.capability}, {self.memory_bytes >> 20} MiB"


@dataclass
class Buffer:
    """Float32 values that host and GPU both have.

    Attributes:
        host: [most, …] page-locked; what is written here is uploaded from here.
        address: Where the GPU sees them.
        mapped: Both are the same memory.
        owner: What must live as long as the memory is used.
    """

    host: np.ndarray
    address: int
    mapped: bool
    owner: Any


class Cuda(Protocol):
    """One GPU and one stream on it. Methods but `current` are called within `current`."""

    library: str
    gpu: Gpu
    stream: int

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Makes the GPU's context the calling thread's."""

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """Memory for float32 values of that shape."""

    def upload(self, buffer: Buffer, count: int) -> None:
        """Starts copying the first `count` rows to the GPU; nothing to do where it is mapped."""

    def download(self, buffer: Buffer, count: int) -> None:
        """Starts copying the first `count` rows back."""

    def synchronize(self) -> None:
        """Waits for all that was started."""


def open_cuda(library: str = "auto") -> Cuda:
    """The first GPU.

    Args:
        library: "pycuda", "cuda-python", or "auto": the first of these that is installed.

    Raises:
        MissingLibraryError: The library is not installed, or neither is.
        DeviceError: There is no GPU, or its driver does not answer.
    """
    kinds: dict[str, Callable[[], Cuda]] = {"pycuda": PyCuda, "cuda-python": CudaPython}
    for name in LIBRARIES if library == "auto" else (library,):
        try:
            return kinds[name]()
        except ImportError as error:
            missing = error
    raise MissingLibraryError(
        "a GPU's memory needs pycuda (JetPack: pip install pycuda) or cuda-python (pip install cuda-python)"
    ) from missing


class PyCuda:
    """Through pycuda.

    Raises:
        ImportError: It is not installed.
        DeviceError: There is no GPU.
    """

    library = "pycuda"

    def __init__(self) -> None:
        self._driver: Any = importlib.import_module("pycuda.driver")
        try:
            self._driver.init()
            device = self._driver.Device(0)
            # TensorRT uses the primary context; one of our own would keep its memory from it.
            self._context = device.retain_primary_context()
        except self._driver.Error as error:
            raise DeviceError(f"CUDA does not start: {error}; check nvidia-smi, or take backend onnxruntime") from error
        attributes = device.get_attributes()
        major, minor = device.compute_capability()
        integrated = bool(attributes[self._driver.device_attribute.INTEGRATED])
        version = self._driver.get_driver_version()
        self.gpu = Gpu(device.name(), f"{major}.{minor}", int(device.total_memory()), integrated, _version(version))
        with self.current():
            self._stream = self._driver.Stream()
        self.stream = int(self._stream.handle)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """As `Cuda` says."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """As `Cuda` says."""
        try:
            if self.gpu.integrated:
                flags = self._driver.host_alloc_flags.DEVICEMAP
                host = self._driver.pagelocked_zeros(shape, np.float32, mem_flags=flags)
                return Buffer(host, int(host.base.get_device_pointer()), True, host.base)
            host = self._driver.pagelocked_zeros(shape, np.float32)
            memory = self._driver.mem_alloc(host.nbytes)
        except self._driver.Error as error:
            raise _full(shape, error) from error
        return Buffer(host, int(memory), False, memory)

    def upload(self, buffer: Buffer, count: int) -> None:
        """As `Cuda` says."""
        if not buffer.mapped:
            self._driver.memcpy_htod_async(buffer.address, buffer.host[:count], self._stream)

    def download(self, buffer: Buffer, count: int) -> None:
        """As `Cuda` says."""
        if not buffer.mapped:
            self._driver.memcpy_dtoh_async(buffer.host[:count], buffer.address, self._stream)

    def synchronize(self) -> None:
        """As `Cuda` says."""
        try:
            self._stream.synchronize()
        except self._driver.Error as error:
            raise DeviceError(f"the GPU failed: {error}") from error


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
        self.gpu = Gpu(name, capability, int(found.totalGlobalMem), bool(found.integrated), _version(int(version)))
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
            raise _full(shape, error) from error
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
        """The value of an answer (status, value)."""
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


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _full(shape: tuple[int, ...], error: Exception) -> DeviceError:
    size = int(np.prod(shape)) * 4 / 2**20
    return DeviceError(f"{size:.0f} MiB for {list(shape)} cannot be had: {error}; end what else uses the GPU's memory")
