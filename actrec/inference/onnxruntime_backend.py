"""ONNX Runtime: the backend of model packages on CPU or CUDA."""

import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from actrec.inference.package import PRECISIONS, ModelPackage
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import AbortedError, DeviceError, InputError, PackageError, first_line

logger = logging.getLogger(__name__)

CUDA = "CUDA"  # of `device_of`
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"

EXACT_INT8 = ("session.x64quantprecision", "1")
"""Option of sessions: 8-bit products are exact on CPUs without VNNI too. Otherwise AVX2 cuts their sums off at 16 bits:
joints of int8 networks lie 2.8 px from the float32 ones in the median instead of 0.6."""

CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
"""float32 is float32, not TF32 of 10 bits; and another number of people does not search for algorithms again."""


@dataclass(frozen=True)
class OnnxRuntimeConfig:
    """Settings of the ONNX Runtime backend."""

    device: str = setting(
        "auto", "auto takes CUDA if it works and logs it, else the CPU", choices=("auto", "cpu", "cuda")
    )
    threads: int = setting(1, "CPU threads for one run; the graph's other nodes need the rest", range=(1, 256))
    precision: str = setting(
        "float32",
        "precision of the network; float16 and int8 need a package that has them, and a GPU to be faster: the CPU "
        "is slower in them",
        choices=PRECISIONS,
    )


class OnnxRuntimeBackend:
    """Runs a package's `model.onnx`, or its float16 or int8 one; see `actrec.inference.session.Backend`.

    Args:
        **options: Fields of `OnnxRuntimeConfig`.

    Raises:
        PackageError: The file is missing, corrupt or not a network of this kind, or the package has none in this
            precision.
        DeviceError: CUDA was asked for and is not there.
    """

    config_class = OnnxRuntimeConfig

    def __init__(self, package: ModelPackage, **options: Any):
        self.config = config.build(OnnxRuntimeConfig, options)
        content, file = package.read_onnx(self.config.precision), package.onnx_path(self.config.precision)
        self._session = open_session(content, f"{file}", self.config.threads, self.config.device, "export it again")
        values = [*self._session.get_inputs(), *(outputs := self._session.get_outputs())]
        problems = [f"'{v.name}' {v.type}, expected tensor(float)" for v in values if v.type != "tensor(float)"]
        if len(outputs) != 1:
            problems.append(f"{len(outputs)} outputs, expected the logits alone")
        if problems:
            raise PackageError(f"{file} has {problems[0]}: export it again")
        self.inputs = {value.name: _shape(value.shape) for value in self._session.get_inputs()}
        self.output = _shape(outputs[0].shape)
        self._lock = threading.Lock()
        self._runs: list[onnxruntime.RunOptions] = []
        lower = "" if self.config.precision == "float32" else f", {self.config.precision}"
        self.device = device_of(self._session, self.config.threads) + lower
        logger.info("%s runs in ONNX Runtime %s on %s", package.name, onnxruntime.__version__, self.device)

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return logits [N, classes] float32 of inputs [N, …] float32.

        Raises:
            InputError: The network refuses the shapes.
            AbortedError: `abort` was called meanwhile.
        """
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4  # errors are raised, in one line
        with self._lock:
            self._runs.append(options)
        try:
            # Each run has its own binding, as several threads may run one session. Nothing is copied on a CPU.
            binding = self._session.io_binding()
            for name, value in inputs.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            clips = len(next(iter(inputs.values()), ()))
            logits = np.empty([clips if size is None else size for size in self.output], np.float32)
            name = self._session.get_outputs()[0].name
            binding.bind_output(name, "cpu", 0, np.float32, list(logits.shape), logits.ctypes.data)
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            if options.terminate:
                raise AbortedError("the run of the network was aborted") from error
            raise InputError(f"the network failed: {first_line(error)}") from error
        finally:
            with self._lock:
                self._runs.remove(options)
        return logits

    def abort(self) -> None:
        """End the runs of all threads after the operator that each is in."""
        with self._lock:
            for options in self._runs:
                options.terminate = True


def outputs_of(content: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return all outputs of an ONNX graph by name, computed on the CPU."""
    session = onnxruntime.InferenceSession(content, providers=[_CPU])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, inputs), strict=True))


def takes_cuda(device: str) -> bool:
    """Return whether a network of this device is opened on CUDA, if that works."""
    return device != "cpu" and _CUDA in onnxruntime.get_available_providers()


def open_session(content: bytes, where: str, threads: int, device: str, remedy: str) -> onnxruntime.InferenceSession:
    """Open a network.

    Args:
        content: The ONNX file.
        where: Its path for errors.
        threads: CPU threads of one run.
        device: "auto" (CUDA if it works, else the CPU with a warning), "cpu" or "cuda".
        remedy: For a file that is refused.

    Raises:
        PackageError: The file is refused.
        DeviceError: CUDA was asked for and is not there.
    """
    on_cuda = takes_cuda(device)
    if device == "cuda" and not on_cuda:
        raise DeviceError(
            "CUDA was asked for but this ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu, or device=cpu"
        )
    providers = [(_CUDA, CUDA_OPTIONS), _CPU] if on_cuda else [_CPU]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that spin between two frames take the cores that the estimators need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(*EXACT_INT8)
    options.log_severity_level = 4  # errors are raised, in one line
    cause = ""
    try:
        try:
            session = _session(content, options, providers)
        except Exception as error:
            if not on_cuda:
                raise
            cause = f" ({first_line(error)})"
            session = _session(content, options, [_CPU])  # whether CUDA or the file is at fault
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise PackageError(f"{where} cannot be opened: {first_line(error)}: {remedy}") from error
    if on_cuda and _CUDA not in session.get_providers():  # ONNX Runtime falls back to the CPU by itself
        problem = f"ONNX Runtime could not start CUDA{cause}: check the driver, CUDA, cuDNN and the GPU's free memory"
        if device == "cuda":
            raise DeviceError(f"{problem}, or device=cpu")
        logger.warning("%s; device=auto uses the CPU", problem)
    return session


def _session(content: bytes, options: onnxruntime.SessionOptions, providers: list[Any]) -> onnxruntime.InferenceSession:
    # Otherwise ONNX Runtime prints banners, and tries the CPU again after the CPU.
    return onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)


def device_of(session: onnxruntime.InferenceSession, threads: int) -> str:
    """Return the device of a session for the log."""
    return CUDA if _CUDA in session.get_providers() else f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def _shape(sizes: list[Any]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in sizes)
