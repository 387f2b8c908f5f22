"""CUDA memory and streams with fake pycuda and cuda-python; the real cuda-python has all called functions."""

import contextlib
import ctypes
import importlib
import importlib.util
import sys
import threading
import types
from typing import Any

import numpy as np
import pytest

from actrec.inference.tensorrt import cuda as tensorrt_cuda
from actrec.inference.tensorrt.cuda import open_cuda
from actrec.utils.errors import DeviceError


class Runtime(types.ModuleType):
    """A fake cuda-python runtime with host memory; functions return (status, value)."""

    cudaHostAllocMapped, cudaHostAllocDefault = 2, 0  # noqa: N815
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")  # noqa: N815

    def __init__(self, integrated, fail=(), bytes_left=1 << 30):
        super().__init__("cuda.bindings.runtime")
        self.integrated, self.fail, self.bytes_left = integrated, fail, bytes_left
        self.calls, self.blocks = [], {}

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append((name, arguments))
            if name in self.fail:
                return (35,)
            return (0, *getattr(self, f"do_{name}", lambda *_: ())(*arguments))

        return call

    def do_cudaGetDeviceProperties(self, _):  # noqa: N802
        return (
            types.SimpleNamespace(
                name=b"Orin", major=8, minor=7, totalGlobalMem=8 << 30, integrated=int(self.integrated)
            ),
        )

    def do_cudaDriverGetVersion(self):  # noqa: N802
        return (12060,)

    def do_cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        assert flags == 1, "not blocked by the legacy stream"
        return (77,)

    def do_cudaGetErrorString(self, _):  # noqa: N802
        return (b"driver version is insufficient",)

    def _allocate(self, size):
        block = (ctypes.c_char * size)()
        self.blocks[ctypes.addressof(block)] = block
        return (ctypes.addressof(block),)

    def do_cudaHostAlloc(self, size, _):  # noqa: N802
        return self._allocate(size)

    def do_cudaMalloc(self, size):  # noqa: N802
        return self._allocate(size)

    def do_cudaHostGetDevicePointer(self, pointer, _):  # noqa: N802
        return (pointer,)

    def do_cudaMemcpyAsync(self, target, source, size, kind, stream):  # noqa: N802
        assert stream == 77
        ctypes.memmove(target, source, size)
        return ()


class Driver(types.ModuleType):
    """A fake pycuda driver with host memory."""

    Error = type("Error", (Exception,), {})
    device_attribute = types.SimpleNamespace(INTEGRATED="integrated")
    host_alloc_flags = types.SimpleNamespace(DEVICEMAP="map")

    def __init__(self, integrated, fail=""):
        super().__init__("pycuda.driver")
        self.integrated, self.fail, self.stack, self.copied, self.freed = integrated, fail, 0, [], []

    def init(self):
        if self.fail == "init":
            raise self.Error("no device")

    def Device(self, number):  # noqa: N802
        context = types.SimpleNamespace(push=lambda: self._change_stack(1), pop=lambda: self._change_stack(-1))
        return types.SimpleNamespace(
            retain_primary_context=lambda: context, get_attributes=lambda: {"integrated": int(self.integrated)},
            compute_capability=lambda: (8, 7), name=lambda: "Orin", total_memory=lambda: 8 << 30,
        )  # fmt: skip

    def _change_stack(self, change):
        self.stack += change

    def get_driver_version(self):
        return 12060

    def Stream(self, flags):  # noqa: N802
        assert self.stack == 1 and flags == 1
        return types.SimpleNamespace(handle=77, synchronize=self._synchronize)

    def _synchronize(self):
        if self.fail == "synchronize":
            raise self.Error("an illegal memory access was encountered")

    def pagelocked_zeros(self, shape, dtype, mem_flags=0):
        if self.fail == "memory":
            raise self.Error("out of memory")
        assert (mem_flags == "map") is self.integrated
        return np.asarray(Pinned(np.zeros(shape, dtype), self))

    def mem_alloc(self, size):
        self.block = (ctypes.c_char * size)()
        return Memory(ctypes.addressof(self.block), self)

    def memcpy_htod_async(self, address, host, stream):
        if self.fail == "copy":
            raise self.Error("an illegal memory access was encountered")
        self.copied.append(("up", host.nbytes))
        ctypes.memmove(address, host.ctypes.data, host.nbytes)

    def memcpy_dtoh_async(self, host, address, stream):
        self.copied.append(("down", host.nbytes))
        ctypes.memmove(host.ctypes.data, address, host.nbytes)


