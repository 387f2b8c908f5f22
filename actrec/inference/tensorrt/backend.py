"""TensorRT on an NVIDIA GPU: a network's engine, its comparison with ONNX Runtime, and its runs through CUDA graphs."""

import importlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.features.clips import example_windows
from actrec.inference.onnxruntime_backend import OnnxRuntimeBackend, outputs_of
from actrec.inference.package import ModelPackage
from actrec.inference.tensorrt import builder
from actrec.inference.tensorrt import cuda as tensorrt_cuda
from actrec.inference.tensorrt.builder import BuildConfig, EngineSource, Progress, group_of
from actrec.inference.tensorrt.cache import EngineCache, EngineKey
from actrec.inference.tensorrt.engine import Engine, Kernels
from actrec.inference.tensorrt.libraries import RTX, TENSORRT, Library
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, DeviceError, PackageError

logger = logging.getLogger(__name__)

CHECKED = 8  # windows that an engine is compared with ONNX Runtime on
INT8_MARGIN = 3.0
"""Factor of the difference allowed for int8: a value that is rounded the other way is off by a whole step."""

Inputs = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class TensorRtConfig(BuildConfig):
    """Settings of the TensorRT backend."""

    cache: str = setting(
        "", "folder of the engines; empty: $ACTREC_ENGINES, or ~/.cache/actrec/engines", read_only=True
    )
    memory: str = setting(
        "auto", "library of the GPU's memory; auto: the first that is installed",
        choices=("auto", *tensorrt_cuda.LIBRARIES),
    )  # fmt: skip
    graph: bool = setting(True, "launch the network as one CUDA graph")
    largest_difference: float = setting(
        0.05, "of an engine's logits from ONNX Runtime's, as a share of their spread; int8 three times that",
        range=(0.0, 1.0),
    )  # fmt: skip

    @property
    def allowed_difference(self) -> float:
        """The largest difference of an engine in this precision."""
        return (INT8_MARGIN if self.precision == "int8" else 1.0) * self.largest_difference


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

    library: ClassVar[Library] = TENSORRT

    def __init__(self, source: EngineSource, settings: TensorRtConfig, progress: Progress | None):
        self.config = settings
        self._trt = self.library.open()
        self._cuda = tensorrt_cuda.open_cuda(settings.memory)
        self.library.check_gpu(self._trt, self._cuda.gpu)
        self._cache = EngineCache(settings.cache)
        self._key = builder.key_of(self.library, self._trt, source, settings, self._cuda.gpu)
        with self._cuda.current():
            self._engine = self._open(self._find_or_build(source, progress), settings.most, settings.graph)
        self._running = threading.Lock()  # several threads may run one session, whose engine has one set of buffers
        self.inputs = self._engine.inputs
        self.device = f"{self.library.title} {self._trt.__version__} {settings.precision} on {self._cuda.gpu.name}"
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

    def _open(self, content: bytes, most: int, graph: bool = False) -> Engine:
        """Return an engine to run, whose compiled kernels are kept beside it."""
        kernels = Kernels(self._cache, self._key, self._cuda.gpu.identity)
        path = self._cache.path(self._key)
        origin = str(path) if path.is_file() else "the engine"
        return Engine(self._trt, self._cuda, content, most, graph, origin, kernels)

    def _find_or_build(self, source: EngineSource, progress: Progress | None) -> bytes:
        """Return the engine from the cache, or build, check and store it. Raises as the class."""
        key, cache = self._key, self._cache
        if (found := cache.find(key)) is not None:
            return self._checked(source, found)
        with cache.building(key) as built:
            if built is not None:
                return self._checked(source, built)
            if others := cache.misfits(key):
                logger.info("engines of %s that do not fit: %s", source.name, others)
            logger.info("building %s for %s; this takes minutes, once", key.name, self._cuda.gpu.name)
            content, seconds = build_engine(self.library, self._trt, source, self.config, key, cache, progress)
            cache.store(key, content, {"seconds": seconds, **self._check(source, content)})
            logger.info("%s: %.1f MB in %.0f s", cache.path(key), len(content) / 1e6, seconds)
        return content

    def _checked(self, source: EngineSource, content: bytes) -> bytes:
        """Return a stored engine, compared now if it was built without a GPU, or if less is allowed now."""
        difference = self._cache.difference(self._key)
        if difference is None or not difference <= self.config.allowed_difference:
            self._keep(self._key, content, self._check(source, content))
        return content

    def _keep(self, key: EngineKey, content: bytes, details: dict[str, Any]) -> None:
        """Note that an engine was checked; it is checked again at the next start if the folder cannot be written."""
        try:
            self._cache.store(key, content, details)
        except DeviceError as error:
            logger.warning("the check of this engine is repeated at each start: %s", error)


