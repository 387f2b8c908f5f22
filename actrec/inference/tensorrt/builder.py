"""Build TensorRT engines of networks: source network, precision of layer groups, progress, cache."""

import logging
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from actrec.inference.tensorrt.cache import EngineKey
from actrec.inference.tensorrt.cuda import Gpu
from actrec.inference.tensorrt.libraries import Library
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, PackageError

logger = logging.getLogger(__name__)

_GROUP_LEVELS = 2
_STREAM = re.compile(r"stream_\d+")
"""Prefix of the node names of each network in a fused graph (`actrec export --fuse`)."""


def group_of(node: str) -> str:
    """Return the group of an ONNX node: the first two levels of its module below the network.

    `/network/bones/blocks/blocks.3/attention/MatMul` is of "bones/blocks.3"; a name without a module is its own group.
    In fused networks, the network comes first: "stream_1/bones/blocks.3".
    """
    parts = [part for part in node.split("/") if part]
    streams = 0
    while streams < len(parts) - 1 and _STREAM.fullmatch(parts[streams]):
        streams += 1
    before, parts, own = parts[:streams], parts[streams:-1], parts[-1:]
    if parts and parts[0] == "network":
        parts = parts[1:]
    # A list of modules and the module in it: blocks, blocks.3.
    inner = [*parts[1:], ""]
    nested = [part for part, next_one in zip(parts, inner, strict=False) if not next_one.startswith(f"{part}.")]
    return "/".join([*before, *(nested[:_GROUP_LEVELS] or own)]) or node


def is_kept(node: str, kept: tuple[str, ...]) -> bool:
    """Return whether a node belongs to one of these groups, or to a module within or above them."""
    group = group_of(node)
    return any(group == name or group.startswith(f"{name}/") for name in kept)


PRECISIONS = ("fp32", "fp16", "int8")

Progress = Callable[[str, int, int], None]
"""Takes a phase's name, its step and its number of steps. An exception that it raises ends the build."""


class EngineSource(Protocol):
    """A network of which engines are built: a model package, or a network of perception.

    Attributes:
        name: Name of its engines.
        input_shapes: Shapes by name, without the batch axis.
        precisions: Those of its files: "float32", also "float16" and "int8".
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]: ...  # noqa: D102

    @property
    def precisions(self) -> tuple[str, ...]: ...  # noqa: D102

    def onnx_path(self, precision: str = "float32") -> Path:
        """Return the file in a precision; a PackageError with a remedy if there is none."""

    def onnx_sha256(self, precision: str = "float32") -> str:
        """Return its hash; raises as `onnx_path`."""

    def read_onnx(self, precision: str = "float32") -> bytes:
        """Return its content; a PackageError if it is missing or damaged."""


@dataclass(frozen=True)
class BuildConfig:
    """How an engine is built; with other values it is another engine."""

    precision: str = setting(
        "fp16", "precision of the network; fp32 excludes TF32, int8 needs a package that `actrec quantize` wrote",
        choices=PRECISIONS,
    )  # fmt: skip
    keep: str = setting(
        "", "layer groups computed in float32, with commas between, where lower precision disturbs them"
    )
    most: int = setting(4, "windows of one run at most; more go through in several", range=(1, 1024))
    usual: int = setting(1, "windows of one run that the engine is tuned for", range=(1, 1024))
    workspace_mb: int = setting(1024, "memory that kernels may use while they run", unit="MiB", range=(1, 1 << 20))
    optimization_level: int = setting(3, "how long kernels are searched for; 5 takes longest", range=(0, 5))

    @property
    def kept(self) -> tuple[str, ...]:
        """The layer groups that stay in float32."""
        return tuple(name.strip() for name in self.keep.split(",") if name.strip())

    def shapes(self, source: EngineSource) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Return each input's smallest, usual and largest shape."""
        counts = (1, min(self.usual, self.most), self.most)
        return {name: tuple((n, *shape) for n in counts) for name, shape in source.input_shapes.items()}


