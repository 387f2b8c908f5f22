"""ONNX Runtime, on the CPU or through its CUDA provider."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from actrec.inference.package import PRECISIONS, ModelPackage
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError, PackageError

logger = logging.getLogger(__name__)

_CUDA = "CUDAExecutionProvider"

_CPU = "CPUExecutionProvider"


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
        package: The package.
        **options: Fields of `OnnxRuntimeConfig`.

    Raises:
        PackageError: The file is missing, corrupt or not a network of this kind, or the package has none in this
            precision.
        DeviceError: CUDA was asked for and is not there.
    """

    config_class = OnnxRuntimeConfig

    def __init__(self, package: ModelPackage, **options: Any):
        self.config = config.build(OnnxRuntimeConfig, options)
        self._session = self._open(package)
        self.inputs = {value.name: _shape(value.shape) for value in self._session.get_inputs()}
        self._check_types(package)
        self.output = _shape(self._session.get_outputs()[0].shape)
        on_cuda = _CUDA in self._session.get_providers()
        threads = f"CPU, {self.config.threads} thread{'s' if self.config.threads > 1 else ''}"
        lower = "" if self.config.precision == "float32" else f", {self.config.precision}"
        self.device = ("CUDA" if on_cuda else threads) + lower
        logger.info("%s runs in ONNX Runtime %s on %s", package.name, onnxruntime.__version__, self.device)

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Logits [N, classes] float32 of inputs [N, …] float32.

        Raises:
            InputError: The network refuses the shapes.
        """
        try:
            binding, logits = self._bind(inputs)
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise InputError(f"the network failed: {_first_line(error)}") from error
        return logits

    def _bind(self, inputs: dict[str, np.ndarray]) -> tuple[onnxruntime.IOBinding, np.ndarray]:
        """Return the input arrays and the output array of the logits: nothing is copied on a CPU.

        A binding is made for each run, as several threads may run one session.
        """
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        clips = len(next(iter(inputs.values()), ()))
        logits = np.empty([clips if size is None else size for size in self.output], np.float32)
        name = self._session.get_outputs()[0].name
        binding.bind_output(name, "cpu", 0, np.float32, list(logits.shape), logits.ctypes.data)
        return binding, logits

    def _open(self, package: ModelPackage) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.config.threads
        options.inter_op_num_threads = 1
        # Threads that spin between two frames take the cores that the estimators need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # faults are raised, in one line
        content = package.read_onnx(self.config.precision)
        try:
            session = onnxruntime.InferenceSession(content, options, providers=self._providers())
        except DeviceError:
            raise
        except Exception as error:  # as above
            raise PackageError(
                f"{package.onnx_path(self.config.precision)} cannot be opened: {_first_line(error)}: export it again"
            ) from error
        self._check_device(session)
        return session

    def _check_device(self, session: onnxruntime.InferenceSession) -> None:
        """ONNX Runtime falls back to the CPU by itself when CUDA does not start: refuse it, or at least say it."""
        if _CUDA not in self._providers() or _CUDA in session.get_providers():
            return
        problem = "ONNX Runtime could not start CUDA: check the driver, CUDA and cuDNN"
        if self.config.device == "cuda":
            raise DeviceError(f"{problem}, or device=cpu")
        logger.warning("%s; device=auto uses the CPU", problem)

    def _providers(self) -> list[str]:
        there = _CUDA in onnxruntime.get_available_providers()
        if self.config.device == "cuda" and not there:
            raise DeviceError(
                "CUDA was asked for but this ONNX Runtime has no CUDA provider: "
                "pip install onnxruntime-gpu, or device=cpu"
            )
        return [_CUDA, _CPU] if there and self.config.device != "cpu" else [_CPU]

    def _check_types(self, package: ModelPackage) -> None:
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        wrong = [f"'{value.name}' {value.type}" for value in values if value.type != "tensor(float)"]
        outputs = self._session.get_outputs()
        if wrong or len(outputs) != 1:
            problem = (
                f"{wrong[0]}, expected tensor(float)" if wrong else f"{len(outputs)} outputs, expected the logits alone"
            )
            raise PackageError(f"{package.onnx_path(self.config.precision)} has {problem}: export it again")


def outputs_of(content: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of an ONNX graph by name, computed on the CPU."""
    session = onnxruntime.InferenceSession(content, providers=[_CPU])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, inputs), strict=True))


def _shape(sizes: list[Any]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in sizes)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
