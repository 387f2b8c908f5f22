"""Memory and a stream on an NVIDIA GPU, through pycuda (as JetPack's users have it) or cuda-python.

A buffer is host memory that the GPU can fetch by itself, page-locked; on an integrated GPU, whose memory is the host's
own, it is mapped and nothing is copied.

CUDA graphs of the work on a stream, through the driver itself: the same for every memory library.
"""

import contextlib
import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from actrec.utils.errors import DeviceError, MissingLibraryError

_KINDS = {
    "pycuda": ("actrec.inference.tensorrt.pycuda", "PyCuda"),
    "cuda-python": ("actrec.inference.tensorrt.cuda_python", "CudaPython"),
}

LIBRARIES = tuple(_KINDS)


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
        host: [most, …] page-locked; the source of uploads.
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
        """Make the GPU's context the calling thread's."""

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """Memory for float32 values of that shape."""

    def upload(self, buffer: Buffer, count: int) -> None:
        """Start copying the first `count` rows to the GPU; does nothing for mapped memory."""

    def download(self, buffer: Buffer, count: int) -> None:
        """Start copying the first `count` rows back."""

    def synchronize(self) -> None:
        """Wait for all that was started."""


def open_cuda(library: str = "auto") -> Cuda:
    """Return the first GPU.

    Args:
        library: "pycuda", "cuda-python", or "auto": the first of these that is installed.

    Raises:
        MissingLibraryError: The library is not installed, or neither is.
        DeviceError: There is no GPU, or its driver does not answer.
    """
    for name in LIBRARIES if library == "auto" else (library,):
        module, kind = _KINDS[name]
        try:
            made: Cuda = getattr(importlib.import_module(module), kind)()
            return made
        except ImportError as error:
            missing = error
    raise MissingLibraryError(
        "a GPU's memory needs pycuda (JetPack: pip install pycuda) or cuda-python (pip install cuda-python)"
    ) from missing


def version_text(number: int) -> str:
    """CUDA's version of the number that its driver gives: 12060 is 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"


def memory_full(shape: tuple[int, ...], error: Exception) -> DeviceError:
    """Return what to raise where memory for float32 values of that shape cannot be had."""
    size = int(np.prod(shape)) * 4 / 2**20
    return DeviceError(f"{size:.0f} MiB for {list(shape)} cannot be had: {error}; end what else uses the GPU's memory")


_RELAXED = 2


class CudaGraph:
    """What `work` launches on a stream, recorded once, launched again as one.

    Args:
        stream: Its handle.
        work: Launches on that stream alone, and has run before: its first-time set-up is not recorded.

    Raises:
        DeviceError: The driver does not record it.
    """

    def __init__(self, stream: int, work: Callable[[], None]):
        self._stream, self._driver = ctypes.c_void_p(stream), _driver()
        graph, self._graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_RELAXED))
        try:
            work()
        finally:
            # Ends the recording whatever happened, or the stream is of no more use.
            ended = self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))
        if ended != 0:
            raise DeviceError(f"cuStreamEndCapture failed: {self._why(ended)}")
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._graph), graph, ctypes.c_ulonglong(0))
        finally:
            self._driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Start it on its stream.

        Raises:
            DeviceError: The driver refuses.
        """
        self._call("cuGraphLaunch", self._graph, self._stream)

    def __del__(self) -> None:
        # Where there is no driver, or nothing was recorded, there is nothing to free.
        if getattr(self, "_graph", None):
            self._driver.cuGraphExecDestroy(self._graph)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            raise DeviceError(f"{name} failed: {self._why(status)}")

    def _why(self, status: int) -> str:
        text = ctypes.c_char_p()
        if self._driver.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text)) == 0 and text.value:
            return text.value.decode()
        return f"CUDA error {status}"


def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError("there is no CUDA driver: libcuda.so.1 is missing") from error