def key_of(
    library: Library, trt: Any, package: EngineSource, config: BuildConfig, gpu: Gpu | None, capability: str = ""
) -> EngineKey:
    """Return the key of a network's engine on a GPU, or, with TensorRT for RTX, on any GPU of a compute capability."""
    source = source_of(trt, package, config)
    options = {
        "workspace_mb": config.workspace_mb,
        "optimization_level": config.optimization_level,
        "typed": source.typed,
        "keep": sorted(config.kept),
    }
    own = None if library.of_capability else gpu
    return EngineKey(
        package=package.name, onnx_sha256=source.sha256, precision=config.precision, shapes=config.shapes(package),
        options=options, library=library.backend, version=str(trt.__version__),
        capability=capability or (gpu.sm if gpu else ""), cuda=own.cuda if own else "", gpu=own.identity if own else "",
    )  # fmt: skip


class SourceNetwork(NamedTuple):
    """The file that is parsed: which of the package's networks, its hash, and whether its own types hold."""

    network: str
    sha256: str
    typed: bool


def source_of(trt: Any, package: EngineSource, config: BuildConfig) -> SourceNetwork:
    """Return the network to parse.

    TensorRT 10 takes the types of a float16 network as they are. A flag allows float16 in 8.6, in any version that
    keeps layer groups in float32, and for the float32 layers of an int8 network. Version 11 has no such flag and takes
    the network's types.

    Raises:
        PackageError: Precision or groups that are asked for take a network that the package has not.
    """
    new, flagged = _major(trt) >= 10, takes_flags(trt)
    if config.kept and config.precision != "fp32" and not flagged:
        raise PackageError(
            f"TensorRT {trt.__version__} takes a network's types as they are, it keeps no layer groups in float32: "
            f"build {package.name} without --keep, or with --precision fp32"
        )
    if config.precision == "int8":
        return SourceNetwork("int8", package.onnx_sha256("int8"), not flagged)
    if new and config.precision == "fp16" and "float16" in package.precisions and not config.kept:
        return SourceNetwork("float16", package.onnx_sha256("float16"), True)
    if config.precision == "fp16" and not flagged:
        package.onnx_path("float16")  # there is none, and this says how to write one
    return SourceNetwork("float32", package.onnx_sha256(), new and config.precision == "fp32")


QUANTIZED = ("Conv", "Gemm", "MatMul")
"""Operators in int8: all that have weights or multiply matrices."""


def takes_flags(trt: Any) -> bool:
    """Return whether the builder accepts a lower precision than the network's file has; 11 does not."""
    return hasattr(trt.BuilderFlag, "INT8")


def build(
    trt: Any,
    package: EngineSource,
    config: BuildConfig,
    timings: bytes,
    progress: Progress | None = None,
    onnx: bytes | None = None,
    capability: str = "",
) -> tuple[bytes, bytes]:
    """Return the engine and its timing cache.

    Args:
        timings: Timing cache of earlier builds; may be empty.
        progress: Called at each step.
        onnx: Parsed in place of the package's own network: the same with more outputs.
        capability: Compute capability ("sm_86") that TensorRT for RTX builds for; empty for TensorRT.

    Raises:
        PackageError: The network cannot become an engine.
        DeviceError: Memory is full.
    """
    errors: list[str] = []
    log = recorded_log(trt, errors)
    builder = trt.Builder(log)
    source = source_of(trt, package, config)
    network, _parser = parse(trt, builder, log, package, source, onnx)  # the parser owns the network's weights
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_mb << 20)
    settings.builder_optimization_level = config.optimization_level
    if capability:
        settings.num_compute_capabilities = 1
        settings.set_compute_capability(getattr(trt.ComputeCapability, capability.replace("sm_", "SM")), 0)
    _set_precision(trt, settings, network, package, config, source)
    if _major(trt) < 10:  # each number of windows has its own context; before 10, a profile serves one context
        settings.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    if not capability:  # TensorRT for RTX measures nothing
        times = settings.create_timing_cache(timings)
        if times is None:
            logger.warning("times measured before cannot be read and are measured again")
            times = settings.create_timing_cache(b"")
        settings.set_timing_cache(times, ignore_mismatch=False)
    profile = builder.create_optimization_profile()
    for name, shapes in config.shapes(package).items():
        profile.set_shape(name, *shapes)
    settings.add_optimization_profile(profile)
    made = _build_in_thread(trt, builder, network, settings, progress)
    if made is None:
        why = _first_line(errors)
        if "memory" in why.lower():
            raise DeviceError(
                f"{package.name}: not enough GPU memory to build its engine: {why}; end what else uses it"
            )
        raise PackageError(f"TensorRT cannot build {package.name}: {why}")
    if errors:
        logger.warning("%s is built, but TensorRT reported: %s", package.name, _first_line(errors))
    measured = None if capability else settings.get_timing_cache()
    return bytes(made), bytes(measured.serialize()) if measured is not None else b""


