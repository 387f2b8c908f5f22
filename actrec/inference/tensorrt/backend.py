"""TensorRT on an NVIDIA GPU: a network's engine, its comparison with ONNX Runtime, and its runs through CUDA graphs."""

import importlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.features.clips import example_windows
from actrec.inference.onnxruntime_backend import OnnxRuntimeBackend, outputs_of
from actrec.inference.package import ModelPackage
from actrec.inference.tensorrt import builder
from actrec.inference.tensorrt import cuda as tensorrt_cuda
from actrec.inference.tensorrt.builder import BuildConfig, EngineSource, Progress, group_of
from actrec.inference.tensorrt.cache import EngineCache
from actrec.inference.tensorrt.cuda import Cuda, CudaGraph
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, DeviceError, InputError, PackageError

logger = logging.getLogger(__name__)

CHECKED = 8  # windows that an engine is compared with ONNX Runtime on
INT8_MARGIN = 3.0
"""Factor of the difference allowed for int8: a value that is rounded the other way is off by a whole step."""

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class TensorRtConfig(BuildConfig):
    """Settings of the TensorRT backend."""

    cache: str = setting("", "folder of the engines; empty: $ACTREC_ENGINES, or ~/.cache/actrec/engines")
    memory: str = setting(
        "auto", "library of the GPU's memory; auto: the first that is installed",
        choices=("auto", *tensorrt_cuda.LIBRARIES),
    )  # fmt: skip
    graph: bool = setting(True, "launch the network as one CUDA graph")
    largest_difference: float = setting(
        0.05, "of an engine's logits from ONNX Runtime's, as a share of their spread; int8 three times that",
        range=(0.0, 1.0),
    )  # fmt: skip


class EngineRunner(ABC):
    """Runs a network's engine, built where the cache has none: the base of the TensorRT backends.

    Args:
        source: The network.
        settings: How the engine is built and run.
        progress: Called at each step of a build.

    Raises:
        MissingLibraryError: TensorRT, or a library of the GPU's memory, is not installed.
        PackageError: The network cannot become an engine, or its engine disagrees with ONNX Runtime.
        DeviceError: There is no GPU, its memory is full, or the cache cannot be written to.
    """

    def __init__(self, source: EngineSource, settings: TensorRtConfig, progress: Progress | None):
        self.config = settings
        self._trt = builder.tensorrt()
        self._cuda = tensorrt_cuda.open_cuda(settings.memory)
        with self._cuda.current():
            content = self._find_or_build(source, EngineCache(settings.cache), progress)
            self._engine = Engine(self._trt, self._cuda, content, settings.most, settings.graph)
        self._running = threading.Lock()  # several threads may run one session, whose engine has one set of buffers
        self.inputs = self._engine.inputs
        self.device = f"TensorRT {self._trt.__version__} {settings.precision} on {self._cuda.gpu.name}"
        logger.info("%s runs in %s through %s", source.name, self.device, self._cuda.library)

    def run_all(self, inputs: Inputs) -> Inputs:
        """Return the outputs [N, …] float32 by name of inputs [N, …] float32.

        Raises:
            InputError: The inputs have other names or shapes than the network's.
            DeviceError: The GPU failed.
        """
        with self._running, self._cuda.current():
            count, most = len(next(iter(inputs.values()))), self.config.most
            parts = [{name: value[at : at + most] for name, value in inputs.items()} for at in range(0, count, most)]
            found = [self._engine.run(part) for part in parts]
            return {name: np.concatenate([part[name] for part in found]) for name in self._engine.outputs}

    @abstractmethod
    def _check(self, source: Any, content: bytes) -> dict[str, Any]:
        """Compare a new engine with ONNX Runtime; return details for its note, or raise PackageError."""

    def _find_or_build(self, source: EngineSource, cache: EngineCache, progress: Progress | None) -> bytes:
        """Return the engine from the cache, or build, check and store it. Raises as the class."""
        key = builder.key_of(self._trt, source, self.config, self._cuda.gpu)
        if (found := cache.find(key)) is not None:
            return found
        with cache.building(key) as built:
            if built is not None:
                return built
            began = time.monotonic()
            logger.info("building %s for %s; this takes minutes, once", key.name, self._cuda.gpu.name)
            content, timings = builder.build(self._trt, source, self.config, cache.timings(key), progress)
            details = {"seconds": round(time.monotonic() - began, 1), **self._check(source, content)}
            if timings:
                cache.store_timings(key, timings)
            path = cache.store(key, content, details)
            logger.info("%s: %.1f MB in %.0f s", path, len(content) / 1e6, details["seconds"])
        return content


