"""TensorRT, on an NVIDIA GPU: a package's engine, its buffers, one stream, a CUDA graph for each number of windows."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actrec import config
from actrec.config import setting
from actrec.errors import DeviceError, InputError, PackageError
from actrec.features.clips import each_clip
from actrec.inference import clips as windowed
from actrec.inference import cuda_memory, engine_builder
from actrec.inference.cuda_graph import CudaGraph
from actrec.inference.cuda_memory import Cuda
from actrec.inference.engine_builder import BuildConfig, Progress
from actrec.inference.engine_cache import EngineCache
from actrec.package import ModelPackage

logger = logging.getLogger(__name__)

CHECKED = 8
"""Windows that an engine is compared with ONNX Runtime on."""


@dataclass(frozen=True)
class TensorRtConfig(BuildConfig):
    """Settings of the TensorRT backend."""

    cache: str = setting("", "folder of the engines; empty: $ACTREC_ENGINES, or ~/.cache/actrec/engines")
    memory: str = setting(
        "auto", "library of the GPU's memory; auto: the first that is installed",
        choices=("auto", *cuda_memory.LIBRARIES),
    )  # fmt: skip
    graph: bool = setting(True, "launch the network as one CUDA graph")
    largest_difference: float = setting(
        0.05, "of an engine's logits from ONNX Runtime's, as a share of their spread", range=(0.0, 1.0)
    )


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
        self._trt = engine_builder.tensorrt()
        self._cuda = cuda_memory.open_cuda(self.config.memory)
        cache = _cache(self.config)
        with self._cuda.current():
            content = engine_builder.engine_of(
                self._trt,
                package,
                self.config,
                self._cuda.gpu,
                cache,
                lambda made: self._check(package, made),
                progress,
            )
            self._engine = Engine(self._trt, self._cuda, content, self.config.most, self.config.graph)
        self.inputs, self.output = self._engine.inputs, self._engine.output
        self.device = f"TensorRT {self._trt.__version__} {self.config.precision} on {self._cuda.gpu.name}"
        logger.info("%s runs in %s through %s", package.name, self.device, self._cuda.library)

    @classmethod
    def ready(cls, package: ModelPackage, **options: Any) -> bool:
        """Whether the engine is built: to open it takes seconds, not minutes. Options and errors as for the class."""
        settings = config.build(TensorRtConfig, options)
        trt, cuda = engine_builder.tensorrt(), cuda_memory.open_cuda(settings.memory)
        key = engine_builder.key_of(trt, package, settings, cuda.gpu)
        return _cache(settings).find(key) is not None

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Logits [N, classes] float32 of inputs [N, …] float32.

        Raises:
            InputError: The inputs have other names or shapes than the network's.
            DeviceError: The GPU failed.
        """
        with self._cuda.current():
            count = len(next(iter(inputs.values())))
            most = self.config.most
            parts = [{name: value[at : at + most] for name, value in inputs.items()} for at in range(0, count, most)]
            return np.concatenate([self._engine.run(part) for part in parts])

    def _check(self, package: ModelPackage, content: bytes) -> dict[str, Any]:
        """Compares an engine that was just built with ONNX Runtime.

        Raises:
            PackageError: They disagree.
        """
        from actrec.inference.onnxruntime_backend import OnnxRuntimeBackend

        engine = Engine(self._trt, self._cuda, content, self.config.most, False)
        made = examples(package, CHECKED)
        ours = np.concatenate([engine.run({k: v[i : i + 1] for k, v in made.items()}) for i in range(CHECKED)])
        theirs = OnnxRuntimeBackend(package, device="cpu").run(made)
        difference = engine_builder.disagreement(ours, theirs)
        if difference > self.config.largest_difference:
            raise PackageError(
                f"{package.name}: the engine's logits differ from ONNX Runtime's by {difference:.1%} of their spread, "
                f"at most {self.config.largest_difference:.0%} may: build it with precision fp32"
            )
        return {"difference": difference, "bytes": len(content)}


def _cache(settings: TensorRtConfig) -> EngineCache:
    return EngineCache(Path(settings.cache).expanduser() if settings.cache else None)


def examples(package: ModelPackage, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs [count, …] float32 of clips like what cameras give: an example's, each moved a little at random."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, np.ndarray]] = []
    while len(rows) < count:
        clips = {spec.name: windowed.example(package, spec) for spec in package.inputs}
        merged = {key: value for clip in clips.values() for key, value in clip.items()}
        if "bodies" in merged:
            merged["bodies"] = merged["bodies"] + rng.normal(0, 0.02, merged["bodies"].shape).astype(np.float32)
        rows += each_clip(merged, package.inputs, package.window)
    return {spec.name: np.stack([row[spec.name] for row in rows[:count]]) for spec in package.inputs}


class Engine:
    """An engine with its buffers. Calls are made within the context of the GPU.

    Args:
        trt: The module `tensorrt`.
        cuda: The GPU and its stream.
        content: The engine.
        most: Windows of one run.
        graph: Record each number of windows as a CUDA graph.

    Raises:
        DeviceError: The engine is corrupt or of another TensorRT or GPU, or memory is full.
        PackageError: It has not one output.
    """

    def __init__(self, trt: Any, cuda: Cuda, content: bytes, most: int, graph: bool):
        self._cuda, self._most, self._graph = cuda, most, graph
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise DeviceError(
                "TensorRT does not take the engine: it is corrupt, or of another TensorRT or GPU; delete it"
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        shapes = {name: tuple(self._engine.get_tensor_shape(name))[1:] for name in names}
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        if len(outputs) != 1:
            raise PackageError(f"the engine has {len(outputs)} outputs, expected the logits alone: export it again")
        self._output_name = outputs[0]
        self._buffers = {name: cuda.buffer((most, *shape)) for name, shape in shapes.items()}
        self.inputs = {name: (None, *shape) for name, shape in shapes.items() if name != self._output_name}
        self.output = (None, *shapes[self._output_name])
        self._runs: dict[int, _Run] = {}

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Logits [N, classes] of at most `most` windows."""
        count = self._take(inputs)
        if count not in self._runs:
            self._runs[count] = self._prepared(count)
        self._runs[count].start()
        self._cuda.synchronize()
        return self._buffers[self._output_name].host[:count].copy()

    def _take(self, inputs: dict[str, np.ndarray]) -> int:
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
        """A context of its own for each number of windows: a recorded graph holds on to the memory of its context."""
        context = self._engine.create_execution_context()
        if context is None:
            raise DeviceError(
                "not enough GPU memory to run the engine: end what else uses it, or take backend onnxruntime"
            )
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
        """Starts copies and network on the stream."""
        for name in self.inputs:
            self._cuda.upload(self._buffers[name], count)
        if not context.execute_async_v3(self._cuda.stream):
            raise DeviceError("TensorRT could not start the network: see its log")
        self._cuda.download(self._buffers[self._output_name], count)


@dataclass
class _Run:
    """So many windows: what keeps their memory, and what starts them on the stream."""

    context: Any
    start: Callable[[], None]


def _asked(done: bool, what: str) -> None:
    if not done:
        raise DeviceError(f"TensorRT refuses {what}: see its log")
