"""Run model packages: `session = load("models/zoo/…")`, `session.predict({"bodies": clip})`."""

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actrec.inference import zoo
from actrec.inference.package import ModelPackage
from actrec.inference.session import Backend, Session
from actrec.types import Prediction
from actrec.utils.errors import ActrecError
from actrec.utils.registry import Registry

__all__ = ["BACKENDS", "Backend", "Prediction", "Session", "load", "resolve"]

logger = logging.getLogger(__name__)

BACKENDS = Registry(
    "inference backend",
    {
        "onnxruntime": "actrec.inference.onnxruntime_backend:OnnxRuntimeBackend",
        "tensorrt": "actrec.inference.tensorrt.backend:TensorRtBackend",
    },
    install={"onnxruntime": "pip install onnxruntime"},
)


def resolve(backend: str, package: ModelPackage | None = None) -> str:
    """Return the name in `BACKENDS` that `backend` stands for.

    "auto" is TensorRT if the package's engine of default settings is built already, else ONNX Runtime: building an
    engine takes minutes.
    """
    if backend != "auto":
        return backend
    ready = package is not None and has_engine(lambda: bool(BACKENDS.get("tensorrt").ready(package)))
    return "tensorrt" if ready else "onnxruntime"


def has_engine(is_built: Callable[[], bool]) -> bool:
    """Return the result of `is_built`; False if TensorRT is not installed or cannot be used, which is logged."""
    if "tensorrt" not in sys.modules and importlib.util.find_spec("tensorrt") is None:
        return False
    try:
        return is_built()
    except ActrecError as error:
        logger.info("auto: TensorRT is not used: %s", error)
        return False


def load(package: str | Path | ModelPackage, backend: str = "auto", **options: Any) -> Session:
    """Open a model package, check its network against its description and warm it up.

    Args:
        package: A package folder, the name of a zoo package, or a loaded package.
        backend: A name in `BACKENDS`, or "auto" (`resolve`; ONNX Runtime if there are options).
        **options: The backend's settings, e.g. `precision="float16"` for a package with such a network
            (`ModelPackage.precisions`): half the memory, and faster on a GPU; on a CPU it is slower than float32.

    Raises:
        PackageError: The package is missing, corrupt or foreign, contradicts its network, or has none in the requested
            precision.
        ConfigError: Unknown backend or option.
        MissingLibraryError: The backend's library is not installed.
        DeviceError: The requested accelerator is not there.
    """
    found = package if isinstance(package, ModelPackage) else zoo.find(package)
    name = resolve(backend, None if options else found)
    return Session(found, BACKENDS.create(name, package=found, **options))