def is_built(source: EngineSource, settings: TensorRtConfig) -> bool:
    """Return whether the engine is built, and opens in seconds instead of minutes. Raises as `EngineRunner`."""
    trt, cuda = builder.tensorrt(), tensorrt_cuda.open_cuda(settings.memory)
    return EngineCache(settings.cache).find(builder.key_of(trt, source, settings, cuda.gpu)) is not None


class TensorRtBackend(EngineRunner):
    """Runs a package's engine; see `actrec.inference.session.Backend`. Raises as `EngineRunner`.

    Args:
        progress: Called at each step of a build.
        **options: Fields of `TensorRtConfig`.
    """

    config_class = TensorRtConfig

    def __init__(self, package: ModelPackage, progress: Progress | None = None, **options: Any):
        super().__init__(package, config.build(TensorRtConfig, options), progress)
        self.output = _one_output(self._engine)

    @classmethod
    def ready(cls, package: ModelPackage, **options: Any) -> bool:
        """Return whether the engine is built (`is_built`)."""
        return is_built(package, config.build(TensorRtConfig, options))

    def run(self, inputs: Inputs) -> np.ndarray:
        """Return logits [N, classes] float32 of inputs [N, …] float32; raises as `run_all`."""
        (logits,) = self.run_all(inputs).values()
        return logits

    def _check(self, package: ModelPackage, content: bytes) -> dict[str, Any]:
        """Compare a new engine with ONNX Runtime, in float32 or int8; raise PackageError naming layers that differ."""
        made = simulated_windows(package, CHECKED)
        rows = [{name: value[at : at + 1] for name, value in made.items()} for at in range(CHECKED)]
        engine = Engine(self._trt, self._cuda, content, self.config.most, False)
        _one_output(engine)
        found = np.concatenate([next(iter(engine.run(row).values())) for row in rows])
        precision, margin = ("int8", INT8_MARGIN) if self.config.precision == "int8" else ("float32", 1.0)
        expected = OnnxRuntimeBackend(package, device="cpu", precision=precision).run(made)
        difference, allowed = relative_difference(found, expected), margin * self.config.largest_difference
        if difference > allowed:
            raise PackageError(self._disagreement(package, difference, allowed, rows[0]))
        return {"difference": difference, "bytes": len(content)}

    def _disagreement(self, package: ModelPackage, difference: float, allowed: float, row: Inputs) -> str:
        """Return the error of an engine that disagrees, with a remedy."""
        share = f"differ from ONNX Runtime's by {difference:.1%} of their spread"
        found = "are no numbers" if np.isinf(difference) else share
        text = f"{package.name}: the engine's logits {found}, at most {allowed:.0%} may"
        if self.config.precision == "fp32":
            return f"{text}: take backend onnxruntime, and report it with TensorRT's version"
        if self.config.precision == "fp16" and not builder.takes_flags(self._trt):
            return f"{text}: build it with --precision fp32"
        logger.warning("%s; searching for the first layers that differ, which takes another build", text)

        def run(onnx: bytes, inputs: Inputs) -> Inputs:
            content, _ = builder.build(self._trt, package, self.config, b"", onnx=onnx)
            return Engine(self._trt, self._cuda, content, 1, False).run(inputs)

        try:
            network = builder.source_of(self._trt, package, self.config).network
            group = first_wrong_group(package.read_onnx(network), row, run, allowed)
        except ActrecError as error:
            logger.warning("they were not found: %s", error)
            group = None
        if group is None:
            return f"{text}: build it with --precision fp32 (pip install onnx to find the layers)"
        kept = ",".join([*self.config.kept, group])
        first = "quantize it again (actrec quantize) with" if self.config.precision == "int8" else "build it with"
        return f"{text}; it begins in layer group '{group}': {first} --keep {kept}, or build with --precision fp32"


