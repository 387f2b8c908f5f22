"""Fake TensorRT and CUDA on numpy and ONNX Runtime: they record calls and compute the network."""

import contextlib
import ctypes
import enum
import time
import types

import numpy as np
import onnx
import onnxruntime

from actrec.inference.tensorrt.cuda import Buffer, Gpu

MARK = b"ENGINE"


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
    """A base class that records calls of its methods as (class, method, args, kwargs)."""

    calls: list

    def __getattribute__(self, name):
        value = object.__getattribute__(self, name)
        if name.startswith("_") or not callable(value) or isinstance(value, type):
            return value

        def recorded_call(*args, **kwargs):
            self.calls.append((type(self).__name__, name, args, kwargs))
            return value(*args, **kwargs)

        return recorded_call


def module(version="10.3.0", fault=""):
    """Return a fake module `tensorrt`; `fault` names the part that fails."""
    calls = []
    major = int(version.split(".")[0])
    flags = "FP16 TF32 INT8 OBEY_PRECISION_CONSTRAINTS" if major < 11 else "TF32"

    class Builder(Recorded):
        def __init__(self, logger):
            self._logger = logger

        def create_network(self, flags=0):
            calls.append(("flags", flags))
            return INetworkDefinition()

        def create_builder_config(self):
            return IBuilderConfig()

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            network.shared = config.shared
            monitor = getattr(config, "progress_monitor", None)
            if monitor is not None and not self._report_progress(monitor, 100 if fault == "slow" else 1):
                self._logger.log(Logger.ERROR, "the build was cancelled")
                return None
            if fault in ("build", "memory"):
                self._logger.log(Logger.ERROR, "out of memory" if fault == "memory" else "no implementation for node_3")
                return None
            return bytearray(MARK + bytes([network.shared]) + network.onnx)

        def _report_progress(self, monitor, steps):
            """Return whether all steps ran; like the real bindings, ignore exceptions during the build."""
            _call_ignoring_errors(monitor.phase_start, "Building", None, steps + 1)
            for step in range(steps):
                _call_ignoring_errors(time.sleep, 0.03 if fault == "slow" else 0.0)
                if not _call_ignoring_errors(monitor.step_complete, "Building", step):
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
            return ILayer(self._nodes[index])

    class ILayer(Recorded):
        def __init__(self, node):
            self.name, self.num_outputs = node.name, len(node.output)

        def __setattr__(self, name, value):
            if name == "precision":
                calls.append(("precision", self.name, value))
            object.__setattr__(self, name, value)

        def get_output(self, index):
            return types.SimpleNamespace(dtype="float32")

        def set_output_type(self, index, dtype):
            calls.append(("output type", self.name, (index, dtype)))

    class IBuilderConfig(Recorded):
        def __init__(self):
            self.shared = major >= 9

        def set_preview_feature(self, feature, enable):
            assert feature is fake.PreviewFeature.PROFILE_SHARING_0806
            self.shared = enable

        def set_memory_pool_limit(self, pool, pool_size):
            calls.append(("workspace", pool_size))

        def set_flag(self, flag):
            calls.append(("set", flag))

        def clear_flag(self, flag):
            calls.append(("clear", flag))

        def create_timing_cache(self, serialized_timing_cache):
            calls.append(("timings", bytes(serialized_timing_cache)))
            return None if fault == "timings" and serialized_timing_cache else ITimingCache()

        def set_timing_cache(self, cache, ignore_mismatch):
            if cache is None:
                raise TypeError("set_timing_cache(): incompatible function arguments")
            return True

        def get_timing_cache(self):
            return ITimingCache()

        def add_optimization_profile(self, profile):
            return 0

    class ITimingCache(Recorded):
        def serialize(self):
            return bytearray(b"times")

    class IOptimizationProfile(Recorded):
        def set_shape(self, input, min, opt, max):
            calls.append(("shape", input, min, opt, max))

    class OnnxParser(Recorded):
        def __init__(self, network, logger):
            self._network = network

        num_errors = 1

        def parse(self, model):
            self._network.onnx = bytes(model)
            return fault != "parse"

        def get_error(self, index):
            return "In node 3 (Einsum): UNSUPPORTED_NODE\nmore"

    class Runtime(Recorded):
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, serialized_engine):
            content = bytes(serialized_engine)
            return None if fault == "corrupt" or not content.startswith(MARK) else ICudaEngine(*_unpack(content))

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
            return None if fault == "context" else IExecutionContext(self)

    class IExecutionContext(Recorded):
        def __init__(self, engine):
            self._engine, self._addresses, self._shapes = engine, {}, {}
            engine.contexts += 1
            self._first = engine.contexts == 1
            self._has_profile = self._first or major > 8  # in 8.6, only the first context has a profile by default

        def set_optimization_profile_async(self, profile_index, stream_handle):
            assert (profile_index, stream_handle) == (0, Cuda.stream)
            self._has_profile = self._first or self._engine.shared
            return self._has_profile

        def set_tensor_address(self, name, memory):
            self._addresses[name] = memory
            return True

        def set_input_shape(self, name, shape):
            self._shapes[name] = tuple(shape)
            return fault != "shape" and self._has_profile

        def execute_async_v3(self, stream_handle):
            assert stream_handle == Cuda.stream
            inputs = {name: _at(self._addresses[name], shape).copy() for name, shape in self._shapes.items()}
            outputs = self._engine._session.get_outputs()
            for value, logits in zip(outputs, self._engine._session.run(None, inputs), strict=True):
                output = _at(self._addresses[value.name], logits.shape)
                output[:] = logits
                if value.name in ("logits", "landmarks") or fault == "differs early":
                    _apply_fault(output, fault)
            return fault != "start"

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
    Recorded.calls = calls
    fake = types.ModuleType("tensorrt")
    fake.__dict__.update(
        __version__=version, Builder=Builder, OnnxParser=OnnxParser, Runtime=Runtime, Logger=Logger, ILogger=ILogger,
        ICudaEngine=ICudaEngine,
        TensorIOMode=TensorIOMode, IProgressMonitor=IProgressMonitor, calls=calls,
        BuilderFlag=enum.Enum("BuilderFlag", flags),
        float32="float32", float16="float16",
        PreviewFeature=enum.Enum("PreviewFeature", "PROFILE_SHARING_0806"),
        MemoryPoolType=enum.Enum("MemoryPoolType", "WORKSPACE"),
        NetworkDefinitionCreationFlag=enum.IntEnum("Flag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}),
    )  # fmt: skip
    return fake


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
