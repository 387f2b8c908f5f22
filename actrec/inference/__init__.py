"""Runs model packages: `session = load("models/zoo/…")`, `session.predict({"bodies": clip})`."""

import importlib.util
import logging
import sys
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
    """Return the backend's name in `BACKENDS` that `backend` stands for.

    "auto" is TensorRT where the package's engine, of default settings, is built already, else ONNX Runtime: an engine
    takes minutes, which are not for "auto" to spend.
    """
    if backend != "auto":
        return backend
    return "tensorrt" if package is not None and _has_engine(package) else "onnxruntime"


def _has_engine(package: ModelPackage) -> bool:
    if "tensorrt" not in sys.modules and importlib.util.find_spec("tensorrt") is None:
        return False
    try:
        return bool(BACKENDS.get("tensorrt").ready(package))
    except ActrecError as error:
        logger.info("auto: TensorRT is not used: %s", error)
        return False


def load(package: str | Path | ModelPackage, backend: str = "auto", **options: Any) -> Session:
    """Open a model package, checks the network against its description and warms it up.

    Args:
        package: A package folder, the name of a zoo package, or a package already loaded.
        backend: A name in `BACKENDS`, or "auto" (`resolve`; with options, which are one backend's, ONNX Runtime).
        **options: The backend's settings, e.g. `precision="float16"` where the package has a network in it
            (`ModelPackage.precisions`): half the memory, and faster on a GPU; on a CPU it is slower than float32.

    Raises:
        PackageError: The package is missing, corrupt or foreign, contradicts the network in it, or has none in the
            precision that was asked for.
        ConfigError: Unknown backend or option.
        MissingLibraryError: The backend's library is not installed.
        DeviceError: The accelerator that was asked for is not there.
    """
    found = package if isinstance(package, ModelPackage) else zoo.find(package)
    name = resolve(backend, None if options else found)
    return Session(found, BACKENDS.create(name, package=found, **options))
