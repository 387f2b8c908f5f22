"""Runs model packages: `session = load("models/zoo/…")`, `session.predict({"bodies": clip})`."""

from pathlib import Path
from typing import Any

from actrec import zoo
from actrec.inference.session import Backend, Prediction, Session
from actrec.package import ModelPackage
from actrec.registry import Registry

__all__ = ["BACKENDS", "Backend", "Prediction", "Session", "load", "resolve"]

BACKENDS = Registry(
    "inference backend",
    {
        "onnxruntime": "actrec.inference.onnxruntime_backend:OnnxRuntimeBackend",
        "tensorrt": "actrec.inference.tensorrt_backend:TensorRtBackend",
    },
    install={"onnxruntime": "pip install onnxruntime"},
)
AUTO_ORDER = ("onnxruntime",)
"""What `auto` means: the first of these, the fastest first, whose library is installed."""


def resolve(backend: str) -> str:
    """The backend's name in `BACKENDS` that `backend`, which may be "auto", stands for."""
    return AUTO_ORDER[0] if backend == "auto" else backend


def load(package: str | Path | ModelPackage, backend: str = "auto", **options: Any) -> Session:
    """Opens a model package, checks the network against its description and warms it up.

    Args:
        package: A package folder, the name of a zoo package, or a package already loaded.
        backend: A name in `BACKENDS`, or "auto".
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
    return Session(found, BACKENDS.create(resolve(backend), package=found, **options))
