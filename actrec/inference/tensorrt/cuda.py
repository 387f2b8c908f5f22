"""Memory, a stream and CUDA graphs on an NVIDIA GPU, through pycuda (common on JetPack) or cuda-python.

A buffer is page-locked host memory and its copy on the GPU. An integrated GPU shares the host's memory: the buffer is
mapped, and nothing is copied.
"""

import contextlib
import ctypes
import importlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.utils.errors import DeviceError, MissingLibraryError


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, compute capability ("8.7"), total memory, whether that is the host's, and CUDA version ("12.6").

    The version is the driver's.
    """

    name: str
    capability: str
    memory_bytes: int
    integrated: bool
    cuda: str

    @property
    def sm(self) -> str:
        """The compute capability as "sm_87"."""
        return f"sm_{self.capability.replace('.', '')}"

    @property
    def identity(self) -> str:
        """The properties that an engine depends on."""
        return f"{self.name}, {self.capability}, {self.memory_bytes >> 20} MiB"


@dataclass
class Buffer:
    """Float32 values on host and GPU.

    Attributes:
        host: [most, …] page-locked.
        address: Address on the GPU.
        mapped: Both are the same memory.
        owner: Object that keeps the memory allocated, if any.
    """

    host: np.ndarray
    address: int
    mapped: bool
    owner: Any = None


_NON_BLOCKING = 1
"""Flag of a stream: else the recording of a graph would end the work of other libraries on the legacy stream, such as
ONNX Runtime's in another thread, and theirs the recording."""


class Cuda(ABC):
    """One GPU and one stream on it. Methods besides `current` are called within `current`."""

    library: ClassVar[str]
    gpu: Gpu
    stream: int

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Make the GPU's context the calling thread's."""

    @abstractmethod
    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """Allocate zeros of that shape; a DeviceError if memory is full."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the stream is idle; a DeviceError if the GPU failed."""

    @abstractmethod
    def _copy(self, host: np.ndarray, address: int, upload: bool) -> None:
        """Start copying rows to the GPU, or back."""

    def upload(self, buffer: Buffer, count: int) -> None:
        """Start copying the first `count` rows to the GPU; does nothing for mapped memory."""
        if not buffer.mapped:
            self._copy(buffer.host[:count], buffer.address, upload=True)

    def download(self, buffer: Buffer, count: int) -> None:
        """Start copying the first `count` rows back."""
        if not buffer.mapped:
            self._copy(buffer.host[:count], buffer.address, upload=False)


def open_cuda(library: str = "auto") -> Cuda:
    """Return the first GPU.

    Args:
        library: "pycuda", "cuda-python", or "auto": the first of these that is installed.

    Raises:
        MissingLibraryError: The library is not installed, or neither is.
        DeviceError: There is no GPU, or its driver does not answer.
    """
    missing = broken = None
    for name in LIBRARIES if library == "auto" else (library,):
        try:
            return _CLASSES[name]()
        except ModuleNotFoundError as error:
            missing = error
        except ImportError as error:  # it is installed, but not a library that it loads, such as the driver's
            broken = broken or error
    if broken is not None:
        raise _not_started(str(broken).splitlines()[0]) from broken
    raise MissingLibraryError(
        "a GPU's memory needs pycuda (JetPack: pip install pycuda) or cuda-python (pip install cuda-python)"
    ) from missing


def _gpu(name: str, capability: tuple[int, int], memory_bytes: int, integrated: bool, version: int) -> Gpu:
    """Return a GPU; the driver's version 12060 is CUDA 12.6."""
    major, minor = capability
    return Gpu(name, f"{major}.{minor}", memory_bytes, integrated, f"{version // 1000}.{version % 1000 // 10}")


