"""A TensorRT engine on a GPU: loaded, with its buffers, contexts, CUDA graphs and compiled kernels."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.inference.tensorrt.builder import recorded_log
from actrec.inference.tensorrt.cache import EngineCache, EngineKey
from actrec.inference.tensorrt.cuda import Cuda, CudaGraph
from actrec.utils.errors import DeviceError, InputError

logger = logging.getLogger(__name__)

Inputs = dict[str, np.ndarray]

_DELETE = "delete it, and it is built again"
_FREE = "end what else uses the GPU's memory, or take backend onnxruntime"
INVALID = {
    "VERSION_MISMATCH": ("it is of another version of TensorRT for RTX", _DELETE),
    "UNSUPPORTED_CC": ("it is for another compute capability", "build it with actrec build-engine --for"),
    "OLD_CUDA_DRIVER": ("the driver is too old for it", "update the NVIDIA driver"),
    "OLD_CUDA_RUNTIME": ("the CUDA runtime is too old for it", "pip install --upgrade cuda-bindings"),
    "INSUFFICIENT_GPU_MEMORY": ("the GPU's memory is full", _FREE),
    "MALFORMED_ENGINE": ("it is damaged, or not an engine of this library", _DELETE),
    "CUDA_ERROR": ("CUDA does not work", "check nvidia-smi"),
}
"""Why TensorRT for RTX refuses an engine (`EngineInvalidityDiagnostics`): cause and remedy."""


@dataclass(frozen=True)
class Kernels:
    """The kernels that TensorRT for RTX compiled for an engine (its runtime cache), in a file beside the engine."""

    cache: EngineCache
    key: EngineKey
    gpu: str

    def read(self) -> bytes:
        """Return them; empty if there are none or the file is damaged, which is logged."""
        return self.cache.kernels(self.key, self.gpu)

    def write(self, content: bytes) -> None:
        """Store them; if that fails, which is logged, they are compiled again at the next start."""
        try:
            self.cache.store_kernels(self.key, self.gpu, content)
        except DeviceError as error:
            logger.warning("compiled kernels are not kept: %s", error)


class Engine:
    """An engine with its buffers. Calls are made within the context of the GPU.

    Args:
        most: Windows of one run.
        graph: Record each number of windows as a CUDA graph.
        origin: Its file, for messages.
        kernels: Where compiled kernels are kept, of TensorRT for RTX.
        outputs: Shapes of outputs that have another number of rows than windows.

    Attributes:
        inputs, outputs: Shapes by name; None for the batch axis.

    Raises:
        DeviceError: The engine is corrupt, of another TensorRT or GPU, or memory is full.
    """

    def __init__(
        self, trt: Any, cuda: Cuda, content: bytes, most: int, graph: bool, origin: str = "the engine",
        kernels: Kernels | None = None, outputs: Mapping[str, tuple[int, ...]] | None = None,
    ):  # fmt: skip
        self._cuda, self._most, self._graph = cuda, most, graph
        self._errors: list[str] = []
        self._runtime = trt.Runtime(recorded_log(trt, self._errors, logging.ERROR))
        check_validity(trt, self._runtime, content, origin)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise DeviceError(self._problem(f"TensorRT cannot load {origin}"))
        self._kernels = _KernelCache(trt, self._engine, kernels) if hasattr(trt, "IRuntimeCache") else None
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        # An axis of free size is the batch.
        shapes = {n: tuple(most if size < 0 else size for size in self._engine.get_tensor_shape(n)) for n in names}
        shapes |= {name: shape for name, shape in (outputs or {}).items() if name in shapes}
        results = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        self._buffers = {name: cuda.buffer(shape) for name, shape in shapes.items()}
        free: dict[str, tuple[int | None, ...]] = {name: (None, *shape[1:]) for name, shape in shapes.items()}
        self.inputs = {name: shape for name, shape in free.items() if name not in results}
        self.outputs = {name: free[name] for name in results}
        self._runs: dict[int, tuple[Any, Callable[[], None]]] = {}
        """Number of windows to its context, which owns memory, and the function that launches it."""

    def run(self, inputs: Inputs) -> Inputs:
        """Return the outputs [N, …] by name of at most `most` windows; one without a batch axis as it is."""
        if set(inputs) != set(self.inputs):
            raise InputError(f"the network takes {sorted(self.inputs)}, got {sorted(inputs)}")
        count = len(next(iter(inputs.values())))
        for name, value in inputs.items():
            expected = (count, *self.inputs[name][1:])
            if value.shape != expected or not 0 < count <= self._most:
                raise InputError(
                    f"input '{name}' is {list(value.shape)}, expected {list(expected)} of 1 to {self._most}"
                )
            self._buffers[name].host[:count] = value
        if count not in self._runs:
            self._runs[count] = self._prepare(count)
        self._runs[count][1]()
        self._cuda.synchronize()
        hosts = ((name, self._buffers[name].host) for name in self.outputs)
        return {name: (host[:count] if len(host) == self._most else host).copy() for name, host in hosts}

    def _prepare(self, count: int) -> tuple[Any, Callable[[], None]]:
        """Return a context for this number of windows, and its launch: a recorded graph uses the context's memory."""
        if self._kernels is not None:
            context = self._engine.create_execution_context(self._kernels.config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise DeviceError(f"not enough GPU memory to run the engine: {_FREE}")
        # TensorRT 8.6 sets a profile automatically for the first context only. This copies through the same stream.
        _require(context.set_optimization_profile_async(0, self._cuda.stream), "the profile of its shapes")
        for name, buffer in self._buffers.items():
            _require(context.set_tensor_address(name, buffer.address), f"an address for '{name}'")
        for name, shape in self.inputs.items():
            _require(context.set_input_shape(name, (count, *shape[1:])), f"{count} windows of '{name}'")

        # Without a reference to this object, in a cycle with which the GPU's memory would outlive it.
        cuda, most, buffers = self._cuda, self._most, self._buffers
        given, found = [buffers[name] for name in self.inputs], [buffers[name] for name in self.outputs]

        def launch() -> None:
            for buffer in given:
                cuda.upload(buffer, count)
            if not context.execute_async_v3(cuda.stream):
                raise DeviceError("TensorRT could not start the network: see its log")
            for buffer in found:
                rows = len(buffer.host)
                cuda.download(buffer, count if rows == most else rows)

        if self._graph or self._kernels is not None:
            launch()  # the first run allocates and compiles, which a recording must not
            self._cuda.synchronize()
        if self._kernels is not None:
            self._kernels.keep()
            if self._graph and not context.is_stream_capturable(self._cuda.stream):
                logger.warning("launched without a CUDA graph: TensorRT cannot record this engine")
                return context, launch
        if self._graph:
            try:
                return context, CudaGraph(self._cuda.stream, launch).launch
            except DeviceError as error:
                logger.warning("launched without a CUDA graph: %s", error)
        return context, launch

    def _problem(self, what: str) -> str:
        """Return the error for an engine that was not loaded, with TensorRT's first error and a remedy."""
        why = next((line.strip().splitlines()[0][:300] for line in self._errors if line.strip()), "")
        if "memory" in why.lower():
            return f"{what}: not enough GPU memory: {why}; {_FREE}"
        return f"{what}: it is corrupt, or of another TensorRT or GPU{f' ({why})' if why else ''}; {_DELETE}"


def check_validity(trt: Any, runtime: Any, content: bytes, origin: str) -> None:
    """Raise DeviceError if TensorRT for RTX states that an engine cannot run; does nothing for TensorRT."""
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, found = runtime.get_engine_validity(content)
    if validity == trt.EngineValidity.SUBOPTIMAL:
        logger.warning("%s runs slower than an engine of this version and GPU would: %s", origin, _DELETE)
    if validity != trt.EngineValidity.INVALID:
        return
    for name, (cause, remedy) in INVALID.items():
        if found & int(getattr(trt.EngineInvalidityDiagnostics, name)):
            raise DeviceError(f"{origin} cannot run: {cause}; {remedy}")


class _KernelCache:
    """The runtime configuration of an engine of TensorRT for RTX, and its compiled kernels.

    Kernels are compiled for each number of windows before its first run, not in the background: a CUDA graph would
    keep the slow ones.
    """

    def __init__(self, trt: Any, engine: Any, store: Kernels | None):
        self._store = store
        self.config = engine.create_runtime_config()
        self.config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._cache = self.config.create_runtime_cache()
        self._stored = store.read() if store is not None else b""
        if self._stored and not self._cache.deserialize(self._stored):
            logger.warning("compiled kernels are of another GPU, driver or version; they are compiled again")
            self._stored = b""
        self.config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Store the kernels if some were compiled since."""
        content = bytes(self._cache.serialize())
        if self._store is not None and len(content) != len(self._stored):
            self._store.write(content)
            self._stored = content


def _require(accepted: bool, what: str) -> None:
    if not accepted:
        raise DeviceError(f"TensorRT refuses {what}: see its log")
