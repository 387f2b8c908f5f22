"""Run model packages: `session = load("models/zoo/…")`, `session.predict({"bodies": clip})`."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actrec.inference import zoo
from actrec.inference.package import ModelPackage
from actrec.inference.session import Backend, Session
from actrec.inference.tensorrt.cache import EngineCache
from actrec.inference.tensorrt.libraries import LIBRARIES
from actrec.types import Prediction
from actrec.utils.errors import ActrecError
from actrec.utils.registry import Registry

__all__ = ["BACKENDS", "FALLBACK", "Backend", "Prediction", "Session", "load", "resolve"]

logger = logging.getLogger(__name__)

BACKENDS = Registry(
    "inference backend",
    {
        "onnxruntime": "actrec.inference.onnxruntime_backend:OnnxRuntimeBackend",
        "tensorrt": "actrec.inference.tensorrt.backend:TensorRtBackend",
        "tensorrt_rtx": "actrec.inference.tensorrt.backend:TensorRtRtxBackend",
    },
    install={"onnxruntime": "pip install onnxruntime"},
)

FALLBACK = "onnxruntime"
"""The backend that runs anywhere."""


def resolve(
    backend: str, package: ModelPackage | None = None, options: Callable[[str], dict[str, Any]] = lambda name: {}
) -> str:
    """Return the name in `BACKENDS` that `backend` stands for.

    "auto" is TensorRT, or TensorRT for RTX, if the package's engine is built already, else ONNX Runtime: building an
    engine takes minutes. `options` returns the settings of a backend that the engine must have.
    """
    if backend != "auto":
        return backend
    if package is None:
        return FALLBACK
    found = first_with_engine(
        package.name,
        lambda name: BACKENDS.get(name).ready(package, **options(name)),
        lambda name: str(options(name).get("cache", "")),
    )
    return found or FALLBACK


def first_with_engine(
    network: str, is_ready: Callable[[str], bool], cache: Callable[[str], str] = lambda name: ""
) -> str | None:
    """Return the first TensorRT backend that has an engine of a network for which `is_ready` is true, or None.

    `cache` returns the folder of a backend's engines, empty for the default one. A backend without an engine of that
    network is not imported. If there is one that cannot be used, this is warned of.
    """
    for name, library in LIBRARIES.items():
        try:
            if library.is_installed and EngineCache(cache(name)).holds(network, name) and is_ready(name):
                return name
        except ActrecError as error:
            logger.warning("auto: %s is not used: %s", library.title, error)
    return None


def network_options(backend: str, precision: str = "float32", threads: int = 0) -> dict[str, Any]:
    """Return a backend's options for a network in one of `package.PRECISIONS`, and CPU threads (0: its default)."""
    if backend in LIBRARIES:
        return {"precision": {"float32": "fp32", "float16": "fp16"}.get(precision, precision)}
    return {"precision": precision, **({"threads": threads} if threads else {})}


def load(
    package: str | Path | ModelPackage,
    backend: str = "auto",
    opened: Callable[[Session], None] | None = None,
    **options: Any,
) -> Session:
    """Open a model package, check its network against its description and warm it up.

    Args:
        package: A package folder, the name of a zoo package, or a loaded package.
        backend: A name in `BACKENDS`, or "auto" (`resolve`; ONNX Runtime if there are options).
        opened: Called with the session before it is warmed up, so that another thread can `abort` that.
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
    return Session(found, BACKENDS.create(name, package=found, **options), opened=opened)