class Memory(int):
    """Memory on the GPU of pycuda."""

    _driver: Driver

    def __new__(cls, address, driver):
        made = super().__new__(cls, address)
        made._driver = driver
        return made

    def free(self):
        self._driver.freed.append((self._driver.stack, "device"))


class Pinned:
    """The base of an array in page-locked memory of pycuda."""

    def __init__(self, values, driver):
        self._values, self.__array_interface__, self._driver = values, values.__array_interface__, driver

    def free(self):
        self._driver.freed.append((self._driver.stack, "host"))

    def get_device_pointer(self):
        return self._values.ctypes.data


def open_fake_cuda(monkeypatch, library, integrated, **faults):
    for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    if library == "pycuda":
        monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
        module: Any = Driver(integrated, **faults)
        monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    else:
        module = Runtime(integrated, **faults)
        monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", types.ModuleType("cuda.bindings"))
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", module)
    return open_cuda(), module


@pytest.mark.parametrize("integrated", [False, True])
def test_pycuda_memory_is_freed_with_its_buffer_in_any_thread(monkeypatch, integrated):
    """pycuda's own destructors leave it allocated in another thread than the one that opened the GPU."""
    cuda, fake = open_fake_cuda(monkeypatch, "pycuda", integrated)
    with cuda.current():
        buffers = [cuda.buffer((4, 3))]
    thread = threading.Thread(target=buffers.clear)
    thread.start()
    thread.join()
    assert fake.freed == [(1, "host")] + ([] if integrated else [(1, "device")]), "with the context of the GPU"
    assert fake.stack == 0


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("library", tensorrt_cuda.LIBRARIES)
def test_buffer_round_trip_copies_only_given_rows(monkeypatch, library, integrated):
    cuda, fake = open_fake_cuda(monkeypatch, library, integrated)
    assert (cuda.library, cuda.stream) == (library, 77)
    assert cuda.gpu == tensorrt_cuda.Gpu("Orin", "8.7", 8 << 30, integrated, "12.6")
    assert cuda.gpu.identity == "Orin, 8.7, 8192 MiB"
    with cuda.current():
        buffer = cuda.buffer((4, 3, 2))
        assert buffer.host.shape == (4, 3, 2) and buffer.host.dtype == np.float32 and not buffer.host.any()
        assert buffer.mapped is integrated
        buffer.host[:] = np.arange(24).reshape(4, 3, 2)
        cuda.upload(buffer, 2)
        memory = np.ctypeslib.as_array((ctypes.c_float * 24).from_address(buffer.address))
        np.testing.assert_array_equal(memory[:12], np.arange(12))
        assert (memory[12:] == (np.arange(12, 24) if integrated else 0)).all(), "only two of four rows are copied"
        memory[:12] = 7
        cuda.download(buffer, 2)
        cuda.synchronize()
        assert (buffer.host[:2] == 7).all()
    copies = fake.copied if library == "pycuda" else [c for c in fake.calls if c[0] == "cudaMemcpyAsync"]
    assert len(copies) == (0 if integrated else 2)


def test_pycuda_current_pushes_and_pops_context(monkeypatch):
    cuda, driver = open_fake_cuda(monkeypatch, "pycuda", False)
    with cuda.current():
        assert driver.stack == 1
    with pytest.raises(ValueError, match="^inside$"), cuda.current():
        raise ValueError("inside")
    assert driver.stack == 0


def test_cuda_python_buffer_that_fails_on_the_gpu_frees_its_host_memory(monkeypatch):
    cuda, runtime = open_fake_cuda(monkeypatch, "cuda-python", False, fail=("cudaMalloc",))
    with pytest.raises(DeviceError):
        cuda.buffer((2, 2))
    assert ("cudaFreeHost", tuple(runtime.blocks)) in runtime.calls


