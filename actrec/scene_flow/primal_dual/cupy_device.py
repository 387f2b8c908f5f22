"""A CUDA GPU through CuPy: compiles the kernels for it, launches them, records launches as CUDA graphs."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from actrec.utils.errors import DeviceError, MissingLibraryError

KERNELS = Path(__file__).with_name("kernels.cu")

BLOCK = (32, 8)
"""Threads of a block along a row and down: rows of 32 are read in one go."""


def available() -> bool:
    """Whether CuPy is installed and finds a GPU."""
    try:
        return int(importlib.import_module("cupy").cuda.runtime.getDeviceCount()) > 0
    except Exception:  # CuPy's own kinds of error, or a driver's library that is not there: no GPU either way
        return False


class CupyDevice:
    """The first GPU; a `Device`.

    Raises:
        MissingLibraryError: CuPy is not installed.
        DeviceError: It finds no GPU, or cannot compile for it.
    """

    def __init__(self) -> None:
        try:
            self._cupy: Any = importlib.import_module("cupy")
        except ImportError as error:
            raise MissingLibraryError(
                "pd_flow on a GPU needs CuPy: pip install 'cupy-cuda12x<14' (CUDA 13: cupy-cuda13x), or device=cpu"
            ) from error
        if not available():
            raise DeviceError(
                "CuPy finds no GPU: check nvidia-smi (on a Jetson: that CUDA is installed), or device=cpu"
            )
        cupy = self._cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        try:
            module = cupy.RawModule(code=KERNELS.read_text(), options=("--std=c++17",))
            module.compile()
        except cupy.cuda.compiler.CompileException as error:
            raise DeviceError(f"CuPy cannot compile {KERNELS.name} for this GPU: {_first_line(error)}") from error
        self._module, self._kernels = module, dict[str, Any]()

    def empty(self, shape: tuple[int, ...]) -> Any:
        """As `Device` says."""
        with self._stream:
            return self._cupy.empty(shape, self._cupy.float32)

    def upload(self, values: np.ndarray, out: Any) -> None:
        """As `Device` says."""
        out.set(np.ascontiguousarray(values, dtype=np.float32), stream=self._stream)

    def download(self, values: Any) -> np.ndarray:
        """As `Device` says."""
        with self._stream:
            host: np.ndarray = self._cupy.asnumpy(values, stream=self._stream)
        self._stream.synchronize()
        return host

    def launch(self, name: str, arguments: tuple[Any, ...], shape: tuple[int, int]) -> None:
        """As `Device` says."""
        if name not in self._kernels:
            self._kernels[name] = self._module.get_function(name)
        rows, columns = shape
        grid = -(-columns // BLOCK[0]), -(-rows // BLOCK[1])
        with self._stream:
            self._kernels[name](grid, BLOCK, tuple(map(_typed, (*arguments, rows, columns))))

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """As `Device` says."""
        work()  # what is loaded at the first launch must not be loaded within a recording
        self._stream.synchronize()
        with self._stream:
            self._stream.begin_capture()
            try:
                work()
            finally:
                graph = self._stream.end_capture()
        return lambda: graph.launch(stream=self._stream)


def _typed(argument: Any) -> Any:
    """Python's numbers as the kernels' int and float; CuPy would pass 64 bits."""
    if isinstance(argument, int):
        return np.int32(argument)
    return np.float32(argument) if isinstance(argument, float) else argument


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
