"""TensorRT for RTX with its real parser and builder, and fake execution, which alone needs a driver."""

import importlib
import os
import platform
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

from actrec.inference.tensorrt import builder
from actrec.inference.tensorrt import cuda as tensorrt_cuda
from actrec.inference.tensorrt.builder import BuildConfig, SourceNetwork
from actrec.inference.tensorrt.cuda import Gpu
from actrec.utils.errors import PackageError
from tests.core.inference.tensorrt import plain_tensorrt


def real():
    """Return the real module; skip the test if it is not installed, which in CI only another processor may excuse."""
    needed = "true" in (os.environ.get("CI"), os.environ.get("ACTREC_NEED_RTX"))
    if needed and platform.machine() == "x86_64":
        return importlib.import_module("tensorrt_rtx_bindings")
    return pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'actrec[rtx]'")


@dataclass(frozen=True)
class Graph:
    """An ONNX graph as a source of engines, in its own types."""

    content: bytes
    name: str = "graph"
    precisions: tuple[str, ...] = ("float32", "float16", "int8")

    @property
    def input_shapes(self):
        inputs = onnx.load_model_from_string(self.content).graph.input
        return {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim)[1:] for i in inputs}

    def onnx_path(self, precision="float32"):
        return Path(f"{self.name}.onnx")

    def onnx_sha256(self, precision="float32"):
        return "0" * 64

    def read_onnx(self, precision="float32"):
        return self.content


def refused(content: bytes) -> str:
    """Return why the real parser refuses a graph; "" if it takes it, or on a machine that has no wheel."""
    try:
        parse(content)
    except PackageError as error:
        return str(error)
    except pytest.skip.Exception:
        pass
    return ""


def parse(content: bytes) -> int:
    """Return the number of layers of a graph; raise PackageError if the real parser refuses it."""
    trt = real()
    log = trt.Logger(trt.Logger.ERROR)
    own = trt.Builder(log)
    network, _parser = builder.parse(trt, own, log, Graph(content), SourceNetwork("float32", "", True))
    return network.num_layers


def build(content: bytes, capability="sm_86", **settings) -> int:
    """Return the bytes of the real engine of a graph; raise PackageError if parser or builder refuse it."""
    config = BuildConfig(**{"precision": "fp32", "most": 2, **settings})
    return len(builder.build(real(), Graph(content), config, b"", capability=capability)[0])


BUILT: dict[tuple[bytes, str], bytes] = {}
"""Graph and compute capability to the real engine, which several tests use."""


def has_built(source: builder.EngineSource, precision: str = "float32") -> bool:
    """Return whether an engine of a network was built completely."""
    return any(content == source.read_onnx(precision) for content, _ in BUILT)


class Faults:
    """How the fake runtime behaves.

    Attributes:
        kernels: What a runtime cache accepts and gives; it refuses other content, as of another driver.
        invalid: Bits of `EngineInvalidityDiagnostics` that the runtime reports for each engine.
        capturable: Whether a context can be recorded as a CUDA graph.
        full: Whether the GPU's memory is full.
        compiled: Number of contexts that found no kernels, and compiled theirs.
    """

    def __init__(self):
        self.kernels, self.invalid, self.compiled = b"kernels of 1.7", 0, 0
        self.capturable, self.full = True, False


def module(fault=""):
    """Return a module like TensorRT for RTX whose `Runtime` computes with ONNX Runtime, and its faults."""
    faults = Faults()
    trt: Any = real()
    plain: Any = plain_tensorrt.module("11.0.0", fault)

    class OnnxParser(trt.OnnxParser):
        def __init__(self, network, logger):
            super().__init__(network, logger)
            self.parsed = b""

        def parse(self, model):
            fake.parsed = bytes(model)
            return super().parse(model)

    class Builder(trt.Builder):
        def build_serialized_network(self, network, config):
            wanted = fake.parsed, config.get_compute_capability(0).name
            fake.builds.append(wanted[1])
            if wanted not in BUILT:
                made = super().build_serialized_network(network, config)
                if made is None:  # aborted
                    return None
                BUILT[wanted] = bytes(made)
            return BUILT[wanted]

    class Runtime(plain.Runtime):
        def get_engine_validity(self, content):
            state = trt.EngineValidity.INVALID if faults.invalid else trt.EngineValidity.VALID
            return state, faults.invalid

        def deserialize_cuda_engine(self, content):
            graph = next(graph for (graph, _), built in BUILT.items() if built == bytes(content))
            found = super().deserialize_cuda_engine(plain_tensorrt.MARK + b"\1" + graph)
            found.create_runtime_config = RuntimeConfig
            found.create_execution_context = lambda config: execution_context(found, config)
            return found

    class RuntimeConfig:
        def create_runtime_cache(self):
            return RuntimeCache()

        def set_runtime_cache(self, cache):
            self.cache = cache
            return True

    class RuntimeCache:
        content = b""

        def deserialize(self, blob):
            self.content = blob if blob == faults.kernels else b""
            return bool(self.content)

        def serialize(self):
            return self.content

    def execution_context(engine, config):
        assert (
            config.dynamic_shapes_kernel_specialization_strategy is trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        if faults.full:
            return None
        faults.compiled += not config.cache.content
        config.cache.content = faults.kernels
        context = plain.ICudaEngine.create_execution_context(engine)
        context.is_stream_capturable = lambda stream: faults.capturable
        return context

    fake: Any = types.ModuleType("tensorrt_rtx_bindings")
    fake.__dict__.update({name: getattr(trt, name) for name in dir(trt) if not name.startswith("_")})
    fake.__dict__.update(
        __version__=trt.__version__, OnnxParser=OnnxParser, Builder=Builder, Runtime=Runtime, builds=[], parsed=b"",
        TensorIOMode=plain.TensorIOMode,
    )  # fmt: skip
    return fake, faults


class Cuda(plain_tensorrt.Cuda):
    """A fake RTX card."""

    def __init__(self, name="RTX 4070", capability="8.9", cuda="13.0"):
        super().__init__(name, cuda)
        self.gpu = Gpu(name, capability, 12 << 30, False, cuda)


def install(monkeypatch, folder, cuda=None, fault=""):
    """Install the module, a fake GPU and a folder of engines; return the module and its faults."""
    fake, faults = module(fault)
    monkeypatch.setenv("ACTREC_ENGINES", str(folder))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", fake)
    monkeypatch.setattr(tensorrt_cuda, "open_cuda", lambda library="auto": cuda or Cuda())
    return fake, faults
