"""TensorRT, on an NVIDIA GPU: a package's engine, its buffers, one stream, a CUDA graph for each number of windows."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.inference.onnxruntime_backend import OnnxRuntimeBackend
from actrec.inference.package import ModelPackage
from actrec.inference.tensorrt import builder, comparison, diagnosis
from actrec.inference.tensorrt import cuda as tensorrt_cuda
from actrec.inference.tensorrt.builder import BuildConfig, Progress
from actrec.inference.tensorrt.cache import EngineCache
from actrec.inference.tensorrt.cuda import Cuda, CudaGraph
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, DeviceError, InputError, PackageError

logger = logging.getLogger(__name__)

CHECKED = 8
"""Windows that an engine is compared with ONNX Runtime on."""

INT8_MARGIN = 3.0
"""How much more an int8 engine may differ: a value that is rounded the other way is off by a whole step."""

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
    recordings: str = setting(
        "", "recordings of people that a new engine is compared on, with commas between; empty: simulated people"
    )

    @property
    def of_recordings(self) -> list[str]:
        """The recordings' paths."""
        return [path.strip() for path in self.recordings.split(",") if path.strip()]


class TensorRtBackend:
    """Runs a package's engine, built where the cache has none; see `actrec.inference.session.Backend`.

    Args:
        package: The package.
        progress: Told of each step of a build.
        **options: Fields of `TensorRtConfig`.

    Raises:
        MissingLibraryError: TensorRT, or a library of the GPU's memory, is not installed.
        PackageError: The network cannot become an engine, or its engine disagrees with ONNX Runtime.
        DeviceError: There is no GPU, its memory is full, or the cache cannot be written to.
    """

    config_class = TensorRtConfig

    def __init__(self, package: ModelPackage, progress: Progress | None = None, **options: Any):
        self.config = config.build(TensorRtConfig, options)
        self._trt = builder.tensorrt()
        self._cuda = tensorrt_cuda.open_cuda(self.config.memory)
        cache = EngineCache(self.config.cache)
        with self._cuda.current():
            content = builder.engine_of(
                self._trt,
                package,
                self.config,
                self._cuda.gpu,
                cache,
                lambda made: self._check(package, made),
                progress,
            )
            self._engine = Engine(self._trt, self._cuda, content, self.config.most, self.config.graph)
        self._running = threading.Lock()  # several threads may run one session, whose engine has one set of buffers
        self.inputs, self.output = self._engine.inputs, self._engine.output
        self.device = f"TensorRT {self._trt.__version__} {self.config.precision} on {self._cuda.gpu.name}"
        logger.info("%s runs in %s through %s", package.name, self.device, self._cuda.library)

    @classmethod
    def ready(cls, package: ModelPackage, **options: Any) -> bool:
        """Whether the engine is built: to open it takes seconds, not minutes. Options and errors as for the class."""
        settings = config.build(TensorRtConfig, options)
        trt, cuda = builder.tensorrt(), tensorrt_cuda.open_cuda(settings.memory)
        key = builder.key_of(trt, package, settings, cuda.gpu)
        return EngineCache(settings.cache).find(key) is not None

    def run(self, inputs: Inputs) -> np.ndarray:
        """Logits [N, classes] float32 of inputs [N, …] float32.

        Raises:
            InputError: The inputs have other names or shapes than the network's.
            DeviceError: The GPU failed.
        """
        with self._running, self._cuda.current():
            count = len(next(iter(inputs.values())))
            most = self.config.most
            parts = [{name: value[at : at + most] for name, value in inputs.items()} for at in range(0, count, most)]
            return np.concatenate([self._engine.run(part) for part in parts])

    def _check(self, package: ModelPackage, content: bytes) -> dict[str, Any]:
        """Compare a new engine with ONNX Runtime: in float32, or in int8 for an int8 engine.

        Raises:
            PackageError: They disagree; the message has the first layers that differ.
        """
        recordings = self.config.of_recordings
        clips = comparison
        made = clips.recorded(package, recordings, CHECKED) if recordings else clips.simulated(package, CHECKED)
        count = len(next(iter(made.values())))
        rows = [{name: value[at : at + 1] for name, value in made.items()} for at in range(count)]
        engine = Engine(self._trt, self._cuda, content, self.config.most, False)
        ours = np.concatenate([engine.run(row) for row in rows])
        precision, margin = ("int8", INT8_MARGIN) if self.config.precision == "int8" else ("float32", 1.0)
        theirs = OnnxRuntimeBackend(package, device="cpu", precision=precision).run(made)
        difference, allowed = builder.disagreement(ours, theirs), margin * self.config.largest_difference
        if difference > allowed:
            raise PackageError(self._disagreeing(package, difference, allowed, rows[0]))
        return {"difference": difference, "compared_on": recordings or "simulated people", "bytes": len(content)}

    def _disagreeing(self, package: ModelPackage, difference: float, allowed: float, row: Inputs) -> str:
        """Return what to say of an engine that disagrees, and what to do."""
        share = f"differ from ONNX Runtime's by {difference:.1%} of their spread"
        found = "are no numbers" if np.isinf(difference) else share
        text = f"{package.name}: the engine's logits {found}, at most {allowed:.0%} may"
        if self.config.precision == "fp32":
            return f"{text}: take backend onnxruntime, and report it with TensorRT's version"
        if self.config.precision == "fp16" and not builder.takes_flags(self._trt):
            return f"{text}: build it with --precision fp32"
        logger.warning("%s; searching for the first layers that differ, which takes another build", text)
        try:
            network = builder.source_of(self._trt, package, self.config).network
            group = diagnosis.first_wrong_group(package.read_onnx(network), row, self._probed(package), allowed)
        except ActrecError as error:
            logger.warning("they were not found: %s", error)
            group = None
        if group is None:
            return f"{text}: build it with --precision fp32 (pip install onnx to find the layers)"
        kept = ",".join([*self.config.kept, group])
        first = "quantize it again (actrec quantize) with" if self.config.precision == "int8" else "build it with"
        return f"{text}; it begins in layer group '{group}': {first} --keep {kept}, or build with --precision fp32"

    def _probed(self, package: ModelPackage) -> diagnosis.Run:
        """Build the engine of a graph with more outputs, and return these."""

        def run(onnx: bytes, row: Inputs) -> dict[str, np.ndarray]:
            content, _ = builder.build(self._trt, package, self.config, b"", onnx=onnx)
            return Engine(self._trt, self._cuda, content, 1, False, probes=True).run_all(row)

        return run