def parse(
    trt: Any, builder: Any, log: Any, package: EngineSource, source: SourceNetwork, onnx: bytes | None = None
) -> tuple[Any, Any]:
    """Return a network's definition, and the parser, which owns its weights.

    Raises:
        PackageError: TensorRT refuses the graph, with the first node that it refuses.
    """
    flags = 0 if _major(trt) >= 10 else 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if source.typed:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(package.read_onnx(source.network) if onnx is None else onnx):
        problems = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise PackageError(f"TensorRT cannot parse {package.onnx_path(source.network)}: {_first_line(problems)}")
    return network, parser


def _set_precision(
    trt: Any, settings: Any, network: Any, package: EngineSource, config: BuildConfig, source: SourceNetwork
) -> None:
    """Set the builder's flags, and the groups of layers that stay in float32; raise PackageError for an unknown one."""
    if config.precision == "fp32" and hasattr(settings, "clear_flag"):
        settings.clear_flag(trt.BuilderFlag.TF32)
    if config.precision == "fp32" or source.typed:
        return
    settings.set_flag(trt.BuilderFlag.FP16)
    if config.precision == "int8":
        settings.set_flag(trt.BuilderFlag.INT8)
    if not config.kept:
        return
    settings.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    for name in config.kept:
        if not any(is_kept(layer.name, (name,)) for layer in layers):
            groups = dict.fromkeys(group_of(layer.name) for layer in layers)
            raise PackageError(f"{package.name} has no layer group '{name}'; it has {', '.join(groups)}")
    for layer in layers:
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        # Indices and shapes have no other precision.
        if is_kept(layer.name, config.kept) and all(out.dtype in (trt.float32, trt.float16) for out in outputs):
            layer.precision = trt.float32
            for index in range(layer.num_outputs):
                layer.set_output_type(index, trt.float32)


def recorded_log(trt: Any, errors: list[str], level: int = logging.DEBUG) -> Any:
    """Return a TensorRT logger that writes to Python's log, errors at `level`, and appends errors to a list."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            failed = severity in (trt.Logger.INTERNAL_ERROR, trt.Logger.ERROR)
            if failed:
                errors.append(message)
            logger.log(level if failed else logging.DEBUG, "TensorRT: %s", message)

    return Logger()


def _build_in_thread(trt: Any, builder: Any, network: Any, settings: Any, progress: Progress | None) -> Any:
    """Return the built engine, or None; raise the exception of a progress callback or of the waiting thread.

    TensorRT swallows exceptions of its callbacks, Ctrl-C too: the build has its own thread, which gets no signal, and
    exceptions are kept until it ends. It waits until the thread is known to the executor: after a Ctrl-C within
    `submit`, the executor would not wait for it.
    """
    known, stop, raised = threading.Event(), threading.Event(), []

    def run() -> Any:
        known.wait()
        return None if stop.is_set() else builder.build_serialized_network(network, settings)

    def report(phase: str, step: int, steps: int) -> bool:
        try:
            if progress is not None and not stop.is_set():
                progress(phase, step, steps)
        except Exception as error:
            raised.append(error)
            stop.set()
        return not stop.is_set()

    if hasattr(trt, "IProgressMonitor"):
        settings.progress_monitor = _monitor(trt, report)
    with ThreadPoolExecutor(1, thread_name_prefix="build_engine") as thread:
        try:
            building = thread.submit(run)
            known.set()
            made = building.result()
        except BaseException:
            stop.set()
            known.set()
            raise
    if raised:
        raise raised[0]
    return made


def _monitor(trt: Any, report: Callable[[str, int, int], bool]) -> Any:
    """Return TensorRT's progress monitor; `report` returns whether the build continues."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return report(phase_name, step + 1, self._steps.get(phase_name, 0))

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, 0)
            report(phase_name, steps, steps)

    return Monitor()


def _major(trt: Any) -> int:
    """Return TensorRT's version; TensorRT for RTX, which counts from 1, is like 11."""
    return max(int(str(trt.__version__).split(".")[0]), 0 if takes_flags(trt) else 11)


def _first_line(lines: Sequence[str]) -> str:
    return next((line.strip().splitlines()[0][:300] for line in lines if line.strip()), "it does not say why")
