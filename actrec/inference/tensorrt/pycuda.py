"""A GPU's memory and stream through pycuda, as JetPack's users have it."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from actrec.inference.tensorrt.cuda import Buffer, Gpu, memory_full, version_text
from actrec.utils.errors import DeviceError


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
        self.gpu = Gpu(device.name(), f"{major}.{minor}", int(device.total_memory()), integrated, version_text(version))
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
            raise memory_full(shape, error) from error
        return Buffer(host, int(memory), False, memory)

    def upload(self, buffer: Buffer, count: int) -> None:
        """As `Cuda` says."""
        if not buffer.mapped:
            with self._told("a copy failed"):
                self._driver.memcpy_htod_async(buffer.address, buffer.host[:count], self._stream)

    def download(self, buffer: Buffer, count: int) -> None:
        """As `Cuda` says."""
        if not buffer.mapped:
            with self._told("a copy failed"):
                self._driver.memcpy_dtoh_async(buffer.host[:count], buffer.address, self._stream)

    def synchronize(self) -> None:
        """As `Cuda` says."""
        with self._told("the GPU failed"):
            self._stream.synchronize()

    @contextlib.contextmanager
    def _told(self, problem: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise DeviceError(f"{problem}: {error}") from error