def _not_started(reason: object) -> DeviceError:
    """Return the error if CUDA does not start; without a driver, CUDA's reason is "driver version is insufficient"."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        reason = "there is no NVIDIA driver (libcuda.so.1)"
    return DeviceError(f"CUDA does not start: {reason}; check nvidia-smi, or take backend onnxruntime")


def _out_of_memory(shape: tuple[int, ...], error: Exception) -> DeviceError:
    size = int(np.prod(shape)) * 4 / 2**20
    return DeviceError(f"{size:.0f} MiB for {list(shape)} cannot be had: {error}; end what else uses the GPU's memory")


class _PyCuda(Cuda):
    """A GPU through pycuda."""

    library = "pycuda"

    def __init__(self) -> None:
        self._driver: Any = importlib.import_module("pycuda.driver")
        try:
            self._driver.init()
            device = self._driver.Device(0)
            # TensorRT uses the primary context; another context would keep its memory from it.
            self._context = device.retain_primary_context()
        except self._driver.Error as error:
            raise _not_started(error) from error
        integrated = bool(device.get_attributes()[self._driver.device_attribute.INTEGRATED])
        version, memory_bytes = self._driver.get_driver_version(), int(device.total_memory())
        self.gpu = _gpu(device.name(), device.compute_capability(), memory_bytes, integrated, version)
        with self.current():
            self._stream = self._driver.Stream(_NON_BLOCKING)
        self.stream = int(self._stream.handle)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        try:
            if self.gpu.integrated:
                flags = self._driver.host_alloc_flags.DEVICEMAP
                host = self._driver.pagelocked_zeros(shape, np.float32, mem_flags=flags)
                return self._freed(Buffer(host, int(host.base.get_device_pointer()), True), host.base)
            host = self._driver.pagelocked_zeros(shape, np.float32)
            memory = self._driver.mem_alloc(host.nbytes)
        except self._driver.Error as error:
            raise _out_of_memory(shape, error) from error
        return self._freed(Buffer(host, int(memory), False), host.base, memory)

    def _freed(self, made: Buffer, *memory: Any) -> Buffer:
        """Free memory with its buffer; pycuda itself does not in another thread than the one that made it."""

        def free() -> None:
            with self.current():
                for each in memory:
                    each.free()

        weakref.finalize(made, free).atexit = False  # at exit, a thread may still run the network
        return made

    def _copy(self, host: np.ndarray, address: int, upload: bool) -> None:
        try:
            if upload:
                self._driver.memcpy_htod_async(address, host, self._stream)
            else:
                self._driver.memcpy_dtoh_async(host, address, self._stream)
        except self._driver.Error as error:
            raise DeviceError(f"a copy failed: {error}") from error

    def synchronize(self) -> None:
        try:
            self._stream.synchronize()
        except self._driver.Error as error:
            raise DeviceError(f"the GPU failed: {error}") from error


class _CudaPython(Cuda):
    """A GPU through cuda-python's runtime API, by its new module name or its old one."""

    library = "cuda-python"

    def __init__(self) -> None:
        try:
            self._runtime: Any = importlib.import_module("cuda.bindings.runtime")
        except ModuleNotFoundError:
            self._runtime = importlib.import_module("cuda.cudart")
        r = self._runtime
        try:
            self._checked(r.cudaSetDevice(0))
        except DeviceError as error:
            raise _not_started(error) from error
        found = self._checked(r.cudaGetDeviceProperties(0), "the GPU does not answer")
        version = int(self._checked(r.cudaDriverGetVersion(), "the GPU does not answer"))
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        capability = (found.major, found.minor)
        self.gpu = _gpu(name, capability, int(found.totalGlobalMem), bool(found.integrated), version)
        self._stream = self._checked(r.cudaStreamCreateWithFlags(_NON_BLOCKING), "the GPU gives no stream")
        self.stream = int(self._stream)
        weakref.finalize(self, r.cudaStreamDestroy, self._stream).atexit = False

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._checked(self._runtime.cudaSetDevice(0), "the GPU does not answer")
        yield

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        r, mapped, count = self._runtime, self.gpu.integrated, int(np.prod(shape))
        flags, pointer = r.cudaHostAllocMapped if mapped else r.cudaHostAllocDefault, 0
        try:
            pointer = int(self._checked(r.cudaHostAlloc(4 * count, flags), "no page-locked memory"))
            if mapped:
                address = int(self._checked(r.cudaHostGetDevicePointer(pointer, 0), "memory cannot be mapped"))
            else:
                address = int(self._checked(r.cudaMalloc(4 * count), "no memory on the GPU"))
        except DeviceError as error:
            if pointer:
                r.cudaFreeHost(pointer)
            raise _out_of_memory(shape, error) from error
        host = np.ctypeslib.as_array((ctypes.c_float * count).from_address(pointer)).reshape(shape)
        host[:] = 0
        made = Buffer(host, address, mapped)
        for free, place in ((r.cudaFreeHost, pointer), (r.cudaFree, address))[: 1 if mapped else 2]:
            weakref.finalize(made, free, place).atexit = False  # at exit, a thread may still run the network
        return made

    def _copy(self, host: np.ndarray, address: int, upload: bool) -> None:
        kinds, pointer = self._runtime.cudaMemcpyKind, host.ctypes.data
        target, source = (address, pointer) if upload else (pointer, address)
        kind = kinds.cudaMemcpyHostToDevice if upload else kinds.cudaMemcpyDeviceToHost
        status = self._runtime.cudaMemcpyAsync(target, source, host.nbytes, kind, self._stream)
        self._checked(status, "a copy failed")

    def synchronize(self) -> None:
        self._checked(self._runtime.cudaStreamSynchronize(self._stream), "the GPU failed")

    def _checked(self, answer: tuple[Any, ...], problem: str = "") -> Any:
        """Return the value of an answer (status, value)."""
        status, *values = answer
        if int(status) != 0:
            _, text = self._runtime.cudaGetErrorString(status)
            reason = text.decode() if isinstance(text, bytes) else str(text)
            raise DeviceError(f"{problem}: {reason}" if problem else reason)
        return values[0] if values else None


_CLASSES: dict[str, Callable[[], Cuda]] = {"pycuda": _PyCuda, "cuda-python": _CudaPython}
LIBRARIES = tuple(_CLASSES)
_CAPTURE_MODE_RELAXED = 2


class CudaGraph:
    """The work that `work` launches on a stream, recorded once and launched as one; through the driver's library.

    Args:
        stream: Its handle.
        work: Launches on that stream alone, and has run before: its first-time set-up is not recorded.

    Raises:
        DeviceError: The driver does not record it.
    """

    def __init__(self, stream: int, work: Callable[[], None]):
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DeviceError("there is no CUDA driver: libcuda.so.1 is missing") from error
        self._stream, self._graph, graph = ctypes.c_void_p(stream), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_CAPTURE_MODE_RELAXED))
        try:
            work()
        except BaseException:
            # A stream whose capture never ends cannot be used again.
            self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))
            raise
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._graph), graph, ctypes.c_ulonglong(0))
        finally:
            self._driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Launch it on its stream; a DeviceError if the driver refuses."""
        self._call("cuGraphLaunch", self._graph, self._stream)

    def __del__(self) -> None:
        if getattr(self, "_graph", None):  # there is nothing to free if nothing was recorded
            self._driver.cuGraphExecDestroy(self._graph)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
            raise DeviceError(f"{name} failed: {(text.value or b'').decode() or f'CUDA error {status}'}")
