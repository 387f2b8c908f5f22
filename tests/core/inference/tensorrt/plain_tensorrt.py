"""Fake TensorRT and CUDA on numpy and ONNX Runtime: they record calls and compute the network."""

import contextlib
import ctypes
import enum
import time
import types
from typing import Any

import numpy as np
import onnx
import onnxruntime

from actrec.inference.tensorrt.cuda import Buffer, Gpu

MARK = b"ENGINE"

CANCELLED = ("cancelled",)
"""The recorded call of a build that its progress monitor ends."""


class Cuda:
    """A fake `Cuda` with host memory that records copies."""

    library, stream = "plain", 7

    def __init__(self, name="Orin", cuda="12.6"):
        self.gpu = Gpu(name, "8.7", 8 << 30, True, cuda)
        self.copies, self.inside, self.synchronized = [], 0, 0

    @contextlib.contextmanager
    def current(self):
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def buffer(self, shape):
        assert self.inside
        host = np.zeros(shape, np.float32)
        return Buffer(host, host.ctypes.data, True, host)

    def upload(self, buffer, count):
        self.copies.append(("up", count))

    def download(self, buffer, count):
        self.copies.append(("down", count))

    def synchronize(self):
        assert self.inside
        self.synchronized += 1


class Recorded:
    """A base class that records calls of its methods as (class, method, args, kwargs) in its module's `calls`."""

    trt: Any

    def __getattribute__(self, name):
        value = object.__getattribute__(self, name)
        if name.startswith("_") or not callable(value) or isinstance(value, type):
            return value

        def recorded_call(*args, **kwargs):
            self.trt.calls.append((type(self).__name__, name, args, kwargs))
            return value(*args, **kwargs)

        return recorded_call


class Builder(Recorded):
    def __init__(self, logger):
        self._logger = logger

    def create_network(self, flags=0):
        self.trt.calls.append(("flags", flags))
        return self.trt.INetworkDefinition()

    def create_builder_config(self):
        return self.trt.IBuilderConfig()

    def create_optimization_profile(self):
        return self.trt.IOptimizationProfile()

    def build_serialized_network(self, network, config):
        network.shared = config.shared
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None and not self._report_progress(monitor):
            self._logger.log(Logger.ERROR, "the build was cancelled")
            return None
        if (
            error := {"build": "no implementation for node_3", "memory": "out of memory"}.get(self.trt.fault)
        ) is not None:
            self._logger.log(Logger.ERROR, error)
            return None
        return bytearray(MARK + bytes([network.shared]) + network.onnx)

    def _report_progress(self, monitor):
        """Return whether all steps ran; like the real bindings, ignore exceptions during the build."""
        count, seconds = (1000, 0.03) if self.trt.fault == "slow" else (1, 0.0)
        _call_ignoring_errors(monitor.phase_start, "Building", None, count + 1)
        for step in range(count):
            self.trt.calls.append(("step", step))
            _call_ignoring_errors(time.sleep, seconds)
            if not _call_ignoring_errors(monitor.step_complete, "Building", step):
                self.trt.calls.append(CANCELLED)
                return False
        _call_ignoring_errors(monitor.phase_finish, "Building")
        return True


class INetworkDefinition(Recorded):
    onnx = b""

    @property
    def num_layers(self):
        return len(self._nodes)

    @property
    def _nodes(self):
        return onnx.load_model_from_string(self.onnx).graph.node

    def get_layer(self, index):
        return self.trt.ILayer(self._nodes[index])


class ILayer(Recorded):
    def __init__(self, node):
        self.name, self.num_outputs = node.name, len(node.output)

    def __setattr__(self, name, value):
        if name == "precision":
            self.trt.calls.append(("precision", self.name, value))
        object.__setattr__(self, name, value)

    def get_output(self, index):
        return types.SimpleNamespace(dtype="float32")

    def set_output_type(self, index, dtype):
        self.trt.calls.append(("output type", self.name, (index, dtype)))


class IBuilderConfig(Recorded):
    def __init__(self):
        self.shared = self.trt.major >= 9

    def set_preview_feature(self, feature, enable):
        assert feature is self.trt.PreviewFeature.PROFILE_SHARING_0806
        self.shared = enable

    def set_memory_pool_limit(self, pool, pool_size):
        self.trt.calls.append(("workspace", pool_size))

    def set_flag(self, flag):
        self.trt.calls.append(("set", flag))

    def clear_flag(self, flag):
        self.trt.calls.append(("clear", flag))

    def create_timing_cache(self, serialized_timing_cache):
        self.trt.calls.append(("timings", bytes(serialized_timing_cache)))
        return None if self.trt.fault == "timings" and serialized_timing_cache else self.trt.ITimingCache()

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache is None:
            raise TypeError("set_timing_cache(): incompatible function arguments")
        return True

    def get_timing_cache(self):
        return self.trt.ITimingCache()

    def add_optimization_profile(self, profile):
        return 0