class Engine:
    """An engine with its buffers. Calls are made within the context of the GPU.

    Args:
        trt: The module `tensorrt`.
        cuda: The GPU and its stream.
        content: The engine.
        most: Windows of one run.
        graph: Record each number of windows as a CUDA graph.
        probes: It has outputs beside its logits, of any shape (`engine_diagnosis`).

    Raises:
        DeviceError: The engine is corrupt or of another TensorRT or GPU, or memory is full.
        PackageError: It has not one output.
    """

    def __init__(self, trt: Any, cuda: Cuda, content: bytes, most: int, graph: bool, probes: bool = False):
        self._cuda, self._most, self._graph = cuda, most, graph
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise DeviceError(
                "TensorRT does not take the engine: it is corrupt, or of another TensorRT or GPU; delete it"
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        # An axis of free size is the batch.
        shapes = {n: tuple(most if size < 0 else size for size in self._engine.get_tensor_shape(n)) for n in names}
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        if len(self._outputs) != 1 and not probes:
            raise PackageError(
                f"the engine has {len(self._outputs)} outputs, expected the logits alone: export it again"
            )
        self._buffers = {name: cuda.buffer(shape) for name, shape in shapes.items()}
        self.inputs = {name: (None, *shape[1:]) for name, shape in shapes.items() if name not in self._outputs}
        self.output = (None, *shapes[self._outputs[0]][1:])
        self._runs: dict[int, _Run] = {}

    def run(self, inputs: Inputs) -> np.ndarray:
        """Logits [N, classes] of at most `most` windows."""
        count = self._run(inputs)
        return self._buffers[self._outputs[0]].host[:count].copy()

    def run_all(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """Every output of `most` windows by name."""
        self._run(inputs)
        return {name: self._buffers[name].host.copy() for name in self._outputs}

    def _run(self, inputs: Inputs) -> int:
        count = self._take(inputs)
        if count not in self._runs:
            self._runs[count] = self._prepared(count)
        self._runs[count].start()
        self._cuda.synchronize()
        return count

    def _take(self, inputs: Inputs) -> int:
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
        return count

    def _prepared(self, count: int) -> "_Run":
        """Return a context for this number of windows: a recorded graph holds on to the memory of its context."""
        context = self._engine.create_execution_context()
        if context is None:
            raise DeviceError(
                "not enough GPU memory to run the engine: end what else uses it, or take backend onnxruntime"
            )
        # 8.6 gives a profile by itself to the first context alone. What this copies goes through the same stream.
        _asked(context.set_optimization_profile_async(0, self._cuda.stream), "the profile of its shapes")
        for name, buffer in self._buffers.items():
            _asked(context.set_tensor_address(name, buffer.address), f"an address for '{name}'")
        for name, shape in self.inputs.items():
            _asked(context.set_input_shape(name, (count, *shape[1:])), f"{count} windows of '{name}'")
        run = _Run(context, lambda: self._launch(context, count))
        if self._graph:
            run.start()  # the first run allocates, which a recording must not
            self._cuda.synchronize()
            try:
                run.start = CudaGraph(self._cuda.stream, run.start).launch
            except DeviceError as error:
                logger.warning("launched without a CUDA graph: %s", error)
        return run

    def _launch(self, context: Any, count: int) -> None:
        """Start copies and network on the stream."""
        for name in self.inputs:
            self._cuda.upload(self._buffers[name], count)
        if not context.execute_async_v3(self._cuda.stream):
            raise DeviceError("TensorRT could not start the network: see its log")
        for name in self._outputs:
            host = self._buffers[name].host
            self._cuda.download(self._buffers[name], count if len(host) == self._most else len(host))


@dataclass
class _Run:
    """So many windows: what keeps their memory, and what starts them on the stream."""

    context: Any
    start: Callable[[], None]


def _asked(done: bool, what: str) -> None:
    if not done:
        raise DeviceError(f"TensorRT refuses {what}: see its log")