def test_pycuda_that_does_not_load_is_not_taken_for_missing(monkeypatch, tmp_path):
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)  # restored afterwards
        del sys.modules[name]
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda/__init__.py").touch()
    cause = "libcurand.so.9: cannot open shared object file"
    (tmp_path / "pycuda/driver.py").write_text(f"raise ImportError({cause!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DeviceError) as raised:
        open_cuda()
    assert "pip install pycuda" not in str(raised.value)


def test_cuda_python_buffer_frees_memory(monkeypatch):
    cuda, runtime = open_fake_cuda(monkeypatch, "cuda-python", False)
    buffer = cuda.buffer((2, 2))
    del buffer
    assert {name for name, _ in runtime.calls[-2:]} == {"cudaFree", "cudaFreeHost"}


@pytest.mark.parametrize(
    ("library", "faults", "message"),
    [
        ("pycuda", {"fail": "init"}, "CUDA does not start: no device; check nvidia-smi, or take backend onnxruntime"),
        ("cuda-python", {"fail": ("cudaSetDevice",)}, "CUDA does not start: driver version is insufficient; check"),
    ],
)
def test_open_cuda_without_gpu_refused(monkeypatch, library, faults, message):
    monkeypatch.setattr(tensorrt_cuda.ctypes, "CDLL", lambda name: None)  # the driver is there
    with pytest.raises(DeviceError, match=message):
        open_fake_cuda(monkeypatch, library, False, **faults)


def test_open_cuda_python_without_driver_names_driver():
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("this machine has a driver")
    with pytest.raises(DeviceError, match=r"^CUDA does not start: there is no NVIDIA driver \(libcuda.so.1\); check"):
        open_cuda("cuda-python")


@pytest.mark.parametrize(
    ("library", "faults"), [("pycuda", {"fail": "memory"}), ("cuda-python", {"fail": ("cudaMalloc",)})]
)
def test_buffer_full_memory_refused_with_size(monkeypatch, library, faults):
    cuda, _ = open_fake_cuda(monkeypatch, library, False, **faults)
    with cuda.current(), pytest.raises(DeviceError, match=r"4 MiB for \[1024, 1024\] cannot be had: .*end what else"):
        cuda.buffer((1024, 1024))


@pytest.mark.parametrize(
    ("library", "faults"),
    [("pycuda", {"fail": "synchronize"}), ("cuda-python", {"fail": ("cudaStreamSynchronize",)})],
)
def test_synchronize_failed_gpu_raises(monkeypatch, library, faults):
    cuda, _ = open_fake_cuda(monkeypatch, library, False, **faults)
    with cuda.current(), pytest.raises(DeviceError, match="the GPU failed: "):
        cuda.synchronize()


@pytest.mark.parametrize(
    ("library", "faults"), [("pycuda", {"fail": "copy"}), ("cuda-python", {"fail": ("cudaMemcpyAsync",)})]
)
def test_upload_failed_copy_raises(monkeypatch, library, faults):
    cuda, _ = open_fake_cuda(monkeypatch, library, False, **faults)
    with cuda.current(), pytest.raises(DeviceError, match="a copy failed: "):
        cuda.upload(cuda.buffer((2, 3)), 1)


def test_open_cuda_takes_first_installed_library(monkeypatch):
    assert open_fake_cuda(monkeypatch, "pycuda", True)[0].library == "pycuda"
    assert open_fake_cuda(monkeypatch, "cuda-python", True)[0].library == "cuda-python"


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="needs cuda-python")
def test_cuda_python_wheel_has_called_functions():
    runtime = importlib.import_module("cuda.bindings.runtime")

    names = [name.removeprefix("do_") for name in vars(Runtime) if name.startswith("do_")]
    other_names = [
        "cudaSetDevice",
        "cudaStreamSynchronize",
        "cudaFree",
        "cudaFreeHost",
        "cudaHostAllocMapped",
        "cudaMemcpyKind",
    ]
    assert all(hasattr(runtime, name) for name in [*names, *other_names])