class ITimingCache(Recorded):
    def serialize(self):
        return bytearray(b"times")


class IOptimizationProfile(Recorded):
    def set_shape(self, input, min, opt, max):
        self.trt.calls.append(("shape", input, min, opt, max))


class OnnxParser(Recorded):
    def __init__(self, network, logger):
        self._network = network

    num_errors = 1

    def parse(self, model):
        self._network.onnx = bytes(model)
        return self.trt.fault != "parse"

    def get_error(self, index):
        return "In node 3 (Einsum): UNSUPPORTED_NODE\nmore"


class Runtime(Recorded):
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, serialized_engine):
        content = bytes(serialized_engine)
        if self.trt.fault == "corrupt" or not content.startswith(MARK):
            return None
        return self.trt.ICudaEngine(*_unpack(content))


class ICudaEngine(Recorded):
    def __init__(self, onnx, shared):
        self.shared, self.contexts = shared, 0  # whether contexts share one profile
        self._session = onnxruntime.InferenceSession(onnx)
        self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, index):
        return self._tensors[index].name

    def _shape(self, name):
        (found,) = [t for t in self._tensors if t.name == name]
        return tuple(-1 if isinstance(size, str) else size for size in found.shape)

    def get_tensor_shape(self, name):
        return self._shape(name)

    def get_tensor_mode(self, name):
        outputs = [value.name for value in self._session.get_outputs()]
        return TensorIOMode.OUTPUT if name in outputs else TensorIOMode.INPUT

    def create_execution_context(self):
        return None if self.trt.fault == "context" else self.trt.IExecutionContext(self)


class IExecutionContext(Recorded):
    def __init__(self, engine):
        self._engine, self._addresses, self._shapes = engine, {}, {}
        engine.contexts += 1
        self._first = engine.contexts == 1
        self._has_profile = self._first or self.trt.major > 8  # in 8.6, only the first context has a profile by default

    def set_optimization_profile_async(self, profile_index, stream_handle):
        assert (profile_index, stream_handle) == (0, Cuda.stream)
        self._has_profile = self._first or self._engine.shared
        return self._has_profile

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name, shape):
        self._shapes[name] = tuple(shape)
        return self.trt.fault != "shape" and self._has_profile

    def execute_async_v3(self, stream_handle):
        assert stream_handle == Cuda.stream
        inputs = {name: _at(self._addresses[name], shape).copy() for name, shape in self._shapes.items()}
        outputs = self._engine._session.get_outputs()
        for value, logits in zip(outputs, self._engine._session.run(None, inputs), strict=True):
            output = _at(self._addresses[value.name], logits.shape)
            output[:] = logits
            if value.name in ("logits", "landmarks") or self.trt.fault == "differs early":
                _apply_fault(output, self.trt.fault)
        return self.trt.fault != "start"


class ILogger:
    def __init__(self):
        pass


class Logger(ILogger):
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

    def __init__(self, severity=1):
        pass


class IProgressMonitor:
    def __init__(self):
        pass


TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")

RECORDED = Recorded.__subclasses__()


def module(version="10.3.0", fault=""):
    """Return a fake module `tensorrt`; `fault` names the part that fails, or "slow": a build takes half a minute."""
    major = int(version.split(".")[0])
    flags = "FP16 TF32 INT8 OBEY_PRECISION_CONSTRAINTS" if major < 11 else "TF32"
    trt = types.ModuleType("tensorrt")
    trt.__dict__.update({kind.__name__: type(kind.__name__, (kind,), {"trt": trt}) for kind in RECORDED})
    trt.__dict__.update(
        __version__=version, major=major, fault=fault, calls=[], ILogger=ILogger, Logger=Logger,
        IProgressMonitor=IProgressMonitor, TensorIOMode=TensorIOMode,
        BuilderFlag=enum.Enum("BuilderFlag", flags),
        float32="float32", float16="float16",
        PreviewFeature=enum.Enum("PreviewFeature", "PROFILE_SHARING_0806"),
        MemoryPoolType=enum.Enum("MemoryPoolType", "WORKSPACE"),
        NetworkDefinitionCreationFlag=enum.IntEnum("Flag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}),
    )  # fmt: skip
    return trt


def is_building(trt):
    """Return whether a build of a module has begun its first step."""
    return any(call[0] == "step" for call in list(trt.calls))


def _unpack(content):
    """Return the network of an engine and whether its contexts share one profile."""
    return content[len(MARK) + 1 :], bool(content[len(MARK)])


def _call_ignoring_errors(call, *arguments):
    with contextlib.suppress(BaseException):
        return call(*arguments)


def _apply_fault(output, fault):
    """Corrupt the output as the fault requires."""
    if fault == "nan":
        output[:] = np.nan
    if fault.startswith("differs"):
        output[..., 0] -= 2 * np.abs(output).max() + 1


def _at(address, shape):
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)