def build_engine(
    library: Library, trt: Any, source: EngineSource, settings: BuildConfig, key: EngineKey, cache: EngineCache,
    progress: Progress | None, onnx: bytes | None = None,
) -> tuple[bytes, float]:  # fmt: skip
    """Return an engine and the seconds of its build, for which kernels' times of earlier builds are reused.

    Raises:
        PackageError, DeviceError: As `builder.build`.
    """
    began, capability = time.monotonic(), key.capability if library.of_capability else ""
    known = b"" if onnx else cache.timings(key)
    content, timings = builder.build(trt, source, settings, known, progress, onnx, capability)
    if timings and not onnx:
        try:
            cache.store_timings(key, timings)
        except DeviceError as error:  # such as another user's file in a shared folder
            logger.warning("the next build takes as long: %s", error)
    return content, round(time.monotonic() - began, 1)


def build_ahead(
    source: EngineSource, settings: TensorRtConfig, capabilities: Sequence[str], progress: Progress | None = None
) -> Iterator[tuple[str, Path, float]]:
    """Build the engines of TensorRT for RTX for compute capabilities; this needs no GPU.

    An engine is compared with ONNX Runtime when it is first opened on a GPU.

    Args:
        capabilities: As "sm_86" (`libraries.checked_capabilities`).

    Yields:
        A compute capability, the file of its engine, and the seconds of its build: 0 if it is there already.

    Raises:
        MissingLibraryError, PackageError, DeviceError: As `EngineRunner`.
    """
    trt, cache = RTX.open(), EngineCache(settings.cache)
    for capability in capabilities:
        key, seconds = builder.key_of(RTX, trt, source, settings, None, capability), 0.0
        if cache.find(key) is None:
            with cache.building(key) as built:
                if built is None:
                    content, seconds = build_engine(RTX, trt, source, settings, key, cache, progress)
                    cache.store(key, content, {"seconds": seconds, "bytes": len(content)})
        yield capability, cache.path(key), seconds