class Engine:
    """An engine with its buffers. Calls are made within the context of the GPU.

    Args:
        most: Windows of one run.
        graph: Record each number of windows as a CUDA graph.

    Attributes:
        inputs, outputs: Shapes by name; None for the batch axis.

    Raises:
        DeviceError: The engine is corrupt or of another TensorRT or GPU, or memory is full.
    """

    def __init__(self, trt: Any, cuda: Cuda, content: bytes, most: int, graph: bool):
        self._cuda, self._most, self._graph = cuda, most, graph
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise DeviceError(
                "TensorRT cannot load the engine: it is corrupt, or of another TensorRT or GPU; delete it"
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        # An axis of free size is the batch.
        shapes = {n: tuple(most if size < 0 else size for size in self._engine.get_tensor_shape(n)) for n in names}
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
        context = self._engine.create_execution_context()
        if context is None:
            raise DeviceError(
                "not enough GPU memory to run the engine: close other programs that use it, or set backend onnxruntime"
            )
        # TensorRT 8.6 sets a profile automatically for the first context only. This copies through the same stream.
        _require(context.set_optimization_profile_async(0, self._cuda.stream), "the profile of its shapes")
        for name, buffer in self._buffers.items():
            _require(context.set_tensor_address(name, buffer.address), f"an address for '{name}'")
        for name, shape in self.inputs.items():
            _require(context.set_input_shape(name, (count, *shape[1:])), f"{count} windows of '{name}'")

        def launch() -> None:
            for name in self.inputs:
                self._cuda.upload(self._buffers[name], count)
            if not context.execute_async_v3(self._cuda.stream):
                raise DeviceError("TensorRT could not start the network: see its log")
            for name in self.outputs:
                rows = len(self._buffers[name].host)
                self._cuda.download(self._buffers[name], count if rows == self._most else rows)

        if self._graph:
            launch()  # the first run allocates, which a recording must not
            self._cuda.synchronize()
            try:
                return context, CudaGraph(self._cuda.stream, launch).launch
            except DeviceError as error:
                logger.warning("launched without a CUDA graph: %s", error)
        return context, launch


def _require(accepted: bool, what: str) -> None:
    if not accepted:
        raise DeviceError(f"TensorRT refuses {what}: see its log")


def _one_output(engine: Engine) -> tuple[int | None, ...]:
    """Return the shape of a package's logits; a PackageError if its engine has other outputs."""
    if len(engine.outputs) != 1:
        raise PackageError(f"the engine has {len(engine.outputs)} outputs, expected the logits alone: export it again")
    return next(iter(engine.outputs.values()))


# -- comparison with ONNX Runtime --------------------------------------------------------------------------------------


def simulated_windows(package: ModelPackage, count: int) -> Inputs:
    """Return inputs [count, …] float32 of windows with simulated people."""
    return example_windows(package.inputs, package.window, package.bodies, count)


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of values [N, …], as a share of the expected ones' spread; infinite for NaN."""
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max()) / max(float(expected.max() - expected.min()), 1e-6)


def first_wrong_group(
    content: bytes, inputs: Inputs, run: Callable[[bytes, Inputs], Inputs], allowed: float
) -> str | None:
    """Return the layer group after which the engine's values first differ too much from ONNX Runtime's.

    If no group's `relative_difference` is above `allowed`, it is the one with the largest. It is None if the package
    `onnx`, which adds outputs to the graph `content`, is not installed. `inputs` are one window; `run` builds the
    engine of a graph and returns its outputs for them.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError:
        return None
    probed, names = _with_probes(onnx, content)
    expected, found = outputs_of(probed, inputs), run(probed, inputs)
    differences = {group: relative_difference(found[name], expected[name]) for group, name in names.items()}
    wrong = [group for group in names if differences[group] > allowed]
    return wrong[0] if wrong else max(differences, key=lambda group: differences[group])


def _with_probes(onnx: Any, content: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the graph with the last value of each layer group as a float32 output, and their names in order."""
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
    graph, floats = model.graph, (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    last: dict[str, str] = {}
    for node in graph.node:
        for output in node.output:
            if types.get(output) in floats:
                group = group_of(node.name)
                last.pop(group, None)  # in the order of the last one
                last[group] = output
    final = {value.name for value in graph.output}
    for group, name in last.items():
        if name not in final:
            last[group] = probe = f"probe/{group}"
            graph.node.append(onnx.helper.make_node("Cast", [name], [probe], name=probe, to=onnx.TensorProto.FLOAT))
            graph.output.append(onnx.helper.make_tensor_value_info(probe, onnx.TensorProto.FLOAT, None))
    return bytes(onnx.shape_inference.infer_shapes(model).SerializeToString()), last
