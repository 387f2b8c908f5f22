"""Memory and a stream on an NVIDIA GPU, through pycuda (as JetPack's users have it) or cuda-python.

A buffer is host memory that the GPU can fetch by itself, page-locked; on an integrated GPU, whose memory is the host's
own, it is mapped and nothing is copied.
"""

import contextlib
import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from actrec.errors import DeviceError, MissingLibraryError

_KINDS = {
    "pycuda": ("actrec.inference.cuda_by_pycuda", "PyCuda"),
    "cuda-python": ("actrec.inference.cuda_by_cuda_python", "CudaPython"),
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
    """What to raise where memory for float32 values of that shape cannot be had."""
    size = int(np.prod(shape)) * 4 / 2**20
    return DeviceError(f"{size:.0f} MiB for {list(shape)} cannot be had: {error}; end what else uses the GPU's memory")