def is_built(library: Library, source: EngineSource, settings: TensorRtConfig) -> bool:
    """Return whether the engine is built, and opens in seconds instead of minutes. Raises as `EngineRunner`."""
    trt, cuda, cache = library.open(), tensorrt_cuda.open_cuda(settings.memory), EngineCache(settings.cache)
    key = builder.key_of(library, trt, source, settings, cuda.gpu)
    if cache.find(key) is None:
        if others := cache.misfits(key):
            logger.warning("no engine of %s fits %s on %s: %s", source.name, library.title, cuda.gpu.name, others)
        return False
    difference, allowed = cache.difference(key), settings.allowed_difference
    if difference is not None and not difference <= allowed:
        text = "the engine of %s is not used: it differs from ONNX Runtime by %.3g%%, at most %.3g%% may"
        logger.warning(text, source.name, 100 * difference, 100 * allowed)
        return False
    return True


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
        return is_built(cls.library, package, config.build(TensorRtConfig, options))

    def run(self, inputs: Inputs) -> np.ndarray:
        """Return logits [N, classes] float32 of inputs [N, …] float32; raises as `run_all`."""
        (logits,) = self.run_all(inputs).values()
        return logits

    def _check(self, package: ModelPackage, content: bytes) -> dict[str, Any]:
        """Compare a new engine with ONNX Runtime, in float32 or int8; raise PackageError naming layers that differ."""
        made = simulated_windows(package, CHECKED)
        rows = [{name: value[at : at + 1] for name, value in made.items()} for at in range(CHECKED)]
        engine = self._open(content, self.config.most)
        _one_output(engine)
        found = np.concatenate([next(iter(engine.run(row).values())) for row in rows])
        precision = "int8" if self.config.precision == "int8" else "float32"
        expected = OnnxRuntimeBackend(package, device="cpu", precision=precision).run(made)
        difference, allowed = difference_by_spread(found, expected), self.config.allowed_difference
        if difference > allowed:
            raise PackageError(self._disagreement(package, difference, allowed, rows[0]))
        return {"difference": difference, "bytes": len(content)}

    def _disagreement(self, package: ModelPackage, difference: float, allowed: float, row: Inputs) -> str:
        """Return the error of an engine that disagrees, with a remedy."""
        share = f"differ from ONNX Runtime's by {difference:.1%} of their spread"
        found = "are no numbers" if np.isinf(difference) else share
        text = f"{package.name}: the engine's logits {found}, at most {100 * allowed:.3g}% may"
        if self.config.precision == "fp32":
            return f"{text}: take backend onnxruntime, and report it with TensorRT's version"
        if self.config.precision == "fp16" and not builder.takes_flags(self._trt):
            return f"{text}: build it with --precision fp32"
        logger.warning("%s; searching for the first layers that differ, which takes another build", text)

        def run(onnx: bytes, inputs: Inputs, shapes: Shapes) -> Inputs:
            content, _ = build_engine(self.library, self._trt, package, self.config, self._key, self._cache, None, onnx)
            return Engine(self._trt, self._cuda, content, 1, False, outputs=shapes).run(inputs)

        try:
            network = builder.source_of(self._trt, package, self.config).network
            found_group = first_wrong_group(package.read_onnx(network), row, run, allowed)
        except ActrecError as error:
            logger.warning("they were not found: %s", error)
            found_group = None
        if found_group is None:
            return f"{text}: build it with --precision fp32 (pip install onnx to find the layers)"
        group, has_weights = found_group
        if self.config.precision == "int8" and has_weights:
            first = "quantize it again (actrec quantize) with"
        elif builder.takes_flags(self._trt):
            first = "build it with"
        else:
            return f"{text}; it begins in layer group '{group}', which is not in int8: build it with --precision fp32"
        kept = ",".join([*self.config.kept, group])
        return f"{text}; it begins in layer group '{group}': {first} --keep {kept}, or build with --precision fp32"


class TensorRtRtxBackend(TensorRtBackend):
    """Runs a package's engine of TensorRT for RTX. Raises as `EngineRunner`."""

    library = RTX


def _one_output(engine: Engine) -> tuple[int | None, ...]:
    """Return the shape of a package's logits; a PackageError if its engine has other outputs."""
    if len(engine.outputs) != 1:
        raise PackageError(f"the engine has {len(engine.outputs)} outputs, expected the logits alone: export it again")
    return next(iter(engine.outputs.values()))


# -- comparison with ONNX Runtime --------------------------------------------------------------------------------------


def simulated_windows(package: ModelPackage, count: int) -> Inputs:
    """Return inputs [count, …] float32 of windows with simulated people."""
    return example_windows(package.inputs, package.window, package.bodies, count)


def difference_by_spread(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of values [N, …], as a share of the expected ones' spread; infinite for NaN."""
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max()) / max(float(expected.max() - expected.min()), 1e-6)


def first_wrong_group(
    content: bytes, inputs: Inputs, run: Callable[[bytes, Inputs, Shapes], Inputs], allowed: float
) -> tuple[str, bool] | None:
    """Return the layer group after which the engine's values first differ too much from ONNX Runtime's.

    If no group's `difference_by_spread` is above `allowed`, it is the one with the largest. It is None if the package
    `onnx`, which adds outputs to the graph `content`, is not installed. `inputs` are one window; `run` builds the
    engine of a graph and returns its outputs for them, whose shapes it gets. Also returns whether the group has one of
    the `QUANTIZED` operators.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError:
        return None
    probed, names = _with_probes(onnx, content)
    expected = outputs_of(probed, inputs)
    # A value inside may have more rows than windows, such as one for each body.
    found = run(probed, inputs, {name: value.shape for name, value in expected.items()})
    differences = {group: difference_by_spread(found[name], expected[name]) for group, name in names.items()}
    wrong = [group for group in names if differences[group] > allowed]
    chosen = wrong[0] if wrong else max(differences, key=lambda group: differences[group])
    nodes = onnx.load_model_from_string(content).graph.node
    return chosen, any(group_of(node.name) == chosen and node.op_type in builder.QUANTIZED for node in nodes)


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
